"""Unchanged files: which rows of the base backup still are what lies in the file system.

A file is not read again when its path, size, times and inode are those of a row of a *sealed* base of the
same client and roots, its change time is older than that scan by the file system's granularity, and no
warning stood on it. The scan began by the manager's clock, which may be ahead of ours: a file whose change
time was not older than its own reading, by the client's clock, has a flag that says so. What the index keeps
of a row is 72 bytes and its further metadata; paths are kept as hashes only, for a row must match in inode
and change time too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from staddle.client.attributes import clamp_ns
from staddle.client.scan import Found
from staddle.data.manifest import ZERO_REGION, EntryFlag, EntryType, Manifest

_NO_BASE = EntryFlag.CHANGED | EntryFlag.ERROR | EntryFlag.RECENT
# Plain numbers: a comparison with a member of an enum takes ten times as long.
_PART, _LAST, _SPARSE = int(EntryFlag.PART), int(EntryFlag.LAST), int(EntryFlag.SPARSE)
_SECOND_NS = 1_000_000_000
_COARSE_NS = 2 * _SECOND_NS
"""Granularity of file systems whose times are whole seconds (FAT: two)."""
_FINE_NS = 20_000_000
"""A kernel takes its times from a clock that ticks every 1-10 ms."""


class BaseRow(NamedTuple):
    """A row of the base that holds content of a file.

    Attributes:
        manifest: index of its manifest.
        row: its number there.
        offset: where in the file its content begins.
        last: nothing follows of this file.
        sparse: zero regions are holes.
        extra: the file's further metadata, packed; empty if there is none, and but on the last row.
    """

    manifest: int
    row: int
    offset: int
    last: bool
    sparse: bool
    extra: bytes


class _Segment(NamedTuple):
    """What is kept of one base manifest to know which rows lie in which containers, and further metadata.

    `extra` is per row an index into `extra_ends`, which cuts `extras`: one object, not a million.
    """

    chunk_first: NDArray[np.uint32]
    chunk_count: NDArray[np.uint32]
    container: NDArray[np.uint32]
    containers: list[bytes]
    extra: NDArray[np.uint32]
    extra_ends: NDArray[np.uint32]
    extras: bytes

    def extra_of(self, row: int) -> bytes:
        """Packed further metadata of a row."""
        at = int(self.extra[row])
        return self.extras[int(self.extra_ends[at - 1]) : int(self.extra_ends[at])] if at else b""


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
        rows = np.flatnonzero((columns["type"] == EntryType.FILE) & ((columns["flags"] & _NO_BASE) == 0))
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
        lengths = [0, *map(len, entries.extras)]
        self._segments.append(
            _Segment(
                manifest.chunk_first,
                manifest.chunk_count,
                chunks.container.copy(),
                chunks.containers,
                columns["extra"].copy(),
                np.cumsum(lengths, dtype=np.uint32),
                b"".join(entries.extras),
            )
        )

    def containers(self) -> list[bytes]:
        """Every container that the base refers to."""
        return sorted({each for segment in self._segments for each in segment.containers})

    def build(self, unusable: Iterable[bytes] = ()) -> None:
        """Sort what was added. Rows that lie in an `unusable` container are left out (G1)."""
        if self._parts:
            parts, self._parts = self._parts, []
            # Column by column, each given up as it is joined: all twice is too much for millions of files.
            key, offset = (np.concatenate([part.pop(name) for part in parts]) for name in ("key", "offset"))
            # Parts of one file stay in the order of their offsets: the sort is stable.
            order = np.lexsort((offset, key))
            self._keys, self._columns = key[order], {"offset": offset[order]}
            del key, offset
            for name in list(parts[0]):
                self._columns[name] = np.concatenate([part.pop(name) for part in parts])[order]
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
        if is_recent(status.st_ctime_ns, self._started_ns):
            return []
        rows, end = [], 0
        for at in range(lower, upper):
            if (
                int(columns["size"][at]) != status.st_size
                or int(columns["mtime_ns"][at]) != clamp_ns(status.st_mtime_ns)
                or int(columns["ctime_ns"][at]) != clamp_ns(status.st_ctime_ns)
                or int(columns["inode"][at]) != status.st_ino
            ):
                # The parts of a file but the last carry what was known before the reading ended.
                return []
            manifest, row = int(columns["manifest"][at]), int(columns["row"][at])
            if self._unusable[manifest][row]:
                return []
            end_before = end
            if int(columns["offset"][at]) != end:
                return []  # a hash that two paths share, or a part that is missing
            end += int(columns["length"][at])
            flags = int(columns["flags"][at])
            last = not flags & _PART or bool(flags & _LAST)
            extra = self._segments[manifest].extra_of(row) if last else b""
            rows.append(BaseRow(manifest, row, end_before, last, bool(flags & _SPARSE), extra))
        complete = end == status.st_size and rows[-1].last and sum(row.last for row in rows) == 1
        return rows if complete else []


def is_recent(ctime_ns: int, at_ns: int) -> bool:
    """May a change after `at_ns` leave the same change time, for all that the file system's clock tells."""
    return ctime_ns + (_COARSE_NS if ctime_ns % _SECOND_NS == 0 else _FINE_NS) >= at_ns


def _touching(segment: _Segment, refused: set[bytes]) -> NDArray[np.bool_]:
    """Per row of a manifest: does any of its chunks lie in one of these containers."""
    bad = [index for index, each in enumerate(segment.containers) if each in refused]
    if not bad:
        return np.zeros(len(segment.chunk_first), bool)
    hit = np.isin(segment.container, bad) & (segment.container != ZERO_REGION)
    counts = np.concatenate(([0], np.cumsum(hit)))
    first = segment.chunk_first.astype(np.int64)
    return np.asarray(counts[first + segment.chunk_count] > counts[first])
