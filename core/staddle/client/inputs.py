"""What a backup reads: trees of files, one stream, or images; each gives the job's streams their records."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Protocol

from staddle.client.base import BaseIndex
from staddle.client.exclude import Excludes
from staddle.client.image import ImageSource, image_paths, image_size
from staddle.client.own import check_not_own
from staddle.client.resume import Taken
from staddle.client.scan import Rules, Scan, absolute, check_root, reason
from staddle.client.selection import is_inside
from staddle.client.sorting import Sorter
from staddle.client.source import Source
from staddle.client.stdin import StreamSource
from staddle.client.stream import Remakes
from staddle.client.units import Record, Tally, Units
from staddle.client.walkorder import WalkOrder, reduce_roots
from staddle.errors import NotFound
from staddle.platform import longpath

Feeds = tuple[Remakes, list[Iterator[Record]]]
"""Where records come from, and an iterator for each stream."""


class Input(Protocol):
    """What one job reads.

    Attributes:
        roots: absolute paths, under which the backup is known.
        needs_base: may contents be taken over from the last backup.
        resumable: can another process go on where one was killed.
        streams_max: more can't share the work.
        key: tells apart inputs that have the same options and roots.
        left_out: what of it was the grid's own, as far as it is known by now.
    """

    roots: list[bytes]
    needs_base: bool
    resumable: bool
    streams_max: int
    key: bytes
    left_out: list[bytes]

    def sizes(self) -> Iterator[int]:
        """The bytes of everything that is to be read, thing by thing; nothing where that is not known."""

    def check(self) -> None:
        """Look before a job is made, so that a mistake leaves nothing behind. Raises StaddleError."""

    def feeds(self, streams: int, base: BaseIndex, taken: Taken | None) -> Feeds:
        """Begin. Args: streams: how many iterators are wanted. taken: what a killed process has done."""


class Trees:
    """Files and directories."""

    needs_base = resumable = True
    streams_max = 16

    def __init__(
        self, paths: list[bytes], listed: Iterable[bytes], excludes: Excludes, rules: Rules, tally: Tally
    ) -> None:
        """Args: paths, listed: as given. A listed path that is not there is a warning; there may be millions.

        Raises NotFound when none of those listed is there.
        """
        self._excludes = excludes
        self._tally = tally
        self._named = {absolute(path) for path in paths}
        self.left_out: list[bytes] = []
        found = _Listed(listed, self._named, tally)
        self.key = found.key
        self._paths = found.paths
        # Lists differ from day to day: what stays the same, and finds the last backup again, is above them.
        leading = _common_directory(self._tops()) if found.any else b""
        self._rules = dataclasses.replace(rules, leading=leading, listed=found.any)
        self.roots = [leading] if leading else sorted(self._tops())

    def _tops(self) -> Iterator[bytes]:
        return reduce_roots(self._paths)

    def sizes(self) -> Iterator[int]:
        """See Input: a walk of its own, that warns of nothing."""
        for found in Scan(self._paths, self._excludes, lambda _path, _message: None, self._rules):
            yield found.status.st_size if stat.S_ISREG(found.status.st_mode) else 0

    def check(self) -> None:
        """See Input. Raises NotFound, UsageError."""
        named = sorted(self._named)
        for root in named:
            check_root(root)
        check_not_own(named, self._rules.own)
        check_not_own(self._tops(), self._rules.own)

    def feeds(self, streams: int, base: BaseIndex, taken: Taken | None) -> Feeds:
        """See Input."""
        walk = Scan(self._paths, self._excludes, self._tally.warn, self._rules)
        self.left_out = walk.left_out
        source = Source(base, self._tally)
        left = iter(walk) if taken is None else taken.left(iter(walk), source)
        units = Units(source.in_order(left) if streams > 1 else left)
        if taken is None:
            return source, [source.records(units) for _ in range(streams)]
        return source, [taken.records(stream, source, units) for stream in range(streams)]


class _Listed:
    """The paths of a list, and those that were named, as far as they are there.

    Attributes:
        any: there was a list.
        paths: all of them.
        key: of all that were listed, whether they are there or not.
    """

    def __init__(self, listed: Iterable[bytes], named: set[bytes], tally: Tally) -> None:
        """Raises NotFound when none is there."""
        self.any = False
        self.paths = WalkOrder(named)
        key = hashlib.sha256()
        for path in Sorter(map(absolute, listed)):
            self.any = True
            key.update(path + b"\0")
            try:
                longpath.lstat(path)
            except OSError as error:
                tally.warn(path, f"not backed up: {reason(error)}")
                continue
            self.paths.add(path)
        self.key = key.digest()
        if self.any and next(iter(self.paths), None) is None:
            raise NotFound("none of the listed files exists", hint="look at the warnings above")


def _common_directory(paths: Iterable[bytes]) -> bytes:
    """Above all of them, or the only one itself; empty if there is none, as above two drives."""
    common = b""
    for path in paths:
        if not common:
            common = path
        elif not is_inside(path, common):
            try:
                common = os.path.commonpath((common, path)).replace(os.sep.encode(), b"/")
            except ValueError:
                return b""
    return common


class Stream:
    """Standard input, or the output of a command."""

    needs_base = resumable = False
    key = b""
    streams_max = 1

    def __init__(self, name: str, command: list[str] | None, tally: Tally) -> None:
        """Raises UsageError."""
        self._source = StreamSource(name, tally, command)
        self.roots = [self._source.path]
        self.left_out: list[bytes] = []

    def sizes(self) -> Iterator[int]:
        """See Input."""
        return iter(())

    def check(self) -> None:
        """See Input: all that can be known was checked at once."""

    def feeds(self, streams: int, base: BaseIndex, taken: Taken | None) -> Feeds:
        """See Input."""
        return self._source, [self._source]


class Images:
    """Devices and images of disks."""

    needs_base = resumable = False
    key = b""
    streams_max = 16

    def __init__(self, paths: list[bytes], tally: Tally) -> None:
        """Raises NotFound, UsageError."""
        self.roots = image_paths(paths)
        self._tally = tally
        self.left_out: list[bytes] = []

    def sizes(self) -> Iterator[int]:
        """See Input."""
        return map(image_size, self.roots)

    def check(self) -> None:
        """See Input: they were looked at already."""

    def feeds(self, streams: int, base: BaseIndex, taken: Taken | None) -> Feeds:
        """See Input."""
        source = ImageSource(self.roots, self._tally)
        return source, [source.records() for _ in range(streams)]
