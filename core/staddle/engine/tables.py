"""The tables of the manager's tier-1 state: plain structs in dictionaries, small enough to live in memory.

Only the appliers (registered in staddle.engine.state) change them, each for one op of the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from staddle.engine.messages import CopyOf


class MediumStatus(StrEnum):
    """What the log knows of a medium. Only `up` media count for G1 and take new copies."""

    UP = "up"
    OFFLINE = "offline"  # may come back with everything on it
    LOST = "lost"  # an operator's or a probe's word: what was on it is gone
    RETIRED = "retired"


class JobState(StrEnum):
    """Where a job stands. The last four are final."""

    RUNNING = "running"
    SEALING = "sealing"
    COMPLETE = "complete"
    WARNINGS = "warnings"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"


class BackupState(StrEnum):
    """What a backup is good for."""

    RUNNING = "running"
    COMPLETE = "complete"
    WARNINGS = "warnings"
    INCOMPLETE = "incomplete"
    PRUNED = "pruned"


class StreamState(StrEnum):
    """Where a stream stands."""

    NEW = "new"
    OPEN = "open"
    DONE = "done"
    ENDED = "ended"  # with its job, before its end


class ObjectState(StrEnum):
    """G2: an object goes this way only, except that a COMMIT makes a condemned container live again."""

    LIVE = "live"
    CONDEMNED = "condemned"
    DELETING = "deleting"


SEALED = frozenset({BackupState.COMPLETE, BackupState.WARNINGS})
ACTIVE = frozenset({JobState.RUNNING, JobState.SEALING})


class Agent(msgspec.Struct, kw_only=True):
    """A media agent. Whether it is alive is no state of the log."""

    name: str
    urls: list[str]
    streams_max: int = 16
    enabled: bool = True


class Medium(msgspec.Struct, kw_only=True):
    """A medium. `agents` are those with a data path to it; empty = every agent."""

    name: str
    plugin: str
    volume: bytes
    failure_domain: str
    state: MediumStatus = MediumStatus.UP
    agents: list[str] = []
    message: str = ""


class Pool(msgspec.Struct, kw_only=True):
    """Media and policy. `media` and `agents` stand in order of preference; no agents = every agent."""

    name: str
    media: list[str]
    domain: str
    copies: int = 1
    min_copies: int = 1
    policy: str = "priority"
    agents: list[str] = []
    wait_busy_s: int = 0
    wait_offline_s: int = 0
    segment_bytes: int = 64 << 20


class Client(msgspec.Struct, kw_only=True):
    """A client that has joined."""

    name: str
    joined_ns: int


class FailoverRow(msgspec.Struct, kw_only=True):
    """One reassignment after a failure. `gap_ns` is -1 until the client has reported it."""

    stream: int
    epoch: int
    cause: str
    from_agent: str
    from_media: list[str]
    to_agent: str
    to_media: list[str]
    at_ns: int
    detail: str = ""
    gap_ns: int = -1
    bytes_resent: int = 0


class Stream(msgspec.Struct, kw_only=True):
    """One stream of a job. `ordinal` is the number of its next segment."""

    stream: int
    epoch: int = 0
    state: StreamState = StreamState.NEW
    agent: str = ""
    media: list[str] = []
    issued_ns: int = 0
    next_seq: int = 0
    ordinal: int = 0
    last_manifest: bytes = b""
    last_digest: bytes = b""
    bad: list[bytes] = []


class Job(msgspec.Struct, kw_only=True):
    """A job. Its lease is volatile: a new manager gives every running job a whole one."""

    id: int
    kind: str
    client: str
    name: str
    roots: list[bytes]
    pool: str
    backup: int
    base_backup: int
    request: bytes
    session: bytes
    created_ns: int
    state: JobState = JobState.RUNNING
    sealing_ns: int = 0
    ended_ns: int = 0
    message: str = ""
    warnings: int = 0
    bytes_resent: int = 0
    streams: list[Stream] = []
    failovers: list[FailoverRow] = []
    lost: list[bytes] = []


class SegmentRow(msgspec.Struct, kw_only=True):
    """A committed segment. `refs` are the ids of the containers that it refers to, 16 bytes each, joined.

    `digest` is that of the sealed manifest, `plain_digest` that of its plain bytes, empty where nobody told.
    """

    stream: int
    ordinal: int
    first: int
    next: int
    manifest: bytes
    digest: bytes
    refs: bytes
    lsn: int = 0
    plain_digest: bytes = b""

    def ref_ids(self) -> Iterable[bytes]:
        """The ids in `refs`."""
        return (self.refs[at : at + 16] for at in range(0, len(self.refs), 16))


class Backup(msgspec.Struct, kw_only=True):
    """A backup. `journalled` turns true once its prune stands in a journal on the media."""

    id: int
    job: int
    client: str
    name: str
    roots: list[bytes]
    pool: str
    domain: str
    started_ns: int
    state: BackupState = BackupState.RUNNING
    finished_ns: int = 0
    files: int = 0
    dirs: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    warnings: int = 0
    seal: bytes = b""
    journalled: bool = False
    segments: list[SegmentRow] = []


class Object(msgspec.Struct, kw_only=True):
    """A committed object and its copies. `want` is how many copies its pool asked for when it was stored.

    `bad` are copies that a reader has found damaged or missing. They count for nothing, but are read when no
    other is left: one bad byte must not cost the whole container, nor a wrong word the only copy.
    """

    id: bytes
    kind: str  # container, manifest, seal, journal
    size_bytes: int
    digest: bytes
    domain: str
    want: int
    copies: list[CopyOf]
    state: ObjectState = ObjectState.LIVE
    raw_bytes: int = 0
    chunks: int = 0
    condemned_ns: int = 0
    bad: list[CopyOf] = []

    def placements(self) -> list[CopyOf]:
        """Everything of it that may lie on media."""
        return [*self.copies, *self.bad]


class PlannedCopy(msgspec.Struct, kw_only=True):
    """A copy that is being made, of which object and since when."""

    object: bytes
    at_ns: int


class Tables:
    """Everything that the log has made. Keys are ids and names; dictionaries keep the order of the log."""

    def __init__(self) -> None:
        self.grid = b""
        self.epoch = 0
        self.began_ns = 0  # wall time of the log's first term: of older objects it may know nothing
        self.lsn = 0
        self.next_job = 1
        self.next_backup = 1
        self.owner_map = b""
        self.owner_map_version = 0
        self.agents: dict[str, Agent] = {}
        self.media: dict[str, Medium] = {}
        self.pools: dict[str, Pool] = {}
        self.clients: dict[str, Client] = {}
        self.jobs: dict[int, Job] = {}
        self.active: dict[int, bool] = {}  # jobs that run or are being sealed
        self.requests: dict[bytes, int] = {}  # request id of a job -> its number
        self.backups: dict[int, Backup] = {}
        self.objects: dict[bytes, Object] = {}
        self.doomed: dict[str, list[str]] = {}  # medium -> names of orphans that are being removed
        self.planned: dict[str, dict[str, PlannedCopy]] = {}  # medium -> name of a copy to be made
        self.unread: list[
            str
        ] = []  # media with objects that no rebuild has read: nothing is deleted meanwhile
        self.damaged: dict[bytes, bool] = {}  # objects with bad copies: an index over `objects`

    # --- questions that several commands ask ----------------------------------------------------

    def up_domains(self, pool: Pool) -> dict[str, str]:
        """Medium -> failure domain, of the pool's media that are up."""
        return {
            name: self.media[name].failure_domain
            for name in pool.media
            if name in self.media and self.media[name].state is MediumStatus.UP
        }

    def available(self, item: Object) -> bool:
        """Can this object be read from any copy now?"""
        return any(
            copy.medium in self.media and self.media[copy.medium].state is MediumStatus.UP
            for copy in item.copies
        )

    def recoverable(self, item: Object) -> bool:
        """Has this object a copy that can be read now, or once a medium is back that is offline?"""
        there = {MediumStatus.UP, MediumStatus.OFFLINE}
        return any(
            copy.medium in self.media and self.media[copy.medium].state in there for copy in item.copies
        )

    def copies_present(self, item: Object) -> int:
        """Distinct failure domains that hold a copy on a medium that is up."""
        return len(
            {
                self.media[copy.medium].failure_domain
                for copy in item.copies
                if copy.medium in self.media and self.media[copy.medium].state is MediumStatus.UP
            }
        )

    def copies_short(self, item: Object) -> int:
        """How many copies fewer than were wanted a live object has where it can be read now."""
        return max(0, item.want - self.copies_present(item)) if item.state is ObjectState.LIVE else 0

    def note_damage(self, item: Object) -> None:
        """Keep the index `damaged` true of an object that was changed."""
        if item.bad:
            self.damaged[item.id] = True
        else:
            self.damaged.pop(item.id, None)

    def held(self, backup: int) -> list[int]:
        """Active jobs that use this backup as their base, or write it."""
        return [
            number
            for number in self.active
            if backup in {self.jobs[number].base_backup, self.jobs[number].backup}
        ]
