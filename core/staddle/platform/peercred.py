"""Who is at the other end of a local socket, as the kernel says."""

from __future__ import annotations

import socket
import struct
import sys

from staddle.errors import Denied

_UCRED = struct.Struct("=iII")  # Linux, unix(7): pid, uid, gid
_XUCRED_BYTES = 76  # macOS and the BSDs, unix(4): u32 version, u32 uid, short, padding, 16 u32 groups
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1


def peer_uid(sock: socket.socket) -> int:
    """User id of the process at the other end. Raises Denied if it cannot be known."""
    try:
        if sys.platform == "linux":
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            return int(_UCRED.unpack(raw)[1])
        if sys.platform != "win32":
            raw = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
            return int(struct.unpack_from("=II", raw)[1])
    except (OSError, struct.error) as error:
        raise Denied(f"the peer's user is not known: {error}") from error
    raise Denied("this system does not tell the user of a local peer")
