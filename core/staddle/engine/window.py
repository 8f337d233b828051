"""What a client's stream is made of: states, bounds, the records not yet durable, what failures cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from staddle.engine.effects import Sized
from staddle.engine.messages import Cause, Exclude, FailoverDone


class SenderState(StrEnum):
    """Where a stream stands, on the client's side."""

    NEW = "new"
    ASKING = "asking"  # an assignment was asked for
    WAITING = "waiting"  # there is no path now
    OPENING = "opening"  # the link is being made, the ticket opened
    OPEN = "open"
    CLOSING = "closing"  # everything is durable, the manager is being told
    DONE = "done"
    FAILED = "failed"


class SenderLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a sender. A window of two segments or more keeps the agent busy; with less it cuts.

    An agent that waits for a medium says so, and is given `stall_ns` for the next thing that is durable.
    """

    window_bytes_max: int = 128 << 20
    silence_ns: int = 10_000_000_000
    ask_repeat_ns: int = 3_000_000_000
    flush_repeat_ns: int = 5_000_000_000
    stall_ns: int = 3600_000_000_000

    def must_cut(self, segment_bytes: int) -> bool:
        """Must a full window end a segment before its size does?

        Where it need not, segments end where the records say: what is sent a second time has the same chunks,
        however fast the media were.
        """
        return self.window_bytes_max < 2 * segment_bytes


class Fruitless:
    """Agents that were left again and again with nothing durable in between, whatever reason they gave.

    The manager's `next_seq` says what is durable: an agent's own word would let it go on for ever.
    """

    TIMES = 3

    def __init__(self) -> None:
        self._next_seq = -1
        self._times: dict[str, int] = {}

    def goes_on(self, next_seq: int) -> None:
        """The manager goes on here."""
        if next_seq != self._next_seq:
            self._next_seq = next_seq
            self._times.clear()

    def left(self, agent: str, exclude: Iterable[Exclude]) -> list[Exclude]:
        """One was left, and says what to avoid; what is avoided: those too that it is time to go round.

        One of these blames nobody else: what it would have avoided may be all that there is.
        """
        self._times[agent] = self._times.get(agent, 0) + 1
        fruitless = [name for name, times in self._times.items() if times >= self.TIMES]
        said = [] if agent in fruitless else exclude
        return [*said, *(Exclude(agent=name) for name in fruitless)]


class Failover(msgspec.Struct, kw_only=True):
    """One reassignment after a failure, as the job's report shows it."""

    cause: Cause
    from_agent: str
    from_media: list[str]
    to_agent: str = ""
    to_media: list[str] = []
    epoch: int = 0
    began_ns: int = 0
    gap_ns: int = 0
    bytes_resent: int = 0

    def done(self, job: int, stream: int, now_ns: int) -> FailoverDone:
        """Data flow again; what it has cost, for the manager."""
        self.gap_ns = now_ns - self.began_ns
        return FailoverDone(
            job=job, stream=stream, epoch=self.epoch, gap_ns=self.gap_ns, bytes_resent=self.bytes_resent
        )


class Patience:
    """How long a stream was without a path since it last got on.

    A path that takes the stream and fails again before anything is durable, as the only medium does when it
    is full, ends no waiting: the times add up.
    """

    def __init__(self) -> None:
        self._what = ("", 0)
        self._since_ns: int | None = None
        self._spent_ns = 0

    def waits(self, why: str, durable: int, now_ns: int) -> int:
        """There is no path, for this reason; nanoseconds of waiting for it since `durable` was reached."""
        if self._what != (why, durable):
            self._what, self._since_ns, self._spent_ns = (why, durable), now_ns, 0
        elif self._since_ns is None:
            self._since_ns = now_ns
        return self._spent_ns + now_ns - self._since_ns

    def pauses(self, now_ns: int) -> None:
        """A path is there; whether it serves will be seen."""
        if self._since_ns is not None:
            self._spent_ns += now_ns - self._since_ns
            self._since_ns = None


class Window:
    """Records `[base, end)`, in order. Their bytes, or where to read them, are the caller's business."""

    def __init__(self) -> None:
        self.base = 0
        self.bytes_held = 0
        self._records: deque[Sized] = deque()

    @property
    def end(self) -> int:
        """Number of the next record."""
        return self.base + len(self._records)

    def push(self, record: Sized) -> int:
        """Append a record; its number."""
        self._records.append(record)
        self.bytes_held += record.size
        return self.end - 1

    def at(self, seq: int) -> Sized:
        """The record of this number."""
        return self._records[seq - self.base]

    def free(self, upto: int) -> None:
        """Forget what is below `upto`: it is durable."""
        while self.base < upto:
            self.bytes_held -= self._records.popleft().size
            self.base += 1

    def drop(self) -> list[Sized]:
        """Take everything out; the numbers will be given anew."""
        dropped = list(self._records)
        self._records.clear()
        self.bytes_held = 0
        return dropped
