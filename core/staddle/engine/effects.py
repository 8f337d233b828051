"""What the stream state machines ask their driver to do. The driver does it, in the order of the list."""

from __future__ import annotations

from typing import Protocol

import msgspec

from staddle.engine.messages import (
    AgentToClient,
    Assign,
    Cause,
    CloseStream,
    Commit,
    FailoverDone,
    Ticket,
)


class Sized(Protocol):
    """A record in the client's window. Only its size matters here; the rest is the caller's business."""

    @property
    def size(self) -> int:
        """Bytes that this record takes in the window."""


# --- client -----------------------------------------------------------------------------------


class AskAssign(msgspec.Struct, frozen=True):
    """Send to the manager; give the answer to `on_assigned`, `on_wait` or `on_ended`."""

    request: Assign


class AskClose(msgspec.Struct, frozen=True):
    """Send to the manager; give the answer to `on_closed` or `on_ended`."""

    request: CloseStream


class Report(msgspec.Struct, frozen=True):
    """Send to the manager; no answer is awaited."""

    report: FailoverDone


class OpenLink(msgspec.Struct, frozen=True):
    """Connect to the ticket's agent and open the ticket there. A ticket is opened once."""

    ticket: Ticket


class CloseLink(msgspec.Struct, frozen=True):
    """Close the link that serves `epoch`, at once; whatever it still delivers is ignored."""

    epoch: int


class Regenerate(msgspec.Struct, frozen=True):
    """Make these records again, without referring to `bad`, and `push` the new ones before any others.

    The dropped records have left the window. The new ones may be more or fewer, or cut otherwise: they are
    numbered anew from `from_seq`.
    """

    from_seq: int
    dropped: list[Sized]
    bad: list[bytes]


class Done(msgspec.Struct, frozen=True):
    """The stream is closed: all of its `total` records are durable."""

    total: int


class Failed(msgspec.Struct, frozen=True):
    """The stream can't go on. `state` is the manager's word, or `failed`."""

    state: str
    message: str


class SendRecord(msgspec.Struct, frozen=True):
    """Send a record to the agent."""

    epoch: int
    seq: int
    record: Sized


class SendFlush(msgspec.Struct, frozen=True):
    """Send `Flush(epoch, upto, cut)` to the agent."""

    epoch: int
    upto: int
    cut: bool


SenderEffect = AskAssign | AskClose | Report | OpenLink | CloseLink | Regenerate | Done | Failed


# --- agent ------------------------------------------------------------------------------------


class Accept(msgspec.Struct, frozen=True):
    """Take the record in. It belongs to the segment that is being filled."""

    seq: int


class Send(msgspec.Struct, frozen=True):
    """Send a message to the client."""

    message: AgentToClient


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A closed run of records `[first, next)`; the manifest names its predecessor."""

    ordinal: int
    first: int
    next: int
    raw_bytes: int
    previous_manifest: bytes
    previous_digest: bytes


class CloseSegment(msgspec.Struct, frozen=True):
    """Finish containers and manifest of this segment, store them, then call `on_stored`."""

    segment: Segment


class SendCommit(msgspec.Struct, frozen=True):
    """Send to the manager; give the answer to `on_commit_reply`."""

    commit: Commit


class Stop(msgspec.Struct, frozen=True):
    """Serve this ticket no longer: drop what is not durable, close the link. `fenced`: another serves now."""

    cause: Cause | None
    fenced: bool
    message: str


ReceiverEffect = Accept | Send | CloseSegment | SendCommit | Stop
