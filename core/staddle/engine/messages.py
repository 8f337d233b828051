"""What client, agent and manager say to each other about streams: typed, and the same in wire and simulator.

All are msgspec Structs, so `msgspec.msgpack` carries them. Ids are bytes (16-byte UUIDv7), times UTC
nanoseconds, sizes bytes. `seq` numbers a stream's records from 0; a segment is the run `[first, next)`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from staddle.engine.bounds import Digest, Id, Line, Name, Number, RawPath, Session, Text


class Cause(StrEnum):
    """Why a stream is assigned (again). Everything but START and REFUSED is a failover."""

    START = "start"
    AGENT_LOST = "agent_lost"  # the link broke
    AGENT_SILENT = "agent_silent"  # no sign of life within the silence limit
    MEDIUM_LOST = "medium_lost"  # a medium answered with errors, or is gone
    MEDIUM_FULL = "medium_full"
    PATH_SLOW = "path_slow"  # a put passed its deadline
    REFUSED = "refused"  # COMMIT named containers that can't be referred to: resend, same path allowed
    BALANCE = "balance"  # the manager moves load
    RESUME = "resume"  # the client was away and is back


class Path(msgspec.Struct, frozen=True, array_like=True):
    """A data path: an agent and a medium."""

    agent: str
    medium: str


class Exclude(msgspec.Struct, frozen=True, array_like=True):
    """What an assignment must avoid if anything else is left. An empty string stands for any."""

    agent: Name = ""
    medium: Name = ""


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment, signed by the manager. An agent serves its own tickets only.

    Attributes:
        media: one medium per copy, in order of preference.
        segment_bytes: raw bytes at which the agent closes a segment.
        bad: containers that this stream may not refer to (they were refused before).

    The stream epoch is `max(epoch + 1, manager_epoch << 32)`: it rises even if a restored log lost the last.
    """

    grid: bytes
    job: int
    stream: int
    epoch: int
    manager_epoch: int
    agent: str
    agent_urls: list[str]
    media: list[str]
    next_seq: int
    backup: int
    client: str
    name: str
    pool: str
    domain: str
    min_copies: int
    segment_bytes: int
    segment_ordinal: int = 0
    previous_manifest: bytes = b""
    previous_digest: bytes = b""
    base_backup: int = 0
    bad: list[bytes] = []
    issued_ns: int = 0


class Assign(msgspec.Struct, frozen=True, kw_only=True):
    """Client to manager: assign this stream (again). Compare-and-set on `expected_epoch` (0 = none yet).

    `session` names the client process: after a resume the earlier one gets `Ended`, and feeds nothing.
    """

    job: Number
    stream: Number
    expected_epoch: Number
    cause: Cause
    exclude: Annotated[list[Exclude], msgspec.Meta(max_length=1024)] = []
    bad: list[Id] = []
    detail: Text = ""
    session: Session = b""


class Assigned(msgspec.Struct, frozen=True, kw_only=True, tag="assigned"):
    """The assignment in force: a new one, or the present one if `expected_epoch` did not match."""

    ticket: Ticket


class Wait(msgspec.Struct, frozen=True, kw_only=True, tag="wait"):
    """No path now; ask again after `retry_after_ns`. `why` is `busy` or `offline`.

    `limit_ns` is how long a stream waits for that reason before it fails; 0 = without end.
    """

    why: Literal["busy", "offline"]
    retry_after_ns: int
    limit_ns: int = 0
    message: str = ""


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The stream or its job is over.

    `state` is the job's, or `done` (this stream was closed before), `taken` (by another session), `unknown`.
    """

    state: str
    message: str = ""


AssignReply = Assigned | Wait | Ended


class CopyOf(msgspec.Struct, frozen=True, array_like=True):
    """One durable placement of an object: a receipt, as the log keeps it."""

    medium: str
    name: str


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object and its receipts, as it goes into the log.

    `digest` is the BLAKE3-256 of all bytes; for a container the one in its footer, so that a rebuild need not
    read containers whole. `raw_bytes` and `chunks` are 0 for manifests and seals.
    """

    id: bytes
    size_bytes: int
    digest: bytes
    copies: list[CopyOf]
    raw_bytes: int = 0
    chunks: int = 0


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """Agent to manager: this segment is durable. Accepted iff the epoch is current and first == next_seq.

    Attributes:
        refs: every container that the manifest refers to, new ones included (G2).
        containers: the new ones, with at least `min_copies` receipts in distinct failure domains each.
        plain_digest: of the manifest's plain bytes; empty from an earlier release.
    """

    job: Number
    stream: Number
    epoch: Number
    agent: Name
    first: Number
    next: Number
    manifest: StoredObject
    containers: list[StoredObject]
    refs: list[Id]
    files: Number = 0
    dirs: Number = 0
    bytes_read: Number = 0
    bytes_stored: Number = 0
    plain_digest: Digest = b""


class CommitOk(msgspec.Struct, frozen=True, kw_only=True, tag="ok"):
    """Logged (now or before: `repeat`). `lsn` is the record's."""

    next_seq: int
    lsn: int
    repeat: bool = False


class Stale(msgspec.Struct, frozen=True, kw_only=True, tag="stale"):
    """A later assignment is in force, or the stream is over: stop (Fenced)."""

    epoch: int
    next_seq: int


