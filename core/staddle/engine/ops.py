"""The ops of the log: every change of the manager's tier-1 state, as its outcome.

One struct per op. Its name in the log is the class name in snake case (`SegmentCommitted` is
`segment_committed`), its args are the fields. A field is never removed or given another meaning; a new one
has a default, so logs of earlier releases replay.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from staddle import typed
from staddle.engine.messages import CopyOf, StoredObject


class Op(msgspec.Struct):
    """Base of every op."""


# --- the grid -----------------------------------------------------------------------------------


class GridCreated(Op):
    """First record of a log."""

    grid: bytes


class EpochBegun(Op):
    """First record of a manager's term; every earlier term is over."""

    epoch: int
    at_ns: int


class AgentSet(Op):
    """An agent as it is now."""

    name: str
    urls: list[str]
    streams_max: int = 16
    enabled: bool = True


class MediumSet(Op):
    """A medium as it is configured; its state is left alone if it was known."""

    name: str
    plugin: str
    volume: bytes
    failure_domain: str
    agents: list[str] = []


class MediumChanged(Op):
    """A medium's state: up, offline, lost or retired."""

    name: str
    state: str
    message: str
    at_ns: int


class PoolSet(Op):
    """A pool as it is now."""

    name: str
    media: list[str]
    domain: str
    copies: int
    min_copies: int
    policy: str
    agents: list[str]
    wait_busy_s: int
    wait_offline_s: int
    segment_bytes: int


class ClientSet(Op):
    """A client has joined."""

    name: str
    joined_ns: int


class OwnerMapSet(Op):
    """Which agent owns which partition of the fingerprint library; opaque here."""

    version: int
    owners: bytes


# --- jobs ---------------------------------------------------------------------------------------


class JobBegun(Op):
    """A job and its backup."""

    job: int
    kind: str
    client: str
    name: str
    roots: list[bytes]
    pool: str
    domain: str
    streams: int
    backup: int
    base_backup: int
    request: bytes
    session: bytes
    at_ns: int


class JobTaken(Op):
    """Another process of the client goes on with the job."""

    job: int
    session: bytes


class StreamAssigned(Op):
    """A stream has a path. The `from_*` are empty where it had none."""

    job: int
    stream: int
    epoch: int
    agent: str
    media: list[str]
    cause: str
    from_agent: str
    from_media: list[str]
    next_seq: int
    bad: list[bytes]
    detail: str
    failover: bool
    at_ns: int


class FailoverMeasured(Op):
    """What a reassignment cost, as the client has measured it."""

    job: int
    stream: int
    epoch: int
    gap_ns: int
    bytes_resent: int


class SegmentCommitted(Op):
    """A segment is durable: its manifest, its new containers, and every container that it refers to.

    `refs` holds 16-byte ids, joined; `revived` are those that were condemned until now. `plain_digest` is of
    the manifest's plain bytes; empty if its agent did not tell it.
    """

    job: int
    backup: int
    stream: int
    epoch: int
    ordinal: int
    first: int
    next: int
    manifest: StoredObject
    containers: list[StoredObject]
    refs: bytes
    revived: list[bytes]
    domain: str
    want: int
    files: int
    dirs: int
    bytes_read: int
    bytes_stored: int
    at_ns: int
    plain_digest: bytes = b""


class StreamEnded(Op):
    """A stream has all its records; nobody can add to it (S3: its epoch was raised)."""

    job: int
    stream: int
    epoch: int
    total: int
    at_ns: int


class JobSealing(Op):
    """All streams are done; a seal is to be stored."""

    job: int
    warnings: int
    bytes_resent: int
    at_ns: int


class JobFinished(Op):
    """A job has ended. `epochs` are those of its streams from now on, raised where a stream was open.

    `state` is the job's, `backup_state` the backup's; `lost` names what has no available copy.
    """

    job: int
    state: str
    backup_state: str
    message: str
    epochs: list[int]
    lost: list[bytes]
    at_ns: int
    seal: StoredObject | None = None
    seal_domain: str = ""
    seal_want: int = 0


