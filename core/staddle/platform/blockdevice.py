"""Block devices: is one in use, how long is it, zeros on it. Linux; other systems refuse to write to one."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress

_BLKZEROOUT = 0x127F
"""_IO(0x12, 127), linux/fs.h: zeros a range, without writing where the device can."""
_SECTOR_BYTES = 512
_ZERO_PIECE_BYTES = 1 << 30
_BLOCK = bytes(1 << 20)
_MOUNTS = "/proc/self/mountinfo"
_SWAPS = "/proc/swaps"
_DEVICES = "/sys/dev/block"


def in_use(path: bytes, *, written: bool = False) -> str:
    """What a device, or a partition of it, is used for, in words; empty for nothing that is known.

    Args:
        path: of the device.
        written: only what may write to it, so not a file system that is mounted read-only.

    Raises:
        OSError: there is no such file.
    """
    number = _number(path)
    if not number:
        return ""
    for device, name in ((number, ""), *_partitions(number)):
        for use in (_mounted(device, written=written), _swapped(device), _held(device)):
            if use:
                return f"its partition {name} {use}" if name else f"it {use}"
    return ""


def _number(path: str | bytes) -> str:
    """`major:minor` of a block device, as /proc and /sys write it; empty for everything else."""
    if sys.platform != "linux":
        return ""
    found = os.stat(path)
    number = found.st_rdev
    return f"{os.major(number)}:{os.minor(number)}" if stat.S_ISBLK(found.st_mode) else ""


def _partitions(number: str) -> Iterator[tuple[str, str]]:
    """Number and name of each partition of a disk."""
    disk = os.path.join(_DEVICES, number)
    for name in _names(disk):
        if os.path.exists(os.path.join(disk, name, "partition")):
            for line in _lines(os.path.join(disk, name, "dev")):
                yield line, name


def _mounted(number: str, *, written: bool) -> str:
    for line in _lines(_MOUNTS):
        fields = line.split(" ")
        kind, source, options = fields[fields.index("-") + 1 :][:3]
        if written and "ro" in options.split(","):
            continue  # of the whole file system: one place of several may be read-only by itself
        # btrfs and the like have a number of their own there: then the source tells.
        if fields[2] == number or (kind != "tmpfs" and _is(_unescaped(source), number)):
            return f"is mounted at {_unescaped(fields[4])}"
    return ""


def _swapped(number: str) -> str:
    names = [_unescaped(line.split()[0]) for line in _lines(_SWAPS)[1:]]
    return "is swap space" if any(_is(name, number) for name in names) else ""


def _held(number: str) -> str:
    """Drivers that make another device of it: mdraid, LVM, encryption, multipath."""
    holders = _names(os.path.join(_DEVICES, number, "holders"))
    called = [
        (_lines(os.path.join(_DEVICES, number, "holders", each, "dm", "name")), each) for each in holders
    ]
    words = [f"{each} ({name[0]})" if name else each for name, each in called]
    return f"is part of {', '.join(words)}" if words else ""


def _is(path: str, number: str) -> bool:
    with suppress(OSError, ValueError):
        return path.startswith("/") and _number(path) == number
    return False


def _unescaped(text: str) -> str:
    r"""A path of /proc, where blanks stand as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _lines(path: str) -> list[str]:
    """Of a file of /proc or /sys; none if there is no such file. A name may hold other ends of lines."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return [line for line in file.read().split("\n") if line]
    except OSError:
        return []


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


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
