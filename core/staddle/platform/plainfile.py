"""Opening files that others may have put there: a fifo in the place of one must not hold anybody up."""

from __future__ import annotations

import errno
import io
import os
import stat

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


class NotOrdinary(OSError):
    """What has the name is no ordinary file."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EINVAL, "Not an ordinary file", path)


def open_plain(path: str, *, follow: bool = False) -> io.FileIO:
    """Open an ordinary file for reading, unbuffered.

    Args:
        path: of the file.
        follow: a symlink that has its name leads to it.

    Raises:
        NotOrdinary: it is of any other kind.
        OSError: as the system says.
    """
    try:
        return io.FileIO(path, opener=_open_followed if follow else _open_own)
    except FileNotFoundError:
        raise
    except OSError:
        # A symlink, a socket: each system has another word for that. Of directories all speak plainly.
        mode = (os.stat(path) if follow else os.lstat(path)).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            raise
        raise NotOrdinary(path) from None


def _open_followed(path: str, _: int) -> int:
    return _open(path, _FLAGS)


def _open_own(path: str, _: int) -> int:
    return _open(path, _FLAGS | _NOFOLLOW)


def _open(path: str, flags: int) -> int:
    try:
        fd = os.open(path, flags | _NONBLOCK)
    except BlockingIOError:  # an ordinary file that a file server has lent out: it is called back
        fd = os.open(path, flags)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # a directory is refused by whoever wants to read it
        return fd
    os.close(fd)
    raise NotOrdinary(path)


def read_plain(path: str, bytes_max: int, *, follow: bool = True) -> bytes:
    """The first bytes of an ordinary file, at most `bytes_max`. Raises OSError, for any other kind too."""
    with io.BufferedReader(open_plain(path, follow=follow)) as file:
        return file.read(bytes_max)
