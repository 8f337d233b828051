"""The agent's side of one stream under one ticket: what to take, when a segment ends, what is durable.

Theory of operation: exactly the expected record is taken. One segment fills while at most one other is being
stored or committed, so the pipeline never idles and commits go out in order; a full one waits for the one
before it and takes no more, so that where segments end depends on the records, not on the media's pace. The
manifest of a segment is made only after its predecessor was committed, so a manifest that has a successor on
the media is a committed one. DURABLE is said only after the manager's word. Every failure ends this receiver:
the client brings what is not durable over another path. A receiver serves one epoch and is never used again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from staddle.engine.effects import Accept, CloseSegment, ReceiverEffect, Segment, Send, SendCommit, Stop
from staddle.engine.messages import (
    Cause,
    Commit,
    CommitOk,
    CommitReply,
    Durable,
    Exclude,
    Gone,
    Nack,
    Opened,
    PathFailed,
    Progress,
    Refused,
    Short,
    Stale,
    StoredObject,
    Ticket,
)
from staddle.errors import StaddleError

Effects = list[ReceiverEffect]
_NEVER_NS = 1 << 62


class ReceiverLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Patience of a receiver. `progress_ns` is well below the client's silence limit."""

    segment_age_ns: int = 30_000_000_000
    commit_repeat_ns: int = 2_000_000_000
    progress_ns: int = 1_000_000_000


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a medium took no copy: the fields of the error, never its class."""

    medium: str
    code: str
    retry: str
    scope: str
    outcome: str
    message: str

    @staticmethod
    def of(medium: str, error: StaddleError) -> Failure:
        """The fields of `error`, met at `medium`."""
        return Failure(
            medium=medium,
            code=error.code,
            retry=error.retry,
            scope=error.scope,
            outcome=error.outcome,
            message=str(error),
        )


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A segment's objects with their receipts, as `on_stored` takes them.

    Attributes:
        first: of the segment.
        refs: every container that the manifest refers to, new ones included.
        failed: media that took no copy of something, though enough others did.
        plain_digest: of the manifest's plain bytes.
    """

    first: int
    manifest: StoredObject
    containers: list[StoredObject]
    refs: list[bytes]
    files: int = 0
    dirs: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    failed: list[Failure] = []
    plain_digest: bytes = b""


def blame(agent: str, failure: Failure) -> tuple[Cause, Exclude]:
    """What a failure means for the stream: the cause, and what the next assignment avoids.

    Reads the error's fields only, so a plugin's own error class cannot break it.
    """
    if failure.scope == "agent":
        return Cause.AGENT_LOST, Exclude(agent=agent)
    if failure.code == "MEDIUM_FULL":
        return Cause.MEDIUM_FULL, Exclude(medium=failure.medium)
    if failure.scope == "path":
        slow = failure.outcome == "in_doubt"  # a put past its deadline; the medium may serve others well
        return Cause.PATH_SLOW if slow else Cause.MEDIUM_LOST, Exclude(agent=agent, medium=failure.medium)
    if failure.scope in {"medium", "volume"}:
        return Cause.MEDIUM_LOST, Exclude(medium=failure.medium)
    return Cause.MEDIUM_LOST, Exclude(agent=agent, medium=failure.medium)


