"""Jobs and their streams: what clients and agents ask of the manager. Bodies are `engine.messages`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from staddle.api.types import Kind, parse_object_name
from staddle.engine.bounds import Number, Session
from staddle.engine.messages import (
    Assign,
    AssignReply,
    CancelJob,
    CloseStream,
    Commit,
    CommitReply,
    CreateJob,
    Ended,
    FailoverDone,
    FinishJob,
    JobCreated,
    Stale,
    StreamClosed,
)
from staddle.errors import StaddleError
from staddle.wire.assembly import CALL_PAYLOAD_BYTES_MAX
from staddle.wire.ops.base import AGENTS, CLIENTS, Nothing, Operation


class JobOpened(msgspec.Struct, frozen=True, kw_only=True):
    """The job, its pool, its lease, and when the scan of its base began (0: there is no base)."""

    created: JobCreated
    pool: str
    base_started_ns: int
    lease_s: float
    segment_bytes: int


class AssignAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's reply; with an assignment its ticket once more, `signed` for the agent."""

    reply: AssignReply
    signed: bytes = b""


class CommitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's reply to a COMMIT, sent once its record is durable."""

    reply: CommitReply


class CloseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's reply to the close of a stream."""

    reply: StreamClosed | Ended | Stale


class Renew(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the job's lease (S3), and say how far it is: what `job watch` shows."""

    job: Number
    session: Session
    files: Number = 0
    bytes_read: Number = 0
    bytes_total: Number = 0


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """State of a job, as the manager's log has it."""

    job: int
    state: str
    message: str = ""


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How the job ended. `lost` names files whose data no medium holds any more (at most 1,000 of them)."""

    state: str
    message: str = ""
    bytes_stored: int = 0
    notes: list[str] = []
    lost: list[bytes] = []
    lost_count: int = 0


class ListJobs(msgspec.Struct, frozen=True, kw_only=True):
    """The newest jobs first, or one job."""

    job: Number = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class FailoverRow(msgspec.Struct, frozen=True, kw_only=True):
    """One failover of a job, as the log has it."""

    stream: int
    cause: str
    from_agent: str
    from_media: list[str]
    to_agent: str
    to_media: list[str]
    gap_s: float
    bytes_resent: int
    at_ns: int
    detail: str = ""


class PathRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stream goes now, or went last."""

    stream: int
    state: str
    epoch: int
    agent: str
    media: list[str]


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A job as users see it. Counts grow with each segment; `seen_*` is what the client said last."""

    job: int
    backup: int
    client: str
    name: str
    pool: str
    state: str
    message: str
    started_ns: int
    finished_ns: int
    files: int
    bytes_read: int
    bytes_stored: int
    seen_files: int = 0
    seen_bytes: int = 0
    total_bytes: int = 0
    warnings: int = 0
    paths: list[PathRow] = []
    failovers: list[FailoverRow] = []


class JobRows(msgspec.Struct, frozen=True):
    """Reply to `job.list`."""

    jobs: list[JobRow]


class Rows(msgspec.Struct, frozen=True):
    """Columns and rows, for tables and SQL."""

    columns: list[str]
    rows: list[list[Any]]


ID_BYTES, DIGEST_BYTES = 16, 32

CREATE_JOB = Operation("job.create", CreateJob, CLIENTS, JobOpened)
ASSIGN = Operation("stream.assign", Assign, CLIENTS, AssignAnswer)
CLOSE_STREAM = Operation("stream.close", CloseStream, CLIENTS, CloseAnswer)
REPORT_FAILOVER = Operation("failover.report", FailoverDone, CLIENTS, Nothing)
RENEW_JOB = Operation("job.renew", Renew, CLIENTS, JobState)
FINISH_JOB = Operation("job.finish", FinishJob, CLIENTS, Finished)
CANCEL_JOB = Operation("job.cancel", CancelJob, CLIENTS, JobState)
LIST_JOBS = Operation("job.list", ListJobs, CLIENTS, JobRows)


def check_commit(commit: Commit) -> None:
    """Refuse ids, digests and counts that the log and the catalog can't hold. Raises StaddleError.

    These objects also stand in the log, so their types carry no bounds: a log is read as it was written.
    """
    objects = [(Kind.MANIFEST, commit.manifest), *((Kind.CONTAINER, item) for item in commit.containers)]
    for kind, item in objects:
        counts = (item.size_bytes, item.raw_bytes, item.chunks)
        sound = len(item.id) == ID_BYTES and len(item.digest) == DIGEST_BYTES
        sound = sound and all(0 <= count < 1 << 63 for count in counts)
        if not (sound and all(is_name_of(copy.name, kind, item.id) for copy in item.copies)):
            raise StaddleError(
                f"segment.commit: object {item.id[:16].hex()} makes no sense", code="BAD_REQUEST"
            )
    if len(commit.plain_digest) not in {0, DIGEST_BYTES}:
        raise StaddleError("segment.commit: half a digest", code="BAD_REQUEST")
    if len({item.id for _, item in objects}) < len(objects):
        raise StaddleError("segment.commit: one id for two objects", code="BAD_REQUEST")


def is_name_of(name: str, kind: Kind, object_id: bytes) -> bool:
    """Is it a name of this object, and of no other: what is dropped later is dropped by its names."""
    try:
        return parse_object_name(name)[:2] == (kind, object_id)
    except ValueError:
        return False


COMMIT = Operation("segment.commit", Commit, AGENTS, CommitAnswer, CALL_PAYLOAD_BYTES_MAX, check_commit)
"""The payload is the manifest's plain bytes, for the catalog (optional: it can be read from the media)."""
