"""A client: it makes one backup after the other, dies now and then, and resumes what it had begun."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

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
    SendRecord,
)
from staddle.engine.messages import (
    Assigned,
    CancelJob,
    CreateJob,
    Durable,
    Ended,
    FinishJob,
    JobCreated,
    JobEnded,
    RenewJob,
    Stale,
    StreamClosed,
    Ticket,
    Wait,
)
from staddle.engine.sender import StreamSender
from staddle.errors import StaddleError
from staddle.testing.sim.world import MS, Actor, Violation

if TYPE_CHECKING:
    from staddle.testing.sim.agent import Key
    from staddle.testing.sim.grid import Grid

TRIES = 4  # jobs for one backup


class Record:
    """A piece of the source. Unchanged, it refers to the base backup and carries no data."""

    __slots__ = ("content", "size", "unchanged")

    def __init__(self, content: int, *, unchanged: bool) -> None:
        self.content = content
        self.unchanged = unchanged
        self.size = 1


class Feed:
    """One stream: its sender and what is still to be pushed."""

    def __init__(self, sender: StreamSender, source: list[Record]) -> None:
        self.sender = sender
        self.source = deque(source)
        self.placed = False


class SimClient(Actor):
    """Drives the senders as the client's process does. What a disk would keep survives a crash."""

    def __init__(self, grid: Grid, name: str, rounds: int) -> None:
        super().__init__(grid.world, name)
        self.grid = grid
        self.rounds = rounds
        self.finished = False
        self.tries = 0
        self.request = b""
        self.contents: list[list[int]] = []
        self.forget()

    def forget(self) -> None:
        """A crash takes senders and windows; request and source are on the disk."""
        self.session = b""
        self.job: JobCreated | None = None
        self.feeds: list[Feed] = []
        self.sealing = False

    # --- jobs -----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Start, or start again after a crash."""
        self.session = self.world.new_id()
        if not self.request:
            self._next_backup()
        self._create()

    def _next_backup(self) -> None:
        self.request, self.tries = self.world.new_id(), 0
        self.contents = self.grid.next_source(self.name, self.contents)

    def _again(self, *, done: bool) -> None:
        """A job is over: the next backup, or the same one with a new job."""
        self.tries += 1
        self.job, self.feeds, self.sealing = None, [], False
        if done or self.tries >= TRIES:
            self.rounds -= 1
            if self.rounds == 0:
                self.finished = True
                return
            self._next_backup()
        else:
            self.request = self.world.new_id()
        self._create()

    def ask(self, request: object, call: Any, *context: Any) -> None:
        """To whichever manager is in office."""
        for manager in self.grid.managers:
            self.send(manager, manager.on_request, request, (self, call, context))

    def _create(self) -> None:
        if self.job is not None or self.finished:
            return
        request = CreateJob(
            request=self.request,
            session=self.session,
            client=self.name,
            name="all",
            roots=[b"/"],
            pool="pool",
            streams=len(self.contents),
            resume=True,
        )
        self.ask(request, self._on_created, request)
        self.after(150 * MS, self._create)

    def _on_created(self, request: CreateJob, reply: JobCreated | StaddleError) -> None:
        # What an earlier process of this client was told came over a link that went with it.
        asked = (request.request, request.session) == (self.request, self.session)
        if self.job is not None or not asked or self.finished:
            return
        if isinstance(reply, StaddleError):
            raise Violation(f"{self.name}: no job: {reply}")
        self.world.trace(self.name, "has job", reply.job, reply.state, "base", reply.base_backup)
        self.job = reply
        self.grid.expect(reply.backup, self.contents)
        if reply.state in {"running", "sealing"}:
            self._feed(reply)
            self._renew(self.job)
        else:
            self._over(reply.state)

    def _feed(self, job: JobCreated) -> None:
        if job.state == "sealing":
            self.sealing = True
            self._finish(job)
            return
        base = self.grid.contents_of(job.base_backup)
        for number, contents in enumerate(self.contents):
            source = [Record(content, unchanged=content in base and content % 4 != 0) for content in contents]
            sender = self.grid.kit.sender(
                job.job, number, self.grid.sender_limits, session=self.session, resume=job.repeat
            )
            self.feeds.append(Feed(sender, source))
        for feed in self.feeds:
            self._do(feed, feed.sender.start(self.world.now_ns))
            self._pump(feed)

    def _renew(self, job: JobCreated) -> None:
        if self.job is job:
            self.ask(RenewJob(job=job.job, session=self.session), self._on_renewed, job.job)
            self.after(400 * MS, self._renew, job)

    def _on_renewed(self, number: int, reply: object) -> None:
        if isinstance(reply, Ended) and self.job is not None and self.job.job == number and not self.sealing:
            self._over(reply.state)

    def _over(self, state: str) -> None:
        assert self.job is not None
        self.world.trace(self.name, "ends job", self.job.job, state)
        for feed in self.feeds:
            self.grid.check_failovers(feed.sender)
        if state in {"complete", "warnings"}:
            self.grid.promised[self.job.backup] = state
        self._again(done=state in {"complete", "warnings"})

    # --- streams --------------------------------------------------------------------------------

    def _do(self, feed: Feed, effects: list[SenderEffect]) -> None:
        sender, job = feed.sender, self.job
        for effect in effects:
            if self.job is not job or job is None:
                return
            match effect:
                case AskAssign():
                    self.ask(effect.request, self._on_assign_reply, feed)
                case AskClose():
                    self.ask(effect.request, self._on_close_reply, feed)
                case Report():
                    self.ask(effect.report, None)
                case OpenLink():
                    self._open(feed, effect.ticket)
                case CloseLink():
                    self._close(feed, effect.epoch)
                case Regenerate():
                    self._regenerate(feed, effect)
                case Done():
                    if all(other.sender.state == "done" for other in self.feeds):
                        self.sealing = True
                        self._finish(job)
                case Failed():
                    self._failed(effect)
                    return
        self.grid.acknowledged(sender)
        self.arm(sender.next_wake_ns, self._tick)

    def _failed(self, effect: Failed) -> None:
        assert self.job is not None
        if "lost something" in effect.message:
            raise Violation(f"{self.name}: {effect.message}")
        if effect.state in {"failed", "running", "unknown"}:
            self.ask(CancelJob(job=self.job.job), None)
        if effect.state == "sealing":
            return
        self._over(effect.state)

    def _open(self, feed: Feed, ticket: Ticket) -> None:
        if not feed.placed:
            feed.placed = True
            done = self.grid.contents_before(ticket)
            if done is None:
                self._failed(Failed("failed", "what is committed can't be read now"))
                return
            for _ in range(done):
                feed.source.popleft()
            self._pump(feed)
            if feed.sender.over or feed.sender.state == "closing":
                return
        agent = self.grid.agent(ticket.agent)
        self.world.trace(
            self.name, "opens", ticket.stream, ticket.epoch, ticket.agent, ticket.media, ticket.next_seq
        )
        self.send(agent, agent.on_open, self, ticket)

    def _close(self, feed: Feed, epoch: int) -> None:
        ticket = feed.sender.ticket
        if ticket is not None and self.world.chance(0.7):  # else the agent does not notice
            agent = self.grid.agent(ticket.agent)
            self.send(agent, agent.on_close, (ticket.job, ticket.stream, epoch))

    def _regenerate(self, feed: Feed, effect: Regenerate) -> None:
        again = [Record(record.content, unchanged=False) for record in effect.dropped]  # type: ignore[attr-defined]
        feed.source.extendleft(reversed(again))
        self._pump(feed)

    def _pump(self, feed: Feed) -> None:
        sender, now_ns = feed.sender, self.world.now_ns
        while True:
            while feed.source and sender.may_push:
                sender.push(feed.source.popleft())
            if not feed.source and not sender.finished and not sender.over and feed.placed:
                self._do(feed, sender.finish(now_ns))
            item = sender.poll(now_ns)
            if item is None:
                break
            assert sender.ticket is not None
            agent = self.grid.agent(sender.ticket.agent)
            key = (sender.job, sender.stream, item.epoch)
            if isinstance(item, SendRecord):
                self.send(agent, agent.on_data, self, key, item.seq, item.record)
            else:
                self.send(agent, agent.on_flush, self, key, item.upto, item.cut)
        self.arm(sender.next_wake_ns, self._tick)

    def _mine(self, key: Key) -> Feed | None:
        job, stream, epoch = key
        if self.job is None or self.job.job != job or stream >= len(self.feeds):
            return None
        feed = self.feeds[stream]
        return feed if feed.sender.epoch == epoch else None

    def on_message(self, key: Key, message: Any) -> None:
        """From an agent. Only what comes over the link in use is heard."""
        feed = self._mine(key)
        if feed is not None:
            if not isinstance(message, Durable):
                self.world.trace(self.name, "hears", type(message).__name__, key)
            self._do(feed, feed.sender.on_message(message, self.world.now_ns))
            self._pump(feed)

    def on_link_lost(self, key: Key) -> None:
        """The link broke."""
        feed = self._mine(key)
        if feed is not None:
            self._do(feed, feed.sender.on_link_lost(key[2], "", self.world.now_ns))

    def _on_assign_reply(self, feed: Feed, reply: object) -> None:
        if feed not in self.feeds:
            return
        now_ns = self.world.now_ns
        match reply:
            case Assigned():
                self._do(feed, feed.sender.on_assigned(reply.ticket, now_ns))
            case Wait():
                self._do(feed, feed.sender.on_wait(reply, now_ns))
            case Ended():
                self._do(feed, feed.sender.on_ended(reply.state, reply.message))

    def _on_close_reply(self, feed: Feed, reply: object) -> None:
        if feed not in self.feeds:
            return
        if isinstance(reply, StreamClosed):
            self._do(feed, feed.sender.on_closed(reply.total))
        elif isinstance(reply, Stale):
            self._do(feed, feed.sender.on_stale(self.world.now_ns))
        elif isinstance(reply, Ended):
            self._do(feed, feed.sender.on_ended(reply.state, reply.message))

    def _tick(self) -> None:
        for feed in list(self.feeds):
            self._do(feed, feed.sender.tick(self.world.now_ns))
            if feed in self.feeds:
                self._pump(feed)

    # --- the end --------------------------------------------------------------------------------

    def _finish(self, job: JobCreated) -> None:
        if self.job is job:
            self.ask(FinishJob(job=job.job, session=self.session), self._on_finished, job)
            self.after(200 * MS, self._finish, job)

    def _on_finished(self, job: JobCreated, reply: object) -> None:
        if self.job is job and isinstance(reply, JobEnded):
            self._over(reply.state)
