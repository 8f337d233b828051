"""Manifests: what a segment means (docs/format.md, "Manifest").

A manifest is a msgpack map of columns: entries (`entries.py`) and the chunks that their contents are made of.
It is stored as one sealed object (`sealed.py`). The fingerprint is the reference to a chunk; (container,
ordinal) is a hint that repacking may make stale.

Plain columns were measured against byte-shuffled and delta-coded ones: under zstd, shuffling gains below 2 %
of a manifest (sizes, chunk lengths) and loses more (times), so columns stay plain.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.api.types import Buffer
from staddle.data.entries import (
    COLUMNS,
    ROWS_MAX,
    EntriesError,
    EntryBatch,
    EntryFlag,
    EntryType,
    PackedEntries,
    column,
    unpack_entries,
)
from staddle.data.plain import (
    FINGERPRINT_BYTES,
    ID_BYTES,
    PLAIN_BYTES_MAX,
    Digest,
    Id,
    check_version,
    unmsgpack,
)
from staddle.errors import Corrupt

__all__ = [
    "CHUNKS_MAX",
    "VERSION",
    "ZERO_REGION",
    "Chunks",
    "EntryBatch",
    "EntryFlag",
    "EntryType",
    "Manifest",
    "ManifestBuilder",
    "ManifestHead",
    "decode",
    "encode",
]

VERSION = 1
CHUNKS_MAX = 1 << 22
"""Most chunk rows in one manifest."""
ZERO_REGION = 0xFFFFFFFF
"""In `Chunks.container`: `length` zero bytes, nothing is stored."""


class ManifestHead(msgspec.Struct, frozen=True, kw_only=True):
    """Which segment of which backup this is.

    Attributes:
        grid: 16 bytes.
        domain: id of the dedup domain, 16 bytes.
        client: name of the client.
        name: of the backup, as given by `--name`.
        job: number in the grid.
        backup: number in the grid.
        stream: number in the job.
        epoch: of the assignment under which the segment was written.
        ordinal: number of the segment in its stream, from 0.
        first: the first record (`seq`) of the segment.
        next: the first record after it.
        previous_id: object id of the manifest before it in the stream; None for the first.
        previous_digest: BLAKE3-256 of that whole sealed object.
        created_ns: UTC.
        version: of the manifest format.
    """

    grid: Id
    domain: Id
    client: str
    name: str
    job: int
    backup: int
    stream: int
    epoch: int
    ordinal: int
    first: int
    next: int = 0
    previous_id: Id | None = None
    previous_digest: Digest | None = None
    created_ns: int = 0
    version: int = VERSION


class Chunks(msgspec.Struct, frozen=True, kw_only=True):
    """The chunk rows that entries refer to, in the order of their contents.

    `fingerprints` (n, 32) u8, zeros for a zero region; `container` u32, index into `containers` (16-byte ids)
    or ZERO_REGION; `ordinals` u32 within the container; `lengths` u64, raw bytes.
    """

    fingerprints: NDArray[np.uint8]
    container: NDArray[np.uint32]
    containers: list[bytes]
    ordinals: NDArray[np.uint32]
    lengths: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.lengths)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded manifest. Row r of `entries` has `chunk_count[r]` chunk rows from `chunk_first[r]` on."""

    head: ManifestHead
    entries: EntryBatch
    chunk_first: NDArray[np.uint32]
    chunk_count: NDArray[np.uint32]
    chunks: Chunks


class _PackedChunks(msgspec.Struct, frozen=True, kw_only=True):
    rows: int
    fingerprints: bytes
    containers: bytes
    container: bytes
    ordinals: bytes
    lengths: bytes


class _Packed(msgspec.Struct, frozen=True, kw_only=True):
    head: ManifestHead
    entries: PackedEntries
    chunk_first: bytes
    chunk_count: bytes
    chunks: _PackedChunks


class _Version(msgspec.Struct, frozen=True):
    version: int


class _OnlyVersion(msgspec.Struct, frozen=True):
    head: _Version


