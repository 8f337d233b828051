"""Walks the roots of a backup in a fixed order and gives what it finds, with one lstat each.

The order is the directory itself, then its entries by name as bytes, depth first: the same tree always gives
the same stream, and a base manifest can be read beside it.

Directories are read by descriptor, each opened from the one above it and never through a symlink: nobody can
lead the walk elsewhere by swapping one while the backup runs, and a path may be of any length. Of a directory
only the names are kept, and of millions of them few at a time.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from staddle.client.exclude import Excludes
from staddle.client.sorting import Sorter
from staddle.data.entries import PATH_BYTES_MAX
from staddle.errors import NotFound
from staddle.platform import fsattrs, longpath

Warn = Callable[[bytes, str], None]
"""Called with a path and what is wrong with it; the job then ends with warnings."""


class Found(NamedTuple):
    """One thing in a file system: `directory/name`, and its lstat."""

    directory: bytes
    name: bytes
    status: os.stat_result

    @property
    def path(self) -> bytes:
        """The whole path."""
        return join(self.directory, self.name)


def join(directory: bytes, name: bytes) -> bytes:
    """`directory/name`; the root directory has an empty name."""
    if not name:
        return directory
    return directory + name if directory.endswith(b"/") else directory + b"/" + name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Directory and name of an absolute path; (`/`, ``) for the root itself."""
    directory, _, name = path.rpartition(b"/")
    return directory or b"/", name


def absolute(path: str | bytes) -> bytes:
    """The absolute form of a root, `/`-separated, symlinks kept."""
    full = os.path.abspath(os.fsencode(path))
    return full.replace(os.sep.encode(), b"/")


