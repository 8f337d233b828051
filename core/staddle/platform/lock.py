"""A lock on a file that the system gives back when its holder ends, however it ends."""

from __future__ import annotations

import os

from staddle.platform.durable import try_lock


class FileLock:
    """An exclusive lock between processes, on a file that is made if need be and never removed.

    The lock lives as long as the open file: a killed holder loses it at once.
    """

    def __init__(self, path: str) -> None:
        """Args: path: the lock file; its directory exists."""
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock and its file is still the one at `path`. Raises OSError."""
        if self._fd is None:
            return False
        try:
            there, ours = os.stat(self.path), os.fstat(self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        # Somebody who removed the file could lock a new one beside us.
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def acquire(self) -> bool:
        """Take the lock if it is free, without waiting. Raises OSError."""
        if self._fd is not None:
            return self.held
        flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(self.path, flags, 0o600)
        if not try_lock(fd):
            os.close(fd)
            return False
        self._fd = fd
        try:
            held = self.held
        except OSError:
            self.release()
            raise
        if not held:
            self.release()
        return held

    def release(self) -> None:
        """Give it back. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
