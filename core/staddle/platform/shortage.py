"""What a host may be short of at any time: room, descriptors, memory, threads. No fault of the code."""

from __future__ import annotations

import errno

_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EIO,
        errno.EROFS,
    }
)


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that the host lacks something, so that its lines of code are of no interest."""
    if isinstance(error, OSError):
        # The ssl module counts its own errors in `errno`.
        return error.errno in _ERRNOS and type(error).__module__ != "ssl"
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and str(error).startswith("can't start new thread")
    )
