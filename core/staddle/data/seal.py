"""Seals and journal entries: what makes the media alone tell the whole story (docs/format.md).

A *seal* ends a backup: it names the last manifest of each stream by digest, and manifests name their
predecessors. A backup without a seal is `incomplete`. A *journal entry* is written before anything is deleted
or held, so that a rebuild brings back nothing that was pruned. Both are the bodies of sealed objects.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from staddle.api.types import Buffer
from staddle.data.plain import Digest, Id, check_version, unmsgpack
from staddle.errors import Corrupt

VERSION = 1


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one stream: how many segments it has, and its last manifest (None if it has none)."""

    stream: int
    segments: int
    last_manifest_id: Id | None = None
    last_manifest_digest: Digest | None = None


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a backup.

    Attributes:
        grid: 16-byte id.
        domain: id of the dedup domain, 16 bytes.
        backup: number in the grid.
        job: number in the grid.
        client: name of the client.
        name: of the backup.
        pool: name of the pool it was written to.
        roots: the paths that were backed up.
        started_ns: UTC.
        finished_ns: UTC.
        state: `warnings` if some entry could not be read as it should; `incomplete` if the job was given up.
        files: entries that are no directories.
        dirs: directories.
        bytes_read: raw bytes of all files, unchanged ones included.
        bytes_stored: bytes that this backup added to the media, one copy counted.
        warnings: how many.
        streams: the end of each stream.
        manager_epoch: of the manager that sealed. Of two seals of one backup the higher epoch counts: a
            manager may die between storing a seal and logging it.
        version: of the seal format.
    """

    grid: Id
    domain: Id
    backup: int
    job: int
    client: str
    name: str
    pool: str
    roots: list[bytes]
    started_ns: int
    finished_ns: int
    state: Literal["complete", "warnings", "incomplete"]
    files: int
    dirs: int
    bytes_read: int
    bytes_stored: int
    warnings: int
    streams: list[StreamEnd]
    manager_epoch: int
    version: int = VERSION


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """One decision about backups, durable on media before it takes effect.

    Attributes:
        grid: 16-byte id.
        sequence: from 1, without gaps: a missing number means a missing medium. The highest that speaks of a
            backup counts; a prune is final.
        kind: `prune` (the backups are given up), `hold` (kept until `until_ns`, forever if None, released if
            `held` is False), `retention` (kept until `until_ns`).
        epoch: of the manager.
        lsn: of the record in the manager's log.
        at_ns: UTC.
        backups: numbers in the grid.
        held: see `kind`.
        until_ns: see `kind`.
        reason: for people.
        version: of the journal format.
    """

    grid: Id
    sequence: int
    kind: Literal["prune", "hold", "retention"]
    epoch: int
    lsn: int
    at_ns: int
    backups: list[int]
    held: bool = True
    until_ns: int | None = None
    reason: str = ""
    version: int = VERSION


class _OnlyVersion(msgspec.Struct, frozen=True):
    version: int


_Body = TypeVar("_Body", Seal, Journal)


def encode_seal(seal: Seal) -> bytes:
    """Plain bytes, for `sealed.seal_object(Kind.SEAL, …)`."""
    return msgspec.msgpack.encode(seal)


def decode_seal(plain: Buffer, what: str = "seal") -> Seal:
    """Inverse of `encode_seal`. Raises Corrupt (naming `what`), NewerFormat."""
    return _decode(plain, Seal, what)


def encode_journal(journal: Journal) -> bytes:
    """Plain bytes, for `sealed.seal_object(Kind.JOURNAL, …)`."""
    return msgspec.msgpack.encode(journal)


def decode_journal(plain: Buffer, what: str = "journal") -> Journal:
    """Inverse of `encode_journal`. Raises Corrupt (naming `what`), NewerFormat."""
    return _decode(plain, Journal, what)


def _decode(plain: Buffer, kind: type[_Body], what: str) -> _Body:
    try:
        check_version(what, unmsgpack(plain, _OnlyVersion).version, VERSION)
        return unmsgpack(plain, kind)
    except ValueError as error:
        raise Corrupt(f"{what}: {error}") from None
