r"""File calls for paths of any length: a plain call takes no more than PATH_MAX (Linux 4096, macOS 1024).

The interface, all for `bytes` paths with `/`, absolute or relative:

    open(path, flags, mode=0o600) -> int        like os.open
    lstat(path) -> os.stat_result               like os.lstat
    readlink(path) -> bytes                     like os.readlink
    listdir(directory) -> list[bytes]           like os.listdir, of a path or an open directory; not sorted
    names(directory) -> iterator of bytes       likewise, one after the other
    reachable(path) -> context manager: bytes   a short path to the same thing, for calls that take no
                                                directory descriptor (xattrs); good inside the block only

A short path costs one comparison more than the plain call. A longer one is walked in hops of less than
PATH_MAX by directory descriptors, without changing the working directory. What a symlink in the directory
part means is what it means to the plain call; who must not be led astray works by descriptor, or compares
(st_dev, st_ino) as the backup does.

On Windows a long path is given in its `\\?\` form, which has no such limit (32,767 characters).
All raise OSError as the plain call does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

PLAIN_BYTES_MAX = {"win32": 240, "darwin": 1000}.get(sys.platform, 4000)
"""The longest path that a plain call is trusted with; the name of a file in it may be added."""

_WALK_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


def open(path: bytes, flags: int, mode: int = 0o600) -> int:  # noqa: A001 read as longpath.open
    """Like os.open."""
    if len(path) <= PLAIN_BYTES_MAX:
        return os.open(path, flags, mode)
    if sys.platform == "win32":
        return os.open(_extended(path), flags, mode)
    with _parent(path) as (fd, name):
        return os.open(name, flags, mode, dir_fd=fd)


def lstat(path: bytes) -> os.stat_result:
    """Like os.lstat."""
    if len(path) <= PLAIN_BYTES_MAX:
        return os.lstat(path)
    if sys.platform == "win32":
        return os.lstat(_extended(path))
    with _parent(path) as (fd, name):
        return os.stat(name, dir_fd=fd, follow_symlinks=False)


def readlink(path: bytes) -> bytes:
    """Like os.readlink."""
    if len(path) <= PLAIN_BYTES_MAX:
        return os.readlink(path)
    if sys.platform == "win32":
        return os.readlink(_extended(path))
    with _parent(path) as (fd, name):
        return os.readlink(name, dir_fd=fd)


def listdir(directory: bytes | int) -> list[bytes]:
    """The names in a directory, given by path or by a descriptor open for reading; in no order."""
    return list(names(directory))


def names(directory: bytes | int) -> Iterator[bytes]:
    """Likewise, one after the other: a directory may have millions. Raises OSError while it is iterated."""
    if isinstance(directory, int):
        with os.scandir(directory) as entries:
            for entry in entries:
                yield os.fsencode(entry.name)
    elif len(directory) <= PLAIN_BYTES_MAX or sys.platform == "win32":
        long = len(directory) > PLAIN_BYTES_MAX
        with os.scandir(_extended(directory) if long else directory) as found:
            for each in found:
                yield each.name
    else:
        fd = open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield from names(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def reachable(path: bytes) -> Iterator[bytes]:
    """A path to the same thing that any system call takes, good inside the block.

    Raises OSError (ENAMETOOLONG) for a long path where the system has no such way.
    """
    if len(path) <= PLAIN_BYTES_MAX:
        yield path
    elif sys.platform == "win32":
        yield _extended(path)
    elif sys.platform == "linux":
        with _parent(path) as (fd, name):
            yield b"/proc/self/fd/%d/%s" % (fd, name)
    else:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)


@contextlib.contextmanager
def _parent(path: bytes) -> Iterator[tuple[int, bytes]]:
    """The directory of a long path, open, and the name in it."""
    directory, _, name = path.rstrip(b"/").rpartition(b"/")
    fd: int | None = None
    try:
        for hop in _hops(directory):
            inner = os.open(hop, _WALK_FLAGS, dir_fd=fd)
            if fd is not None:
                os.close(fd)
            fd = inner
        if fd is None:  # a single name that is too long: the system says so in its own words
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        yield fd, name
    finally:
        if fd is not None:
            os.close(fd)


def _hops(directory: bytes) -> Iterator[bytes]:
    """A path in pieces that a plain call takes: the first may be absolute, the others are relative."""
    at = 0
    while at < len(directory):
        end = len(directory)
        if end - at > PLAIN_BYTES_MAX:
            end = directory.rfind(b"/", at + 1, at + PLAIN_BYTES_MAX)
            if end < 0:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), directory)
        yield directory[at:end]
        at = end
        while directory[at : at + 1] == b"/":
            at += 1


def _extended(path: bytes) -> bytes:
    r"""`C:/a` as `\\?\C:\a`, `//server/share` as `\\?\UNC\server\share`."""
    full = os.path.abspath(path).replace(b"/", b"\\")
    if full.startswith(b"\\\\?\\"):
        return full
    return b"\\\\?\\UNC" + full[1:] if full.startswith(b"\\\\") else b"\\\\?\\" + full
