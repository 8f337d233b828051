"""What a file system keeps of a file beside its contents and its stat: attributes, flags, time of birth.

By descriptor where one is open; else by path, and never through a symlink. A place that has no such thing (a
file system without extended attributes, an old kernel) gives nothing; every other failure is an OSError.

macOS: extended attributes and ACLs have no call in Python there and are left out (docs/format.md says so).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import sys
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

if sys.platform == "linux":
    import fcntl

_ABSENT: Final = frozenset(
    getattr(errno, name, errno.ENOSYS)
    for name in ("ENOTSUP", "EOPNOTSUPP", "ENOSYS", "ENOTTY", "ENODATA", "EINVAL", "ENXIO")
)
"""Errors that say: nothing of the kind here."""

IMMUTABLE: Final = 0x10
APPEND: Final = 0x20
NODUMP: Final = 0x40
SETTABLE: Final[dict[int, str]] = {
    0x1: "secure deletion",
    0x2: "undeletable",
    0x4: "compressed",
    0x8: "synchronous",
    NODUMP: "no dump",
    0x80: "no access time",
    0x400: "not compressed",
    0x4000: "journalled data",
    0x8000: "no tail merging",
    0x10000: "synchronous directory",
    0x20000: "top of hierarchy",
    0x800000: "no copy on write",
    0x20000000: "project inheritance",
    APPEND: "append-only",
    IMMUTABLE: "immutable",
}
"""Flags of `FS_IOC_SETFLAGS` that a restore may set, in the order in which it must. Others (extents, hashed
directory, encrypted, …) say how the file system stores a file, and are its own business."""
_SETTABLE_MASK: Final = sum(SETTABLE)


def absent(error: OSError) -> bool:
    """Whether the error says that the file system has nothing of the kind."""
    return error.errno in _ABSENT


# --- extended attributes --------------------------------------------------------------------------


def list_xattrs(place: int | bytes) -> list[bytes]:
    """Names of a file's extended attributes, ACLs and capabilities among them. Raises OSError."""
    if sys.platform != "linux":
        return []
    try:
        # Two calls instead of an argument: of a descriptor there is nothing to follow or not.
        names = os.listxattr(place) if isinstance(place, int) else os.listxattr(place, follow_symlinks=False)
    except OSError as error:
        if absent(error):
            return []
        raise
    return [os.fsencode(name) for name in names]


def get_xattr(place: int | bytes, name: bytes) -> bytes | None:
    """Value of one; None if it is gone by now. Raises OSError."""
    if sys.platform != "linux":
        return None
    try:
        if isinstance(place, int):
            return os.getxattr(place, name)
        return os.getxattr(place, name, follow_symlinks=False)
    except OSError as error:
        if absent(error):
            return None
        raise


def set_xattr(place: int | bytes, name: bytes, value: bytes) -> None:
    """Set one. Raises OSError, also where there is nothing of the kind."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "no extended attributes on this system")
    if isinstance(place, int):
        os.setxattr(place, name, value)
    else:
        os.setxattr(place, name, value, follow_symlinks=False)


def remove_xattr(place: int | bytes, name: bytes) -> None:
    """Remove one. Raises OSError."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "no extended attributes on this system")
    if isinstance(place, int):
        os.removexattr(place, name)
    else:
        os.removexattr(place, name, follow_symlinks=False)


# --- flags ----------------------------------------------------------------------------------------

_LONG_BYTES: Final = ctypes.sizeof(ctypes.c_long)
_INT: Final = struct.Struct("=I")
_ROOM: Final = bytes(_LONG_BYTES)
_OTHER: Final = platform.machine().startswith(("mips", "ppc", "sparc", "alpha"))
"""Machines that number the directions of an ioctl in another way."""
_GET_FLAGS: Final = (0x40000000 if _OTHER else 0x80000000) | _LONG_BYTES << 16 | 0x6601
_SET_FLAGS: Final = (0x80000000 if _OTHER else 0x40000000) | _LONG_BYTES << 16 | 0x6602
"""_IOR('f', 1, long) and _IOW('f', 2, long), see ioctl_iflags(2)."""


def _raw_flags(fd: int) -> int:
    if sys.platform == "linux":
        # The kernel gives an int, whatever the number of the call says.
        flags: int = _INT.unpack_from(fcntl.ioctl(fd, _GET_FLAGS, _ROOM))[0]
        return flags
    raise OSError(errno.ENOTSUP, "no such flags on this system")


def get_flags(fd: int) -> int:
    """The flags of an open file or directory that `set_flags` can set; 0 where there are none.

    Raises OSError.
    """
    try:
        return _raw_flags(fd) & _SETTABLE_MASK
    except OSError as error:
        if absent(error):
            return 0
        raise


