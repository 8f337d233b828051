"""The client's side of one stream: the window of records that are not yet durable, and the way to an agent.

Theory of operation (docs/protocol.md has the whole): records get ascending numbers when they are pushed and
stay in the window until an acknowledgement of the *current* epoch, or the `next_seq` of a new ticket, says
that they are committed. Whatever goes wrong on the way is one thing: close the link, ask the manager for
another assignment with compare-and-set, and send the window again from the ticket's `next_seq`.

The driver calls `on_*` for what arrives, carries out effects, takes what is to be sent with `poll()` as far
as the link has credit, and calls `tick()` at `next_wake_ns` at the latest.
"""

from __future__ import annotations

from collections.abc import Iterable

from staddle.engine.effects import (
    AskAssign,
    AskClose,
    CloseLink,
    Done,
    Failed,
    OpenLink,
    Regenerate,
    Report,
    SenderEffect,
    SendFlush,
    SendRecord,
    Sized,
)
from staddle.engine.messages import (
    Assign,
    Cause,
    CloseStream,
    Durable,
    Exclude,
    Nack,
    Opened,
    PathFailed,
    Progress,
    Refused,
    Ticket,
    Wait,
)
from staddle.engine.said import failure_of, refused_by
from staddle.engine.window import Failover, Fruitless, Patience, SenderLimits, SenderState, Window

Effects = list[SenderEffect]
_NEVER_NS = 1 << 62


