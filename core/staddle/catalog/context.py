"""Gathers what a batch of records changes, and the rows that several ops make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import duckdb

from staddle.catalog.changes import Changes, Key, Row, run_batch
from staddle.engine import ops
from staddle.engine.messages import CopyOf, StoredObject
from staddle.engine.tables import Object, SegmentRow
from staddle.errors import Corrupt

KEYS: Mapping[str, tuple[str, ...]] = {
    "agents": ("agent",),
    "media": ("medium",),
    "pools": ("pool",),
    "clients": ("client",),
    "jobs": ("job",),
    "streams": ("job", "stream"),
    "failovers": ("job", "stream", "epoch"),
    "backups": ("backup",),
    "segments": ("backup", "stream", "ordinal"),
    "objects": ("object",),
    "copies": ("object", "medium", "name"),
}
OF_BACKUP = ("segments", "refs", "files", "dirs", "manifests")
"""Tables whose rows go when a backup is pruned."""

_ID_BYTES = 16
Segment = ops.SegmentCommitted | ops.SegmentImport | SegmentRow


class Context:
    """Gathers the changes of a batch of records."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Args: connection: for the few ops whose outcome depends on what is there."""
        self._connection = connection
        self.changes = Changes(KEYS)
        self.grid: bytes | None = None
        self._refs: list[tuple[int, int, int, bytes]] = []

    def refer(self, backup: int, stream: int, ordinal: int, refs: bytes) -> None:
        """A segment refers to these containers (ids, joined)."""
        self._refs.append((backup, stream, ordinal, refs))

    def forget(self, backups: Iterable[int]) -> None:
        """Nothing below these backups remains; their own rows do."""
        gone = list(backups)
        for table in OF_BACKUP:
            self.changes.erase(table, "backup", gone)
        self._refs = [row for row in self._refs if row[0] not in gone]

    def read(self, table: str, key: Key) -> Row:
        """A row as it is after what was gathered so far. Raises Corrupt if it is not there."""
        row = self.changes.read(self._connection, table, key)
        if row is None:
            raise Corrupt(
                f"catalog: a record refers to {table} {key}, which is not there",
                hint="run: staddle catalog rebuild",
            )
        return row

    def flush(self, number: Callable[[list[str]], Mapping[str, int]]) -> None:
        """Make the changes, inside the caller's transaction.

        Args:
            number: gives containers (hex ids) their numbers.
        """
        self.changes.flush(self._connection)
        if self.grid is not None:
            self._connection.execute("UPDATE projection SET grid = ?", [self.grid.hex()])
        rows = [
            (backup, stream, ordinal, refs[at : at + _ID_BYTES].hex())
            for backup, stream, ordinal, refs in self._refs
            for at in range(0, len(refs), _ID_BYTES)
        ]
        numbers = number([row[3] for row in rows])
        columns = {
            "backup": [row[0] for row in rows],
            "stream": [row[1] for row in rows],
            "ordinal": [row[2] for row in rows],
            "container_no": [numbers[row[3]] for row in rows],
        }
        if rows:
            run_batch(self._connection, columns, "INSERT INTO refs BY NAME SELECT * FROM batch")


def object_row(item: StoredObject | ops.ObjectImport | Object, kind: str, domain: str, want: int) -> Row:
    """A live object."""
    return {
        "object": item.id.hex(),
        "kind": kind,
        "domain": domain,
        "size_bytes": item.size_bytes,
        "raw_bytes": item.raw_bytes,
        "chunks": item.chunks,
        "digest": item.digest.hex(),
        "wanted": want,
        "state": "live",
        "condemned_ns": 0,
    }


def segment_row(backup: int, segment: Segment, manifest: bytes, digest: bytes) -> Row:
    """A committed segment."""
    return {
        "backup": backup,
        "stream": segment.stream,
        "ordinal": segment.ordinal,
        "first_seq": segment.first,
        "next_seq": segment.next,
        "manifest": manifest.hex(),
        "digest": digest.hex(),
    }


def copy_row(object_id: bytes, copy: CopyOf) -> Row:
    """A copy of an object."""
    return {"object": object_id.hex(), "medium": copy.medium, "name": copy.name}


def stream_row(job: int, stream: int, state: str) -> Row:
    """A stream that has no path yet."""
    return {
        "job": job,
        "stream": stream,
        "epoch": 0,
        "state": state,
        "agent": "",
        "media": [],
        "next_seq": 0,
        "segments": 0,
    }


def printable(paths: Iterable[bytes]) -> list[str]:
    """Paths as SQL users see them: U+FFFD for what is not UTF-8."""
    return [path.decode(errors="replace") for path in paths]
