"""What a backup reads: trees of files, one stream, or images; each gives the job's streams their records."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator
from typing import Protocol

from staddle.client.base import BaseIndex
from staddle.client.exclude import Excludes
from staddle.client.image import ImageSource, image_paths, image_size
from staddle.client.own import check_not_own
from staddle.client.resume import Taken
from staddle.client.scan import Rules, Scan, absolute, check_root, reason, reduce_roots
from staddle.client.source import Source
from staddle.client.stdin import StreamSource
from staddle.client.stream import Remakes
from staddle.client.units import Record, Tally, Units
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
        left_out: what of it was the grid's own, as far as it is known by now.
    """

    roots: list[bytes]
    needs_base: bool
    resumable: bool
    streams_max: int
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
        self, paths: list[bytes], listed: list[bytes], excludes: Excludes, rules: Rules, tally: Tally
    ) -> None:
        """Args: paths, listed: as given. A listed path that is not there is a warning.

        Raises NotFound when none of those listed is there.
        """
        given = {absolute(path) for path in paths}
        if listed:
            given |= _present({absolute(path) for path in listed} - given, tally)
            if not given:
                raise NotFound("none of the listed files exists", hint="look at the warnings above")
        self._tops = reduce_roots(given)
        entered = frozenset(given) - frozenset(self._tops)
        # Lists differ from day to day: what stays the same, and finds the last backup again, is above them.
        leading = _common_directory(self._tops) if listed else b""
        self._rules = dataclasses.replace(rules, entered=entered, leading=leading)
        self.roots = [leading] if leading else self._tops
        self._excludes = excludes
        self._tally = tally
        self.left_out: list[bytes] = []

    def sizes(self) -> Iterator[int]:
        """See Input: a walk of its own, that warns of nothing."""
        for found in Scan(self._tops, self._excludes, lambda _path, _message: None, self._rules):
            yield found.status.st_size if stat.S_ISREG(found.status.st_mode) else 0

    def check(self) -> None:
        """See Input. Raises NotFound, UsageError."""
        for root in self._tops:
            check_root(root)
        check_not_own(self._tops, self._rules.own)

    def feeds(self, streams: int, base: BaseIndex, taken: Taken | None) -> Feeds:
        """See Input."""
        walk = Scan(self._tops, self._excludes, self._tally.warn, self._rules)
        self.left_out = walk.left_out
        source = Source(base, self._tally)
        if taken is None:
            units = Units(iter(walk))
            return source, [source.records(units) for _ in range(streams)]
        units = Units(taken.left(iter(walk), source))
        return source, [taken.records(stream, source, units) for stream in range(streams)]


def _common_directory(paths: list[bytes]) -> bytes:
    """Above all of them, or the only one itself; empty if there is none, as above two drives."""
    try:
        return os.path.commonpath(paths).replace(os.sep.encode(), b"/")
    except ValueError:
        return b""


def _present(listed: set[bytes], tally: Tally) -> set[bytes]:
    found = set()
    for path in sorted(listed):
        try:
            longpath.lstat(path)
        except OSError as error:
            tally.warn(path, f"not backed up: {reason(error)}")
        else:
            found.add(path)
    return found


class Stream:
    """Standard input, or the output of a command."""

    needs_base = resumable = False
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
