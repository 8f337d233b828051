"""Which errors say that stored bytes can't be had: a bad block, a checksum that does not hold."""

from __future__ import annotations

import errno

_ERRNOS = {errno.EIO, getattr(errno, "EUCLEAN", errno.EIO), getattr(errno, "EBADMSG", errno.EIO)}
_WINDOWS = {23, 27, 30, 1117, 1392, 1393}  # CRC, sector not found, read fault, device, corrupt


def is_read_fault(error: OSError) -> bool:
    """Whether it says that what is stored there can't be had: a bad block, a checksum that does not hold."""
    return error.errno in _ERRNOS or getattr(error, "winerror", None) in _WINDOWS