def reduce_roots(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Of sorted paths those that lie inside none of the others."""
    above: list[bytes] = []  # those given out that a path to come may lie in, each a prefix of the next
    for path in paths:
        while above and not path.startswith(above[-1]):
            above.pop()
        if not any(path == top or path.startswith(top.rstrip(b"/") + b"/") for top in above):
            above.append(path)
            yield path


def parents(path: bytes) -> Iterator[bytes]:
    """The directories above an absolute path, the nearest first."""
    while len(path) > 1 and b"/" in path:
        path = path[: path.rindex(b"/")] or b"/"
        yield path


def reason(error: OSError) -> str:
    """What an OSError says, in words."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "permission denied"
    return (error.strerror or str(error)).lower()


def check_root(root: bytes) -> os.stat_result:
    """The lstat of a root. Raises NotFound for one that is not there, or can't be seen."""
    try:
        return longpath.lstat(root)
    except OSError as error:
        raise NotFound(
            f"cannot back up {os.fsdecode(root)!r}: {reason(error)}", hint="name a path that exists"
        ) from error


@dataclass(frozen=True)
class Tag:
    """A file that marks its directory: of what is in there only the mark itself is backed up.

    Attributes:
        name: of the file.
        header: with what it must begin; then it must be a plain file.
    """

    name: bytes
    header: bytes = b""


CACHE_TAG = Tag(b"CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55")
"""Cache Directory Tagging Specification 0.5 (bford.info/cachedir)."""


@dataclass(frozen=True)
class Rules:
    """What is left out beside patterns.

    Attributes:
        larger_than_bytes: longer files are left out; negative for no bound.
        tags: see Tag.
        one_file_system: other file systems are not entered; where they are mounted an empty directory stays.
        entered: with `one_file_system`, paths of other file systems that were asked for by name.
        nodump: what has the nodump flag is left out.
        own: (st_dev, st_ino) of directories whose contents are the grid's own; an empty directory stays.
        listed: the roots come from a list: one that is gone is a warning.
        leading: the directories above the roots are entries too, from this one down; empty for none.
    """

    larger_than_bytes: int = -1
    tags: tuple[Tag, ...] = ()
    one_file_system: bool = False
    entered: frozenset[bytes] = frozenset()
    nodump: bool = False
    own: frozenset[tuple[int, int]] = frozenset()
    listed: bool = False
    leading: bytes = b""


NO_RULES = Rules()

_OPEN_LEVELS_MAX = 32
"""Directories that are open at a time; those further up are closed, and opened again on the way back."""
_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_BY_DESCRIPTOR = sys.platform != "win32"


def scan(roots: Iterable[bytes], excludes: Excludes, warn: Warn, rules: Rules = NO_RULES) -> Iterator[Found]:
    """Everything below `roots`, in order. What can't be read is a warning, never an end.

    Raises NotFound when a root that was named does not exist: that is a mistake, not a file that vanished.
    """
    return iter(Scan(roots, excludes, warn, rules))


class _Level:
    """A directory that is being walked.

    Attributes:
        names: of the entries still to come, in order.
        marks: see __init__.
        fd: the open directory; -1 while it is closed to save descriptors, and where there are none.
        device: of the file system that the walk is on.
    """

    __slots__ = ("device", "fd", "marks", "names", "path", "status")

    def __init__(self, found: Found, above: int, device: int, wanted: frozenset[bytes]) -> None:
        """Open and list it.

        Args:
            found: the directory.
            above: the open directory above it, or -1.
            device: see above.
            wanted: of these names it is said in `marks` which ones are there.

        Raises OSError.
        """
        self.path = found.path
        self.status = found.status
        self.fd = -1
        self.device = device
        if _BY_DESCRIPTOR:
            if above >= 0:
                self.fd = os.open(found.name, _FLAGS, dir_fd=above)
            else:
                self.fd = longpath.open(self.path, _FLAGS)
            self.status = os.fstat(self.fd)  # opening it may have mounted it
        self.marks: set[bytes] = set()
        sorter = Sorter()
        try:
            for name in longpath.names(self.fd if _BY_DESCRIPTOR else self.path):
                sorter.add(name)
                if name in wanted:
                    self.marks.add(name)
        except OSError:
            self.close()
            raise
        self.names = iter(sorter)

    def reopen(self) -> None:
        """Have it open again after a way further down. Raises OSError, also if it is another one now."""
        if self.fd >= 0 or not _BY_DESCRIPTOR:
            return
        self.fd = longpath.open(self.path, _FLAGS)
        if not os.path.samestat(os.fstat(self.fd), self.status):
            raise OSError(0, "replaced by something else while the backup ran")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Scan:
    """One walk. Iterate over it once.

    Attributes:
        left_out: directories whose contents are the grid's own, as far as they were met.
    """

    def __init__(
        self, roots: Iterable[bytes], excludes: Excludes, warn: Warn, rules: Rules = NO_RULES
    ) -> None:
        """Args: roots: absolute, sorted, none inside another (`reduce_roots`)."""
        self._roots = roots
        self._excludes = excludes
        self._warn = warn
        self._rules = rules
        self._marks = frozenset(tag.name for tag in rules.tags)
        self.left_out: list[bytes] = []

    def __iter__(self) -> Iterator[Found]:
        last = b""
        for root in self._roots:
            status = self._root(root)
            if status is None:
                continue
            if self._rules.leading:
                yield from self._lead(last, root)
                last = root
            found = Found(*split(root), status)
            yield found
            if stat.S_ISDIR(status.st_mode):
                yield from self._below(found)

    def _root(self, root: bytes) -> os.stat_result | None:
        if not self._rules.listed:
            return check_root(root)
        try:
            return longpath.lstat(root)
        except OSError as error:
            self._warn(root, f"not read: {reason(error)}")
            return None

    def _lead(self, last: bytes, root: bytes) -> Iterator[Found]:
        """The directories above a root that were not above the one before it."""
        top = self._rules.leading
        known = set(parents(last)) if last else set()
        above = [path for path in parents(root) if path not in known and len(path) >= len(top)]
        for path in reversed(above):
            try:
                yield Found(*split(path), longpath.lstat(path))
            except OSError as error:
                self._warn(path, f"not read: {reason(error)}")

    def _below(self, top: Found) -> Iterator[Found]:
        """Depth first without recursion: a path may be deeper than Python's stack."""
        levels: list[_Level] = []
        try:
            self._enter(levels, top, top.status.st_dev)
            while levels:
                level = levels[-1]
                name = next(level.names, None)
                if name is None or not self._reopened(level):
                    levels.pop().close()
                    continue
                found = self._look(level, name)
                if found is None:
                    continue
                yield found
                if stat.S_ISDIR(found.status.st_mode):
                    self._enter(levels, found, level.device)
        finally:
            for level in levels:
                level.close()

    def _look(self, level: _Level, name: bytes) -> Found | None:
        """One entry, if it is to be backed up."""
        if self._excludes.match(level.path, name):
            return None
        rules, path = self._rules, level.path
        if len(path) + 1 + len(name) > PATH_BYTES_MAX:
            self._warn(join(path, name), f"not backed up: its path is longer than {PATH_BYTES_MAX} bytes")
            return None
        try:
            status = _status(level, name)
            if 0 <= rules.larger_than_bytes < status.st_size and stat.S_ISREG(status.st_mode):
                return None
            if rules.nodump and _nodump(level, name, status):
                return None
        except OSError as error:
            self._warn(join(path, name), f"not read: {reason(error)}")
            return None
        return Found(path, name, status)

    def _enter(self, levels: list[_Level], found: Found, device: int) -> None:
        """Open a directory and list it, if it is one whose contents are wanted."""
        rules, status, path = self._rules, found.status, found.path
        if (status.st_dev, status.st_ino) in rules.own:
            self.left_out.append(path)
            return
        if status.st_dev != device and rules.one_file_system:
            if path not in rules.entered:
                return
            device = status.st_dev
        try:
            level = _Level(found, levels[-1].fd if levels else -1, device, self._marks)
        except OSError as error:
            self._warn(path, f"directory not read: {reason(error)}")
            return
        if rules.tags:
            self._heed_tags(level)
        levels.append(level)
        if len(levels) > _OPEN_LEVELS_MAX:
            levels[-1 - _OPEN_LEVELS_MAX].close()

    def _reopened(self, level: _Level) -> bool:
        try:
            level.reopen()
        except OSError as error:
            self._warn(level.path, f"the rest of the directory was not read: {reason(error)}")
            return False
        return True

    def _heed_tags(self, level: _Level) -> None:
        for tag in self._rules.tags:
            if tag.name in level.marks and (not tag.header or self._has_header(level, tag)):
                level.names = iter([tag.name])
                return

    def _has_header(self, level: _Level, tag: Tag) -> bool:
        try:
            return _begins_with(level, tag)
        except OSError as error:
            self._warn(join(level.path, tag.name), f"not read, so it marks nothing: {reason(error)}")
            return False


def _begins_with(level: _Level, tag: Tag) -> bool:
    """Is the mark a plain file that begins as it must. Raises OSError."""
    if not stat.S_ISREG(_status(level, tag.name).st_mode):
        return False
    fd = _open_entry(level, tag.name)
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, len(tag.header)) == tag.header
    finally:
        os.close(fd)


def _nodump(level: _Level, name: bytes, status: os.stat_result) -> bool:
    """Has a file or a directory the flag that asks to be left out of backups. Raises OSError."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return False
    flags = getattr(status, "st_flags", None)  # BSD, macOS
    if flags is not None:
        return bool(flags & stat.UF_NODUMP)
    if sys.platform != "linux":
        return False
    try:
        fd = _open_entry(level, name)
    except PermissionError:
        return False  # that it can't be read is told when it is read
    try:
        return bool(fsattrs.get_flags(fd) & fsattrs.NODUMP)
    finally:
        os.close(fd)


def _status(level: _Level, name: bytes) -> os.stat_result:
    if _BY_DESCRIPTOR:
        return os.stat(name, dir_fd=level.fd, follow_symlinks=False)
    # The status that comes with a listing lacks inode and link count there.
    return longpath.lstat(join(level.path, name))


def _open_entry(level: _Level, name: bytes) -> int:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if _BY_DESCRIPTOR:
        return os.open(name, flags, dir_fd=level.fd)
    return longpath.open(join(level.path, name), flags | getattr(os, "O_BINARY", 0))
