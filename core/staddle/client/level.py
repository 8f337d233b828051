"""A directory that is being walked: its names in order, and looks at what they name, led astray by nobody."""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from collections.abc import Iterable

from staddle.client.sorting import Sorter
from staddle.platform import fsattrs, longpath

_NOT_FOLLOWED = getattr(os, "O_NOFOLLOW", 0)
_LISTED = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NOT_FOLLOWED
_PASSED = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | _NOT_FOLLOWED
_BY_DESCRIPTOR = sys.platform != "win32"


class Level:
    """A directory that is being walked.

    Attributes:
        path: of the directory.
        status: of the open directory.
        passage: what it holds is left out; it is only gone through, to a PATH further down.
        device: of the file system that the walk is on.
        marks: see __init__.
        listed: the last name that was taken was among those listed.
    """

    def __init__(
        self,
        path: bytes,
        name: bytes,
        status: os.stat_result,
        above: int,
        wanted: frozenset[bytes],
        *,
        passage: bool,
    ) -> None:
        """Open and list it.

        Args:
            path: of it.
            name: its last part.
            status: its lstat.
            above: descriptor of the open directory above it, or -1.
            wanted: of these names it is said in `marks` which ones are there.
            passage: it is not listed, and need not be readable.

        Raises OSError.
        """
        self.path = path
        self.status = status
        self.passage = passage
        self.device = status.st_dev
        self.fd = -1  # also while it is closed to save descriptors, and where there are none
        self._flags = _PASSED if passage else _LISTED
        if _BY_DESCRIPTOR:
            if above >= 0:
                self.fd = os.open(name, self._flags, dir_fd=above)
            else:
                self.fd = longpath.open(path, self._flags)
            self.status = os.fstat(self.fd)  # opening it may have mounted it
            self.device = self.status.st_dev
        self.marks: set[bytes] = set()
        self._listing = Sorter()
        try:
            for each in () if passage else longpath.names(self.fd if _BY_DESCRIPTOR else path):
                self._listing.add(each)
                if each in wanted:
                    self.marks.add(each)
        except OSError:
            self.close()
            raise
        self._names = iter(self._listing)
        self._next = b""
        self.listed = True

    def only(self, names: Iterable[bytes]) -> None:
        """What else it holds is left out."""
        self._listing = Sorter(names)
        self._names = iter(self._listing)
        self.passage = True

    def take(self, wanted: bytes) -> bytes:
        """The next name in order: of those listed, or the wanted one, listed or not; empty after the last."""
        if not self._next:
            self._next = next(self._names, b"")
        self.listed = not wanted or (self._next != b"" and self._next <= wanted)
        if not self.listed:
            return wanted
        name, self._next = self._next, b""
        return name

    def in_other_letters(self, name: bytes) -> bool:
        """Is a name that was not listed another form of one that was, if it is there: both are the same."""
        return any(_fold(each) == _fold(name) for each in self._listing)

    def reopen(self) -> None:
        """Have it open again after a way further down. Raises OSError, also if it is another one now."""
        if self.fd >= 0 or not _BY_DESCRIPTOR:
            return
        self.fd = longpath.open(self.path, self._flags)
        if not os.path.samestat(os.fstat(self.fd), self.status):
            raise OSError(0, "replaced by something else while the backup ran")

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # --- what it holds --------------------------------------------------------------------------------

    def status_of(self, name: bytes) -> os.stat_result:
        """The lstat of an entry. Raises OSError."""
        if _BY_DESCRIPTOR:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        # The status that comes with a listing lacks inode and link count there.
        return longpath.lstat(self._inside(name))

    def begins_with(self, name: bytes, header: bytes) -> bool:
        """Is an entry a plain file that begins so. Raises OSError."""
        if not stat.S_ISREG(self.status_of(name).st_mode):
            return False
        fd = self._open(name)
        try:
            return stat.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, len(header)) == header
        finally:
            os.close(fd)

    def has_nodump(self, name: bytes, status: os.stat_result) -> bool:
        """Has a file or a directory the flag that asks to be left out of backups. Raises OSError."""
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return False
        flags = getattr(status, "st_flags", None)  # BSD, macOS
        if flags is not None:
            return bool(flags & stat.UF_NODUMP)
        if sys.platform != "linux":
            return False
        try:
            fd = self._open(name)
        except PermissionError:
            return False  # that it can't be read is told when it is read
        try:
            return bool(fsattrs.get_flags(fd) & fsattrs.NODUMP)
        finally:
            os.close(fd)

    def _open(self, name: bytes) -> int:
        flags = os.O_RDONLY | _NOT_FOLLOWED | getattr(os, "O_NONBLOCK", 0)
        if _BY_DESCRIPTOR:
            return os.open(name, flags, dir_fd=self.fd)
        return longpath.open(self._inside(name), flags | getattr(os, "O_BINARY", 0))

    def _inside(self, name: bytes) -> bytes:
        return self.path + name if self.path.endswith(b"/") else self.path + b"/" + name


def _fold(name: bytes) -> str:
    return unicodedata.normalize("NFC", os.fsdecode(name)).casefold()
