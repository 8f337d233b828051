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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from staddle.client.exclude import Excludes
from staddle.client.level import Level
from staddle.client.walkorder import Ahead
from staddle.data.entries import PATH_BYTES_MAX
from staddle.errors import NotFound
from staddle.platform import longpath

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
        nodump: what has the nodump flag is left out.
        own: (st_dev, st_ino) of directories whose contents are the grid's own; an empty directory stays.
        listed: the roots come from a list: one that is gone is a warning.
        leading: the directories above the roots are entries too, from this one down; empty for none.
    """

    larger_than_bytes: int = -1
    tags: tuple[Tag, ...] = ()
    one_file_system: bool = False
    nodump: bool = False
    own: frozenset[tuple[int, int]] = frozenset()
    listed: bool = False
    leading: bytes = b""


NO_RULES = Rules()

_OPEN_LEVELS_MAX = 32
"""Directories that are open at a time; those further up are closed, and opened again on the way back."""
_OVER_A_LINK = "a symbolic link leads to it, and below another PATH none is followed: name where it lies"


def scan(paths: Iterable[bytes], excludes: Excludes, warn: Warn, rules: Rules = NO_RULES) -> Iterator[Found]:
    """All of `paths` and what is below them, in order. What can't be read is a warning, never an end.

    Raises NotFound when a root that was named does not exist: that is a mistake, not a file that vanished.
    """
    return iter(Scan(paths, excludes, warn, rules))


class Scan:
    """One walk. Iterate over it once.

    A path below another one, which the walk comes to from there, is never left out, nor are the directories
    on the way to it: of one that a rule leaves out they are all that is gone into. At the path itself the
    rules begin anew, as at a root.

    Attributes:
        left_out: directories whose contents are the grid's own, as far as they were met.
    """

    def __init__(
        self, paths: Iterable[bytes], excludes: Excludes, warn: Warn, rules: Rules = NO_RULES
    ) -> None:
        """Args: paths: absolute, each once, in the order of the walk (`WalkOrder`)."""
        self._ahead = Ahead(paths)
        self._excludes = excludes
        self._warn = warn
        self._rules = rules
        self._marks = frozenset(tag.name for tag in rules.tags)
        self.left_out: list[bytes] = []

    def __iter__(self) -> Iterator[Found]:
        last = b""
        while (root := self._ahead.path) is not None:
            self._ahead.advance()
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
            self._lose(root, status)

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
        levels: list[Level] = []
        try:
            self._enter(levels, top, named=True)
            while levels:
                level = levels[-1]
                wanted = self._ahead.name_in(level.path)
                name = level.take(wanted)
                if not name or not self._reopened(level):
                    self._lose(level.path, level.status)
                    levels.pop().close()
                    continue
                if name == wanted:
                    yield from self._wanted(levels, name)
                elif (found := self._look(level, name)) is not None:
                    yield found
                    if stat.S_ISDIR(found.status.st_mode):
                        self._enter(levels, found)
        finally:
            for level in levels:
                level.close()

    def _wanted(self, levels: list[Level], name: bytes) -> Iterator[Found]:
        """An entry that is one of the paths, or leads to one."""
        level, path = levels[-1], join(levels[-1].path, name)
        named = path == self._ahead.path
        if named:
            self._ahead.advance()
        found = self._look(level, name, asked=True)
        if found is not None and not level.listed and level.in_other_letters(name):
            self._warn(path, "not backed up under this name: its directory has it in other letters")
            found = None
        if found is not None:
            left_out = not named and self._leaves_out_way(level, found)
            directory = stat.S_ISDIR(found.status.st_mode)
            if directory or not left_out:
                yield found
            if directory:
                self._enter(levels, found, named=named, passage=left_out)
        if levels[-1] is level:
            self._lose(path, found.status if found is not None else level.status)

    def _lose(self, top: bytes, status: os.stat_result) -> None:
        """The walk has come through all of `top` that it can: what is still asked for there is told."""
        for path in self._ahead.skip(top):
            link = stat.S_ISLNK(status.st_mode)
            self._warn(path, f"not backed up: {_OVER_A_LINK if link else 'it could not be reached'}")

    def _look(self, level: Level, name: bytes, *, asked: bool = False) -> Found | None:
        """One entry, if it is to be backed up; one that was asked for is."""
        if not asked and self._excludes.match(level.path, name):
            return None
        path = level.path
        if len(path) + 1 + len(name) > PATH_BYTES_MAX:
            self._warn(join(path, name), f"not backed up: its path is longer than {PATH_BYTES_MAX} bytes")
            return None
        try:
            status = level.status_of(name)
            if not asked and self._leaves_out(level, name, status):
                return None
        except OSError as error:
            self._warn(join(path, name), f"not read: {reason(error)}")
            return None
        return Found(path, name, status)

    def _leaves_out(self, level: Level, name: bytes, status: os.stat_result) -> bool:
        """Is it one that other rules than patterns leave out. Raises OSError."""
        rules = self._rules
        if 0 <= rules.larger_than_bytes < status.st_size and stat.S_ISREG(status.st_mode):
            return True
        return rules.nodump and level.has_nodump(name, status)

    def _leaves_out_way(self, level: Level, found: Found) -> bool:
        """Is what leads to a path itself left out, or in something that is."""
        if level.passage or self._excludes.match(level.path, found.name):
            return True
        try:
            return self._leaves_out(level, found.name, found.status)
        except OSError:
            return False  # it is told when it is entered

    def _enter(
        self, levels: list[Level], found: Found, *, named: bool = False, passage: bool = False
    ) -> None:
        """Open a directory and list it, if it is one whose contents are wanted.

        Args:
            levels: those above it, to which it is added.
            found: the directory.
            named: it is one of the paths: here the rules begin anew.
            passage: what it holds is left out, but for what leads to one of the paths.
        """
        rules, status, path = self._rules, found.status, found.path
        if (status.st_dev, status.st_ino) in rules.own:
            self.left_out.append(path)
            for _ in self._ahead.skip(path):
                pass
            return
        above = levels[-1] if levels and not named else None
        if above is not None and rules.one_file_system and status.st_dev != above.device:
            passage = True
        if passage and not self._ahead.name_in(path):
            return
        level = self._open(found, levels[-1].fd if levels else -1, passage)
        if level is None:
            return
        if above is not None:
            level.device = above.device
        if not level.passage:
            self._heed_tags(level)
        levels.append(level)
        if len(levels) > _OPEN_LEVELS_MAX:
            levels[-1 - _OPEN_LEVELS_MAX].close()

    def _open(self, found: Found, above: int, passage: bool) -> Level | None:
        """A directory, if only to go through it, where it can't be listed and leads to one of the paths."""
        path = found.path
        try:
            return Level(path, found.name, found.status, above, self._marks, passage=passage)
        except OSError as error:
            self._warn(path, f"directory not read: {reason(error)}")
        return self._open(found, above, True) if not passage and self._ahead.name_in(path) else None

    def _reopened(self, level: Level) -> bool:
        try:
            level.reopen()
        except OSError as error:
            self._warn(level.path, f"the rest of the directory was not read: {reason(error)}")
            return False
        return True

    def _heed_tags(self, level: Level) -> None:
        for tag in self._rules.tags:
            if tag.name in level.marks and (not tag.header or self._has_header(level, tag)):
                level.only([tag.name])
                return

    def _has_header(self, level: Level, tag: Tag) -> bool:
        try:
            return level.begins_with(tag.name, tag.header)
        except OSError as error:
            self._warn(join(level.path, tag.name), f"not read, so it marks nothing: {reason(error)}")
            return False
