"""Unchanged files: which rows of the base backup still are what lies in the file system.

A file is not read again when its path, size, times and inode are those of a row of a *sealed* base of the
same client and roots, its change time is older than that scan by the file system's granularity, and no
warning stood on it. What the index keeps of a row is 68 bytes; paths are kept as hashes only, for a row must
match in inode and change time too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from staddle.client.scan import Found
from staddle.data.manifest import ZERO_REGION, EntryFlag, EntryType, Manifest

_SPOILED = EntryFlag.CHANGED | EntryFlag.ERROR
_SECOND_NS = 1_000_000_000
_COARSE_NS = 2 * _SECOND_NS
"""Granularity of file systems whose times are whole seconds (FAT: two)."""
_FINE_NS = 20_000_000
"""A kernel takes its times from a clock that ticks every 1-10 ms."""


class BaseRow(NamedTuple):
    """A row of the base: index of its manifest, its number there, where in the file its content begins."""

    manifest: int
    row: int
    offset: int
    last: bool


class _Segment(NamedTuple):
    """What is kept of one base manifest to know which rows lie in which containers."""

    chunk_first: NDArray[np.uint32]
    chunk_count: NDArray[np.uint32]
    container: NDArray[np.uint32]
    containers: list[bytes]


class BaseIndex:
    """The base backup's files by path. Built once, then only read; safe for several threads."""

    def __init__(self, started_ns: int) -> None:
        """Args: started_ns: when the base's scan began; 0 and no manifests for a first backup."""
        self._started_ns = started_ns
        self._segments: list[_Segment] = []
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._keys: NDArray[np.int64] = np.zeros(0, np.int64)
        self._columns: dict[str, NDArray[Any]] = {}
        self._unusable: list[NDArray[np.bool_]] = []
        self._refused: set[bytes] = set()

    def add(self, manifest: Manifest) -> None:
        """Take in the base's next manifest, in the order of the backup."""
        entries, index = manifest.entries, len(self._segments)
        columns = entries.columns
        rows = np.flatnonzero((columns["type"] == EntryType.FILE) & ((columns["flags"] & _SPOILED) == 0))
        paths = entries.paths()
        part = {
            name: columns[name][rows] for name in ("size", "mtime_ns", "ctime_ns", "inode", "offset", "flags")
        }
        ends = np.concatenate((np.zeros(1, np.uint64), np.cumsum(manifest.chunks.lengths, dtype=np.uint64)))
        first = manifest.chunk_first[rows].astype(np.int64)
        part["length"] = ends[first + manifest.chunk_count[rows]] - ends[first]
        part["key"] = np.array([hash(paths[row]) for row in rows.tolist()], np.int64)
        part["manifest"] = np.full(len(rows), index, np.uint32)
        part["row"] = rows.astype(np.uint32)
        self._parts.append(part)
        chunks = manifest.chunks
        self._segments.append(
            _Segment(manifest.chunk_first, manifest.chunk_count, chunks.container.copy(), chunks.containers)
        )

    def containers(self) -> list[bytes]:
        """Every container that the base refers to."""
        return sorted({each for segment in self._segments for each in segment.containers})

    def build(self, unusable: Iterable[bytes] = ()) -> None:
        """Sort what was added. Rows that lie in an `unusable` container are left out (G1)."""
        if self._parts:
            names = list(self._parts[0])
            joined = {name: np.concatenate([part[name] for part in self._parts]) for name in names}
            # Parts of one file stay in the order of their offsets: the sort is stable.
            order = np.lexsort((joined["offset"], joined["key"]))
            self._columns = {name: values[order] for name, values in joined.items()}
            self._keys = self._columns.pop("key")
            self._parts = []
        self.exclude(unusable)

    def exclude(self, bad: Iterable[bytes]) -> None:
        """Match no row any more that lies in one of these containers, or in one named before."""
        self._refused |= set(bad)
        self._unusable = [_touching(segment, self._refused) for segment in self._segments]

    def forget(self) -> None:
        """Match no row any more: agents can't read the base."""
        self._keys = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def match(self, founds: Sequence[Found]) -> list[list[BaseRow]]:
        """For each file the rows that hold its content, in order; empty where it must be read."""
        if not len(self._keys):
            return [[] for _ in founds]
        keys = np.array([hash(found.path) for found in founds], np.int64)
        left = np.searchsorted(self._keys, keys, "left").tolist()
        right = np.searchsorted(self._keys, keys, "right").tolist()
        return [
            self._rows(found, lower, upper) if upper > lower else []
            for found, lower, upper in zip(founds, left, right, strict=True)
        ]

    def _rows(self, found: Found, lower: int, upper: int) -> list[BaseRow]:
        status, columns = found.status, self._columns
        if status.st_ctime_ns + _granularity_ns(status.st_ctime_ns) >= self._started_ns:
            return []
        rows, end = [], 0
        for at in range(lower, upper):
            if (
                int(columns["size"][at]) != status.st_size
                or int(columns["mtime_ns"][at]) != status.st_mtime_ns
                or int(columns["ctime_ns"][at]) != status.st_ctime_ns
                or int(columns["inode"][at]) != status.st_ino
            ):
                # The parts of a file but the last carry what was known before the reading ended.
                return []
            manifest, row = int(columns["manifest"][at]), int(columns["row"][at])
            if self._unusable[manifest][row]:
                return []
            if int(columns["offset"][at]) != end:
                return []  # a hash that two paths share, or a part that is missing
            end += int(columns["length"][at])
            flags = int(columns["flags"][at])
            whole = not flags & EntryFlag.PART
            rows.append(
                BaseRow(manifest, row, int(columns["offset"][at]), whole or bool(flags & EntryFlag.LAST))
            )
        complete = end == status.st_size and rows[-1].last and sum(row.last for row in rows) == 1
        return rows if complete else []


def _granularity_ns(ctime_ns: int) -> int:
    return _COARSE_NS if ctime_ns % _SECOND_NS == 0 else _FINE_NS


def _touching(segment: _Segment, refused: set[bytes]) -> NDArray[np.bool_]:
    """Per row of a manifest: does any of its chunks lie in one of these containers."""
    bad = [index for index, each in enumerate(segment.containers) if each in refused]
    if not bad:
        return np.zeros(len(segment.chunk_first), bool)
    hit = np.isin(segment.container, bad) & (segment.container != ZERO_REGION)
    counts = np.concatenate(([0], np.cumsum(hit)))
    first = segment.chunk_first.astype(np.int64)
    return np.asarray(counts[first + segment.chunk_count] > counts[first])
