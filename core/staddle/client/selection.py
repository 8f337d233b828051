"""Which entries of a backup are wanted: the subtrees at some paths, less or only what patterns name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from staddle.client.exclude import Excludes
from staddle.client.scan import split
from staddle.data.manifest import EntryBatch, EntryType

_KNOWN_MAX = 65_536


class Selection:
    """Which entries of a backup are wanted."""

    def __init__(
        self, paths: list[bytes], include: Sequence[str | bytes] = (), exclude: Sequence[str | bytes] = ()
    ) -> None:
        """Which are wanted.

        Args:
            paths: subtrees; none: all.
            include: patterns; if there are any, only what one matches, and what is below that.
            exclude: patterns; what one matches is left out, and what is below that.

        Raises:
            UsageError: a pattern can't be read.
        """
        self._paths = paths
        self._found: set[bytes] = set()
        self._above = {above for path in paths for above in ancestors(path)}
        self._include = _Patterns(include) if include else None
        self._included = not include
        self._exclude = _Patterns(exclude) if exclude else None

    @property
    def took_nothing(self) -> bool:
        """There are patterns of what is wanted, and nothing was."""
        return not self._included

    def rows(self, entries: EntryBatch) -> tuple[list[int], frozenset[int]]:
        """The wanted rows, ascending, with the directories above them; which of them are only such."""
        if not self._paths and not self._include and not self._exclude:
            return list(range(len(entries))), frozenset()
        mask = self._in_paths(entries) if self._paths else np.ones(len(entries), bool)
        way: list[int] = []
        if self._paths:
            way = self._leading(entries, mask)
        rows: list[int] = np.flatnonzero(mask).tolist()
        if self._include or self._exclude:
            rows, more = self._by_patterns(entries, rows)
            way += more
        return sorted({*rows, *way}), frozenset(way)

    def _in_paths(self, entries: EntryBatch) -> NDArray[np.bool_]:
        inside = np.zeros(len(entries.dirs), bool)
        for at, directory in enumerate(entries.dirs):
            tops = [top for top in self._paths if is_inside(directory, top)]
            inside[at] = bool(tops)
            self._found.update(tops)
        mask: NDArray[np.bool_] = inside[entries.columns["dir"]] if len(entries) else np.zeros(0, bool)
        return mask

    def _leading(self, entries: EntryBatch, mask: NDArray[np.bool_]) -> list[int]:
        """Marks the rows at the paths themselves; returns those of the directories above them."""
        dirs, names, way = entries.columns["dir"], list[bytes](), []
        places = {directory: at for at, directory in enumerate(entries.dirs)}
        for path in {*self._paths, *self._above}:
            directory, name = split(path)
            at = places.get(directory, -1)
            if at < 0:
                continue
            names = names or entries.name_list()
            for row in np.flatnonzero(dirs == at).tolist():
                if names[row] != name:
                    continue
                if path in self._paths:
                    self._found.add(path)
                    mask[row] = True
                elif entries.columns["type"][row] == EntryType.DIRECTORY and not mask[row]:
                    way.append(row)
        return way

    def _by_patterns(self, entries: EntryBatch, rows: list[int]) -> tuple[list[int], list[int]]:
        names, dirs = entries.name_list(), entries.columns["dir"].tolist()
        kinds = entries.columns["type"].tolist()
        kept, way = [], []
        for row in rows:
            directory, name = entries.dirs[dirs[row]], names[row]
            if self._exclude is not None and self._exclude.match(directory, name):
                continue
            if self._include is None or self._include.match(directory, name):
                kept.append(row)
            elif kinds[row] == EntryType.DIRECTORY:
                way.append(row)
        self._included = self._included or bool(kept)
        return kept, way

    def deletes(self, directory: bytes, name: bytes) -> bool:
        """May a name of the target that is not in the backup be deleted: what patterns leave out may not."""
        if self._exclude is not None and self._exclude.match(directory, name):
            return False
        return self._include is None or self._include.match(directory, name)

    def missing(self) -> list[bytes]:
        """Paths of which nothing was found."""
        return [path for path in self._paths if path not in self._found]


class _Patterns:
    """Patterns that hold for what is below a match, too."""

    def __init__(self, patterns: Sequence[str | bytes]) -> None:
        self._patterns = Excludes(patterns)
        self._known: dict[bytes, bool] = {}

    def match(self, directory: bytes, name: bytes) -> bool:
        return (bool(name) and self._patterns.match(directory, name)) or self._inside(directory)

    def _inside(self, directory: bytes) -> bool:
        """Does a pattern match the directory, or one above it. Without recursion: paths may be deep."""
        steps = []
        at, known = directory, None
        while at != b"/":
            known = self._known.get(at)
            if known is not None:
                break
            steps.append(at)
            at = split(at)[0]
        found = bool(known)
        if len(self._known) + len(steps) > _KNOWN_MAX:
            self._known.clear()
        for step in reversed(steps):
            found = found or self._patterns.match(*split(step))
            self._known[step] = found
        return found


def is_inside(path: bytes, top: bytes) -> bool:
    """Is a path at or below another one."""
    return path == top or path.startswith(top.rstrip(b"/") + b"/")


def ancestors(path: bytes) -> list[bytes]:
    """The directories above a path, from the nearest to `/`."""
    above = []
    while path != b"/":
        path = split(path)[0]
        above.append(path)
    return above
