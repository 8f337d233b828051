"""Durable writes: the few file operations whose order decides what a power loss leaves behind.

A file's bytes are durable after `datasync`, its name after `sync_dir` of the directory (POSIX; Windows
flushes names with the file, `sync_dir` does nothing there). So whatever must be whole or absent is written
under another name, synced, renamed, and its directory synced.

Everything goes through a `Files` object, so that tests can record the order, cut it anywhere, and look.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from staddle.api.types import Buffer

_WRITE_BYTES_MAX = 1 << 30  # one write call: some systems refuse or shorten more


class Files:
    """The primitives, on the real file system. All raise OSError; none swallows one."""

    def create(self, path: str) -> int:
        """Create and open a file that must not exist, mode 0600. Its name is not durable yet."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o600)

    def reopen(self, path: str) -> int:
        """Open an existing file for reading and writing, positioned at its end."""
        fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        os.lseek(fd, 0, os.SEEK_END)
        return fd

    def write(self, fd: int, data: Buffer) -> None:
        """Write all of `data` at the file's position. Not durable yet."""
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(fd, view[:_WRITE_BYTES_MAX]) :]

    def datasync(self, fd: int) -> None:
        """Make the file's bytes and length durable."""
        datasync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cut the file and stand at its new end. Not durable yet."""
        os.ftruncate(fd, size_bytes)
        os.lseek(fd, 0, os.SEEK_END)

    def close(self, fd: int) -> None:
        """Close the file. Implies no durability."""
        os.close(fd)

    def replace(self, source: str, target: str) -> None:
        """Rename over `target`, atomically. Not durable yet."""
        os.replace(source, target)

    def remove(self, path: str) -> None:
        """Remove a name. Not durable yet. On Windows a mapped or open file refuses."""
        os.remove(path)

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        fsync_dir(path)


FILES = Files()
"""The real file system."""


def forget_cached(fd: int) -> None:
    """Let the next read of a file come from the device (posix_fadvise(2)); on Linux only."""
    if sys.platform == "linux":
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def datasync(fd: int) -> None:
    """Make an open file's bytes and length durable: the strongest call that the system has.

    fdatasync on Linux; F_FULLFSYNC on macOS, where fsync leaves the bytes in the drive's cache;
    FlushFileBuffers on Windows.
    """
    if sys.platform == "linux":
        os.fdatasync(fd)
        return
    if sys.platform == "darwin":
        import fcntl

        # Not every file system knows it (network shares do not): then fsync is all there is.
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def fsync_dir(path: str | bytes) -> None:
    """Make the names in a directory durable; does nothing on Windows, which has no such call."""
    if sys.platform == "win32":
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file_durable(path: str, data: Buffer | Sequence[Buffer], files: Files = FILES) -> None:
    """Write a file that is, whatever happens, the old one or the new one, whole. Durable on return.

    Args:
        path: the file; `path + ".tmp"` beside it is used and overwritten.
        data: its bytes, or parts of them in order.
        files: the file system.

    Raises:
        OSError: not done; the old file stands (after a failing directory sync: either may).
    """
    temporary = path + ".tmp"
    with suppress(FileNotFoundError):
        files.remove(temporary)
    fd = files.create(temporary)
    try:
        for part in [data] if isinstance(data, Buffer) else data:
            files.write(fd, part)
        files.datasync(fd)
    finally:
        files.close(fd)
    files.replace(temporary, path)
    files.sync_dir(os.path.dirname(path) or ".")


def write_new_durable(path: str, data: Buffer) -> None:
    """Write a new file, mode 0600, that is, whatever happens, absent or whole. Durable on return.

    The caller sees to it that nobody else makes the same file at the same time.

    Raises:
        FileExistsError: there is one; it was not touched.
        OSError: not done (after a failing directory sync: it may be there).
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    temporary = path + ".tmp"
    with suppress(FileNotFoundError):
        FILES.remove(temporary)
    fd = FILES.create(temporary)
    try:
        FILES.write(fd, data)
        FILES.datasync(fd)
    finally:
        FILES.close(fd)
    FILES.replace(temporary, path)
    FILES.sync_dir(os.path.dirname(path) or ".")


def make_directories(path: str) -> None:
    """Make a directory, mode 0700, and those above it; its name is durable on return. Raises OSError."""
    missing = []
    at = os.path.abspath(path)
    while not os.path.isdir(at):
        missing.append(at)
        at = os.path.dirname(at)
    # Whoever made the last one that is there may have died before its own sync; and who may not look into the
    # directory above has not made it.
    with suppress(PermissionError):
        fsync_dir(os.path.dirname(at))
    for new in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(new, 0o700)
        fsync_dir(os.path.dirname(new))


def publish_no_replace(temporary: str | bytes, final: str | bytes) -> None:
    """Give a finished file its name if nobody has taken it: the winner is whole, the loser is told.

    The caller has synced the file and syncs the directory afterwards. `temporary` is gone on success and
    stays on failure.

    Raises:
        FileExistsError: `final` exists, with whatever bytes; it was not touched.
        OSError: hard links or the rename are refused by the file system; not done.
    """
    if sys.platform == "win32":
        os.rename(temporary, final)  # refuses an existing target there
        return
    # rename(2) would replace; link(2) is the portable call that does not, also on NFS.
    os.link(temporary, final)
    os.unlink(temporary)


def try_lock(fd: int) -> bool:
    """Lock an open file against other processes until it is closed; False if another one has it."""
    return _try_lock(fd)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl as _fcntl

    def _try_lock(fd: int) -> bool:
        try:
            _fcntl.flock(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