class StreamReceiver:
    """State machine of one ticket at its agent.

    Args:
        ticket: the assignment to serve, its signature already checked.
        limits: patience.
        now_ns: the driver's monotonic clock.
    """

    def __init__(self, ticket: Ticket, limits: ReceiverLimits, now_ns: int) -> None:
        self.ticket = ticket
        self.limits = limits
        self.expected = ticket.next_seq
        self.durable = ticket.next_seq
        self.ended = False
        self._first = ticket.next_seq  # of the segment that fills
        self._fill_bytes = 0
        self._fill_since_ns = now_ns
        self._ordinal = ticket.segment_ordinal
        self._previous = (ticket.previous_manifest, ticket.previous_digest)
        self._storing: Segment | None = None
        self._commit: Commit | None = None
        self._commit_ns = 0
        self._flush_upto = -1
        self._nacked = -1
        self._said_ns = now_ns
        self._leaving: PathFailed | None = None

    def open(self, now_ns: int) -> Effects:
        """The client's link is there."""
        return self._say(Opened(epoch=self.ticket.epoch, next_seq=self.expected), now_ns)

    def _say(
        self, message: Opened | Durable | Refused | PathFailed | Nack | Progress, now_ns: int
    ) -> Effects:
        self._said_ns = now_ns
        return [Send(message)]

    @property
    def wants_data(self) -> bool:
        """May `on_data` be called? Not while a whole segment waits for the one before it."""
        return not self.ended and (self._storing is None or self._fill_bytes < self.ticket.segment_bytes)

    # --- filling --------------------------------------------------------------------------------

    def on_data(self, seq: int, size_bytes: int, now_ns: int) -> Effects:
        """A record has come. Without an `Accept` it is dropped."""
        if self.ended or seq < self.expected:
            return []
        assert self.wants_data, "a record was given to a full segment"
        if seq > self.expected:
            return self._nack(now_ns) if self._nacked != self.expected else []
        if self.expected == self._first:
            self._fill_since_ns = now_ns
        self.expected += 1
        self._fill_bytes += size_bytes
        return [Accept(seq), *self._close_if_due(now_ns)]

    def on_flush(self, upto: int, cut: bool, now_ns: int) -> Effects:
        """The client waits for everything below `upto`; it may say so again if it hears nothing."""
        if self.ended:
            return []
        if upto > self.expected:
            return self._nack(now_ns)
        effects: Effects = []
        if self.durable > self.ticket.next_seq or upto <= self.durable:
            effects = self._say(Durable(epoch=self.ticket.epoch, upto=self.durable), now_ns)  # it may be lost
        if cut:
            self._flush_upto = max(self._flush_upto, upto)
        return effects + self._close_if_due(now_ns)

    def _nack(self, now_ns: int) -> Effects:
        # One word per gap: everything sent behind it is already on its way, and each would ask again.
        self._nacked = self.expected
        return self._say(Nack(epoch=self.ticket.epoch, expected=self.expected), now_ns)

    def _close_if_due(self, now_ns: int) -> Effects:
        if self._storing is not None or self.expected == self._first or self.ended:
            return []
        full = self._fill_bytes >= self.ticket.segment_bytes
        old = now_ns - self._fill_since_ns >= self.limits.segment_age_ns
        if not (full or old or self._flush_upto > self._first):
            return []
        self._storing = Segment(
            ordinal=self._ordinal,
            first=self._first,
            next=self.expected,
            raw_bytes=self._fill_bytes,
            previous_manifest=self._previous[0],
            previous_digest=self._previous[1],
        )
        self._first, self._fill_bytes, self._fill_since_ns = self.expected, 0, now_ns
        return [CloseSegment(self._storing)]

    # --- storing --------------------------------------------------------------------------------

    def on_stored(self, stored: Stored, now_ns: int) -> Effects:
        """The segment's objects have their receipts: `min_copies` or more each."""
        if self.ended or self._storing is None or stored.first != self._storing.first:
            return []
        self._commit = Commit(
            job=self.ticket.job,
            stream=self.ticket.stream,
            epoch=self.ticket.epoch,
            agent=self.ticket.agent,
            first=self._storing.first,
            next=self._storing.next,
            manifest=stored.manifest,
            containers=stored.containers,
            refs=stored.refs,
            files=stored.files,
            dirs=stored.dirs,
            bytes_read=stored.bytes_read,
            bytes_stored=stored.bytes_stored,
            plain_digest=stored.plain_digest,
        )
        if stored.failed:
            # Enough copies are there: commit first, so that nothing durable is sent again, then move.
            self._leaving = self._path_failed(stored.failed)
        self._commit_ns = now_ns
        return [SendCommit(self._commit)]

    def on_store_failed(self, failures: Sequence[Failure], now_ns: int) -> Effects:
        """Too few media took the objects of the segment that is stored, or of the one that fills."""
        if self.ended:
            return []
        if any(failure.code == "FENCED" for failure in failures):
            return self._stop(None, "a medium has fenced this agent", fenced=True)
        message = self._path_failed(failures)
        return [*self._say(message, now_ns), *self._stop(message.cause, message.message)]

    def refuse(self, containers: Sequence[bytes], now_ns: int) -> Effects:
        """The client's records refer to containers that can't be used (`ticket.bad`, or found out here)."""
        if self.ended:
            return []
        refused = Refused(epoch=self.ticket.epoch, containers=list(containers))
        return [*self._say(refused, now_ns), *self._stop(Cause.REFUSED, "records must be made again")]

    def leave(self, cause: Cause, exclude: Sequence[Exclude], message: str, now_ns: int) -> Effects:
        """Give the stream up at the next segment boundary: for balance, or a medium that is getting full."""
        if self.ended:
            return []
        self._leaving = PathFailed(
            epoch=self.ticket.epoch, cause=cause, exclude=list(exclude), message=message
        )
        return [] if self._storing is not None else self._leave_now(now_ns)

    def _leave_now(self, now_ns: int) -> Effects:
        assert self._leaving is not None
        return [*self._say(self._leaving, now_ns), *self._stop(self._leaving.cause, self._leaving.message)]

    def _path_failed(self, failures: Sequence[Failure]) -> PathFailed:
        assert failures, "a failed store names its failures"
        blames = [blame(self.ticket.agent, failure) for failure in failures]
        return PathFailed(
            epoch=self.ticket.epoch,
            cause=blames[0][0],
            exclude=[exclude for _, exclude in blames],
            message="; ".join(f"{failure.medium}: {failure.message}" for failure in failures),
        )

    def _stop(self, cause: Cause | None, message: str, *, fenced: bool = False) -> Effects:
        self.ended, self._commit = True, None
        return [Stop(cause, fenced, message)]

    # --- committing -----------------------------------------------------------------------------

    def on_commit_reply(self, first: int, reply: CommitReply, now_ns: int) -> Effects:
        """The manager's answer to the COMMIT that begins at `first`."""
        if self.ended or self._commit is None or self._commit.first != first:
            return []
        match reply:
            case CommitOk():
                return self._committed(self._commit, now_ns)
            case Stale():
                return self._stop(None, "a later assignment is in force", fenced=True)
            case Gone():
                return self.refuse(reply.containers, now_ns)
            case Short():
                exclude = [Exclude(medium=medium) for medium in reply.media]
                failed = PathFailed(
                    epoch=self.ticket.epoch,
                    cause=Cause.MEDIUM_LOST,
                    exclude=exclude,
                    message="the receipts of this segment no longer count: " + ", ".join(reply.media),
                )
                return [*self._say(failed, now_ns), *self._stop(failed.cause, failed.message)]

    def _committed(self, commit: Commit, now_ns: int) -> Effects:
        self.durable = commit.next
        self._ordinal += 1
        self._previous = (commit.manifest.id, commit.manifest.digest)
        self._storing = self._commit = None
        effects = self._say(Durable(epoch=self.ticket.epoch, upto=self.durable), now_ns)
        if self._leaving is not None:
            return effects + self._leave_now(now_ns)
        return effects + self._close_if_due(now_ns)

    def on_manager_back(self, now_ns: int) -> Effects:
        """The link to a manager is there (again): repeat the very same COMMIT, which is recognised."""
        if self._commit is None:
            return []
        self._commit_ns = now_ns
        return [SendCommit(self._commit)]

    # --- time -----------------------------------------------------------------------------------

    @property
    def next_wake_ns(self) -> int:
        """When `tick` has something to do, if nothing else happens before."""
        if self.ended:
            return _NEVER_NS
        wake = self._said_ns + self.limits.progress_ns
        if self._commit is not None:
            wake = min(wake, self._commit_ns + self.limits.commit_repeat_ns)
        if self._storing is None and self.expected > self._first:
            wake = min(wake, self._fill_since_ns + self.limits.segment_age_ns)
        return wake

    def tick(self, now_ns: int, waiting_for: str = "") -> Effects:
        """Time has passed: close an old segment, repeat a COMMIT, tell the client that we live."""
        if self.ended:
            return []
        effects = self._close_if_due(now_ns)
        if self._commit is not None and now_ns - self._commit_ns >= self.limits.commit_repeat_ns:
            effects += self.on_manager_back(now_ns)
        if now_ns - self._said_ns >= self.limits.progress_ns:
            effects += self._say(Progress(epoch=self.ticket.epoch, message=waiting_for), now_ns)
        return effects
