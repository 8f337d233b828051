"""The catalog contract: a queryable projection of the op-log, in the process that owns it.

The op-log is the authority; a catalog applies its records in batches, and can always be thrown
away and made again.

- **C1** The catalog never claims more than the media hold.
- **C2** A crash leaves no dangling reference: what was applied and `applied_lsn` change in one transaction.
- **C3** Rebuilt from the media and the recovery key it equals the original in backups, files, containers and
  copies; an SQL diff shows it.
- **C4** A record of a lower epoch than one already applied is rejected (`Fenced`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One change, as its outcome. `(epoch, lsn)` only grow; `lsn` has no gaps."""

    epoch: int
    lsn: int
    op: str
    args: dict[str, Any]


class ManifestRows(msgspec.Struct, frozen=True, kw_only=True):
    """Tier 2 of one committed segment: the manifest's plain bytes (docs/format.md), to be ingested."""

    backup: int
    manifest: bytes
    plain: bytes


class EntryColumns(Protocol):
    """The entries of a manifest; the columns' names and types stand in docs/format.md."""

    @property
    def names(self) -> bytes:
        """Last parts of the paths, joined by NUL."""

    @property
    def dirs(self) -> Sequence[bytes]:
        """The directory paths that the column `dir` points into."""

    @property
    def links(self) -> Sequence[bytes]:
        """The targets that the column `link` points into (index + 1)."""

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """One value per row: dir, type, mode, uid, gid, size, mtime_ns, ctime_ns, offset, flags, link."""


class ChunkColumns(Protocol):
    """The chunk rows of a manifest."""

    @property
    def container(self) -> NDArray[np.uint32]:
        """Index into `containers`, or 0xFFFFFFFF for a zero region."""

    @property
    def containers(self) -> Sequence[bytes]:
        """Ids, 16 bytes each."""

    @property
    def ordinals(self) -> NDArray[np.uint32]:
        """Which chunk of its container."""


class ManifestColumns(Protocol):
    """What a catalog reads of a decoded manifest."""

    @property
    def entries(self) -> EntryColumns:
        """Its rows."""

    @property
    def chunks(self) -> ChunkColumns:
        """What their contents are made of."""

    @property
    def chunk_first(self) -> NDArray[np.uint32]:
        """Per row: its first chunk row."""

    @property
    def chunk_count(self) -> NDArray[np.uint32]:
        """Per row: how many chunk rows."""


ManifestDecoder = Callable[[bytes], ManifestColumns]
"""Turns the plain bytes of a manifest into columns. Raises Corrupt, NewerFormat."""


class QueryResult(msgspec.Struct, frozen=True):
    """Columns and rows of a read-only query; `truncated` if there were more rows than the limit."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool = False


class Catalog(Protocol):
    """One open catalog; called by one thread at a time."""

    def applied_lsn(self) -> int:
        """The last LSN whose record is in the catalog, durably; 0 for none."""

    def apply(self, records: Sequence[Record]) -> None:
        """Apply in order, atomically; records at or below `applied_lsn` are skipped. Raises Fenced (C4)."""

    def ingest(self, manifests: Sequence[ManifestRows]) -> None:
        """Take in files and chunk runs; the same manifest again changes nothing."""

    def ingested(self, backup: int) -> list[bytes]:
        """Ids of the manifests of a backup that are already in."""

    def query(self, sql: str, parameters: Sequence[Any] = (), limit: int = 100_000) -> QueryResult:
        """Read-only SQL over the documented views. Raises UsageError with the database's own message."""

    def snapshot(self, path: str) -> int:
        """Write a consistent copy to `path`, durably; its applied LSN."""

    def verify(self) -> list[str]:
        """Findings of an internal check; empty when all references hold."""

    def close(self) -> None:
        """Checkpoint and close. Idempotent."""


class CatalogType(msgspec.Struct, frozen=True, kw_only=True):
    """What a catalog plugin returns from its hook. `load()` returns `open(path, decode) -> Catalog`."""

    name: str
    version: str
    api_version: int
    load: Callable[[], Callable[[str, ManifestDecoder], Catalog]]
    summary: str = ""
