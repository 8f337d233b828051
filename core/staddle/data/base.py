"""Chunk rows of unchanged files, taken over from the manifests of the base backup, in bulk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.data.manifest import ZERO_REGION, EntryFlag, Manifest
from staddle.data.records import NO_BASE, FilesRecord
from staddle.errors import StaddleError

_PART = int(EntryFlag.PART)
LoadManifest = Callable[[int], Manifest]
"""Gives a manifest of the base backup by its index, the one that the client's records use."""


class NeedContent(StaddleError):
    """Unchanged rows whose content can't be taken over: the client reads those files again.

    Nothing of the record was taken. Attributes:
        rows: positions in the refused record.
        containers: ids that can't be referred to now; empty if the base itself could not be read.
    """

    default_code = "NEED_CONTENT"
    default_retry = "now"
    default_scope = "object"

    def __init__(self, rows: list[int], containers: list[bytes]) -> None:
        super().__init__(
            f"{len(rows)} unchanged files must be read again: the base backup's data is not usable",
            hint="send these files with their contents",
        )
        self.rows = rows
        self.containers = containers


class BaseChunks(msgspec.Struct, frozen=True, kw_only=True):
    """Chunk rows for a record's unchanged rows.

    Attributes:
        at: positions of the unchanged rows in the record.
        first: per unchanged row, its first chunk among those here.
        count: per unchanged row, how many.
        fingerprints: (n, 32) u8.
        container: n indexes into `containers`, or ZERO_REGION.
        containers: 16-byte ids, each used by some row.
        ordinals: u32[n].
        lengths: u64[n], raw bytes.
    """

    at: NDArray[np.intp]
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    fingerprints: NDArray[np.uint8]
    container: NDArray[np.uint32]
    containers: list[bytes]
    ordinals: NDArray[np.uint32]
    lengths: NDArray[np.uint64]


class BaseRows:
    """Rows of one base backup; keeps the manifests used last. Used by one thread at a time."""

    def __init__(self, load_manifest: LoadManifest, manifests_max: int = 4) -> None:
        """Args: load_manifest: reads one. manifests_max: how many stay in memory."""
        self._load = load_manifest
        self._manifests_max = manifests_max
        self._kept: OrderedDict[int, Manifest | None] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, record: FilesRecord, usable: Callable[[Iterable[bytes]], Collection[bytes]]) -> BaseChunks:
        """Chunk rows of all rows of `record` that have a base.

        Args:
            record: its rows with a base.
            usable: which containers may be referred to now (G1).

        Raises: NeedContent naming all rows that have no usable base.
        """
        rows = np.flatnonzero(record.base_manifests != NO_BASE)
        groups: list[_Group] = []
        refused: list[int] = []
        gone: set[bytes] = set()
        for index in np.unique(record.base_manifests[rows]).tolist():
            at = rows[record.base_manifests[rows] == index]
            manifest = self._manifest(index)
            group = None if manifest is None else _Group.match(manifest, record, at)
            if group is None:
                refused.extend(at.tolist())
                continue
            lost = set(group.containers) - set(usable(group.containers))
            bad = group.without(lost)
            gone |= lost
            refused.extend(bad)
            groups.append(group)
        if refused:
            raise NeedContent(sorted(refused), sorted(gone))
        return _joined(groups)

    def _manifest(self, index: int) -> Manifest | None:
        """A manifest of the base, None if it can't be read: then files are read, no job fails for it."""
        with self._lock:
            if index not in self._kept:
                try:
                    self._kept[index] = self._load(index)
                except StaddleError:
                    self._kept[index] = None
                while len(self._kept) > self._manifests_max:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(index)
            return self._kept[index]


class _Group(msgspec.Struct, kw_only=True):
    """Rows of one record that refer to one manifest: gathered chunk rows, and whose they are."""

    at: NDArray[np.intp]
    wrong: NDArray[np.bool_]
    count: NDArray[np.int64]
    chunk_rows: NDArray[np.int64]
    owner: NDArray[np.int64]
    container: NDArray[np.uint32]
    containers: list[bytes]
    manifest: Manifest

    @classmethod
    def match(cls, manifest: Manifest, record: FilesRecord, at: NDArray[np.intp]) -> _Group:
        """Gather; rows that are not what the client takes them for are marked wrong."""
        old, new = manifest.entries.columns, record.batch.columns
        asked = record.base_rows[at].astype(np.int64)
        wrong = asked >= len(manifest.entries)
        row = np.where(wrong, 0, asked)
        if not len(manifest.entries):
            return cls._empty(manifest, at)
        for name in ("type", "size", "offset"):
            wrong |= old[name][row] != new[name][at]
        first = manifest.chunk_first[row].astype(np.int64)
        count = np.where(wrong, 0, manifest.chunk_count[row].astype(np.int64))
        chunk_rows = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        owner = np.repeat(np.arange(len(at)), count)
        lengths = manifest.chunks.lengths[chunk_rows].astype(np.int64)
        total = np.zeros(len(at), np.int64)
        np.add.at(total, owner, lengths)
        whole = (new["flags"][at] & _PART) == 0
        wrong |= whole & (total != new["size"][at].astype(np.int64))
        container = manifest.chunks.container[chunk_rows]
        used = np.unique(container[container != ZERO_REGION])
        numbers = np.full(len(container), ZERO_REGION, np.uint32)
        stored = container != ZERO_REGION
        numbers[stored] = np.searchsorted(used, container[stored])
        return cls(
            at=at,
            wrong=wrong,
            count=count,
            chunk_rows=chunk_rows,
            owner=owner,
            container=numbers,
            containers=[manifest.chunks.containers[number] for number in used.tolist()],
            manifest=manifest,
        )

    @classmethod
    def _empty(cls, manifest: Manifest, at: NDArray[np.intp]) -> _Group:
        none = np.zeros(0, np.int64)
        return cls(
            at=at,
            wrong=np.ones(len(at), np.bool_),
            count=np.zeros(len(at), np.int64),
            chunk_rows=none,
            owner=none,
            container=np.zeros(0, np.uint32),
            containers=[],
            manifest=manifest,
        )

    def without(self, lost: set[bytes]) -> list[int]:
        """Positions in the record of the rows that are wrong or need a lost container."""
        bad = self.wrong.copy()
        if lost:
            numbers = [number for number, each in enumerate(self.containers) if each in lost]
            bad[self.owner[np.isin(self.container, numbers)]] = True
        return list(map(int, self.at[bad]))


def _joined(groups: list[_Group]) -> BaseChunks:
    """The groups one behind the other, with one table of containers."""
    table: dict[bytes, int] = {}
    container: list[NDArray[Any]] = []
    for group in groups:
        numbers = np.array([table.setdefault(each, len(table)) for each in group.containers], np.uint32)
        stored = group.container != ZERO_REGION
        mapped = group.container.copy()
        mapped[stored] = numbers[group.container[stored]]
        container.append(mapped)
    count = np.concatenate([group.count for group in groups])
    return BaseChunks(
        at=np.concatenate([group.at for group in groups]),
        first=np.cumsum(count) - count,
        count=count,
        fingerprints=np.concatenate([g.manifest.chunks.fingerprints[g.chunk_rows] for g in groups]),
        container=np.concatenate(container),
        containers=list(table),
        ordinals=np.concatenate([g.manifest.chunks.ordinals[g.chunk_rows] for g in groups]),
        lengths=np.concatenate([g.manifest.chunks.lengths[g.chunk_rows] for g in groups]),
    )