class StreamSender:
    """State machine of one stream at the client.

    Args:
        job: the job's number.
        stream: the stream's number in it.
        limits: window and patience.
        session: names this client process; the manager serves the job's current one only.
        resume: an earlier process has worked on this stream. Nothing can be pushed before the first ticket;
            its `next_seq` says where to go on.
    """

    def __init__(
        self, job: int, stream: int, limits: SenderLimits, *, session: bytes = b"", resume: bool = False
    ) -> None:
        self.job = job
        self.stream = stream
        self.limits = limits
        self.session = session
        self.state = SenderState.NEW
        self.epoch = 0
        self.ticket: Ticket | None = None
        self.failovers: list[Failover] = []
        self.bytes_resent = 0
        self.finished = False
        self._resume = resume
        self._positioned = not resume
        self.window = Window()
        self._next_send = 0
        self._sent_high = 0  # records below were sent at least once, in any epoch
        self._resend_below = 0  # of those, what an earlier epoch had sent
        self._epoch_high = 0  # records below were sent at least once in this epoch
        self._flushed: SendFlush | None = None
        self._flushed_ns = 0
        self._asked: Assign | None = None
        self._asked_ns = 0
        self._retry_ns = 0
        self._patience = Patience()
        self._fruitless = Fruitless()
        self._heard_ns = self._got_on_ns = 0
        self._failover: Failover | None = None

    # --- the window -----------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Done or failed: nothing more will happen."""
        return self.state in {SenderState.DONE, SenderState.FAILED}

    @property
    def may_push(self) -> bool:
        """Is there room in the window? One record always fits into an empty one."""
        if self.finished or self.over or not self._positioned:
            return False
        return self.window.bytes_held < self.limits.window_bytes_max

    def push(self, record: Sized) -> int:
        """Take a record into the window; its number. Only while `may_push`."""
        assert self.may_push, "push without room in the window"
        return self.window.push(record)

    def finish(self, now_ns: int) -> Effects:
        """No more records will be pushed (until a `Regenerate` asks for some again)."""
        self.finished = True
        return self._close_if_done(now_ns)

    def poll(self, now_ns: int) -> SendRecord | SendFlush | None:
        """The next thing to send to the agent, if there is one. Call it while the link has credit."""
        if self.state is not SenderState.OPEN:
            return None
        if self._next_send < self.window.end:
            if self._next_send == self.window.base >= self._epoch_high:
                self._got_on_ns = now_ns  # until now there was nothing that it could make durable
            return self._send_next()
        must_flush = self.window.base < self.window.end and (self.finished or not self.may_push)
        if not must_flush or self.ticket is None:
            return None
        cut = self.finished or self.limits.must_cut(self.ticket.segment_bytes)
        if self._flushed == (flush := SendFlush(self.epoch, self.window.end, cut)):
            return None
        self._flushed, self._flushed_ns = flush, now_ns
        return flush

    def _send_next(self) -> SendRecord:
        seq = self._next_send
        record = self.window.at(seq)
        self._next_send += 1
        if seq < self._epoch_high:
            self.bytes_resent += record.size  # a gap was reported
        else:
            self._epoch_high = seq + 1
            if seq < self._resend_below:
                self.bytes_resent += record.size
                if self._failover is not None and self._failover.epoch == self.epoch:
                    self._failover.bytes_resent += record.size
        self._sent_high = max(self._sent_high, seq + 1)
        return SendRecord(self.epoch, seq, record)

    # --- assignment -----------------------------------------------------------------------------

    def start(self, now_ns: int) -> Effects:
        """Ask for the first assignment."""
        return self._ask(Cause.RESUME if self._resume else Cause.START, [], [], "", now_ns)

    def _ask(
        self, cause: Cause, exclude: Iterable[Exclude], bad: Iterable[bytes], detail: str, now_ns: int
    ) -> Effects:
        self._asked = Assign(
            job=self.job,
            stream=self.stream,
            expected_epoch=self.epoch,
            cause=cause,
            exclude=list(exclude),
            bad=list(bad),
            detail=detail,
            session=self.session,
        )
        return self._ask_again(now_ns)

    def _ask_again(self, now_ns: int) -> Effects:
        # The very same request: if an earlier one took effect its epoch no longer matches, and the answer is
        # the assignment in force, which is the one that was meant for us.
        assert self._asked is not None
        self.state, self._asked_ns = SenderState.ASKING, now_ns
        return [AskAssign(self._asked)]

    def _reassign(
        self,
        cause: Cause,
        exclude: Iterable[Exclude],
        now_ns: int,
        *,
        bad: Iterable[bytes] = (),
        detail: str = "",
    ) -> Effects:
        """Leave the present path, whatever the reason."""
        assert self.ticket is not None
        if cause is not Cause.REFUSED:
            if self._failover is not None:
                self._failover.gap_ns = now_ns - self._failover.began_ns  # it never came to carry data
            self._failover = Failover(
                cause=cause,
                from_agent=self.ticket.agent,
                from_media=self.ticket.media,
                began_ns=now_ns if self._failover is None else self._failover.began_ns,
            )
            self.failovers.append(self._failover)
        avoid = self._fruitless.left(self.ticket.agent, exclude)
        return [CloseLink(self.epoch), *self._ask(cause, avoid, bad, detail, now_ns)]

    def on_assigned(self, ticket: Ticket, now_ns: int) -> Effects:
        """The manager's answer: the assignment in force."""
        if self.state not in {SenderState.ASKING, SenderState.WAITING} or ticket.epoch <= self.epoch:
            return []  # late or doubled
        learned = self._resume and self.epoch == 0
        self.epoch = ticket.epoch
        self._patience.pauses(now_ns)
        if learned:
            # It may be the assignment of the process before us, with half a segment of its records at the
            # agent. Only an assignment that we asked for by its number is surely ours.
            return self._ask(Cause.RESUME, [], [], "", now_ns)
        return self._take(ticket, now_ns)

    def _take(self, ticket: Ticket, now_ns: int) -> Effects:
        if not self._positioned:
            self._positioned = True
            self.window.base = self._next_send = ticket.next_seq
        if not self.window.base <= ticket.next_seq <= self.window.end:
            return self._fail(
                "failed",
                f"stream {self.stream} of job {self.job}: the manager goes on at record {ticket.next_seq}, "
                f"but the window holds {self.window.base} to {self.window.end}: its log has lost something, "
                "or an agent has acknowledged what was never committed",
            )
        refused = self._asked is not None and self._asked.cause is Cause.REFUSED
        self.ticket, self._asked = ticket, None
        self.window.free(ticket.next_seq)
        self._next_send = self._epoch_high = ticket.next_seq
        self._resend_below = self._sent_high
        self._flushed = None
        self._fruitless.goes_on(ticket.next_seq)
        self.state, self._heard_ns, self._got_on_ns = SenderState.OPENING, now_ns, now_ns
        if self._failover is not None and not self._failover.epoch:
            self._failover.to_agent, self._failover.to_media = ticket.agent, ticket.media
            self._failover.epoch = ticket.epoch
        effects = self._drop_window(ticket.bad) if refused else []
        if closing := self._close_if_done(now_ns):
            return effects + closing
        return [*effects, OpenLink(ticket)]

    def _drop_window(self, bad: list[bytes]) -> Effects:
        # Numbering the same input anew is safe only because the epoch was raised: no agent but the ticket's
        # can commit at this next_seq, and that one has seen none of the old records.
        dropped = self.window.drop()
        if not dropped:
            return []
        self.finished = False
        return [Regenerate(self.window.base, dropped, bad)]

    def on_wait(self, wait: Wait, now_ns: int) -> Effects:
        """There is no path now."""
        if self.state is not SenderState.ASKING:
            return []
        if self._patience.waits(wait.why, self.window.base, now_ns) >= wait.limit_ns > 0:
            return self._fail("failed", f"no data path for {wait.limit_ns // 10**9} s: {wait.message}")
        self.state, self._retry_ns = SenderState.WAITING, now_ns + wait.retry_after_ns
        return []

    def on_ended(self, state: str, message: str) -> Effects:
        """The manager says that the stream or its job is over; an earlier process may have closed it."""
        if state == "done" and not self._positioned and not self.over:
            self.state = SenderState.DONE
            return [Done(self.window.base)]
        return [] if self.over else self._fail(state, message)

    def on_stale(self, now_ns: int) -> Effects:
        """The manager does not close the stream: it is assigned otherwise than we know. Ask how."""
        if self.state is not SenderState.CLOSING:
            return []
        return self._ask(Cause.RESUME, [], [], "", now_ns)

    def _fail(self, state: str, message: str) -> Effects:
        self.state = SenderState.FAILED
        return [CloseLink(self.epoch), Failed(state, message)]

    # --- what the agent says --------------------------------------------------------------------

    def _serving(self, epoch: int, now_ns: int, *, alive: bool = True) -> bool:
        if epoch != self.epoch or self.state not in {SenderState.OPENING, SenderState.OPEN}:
            return False
        self._heard_ns = now_ns
        if self.state is SenderState.OPENING and alive:
            self.state = SenderState.OPEN  # whatever it says: it serves the ticket
        return True

    def on_message(
        self, message: Opened | Durable | Refused | PathFailed | Nack | Progress, now_ns: int
    ) -> Effects:
        """Whatever the agent sent. A message of another epoch changes nothing."""
        if not self._serving(message.epoch, now_ns):
            return []
        match message:
            case Durable():
                return self._on_durable(message.upto, now_ns)
            case Nack():
                return self._on_nack(message.expected, now_ns)
            case Refused():
                return self._reassign(Cause.REFUSED, [], now_ns, bad=refused_by(message))
            case PathFailed():
                why = failure_of(message, self.ticket)
                return self._reassign(why.cause, why.exclude, now_ns, detail=why.message)
            case Opened() | Progress():
                return []

    def _on_durable(self, upto: int, now_ns: int) -> Effects:
        if upto > self._next_send:
            return self._blame("acknowledged what was never sent", now_ns)
        if upto > self.window.base:
            self._got_on_ns = now_ns
        self.window.free(upto)
        return [*self._report(now_ns), *self._close_if_done(now_ns)]

    def _on_nack(self, expected: int, now_ns: int) -> Effects:
        if not self.window.base <= expected <= self._next_send:
            return self._blame("asked for records that are gone", now_ns)
        self._next_send, self._flushed = expected, None
        return []

    def _blame(self, what: str, now_ns: int, cause: Cause = Cause.AGENT_LOST) -> Effects:
        agent = self.ticket.agent if self.ticket is not None else ""
        return self._reassign(cause, [Exclude(agent=agent)], now_ns, detail=f"{agent} {what}")

    def _report(self, now_ns: int) -> Effects:
        """The first acknowledgement on a new path ends a failover."""
        failover, self._failover = self._failover, None
        return [] if failover is None else [Report(failover.done(self.job, self.stream, now_ns))]

    def on_link_lost(self, epoch: int, message: str, now_ns: int) -> Effects:
        """The link broke, or could not be made."""
        if not self._serving(epoch, now_ns, alive=False):
            return []
        assert self.ticket is not None
        return self._reassign(
            Cause.AGENT_LOST, [Exclude(agent=self.ticket.agent)], now_ns, detail=message or "the link broke"
        )

    # --- the end --------------------------------------------------------------------------------

    def _close_if_done(self, now_ns: int) -> Effects:
        served = self.state in {SenderState.OPENING, SenderState.OPEN}
        if not (served and self.finished and self.window.base == self.window.end):
            return []
        self.state = SenderState.CLOSING
        return [CloseLink(self.epoch), *self._report(now_ns), *self._ask_close(now_ns)]

    def _ask_close(self, now_ns: int) -> Effects:
        self._asked_ns = now_ns
        request = CloseStream(job=self.job, stream=self.stream, epoch=self.epoch, total=self.window.base)
        return [AskClose(request)]

    def on_closed(self, total: int) -> Effects:
        """The manager has closed the stream."""
        if self.state is not SenderState.CLOSING or total != self.window.base:
            return []
        self.state = SenderState.DONE
        return [Done(total)]

    # --- time -----------------------------------------------------------------------------------

    @property
    def next_wake_ns(self) -> int:
        """When `tick` has something to do, if nothing else happens before."""
        match self.state:
            case SenderState.ASKING | SenderState.CLOSING:
                return self._asked_ns + self.limits.ask_repeat_ns
            case SenderState.WAITING:
                return self._retry_ns
            case SenderState.OPENING | SenderState.OPEN:
                silent = min(self._heard_ns + self.limits.silence_ns, self._got_on_ns + self.limits.stall_ns)
                told = self._flushed is not None and self._flushed.upto == self.window.end
                waits = told and self.state is SenderState.OPEN
                return min(silent, self._flushed_ns + self.limits.flush_repeat_ns) if waits else silent
            case _:
                return _NEVER_NS

    def tick(self, now_ns: int) -> Effects:
        """Time has passed. Harmless at any moment."""
        if now_ns < self.next_wake_ns:
            return []
        match self.state:
            case SenderState.ASKING | SenderState.WAITING:
                return self._ask_again(now_ns)
            case SenderState.CLOSING:
                return self._ask_close(now_ns)
            case SenderState.OPENING | SenderState.OPEN:
                return self._tick_open(now_ns)
            case _:
                return []

    def _tick_open(self, now_ns: int) -> Effects:
        silence_ns = now_ns - self._heard_ns
        if silence_ns >= self.limits.silence_ns:
            return self._blame(f"was silent for {silence_ns / 1e9:.1f} s", now_ns, Cause.AGENT_SILENT)
        if self.window.base == self.window.end:
            self._got_on_ns = now_ns  # there is nothing that it could make durable
        elif now_ns - self._got_on_ns >= self.limits.stall_ns:
            return self._blame("makes nothing durable", now_ns, Cause.AGENT_SILENT)
        self._flushed = None  # `poll` says it again: the flush, or what it answers, may be lost
        return []
