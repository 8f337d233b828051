"""`unix:///path`: a local socket for processes of the same user, proved by the kernel's peer credentials."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from urllib.parse import unquote

from staddle.api.transport import Credentials, Peer, ProtocolFactory, StreamServer
from staddle.errors import ConfigError, DeadlineExceeded, Denied, Locked, PathLost
from staddle.platform.peercred import peer_uid
from staddle.wire.greeting import LOCAL
from staddle.wire.schemes import split_url

_PATH_BYTES_MAX = 103
"""Room in `sockaddr_un` on every system (104 on macOS and the BSDs, 108 on Linux), less the final NUL."""


class UnixTransport:
    """Stream transport over AF_UNIX. The socket has mode 0600 in a directory of mode 0700.

    The kernel proves the peer's user, who must be our own; the role is what the greeting says.
    """

    async def connect(
        self, url: str, credentials: Credentials, make: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseTransport:
        """See StreamTransport. `credentials` are not used."""
        if sys.platform == "win32":
            raise _no_unix(url)
        path = parse_unix_url(url)
        try:
            async with asyncio.timeout(timeout_s):
                transport, _ = await asyncio.get_running_loop().create_unix_connection(make, path)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{url} does not answer within {timeout_s:g} s", outcome="not_done"
            ) from None
        except PermissionError as error:
            raise Denied(
                f"{url} belongs to another user", hint="run as the user that runs the grid"
            ) from error
        except OSError as error:
            raise PathLost(
                f"cannot reach {url}: {error}", hint="is it running? `staddle up` starts it"
            ) from error
        return transport

    async def serve(self, url: str, credentials: Credentials, make: ProtocolFactory) -> StreamServer:
        """See StreamTransport. A socket that a dead process left behind is taken over."""
        if sys.platform == "win32":
            raise _no_unix(url)
        path = parse_unix_url(url)
        _private_directory(os.path.dirname(path))
        _refuse_if_served(path, url)
        server = await asyncio.get_running_loop().create_unix_server(make, path)
        os.chmod(path, 0o600)
        return _UnixServer(server, url, path)

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """See StreamTransport. The role is `LOCAL`: the greeting says it."""
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid != os.getuid():  # type: ignore[attr-defined,unused-ignore]  # not on Windows, nor is this
            raise Denied(f"the peer runs as user {uid}", hint="run as the user that runs the grid")
        return Peer("", LOCAL, f"local user {uid}")


class _UnixServer:
    def __init__(self, server: asyncio.AbstractServer, url: str, path: str) -> None:
        self._server = server
        self._path = path
        self._inode = os.stat(path).st_ino
        self.url = url

    async def close(self) -> None:
        self._server.close()
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:  # not a successor's
                os.unlink(self._path)


def parse_unix_url(url: str) -> str:
    """Path of `unix:///path`. Raises ConfigError."""
    parts = split_url(url)
    path = unquote(parts.path)
    if parts.scheme != "unix" or parts.netloc or not path.startswith("/"):
        raise ConfigError(f"{url!r} is not an address", hint="write unix:///path/of/the/socket")
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        raise ConfigError(
            f"the socket path {path} is longer than {_PATH_BYTES_MAX} bytes",
            hint="choose a shorter directory",
        )
    return path


def _private_directory(directory: str) -> None:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        mode = stat.S_IMODE(os.stat(directory).st_mode)
    except OSError as error:
        raise ConfigError(f"cannot make the directory of the socket: {error}") from error
    if mode & 0o077:
        raise ConfigError(
            f"{directory} is open to other users (mode {mode:04o})", hint=f"run `chmod 700 {directory}`"
        )


def _refuse_if_served(path: str, url: str) -> None:
    if sys.platform == "win32":
        raise _no_unix(url)
    # asyncio unlinks whatever socket is there, even one that a living server listens on.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except TimeoutError:
            pass
        except OSError as error:
            raise ConfigError(f"cannot listen on {url}: {error}", hint="something else lies there") from error
    raise Locked(f"another process serves {url}", hint="stop it first")


def _no_unix(url: str) -> ConfigError:
    return ConfigError(f"no local sockets on Windows: {url}", hint="use tcp://127.0.0.1:PORT")