def encode(manifest: Manifest) -> bytes:
    """Plain bytes, to be sealed. Raises ValueError beyond a limit."""
    chunks = manifest.chunks
    if len(manifest.entries) > ROWS_MAX or len(chunks) > CHUNKS_MAX:
        raise ValueError(
            f"{len(manifest.entries)} entries and {len(chunks)} chunks are too many for one segment"
        )
    packed = _Packed(
        head=manifest.head,
        entries=manifest.entries.pack(),
        chunk_first=manifest.chunk_first.astype("<u4", copy=False).tobytes(),
        chunk_count=manifest.chunk_count.astype("<u4", copy=False).tobytes(),
        chunks=_PackedChunks(
            rows=len(chunks),
            fingerprints=chunks.fingerprints.tobytes(),
            containers=b"".join(chunks.containers),
            container=chunks.container.astype("<u4", copy=False).tobytes(),
            ordinals=chunks.ordinals.astype("<u4", copy=False).tobytes(),
            lengths=chunks.lengths.astype("<u8", copy=False).tobytes(),
        ),
    )
    plain = msgspec.msgpack.encode(packed)
    if len(plain) > PLAIN_BYTES_MAX:
        raise ValueError(f"a manifest of {len(plain)} bytes is too long")
    return plain


def decode(plain: Buffer, what: str = "manifest") -> Manifest:
    """Inverse of `encode`; every count and index is checked.

    Args:
        plain: what `sealed.open_object` gave.
        what: names the object in errors.

    Raises: Corrupt, NewerFormat.
    """
    if len(plain) > PLAIN_BYTES_MAX:
        raise Corrupt(f"{what}: {len(plain)} bytes are too many")
    try:
        check_version(what, unmsgpack(plain, _OnlyVersion).head.version, VERSION)
        return _unpack(unmsgpack(plain, _Packed))
    except ValueError as error:
        raise Corrupt(f"{what}: {error}") from None


def _unpack(packed: _Packed) -> Manifest:
    entries = unpack_entries(packed.entries)
    chunks = _unpack_chunks(packed.chunks)
    first = column(packed.chunk_first, "<u4", len(entries), "chunk_first")
    count = column(packed.chunk_count, "<u4", len(entries), "chunk_count")
    if bool((first.astype(np.uint64) + count > len(chunks)).any()):
        raise EntriesError("an entry refers to chunks that are not there")
    if int(count.sum(dtype=np.uint64)) > CHUNKS_MAX:  # readers spread the rows out: none shares a chunk row
        raise EntriesError(f"its entries refer to more than {CHUNKS_MAX} chunks in all")
    return Manifest(head=packed.head, entries=entries, chunk_first=first, chunk_count=count, chunks=chunks)


def _unpack_chunks(packed: _PackedChunks) -> Chunks:
    rows = packed.rows
    if not 0 <= rows <= CHUNKS_MAX or len(packed.containers) % ID_BYTES:
        raise EntriesError(f"{rows} chunks, {len(packed.containers)} bytes of container ids")
    ids = [packed.containers[at : at + ID_BYTES] for at in range(0, len(packed.containers), ID_BYTES)]
    container = column(packed.container, "<u4", rows, "container")
    if bool(((container >= len(ids)) & (container != ZERO_REGION)).any()):
        raise EntriesError("a chunk lies in a container that is not in the table")
    fingerprints = column(packed.fingerprints, "|u1", rows * FINGERPRINT_BYTES, "fingerprints")
    return Chunks(
        fingerprints=fingerprints.reshape(-1, FINGERPRINT_BYTES),
        container=container,
        containers=ids,
        ordinals=column(packed.ordinals, "<u4", rows, "ordinals"),
        lengths=column(packed.lengths, "<u8", rows, "lengths"),
    )


