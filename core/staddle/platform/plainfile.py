"""Reading small files of settings, where a fifo or a device in the file's place must not hold anybody up."""

from __future__ import annotations

import errno
import os
import stat

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


def read_plain(path: str, bytes_max: int) -> bytes:
    """The first bytes of an ordinary file, at most `bytes_max`. Raises OSError, for any other kind too."""
    with open(path, "rb", opener=lambda name, _: os.open(name, _FLAGS)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not an ordinary file", path)
        return file.read(bytes_max)