class Gone(msgspec.Struct, frozen=True, kw_only=True, tag="gone"):
    """Refused: these containers are being deleted, unknown, or no longer meet the pool's copies (G1, G2)."""

    containers: list[bytes]


class Short(msgspec.Struct, frozen=True, kw_only=True, tag="short"):
    """Refused: fewer receipts than `min_copies` distinct failure domains, for these objects.

    `media` are those of the ticket that do not count now (lost, offline, or without a receipt).
    """

    objects: list[bytes]
    media: list[str] = []


CommitReply = CommitOk | Stale | Gone | Short


class Durable(msgspec.Struct, frozen=True, kw_only=True, tag="durable"):
    """Agent to client: everything below `upto` is committed; free it."""

    epoch: int
    upto: int


WHOLE_BASE = bytes(16)
"""Among refused containers: no row of the base backup can be taken over, whatever it lies in."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Agent to client: the open segment was refused; ask for a new assignment and send it again."""

    epoch: int
    containers: list[bytes]


class PathFailed(msgspec.Struct, frozen=True, kw_only=True, tag="path_failed"):
    """Agent to client: this data path can't go on. What is not durable must go over another."""

    epoch: int
    cause: Cause
    exclude: list[Exclude]
    message: str = ""


class Nack(msgspec.Struct, frozen=True, kw_only=True, tag="nack"):
    """Agent to client: a gap; send again from `expected`."""

    epoch: int
    expected: int


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Agent to client: alive, but waiting (a mount, a slow medium). Only silence is failure."""

    epoch: int
    message: str = ""


class Flush(msgspec.Struct, frozen=True, kw_only=True, tag="flush"):
    """Client to agent: tell what is durable, or missing, of the records below `upto`.

    With `cut` the segment is closed there: nothing more comes until it is durable.
    """

    epoch: Number
    upto: Number
    cut: bool = True


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """Agent to client: the ticket is served; send from `next_seq`. A ticket is opened once: by one link."""

    epoch: int
    next_seq: int


AgentToClient = Opened | Durable | Refused | PathFailed | Nack | Progress


class CreateJob(msgspec.Struct, frozen=True, kw_only=True):
    """Client to manager: a new backup job. The same `request` again gives the same job.

    Attributes:
        request: 16 bytes chosen by the client once per backup; kept on its disk to resume after a crash.
        session: 16 bytes chosen by this client process. Another session than the job's takes the job over.
        resume: go on with the job of `request`, wherever it stands.
    """

    request: Session
    session: Session
    client: Name
    name: Name
    roots: list[RawPath]
    pool: Name
    streams: int = 1
    resume: bool = False


class JobCreated(msgspec.Struct, frozen=True, kw_only=True, tag="job_created"):
    """The job; `base_backup` is the backup whose unchanged files need not be read (0 = none)."""

    job: int
    backup: int
    base_backup: int
    streams: int
    state: str
    repeat: bool = False


class RenewJob(msgspec.Struct, frozen=True, kw_only=True):
    """Client to manager: still here (S3)."""

    job: int
    session: bytes


class Renewed(msgspec.Struct, frozen=True, tag="renewed"):
    """The job's lease runs anew."""


class CloseStream(msgspec.Struct, frozen=True, kw_only=True):
    """Client to manager: all `total` records of the stream are durable, no more will come."""

    job: Number
    stream: Number
    epoch: Number
    total: Number


class StreamClosed(msgspec.Struct, frozen=True, kw_only=True, tag="stream_closed"):
    """The stream is done; its epoch was raised, so no agent can add to it."""

    total: int


class FailoverDone(msgspec.Struct, frozen=True, kw_only=True):
    """Client to manager: what the reassignment to `epoch` cost; for the job's report."""

    job: Number
    stream: Number
    epoch: Number
    gap_ns: Number
    bytes_resent: Number


class FinishJob(msgspec.Struct, frozen=True, kw_only=True):
    """Client to manager: all streams are closed. `bytes_resent` and `warnings` are the client's counts."""

    job: Number
    session: Session
    warnings: Number = 0
    bytes_resent: Number = 0


class CancelJob(msgspec.Struct, frozen=True, kw_only=True):
    """Stop the job; what is durable stays as an incomplete backup."""

    job: Number
    reason: Line = "cancelled"


class StreamEndOf(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one stream, as the seal names it."""

    stream: int
    segments: int
    last_manifest: bytes
    last_digest: bytes


class SealNeeded(msgspec.Struct, frozen=True, kw_only=True, tag="seal_needed"):
    """Everything that the seal says. The manager has it stored on `media`, then reports the receipts.

    `manager_epoch` tells seals of one backup apart: a manager may die between storing one and logging it, and
    a rebuild takes the seal of the highest epoch, then the latest id.
    """

    manager_epoch: int
    job: int
    backup: int
    client: str
    name: str
    pool: str
    domain: str
    roots: list[bytes]
    base_backup: int
    started_ns: int
    finished_ns: int
    state: str
    files: int
    dirs: int
    bytes_read: int
    bytes_stored: int
    warnings: int
    streams: list[StreamEndOf]
    media: list[str]
    min_copies: int


class JobEnded(msgspec.Struct, frozen=True, kw_only=True, tag="job_ended"):
    """How the job ended. `lost` are containers and manifests of the backup without an available copy."""

    job: int
    backup: int
    state: str
    message: str = ""
    lost: list[bytes] = []


FinishReply = SealNeeded | JobEnded | Stale