class ManifestBuilder:
    """Collects the rows of a segment in batches. Used by one thread at a time."""

    def __init__(self, head: ManifestHead) -> None:
        """Args: head: all but `next`, which `build` fills in."""
        self.head = head
        self.rows = 0
        self.chunk_rows = 0
        self.containers: dict[bytes, int] = {}
        self._names: list[bytes] = []
        self._columns: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}
        self._dirs: dict[bytes, int] = {}
        self._links: list[bytes] = []
        self._extras: dict[bytes, int] = {}
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._refs: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._chunks: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]] = []

    def container_index(self, container_id: bytes) -> int:
        """The index of a container in this manifest's table; enters it if it is new."""
        return self.containers.setdefault(container_id, len(self.containers))

    def add_entries(self, batch: EntryBatch, chunk_first: NDArray[Any], chunk_count: NDArray[Any]) -> int:
        """Append rows; returns the number of the first. The tables of the batch are merged in.

        Args:
            batch: the rows.
            chunk_first: per row, index of its first chunk row in this manifest.
            chunk_count: per row, how many.
        """
        first = self.rows
        if not len(batch):
            return first
        dirs = np.array([self._dirs.setdefault(each, len(self._dirs)) for each in batch.dirs], "<u4")
        extras = [self._extras.setdefault(each, len(self._extras) + 1) for each in batch.extras]
        link = batch.columns["link"]
        merged = {
            "dir": dirs[batch.columns["dir"]],
            "link": np.where(link, link + np.uint32(len(self._links)), link),
            "extra": np.array([0, *extras], "<u4")[batch.columns["extra"]],
        }
        for name, parts in self._columns.items():
            parts.append(merged.get(name, batch.columns[name]))
        self._names.append(batch.names)
        self._links.extend(batch.links)
        self._users.update(batch.users)
        self._groups.update(batch.groups)
        self._refs.append((np.asarray(chunk_first, "<u4"), np.asarray(chunk_count, "<u4")))
        self.rows += len(batch)
        return first

    def add_chunks(
        self,
        fingerprints: NDArray[np.uint8],
        container: NDArray[Any],
        ordinals: NDArray[Any],
        lengths: NDArray[Any],
    ) -> int:
        """Append chunk rows; returns the number of the first one.

        Args:
            fingerprints: (n, 32) u8.
            container: per row, what `container_index` gave, or ZERO_REGION.
            ordinals: per row, ordinal in that container.
            lengths: per row, raw bytes.
        """
        first = self.chunk_rows
        self._chunks.append(
            (
                np.asarray(fingerprints, np.uint8).reshape(-1, FINGERPRINT_BYTES),
                np.asarray(container, "<u4"),
                np.asarray(ordinals, "<u4"),
                np.asarray(lengths, "<u8"),
            )
        )
        self.chunk_rows += len(lengths)
        return first

    def build(self, next: int) -> bytes:  # noqa: A002 - the head's field
        """Plain bytes of the manifest of records `[head.first, next)`. Raises ValueError beyond a limit."""
        return encode(self.manifest(next))

    def manifest(self, next: int) -> Manifest:  # noqa: A002 - the head's field
        """The manifest of records `[head.first, next)`."""
        columns = {name: _joined(parts, COLUMNS[name]) for name, parts in self._columns.items()}
        entries = EntryBatch(
            names=b"\0".join(self._names),
            dirs=list(self._dirs),
            columns=columns,
            links=self._links,
            extras=list(self._extras),
            users=self._users,
            groups=self._groups,
        )
        prints = [each[0] for each in self._chunks]
        chunks = Chunks(
            fingerprints=np.concatenate(prints) if prints else np.zeros((0, FINGERPRINT_BYTES), np.uint8),
            container=_joined([each[1] for each in self._chunks], "<u4"),
            containers=list(self.containers),
            ordinals=_joined([each[2] for each in self._chunks], "<u4"),
            lengths=_joined([each[3] for each in self._chunks], "<u8"),
        )
        return Manifest(
            head=msgspec.structs.replace(self.head, next=next),
            entries=entries,
            chunk_first=_joined([each[0] for each in self._refs], "<u4"),
            chunk_count=_joined([each[1] for each in self._refs], "<u4"),
            chunks=chunks,
        )


def _joined(parts: list[NDArray[Any]], kind: str) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, kind)
