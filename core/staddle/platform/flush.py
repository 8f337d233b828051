"""Makes all that a program has written durable at its end: file systems at once, not a million files."""

from __future__ import annotations

import ctypes
import os
import sys

FILE_SYSTEMS_MAX = 16
"""So many are flushed one by one; if there are more, the whole system is."""


class FlushList:
    """The file systems that were written to, each held open by one directory in it; `close` it."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._more = False

    def add(self, fd: int) -> None:
        """The file system of an open directory. Raises OSError."""
        device = os.fstat(fd).st_dev
        if device in self._held:
            return
        if len(self._held) >= FILE_SYSTEMS_MAX:
            self._more = True
        else:
            self._held[device] = os.dup(fd)

    def flush(self) -> None:
        """Everything written to them so far is durable on return, as far as the system can say.

        Linux: syncfs(2), and its errors. Other POSIX systems: sync(2), which may return before the end.
        Windows has no such call for an ordinary user; it writes back within seconds.

        Raises:
            OSError: the system could not write something back.
        """
        if sys.platform == "win32" or not self._held:
            return
        if sys.platform != "linux" or self._more:
            os.sync()
            return
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        for fd in self._held.values():
            if syncfs(fd):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))

    def close(self) -> None:
        """Let go of them. Idempotent."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