class BackupMarked(Op):
    """The end of an incomplete backup stands on the media: a seal that says so."""

    backup: int
    seal: StoredObject
    domain: str
    want: int


# --- objects ------------------------------------------------------------------------------------


class CopyPlanned(Op):
    """A copy of an object is about to be made under this name (so it is no orphan)."""

    object: bytes
    medium: str
    name: str
    at_ns: int


class CopyAdded(Op):
    """An object has a further copy; or one of its bad ones was read again and is whole."""

    object: bytes
    copy: CopyOf


class CopyDropped(Op):
    """An object has lost this copy: `deleted`; with any other reason it is damaged or missing."""

    object: bytes
    copy: CopyOf
    reason: str


class BackupsPruned(Op):
    """These backups are no longer wanted. Their data stays until a journal on the media says so."""

    backups: list[int]
    at_ns: int


class PruneJournalled(Op):
    """The journal that names these pruned backups is on the media; manifests and seals may go."""

    backups: list[int]
    journal: StoredObject
    domain: str
    want: int
    deleting: list[bytes]


class ContainersCondemned(Op):
    """Nothing refers to these containers any more."""

    containers: list[bytes]
    at_ns: int


class ObjectsDeleting(Op):
    """These objects are being deleted from their media; no COMMIT can refer to them again."""

    objects: list[bytes]


class ObjectsDropped(Op):
    """Every copy of these objects is gone."""

    objects: list[bytes]


class OrphansDoomed(Op):
    """Names on a medium that nothing committed knows are about to be removed."""

    medium: str
    names: list[str]


class OrphansRemoved(Op):
    """They are gone."""

    medium: str
    names: list[str]


# --- rebuild ------------------------------------------------------------------------------------


class SegmentImport(msgspec.Struct, frozen=True, kw_only=True):
    """A committed segment, as its manifest on the media tells."""

    stream: int
    ordinal: int
    first: int
    next: int
    manifest: bytes
    digest: bytes
    refs: bytes
    plain_digest: bytes = b""


class ObjectImport(msgspec.Struct, frozen=True, kw_only=True):
    """A committed object and its copies, as found on the media. `bad`: copies that can't be read."""

    id: bytes
    kind: str
    size_bytes: int
    digest: bytes
    domain: str
    want: int
    copies: list[CopyOf]
    raw_bytes: int = 0
    chunks: int = 0
    bad: list[CopyOf] = []


class ObjectsImported(Op):
    """Objects found on the media that belong to imported backups."""

    objects: list[ObjectImport]


class BackupImported(Op):
    """A backup and its job, as seal and manifests tell."""

    backup: int
    job: int
    client: str
    name: str
    roots: list[bytes]
    pool: str
    domain: str
    state: str
    started_ns: int
    finished_ns: int
    files: int
    dirs: int
    bytes_read: int
    bytes_stored: int
    warnings: int
    seal: bytes
    streams: int
    segments: list[SegmentImport]
    message: str = ""


class BackupsForgotten(Op):
    """Backups that a journal names as pruned: never to come back, their numbers never used again."""

    backups: list[int]
    next_job: int
    next_backup: int


class MediaUnread(Op):
    """These media, and no others, hold what this log knows nothing of: a rebuild has not read them."""

    media: list[str]


def op_name(kind: type[Op]) -> str:
    """Name of an op in the log."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


TYPES: dict[str, type[Op]] = {op_name(kind): kind for kind in Op.__subclasses__()}
NAMES: dict[type[Op], str] = {kind: name for name, kind in TYPES.items()}


def to_args(op: Op) -> dict[str, Any]:
    """The fields as msgpack types."""
    args: dict[str, Any] = msgspec.to_builtins(op, builtin_types=(bytes,))
    return args


def from_args(name: str, args: dict[str, Any]) -> Op:
    """Inverse of `to_args`. Raises msgspec.ValidationError or KeyError for what is no op."""
    return typed.convert(args, TYPES[name], builtin_types=(bytes,))
