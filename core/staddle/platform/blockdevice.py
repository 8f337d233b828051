"""Block devices: is one in use, how long is it, zeros on it. Linux; other systems refuse to write to one."""

from __future__ import annotations

import errno
import os
import struct
import sys
from contextlib import suppress

_BLKZEROOUT = 0x127F
"""_IO(0x12, 127), linux/fs.h: zeros a range, without writing where the device can."""
_SECTOR_BYTES = 512
_ZERO_PIECE_BYTES = 1 << 30
_BLOCK = bytes(1 << 20)


def in_use(path: bytes) -> str:
    """What a device is used for, in words; empty for nothing that is known. Raises OSError."""
    if sys.platform != "linux":
        return ""
    number = os.stat(path).st_rdev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == wanted:
                return f"it is mounted at {fields[4]}"
    return ""


def open_exclusive(path: bytes) -> int:
    """Open for writing, if neither a file system nor another driver holds it. Raises OSError."""
    if sys.platform == "linux":
        try:
            return os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise OSError(errno.EBUSY, "it is mounted or in use") from error
            raise
    raise OSError(errno.ENOTSUP, "block devices are written on Linux only")


def size_bytes(fd: int) -> int:
    """Length of an open device."""
    return os.lseek(fd, 0, os.SEEK_END)


def zero(fd: int, offset: int, length_bytes: int) -> None:
    """Make a range read as zeros. Raises OSError."""
    end = offset + length_bytes
    while offset < end:
        piece = min(end - offset, _ZERO_PIECE_BYTES)
        if (
            offset % _SECTOR_BYTES == 0
            and (whole := piece - piece % _SECTOR_BYTES)
            and _zero_out(fd, offset, whole)
        ):
            offset += whole
            continue
        os.lseek(fd, offset, os.SEEK_SET)
        offset += os.write(fd, _BLOCK[: min(piece, len(_BLOCK))])


def _zero_out(fd: int, offset: int, length_bytes: int) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    with suppress(OSError):
        fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", offset, length_bytes))
        return True
    return False