def set_flags(fd: int, flags: int) -> None:
    """Make these the settable flags of an open file; others stay as they are. Raises OSError."""
    now = _raw_flags(fd)
    wanted = now & ~_SETTABLE_MASK | flags & _SETTABLE_MASK
    if sys.platform == "linux" and wanted != now:
        room = bytearray(_ROOM)
        _INT.pack_into(room, 0, wanted)
        fcntl.ioctl(fd, _SET_FLAGS, room)


def stat_flags(status: os.stat_result) -> int:
    """`st_flags` of macOS and BSD; 0 elsewhere."""
    return getattr(status, "st_flags", 0)


def set_stat_flags(path: bytes, flags: int) -> None:
    """Set them, not following a symlink. Raises OSError."""
    if sys.platform == "darwin":
        os.lchflags(path, flags)
    else:
        raise OSError(errno.ENOTSUP, "no such flags on this system")


_WINDOWS_SETTABLE: Final = 0x1 | 0x2 | 0x4 | 0x20 | 0x2000
"""Read-only, hidden, system, archive, not indexed."""


def file_attributes(status: os.stat_result) -> int:
    """Windows file attributes that `set_file_attributes` can set; 0 elsewhere."""
    return getattr(status, "st_file_attributes", 0) & _WINDOWS_SETTABLE


def set_file_attributes(path: bytes, attributes: int) -> None:
    """Set them. Raises OSError."""
    if sys.platform == "win32":
        if not ctypes.windll.kernel32.SetFileAttributesW(os.fsdecode(path), attributes or 0x80):
            raise ctypes.WinError()
    else:
        raise OSError(errno.ENOTSUP, "no such attributes on this system")


# --- time of birth --------------------------------------------------------------------------------

_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_FDCWD: Final = -100
_STATX_BTIME: Final = 0x800
_STATX_MASK: Final = 0x7FF | _STATX_BTIME  # the basic ones, and the birth
_STATX_BYTES: Final = 256
_STATX: Final = struct.Struct("=I28xQQ32xqI4xqI4xqI")
"""Of struct statx, statx(2): mask, inode, size, then seconds and nanoseconds of birth, ctime and mtime."""
_SECOND_NS: Final = 1_000_000_000


class Look(NamedTuple):
    """What may have changed of a file, and when it was born (None where nobody tells)."""

    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    birth_ns: int | None


def _find_statx() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    try:
        statx = ctypes.CDLL(None).statx
    except (OSError, AttributeError):
        return None  # another or an older C library
    # No errno is needed, and no argument but these is ever passed.
    statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    found: Callable[..., int] = statx
    return found


_statx = _find_statx()


class _Room(threading.local):
    """A thread's place for struct statx, and its address: making one costs as much as the call itself."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(_STATX_BYTES)
        self.address = ctypes.addressof(self.buffer)


_room = _Room()


def look(place: int | bytes) -> Look:
    """Size, times and birth of a file, with one call where there is one. Raises OSError."""
    if _statx is not None:
        if isinstance(place, int):
            failed = _statx(place, b"", _AT_EMPTY_PATH, _STATX_MASK, _room.address)
        else:
            failed = _statx(_AT_FDCWD, place, _AT_SYMLINK_NOFOLLOW, _STATX_MASK, _room.address)
        if not failed:
            mask, inode, size, b_s, b_ns, c_s, c_ns, m_s, m_ns = _STATX.unpack_from(_room.buffer)
            born = b_s * _SECOND_NS + b_ns if mask & _STATX_BTIME else None
            return Look(inode, size, m_s * _SECOND_NS + m_ns, c_s * _SECOND_NS + c_ns, born)
        # A kernel or a sandbox without the call; or the file is gone, and this one says so.
    status = os.fstat(place) if isinstance(place, int) else os.lstat(place)
    born = _stat_birth_ns(status)
    return Look(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, born)


def _stat_birth_ns(status: os.stat_result) -> int | None:
    seconds = getattr(status, "st_birthtime", None)
    if seconds is None:
        return None
    exact: int = getattr(status, "st_birthtime_ns", round(seconds * 1_000_000) * 1000)
    return exact


def set_birth(place: int | bytes, born_ns: int) -> bool:
    """Set the time of birth of a file that was just made, before its other times; whether that is possible.

    macOS and BSD: a time of modification before the birth moves the birth. Linux has no call at all.
    """
    if sys.platform != "darwin":
        return False
    if isinstance(place, int):
        os.utime(place, ns=(born_ns, born_ns))
    else:
        os.utime(place, ns=(born_ns, born_ns), follow_symlinks=False)
    return True


def device_numbers(status: os.stat_result) -> list[int]:
    """[major, minor] of a device node."""
    if sys.platform == "win32" or stat.S_IFMT(status.st_mode) not in {stat.S_IFBLK, stat.S_IFCHR}:
        return [0, 0]
    return [os.major(status.st_rdev), os.minor(status.st_rdev)]
