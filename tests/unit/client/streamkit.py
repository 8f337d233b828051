"""A manager with one stream, and agents that follow a script, over real links."""

import asyncio
import contextlib

import msgspec

from staddle.client.stream import StreamDriver
from staddle.client.units import Record
from staddle.engine.messages import (
    Assigned,
    Cause,
    Durable,
    Ended,
    Exclude,
    Flush,
    Nack,
    Opened,
    PathFailed,
    Progress,
    Refused,
    StreamClosed,
    Ticket,
    Wait,
)
from staddle.engine.sender import StreamSender
from staddle.engine.window import SenderLimits
from staddle.errors import PathLost, StaddleError
from staddle.wire.channel import Data
from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.ops.base import Nothing, register
from staddle.wire.ops.data import FLUSH_SEQ, OPEN_STREAM
from staddle.wire.ops.jobs import ASSIGN, CLOSE_STREAM, REPORT_FAILOVER, AssignAnswer, CloseAnswer
from staddle.wire.redial import Redial

CREDIT = 4 << 20
SEGMENT = 3000
SILENCE_S = 2.0
"""Longer than a busy machine stops a test for."""
CLIENT = Hello(name="c", role="client")


def run(work, timeout_s=10):
    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


class Grid:
    """A manager with one stream, and agents that do what a script says, one entry per assignment.

    A script's entry is (fault, after): the fault comes once `after` records have arrived.
    """

    def __init__(self, script=(), waits=0, ended=None, ends_after=0):
        self.script = list(script)
        self.waits = waits
        self.ended = ended
        self.ends_after = ends_after
        self.epoch = 0
        self.committed = []
        self.closed = None
        self.asked = []
        self.reports = []
        self.bad = []
        self.bit = []

    async def start(self):
        manager = Handlers()
        register(manager, ASSIGN, self._assign)
        register(manager, CLOSE_STREAM, self._close)
        register(manager, REPORT_FAILOVER, self._report)
        agent = Handlers()
        register(agent, OPEN_STREAM, self._open, opens_channel=True)
        self.manager = await serve("mem://", NO_CREDENTIALS, Hello(name="m", role="manager"), manager)
        self.agent = await serve("mem://", NO_CREDENTIALS, Hello(name="a", role="agent"), agent)
        return self

    async def stop(self):
        await self.agent.close(0.1)
        await self.manager.close(0.1)

    async def dial(self, name, urls):
        return await connect(self.agent.url, NO_CREDENTIALS, CLIENT, expect_role="agent")

    async def _assign(self, call):
        self.asked.append(call.args)
        if self.ended and len(self.asked) > self.ends_after:
            return AssignAnswer(reply=Ended(state=self.ended, message="by an operator"))
        if self.waits:
            self.waits -= 1
            return AssignAnswer(reply=Wait(why="busy", retry_after_ns=10_000_000))
        if call.args.expected_epoch == self.epoch:
            self.epoch += 1
            self.bad += call.args.bad
            self.fault = self.script.pop(0) if self.script else ("", 0)
            if self.fault[0] == "lost answer":
                self.fault = ("", 0)
                raise StaddleError("cut", code="IN_DOUBT")
        ticket = Ticket(
            grid=bytes(16), job=1, stream=0, epoch=self.epoch, manager_epoch=1, agent="a", agent_urls=["x"],
            media=["m"], next_seq=len(self.committed), backup=1, client="c", name="n", pool="p", domain="d",
            min_copies=1, segment_bytes=SEGMENT, bad=self.bad,
        )  # fmt: skip
        return AssignAnswer(reply=Assigned(ticket=ticket), signed=b"%d" % self.epoch)

    async def _close(self, call):
        assert call.args.total == len(self.committed)
        self.closed = call.args.total
        return CloseAnswer(reply=StreamClosed(total=call.args.total))

    async def _report(self, call):
        self.reports.append(call.args)
        return Nothing()

    async def _open(self, call):
        epoch = int(call.args.signed)
        fault, after = self.fault
        if fault == "refuse to open":
            self.bit.append(fault)
            raise StaddleError("not now", code="BUSY", retry="after")
        Serving(self, call, epoch, fault, after)
        return Nothing()


class Serving:
    """One ticket at the agent."""

    def __init__(self, grid, call, epoch, fault, after):
        self.grid, self.link, self.channel = grid, call.link, call.channel
        self.epoch, self.fault, self.after = epoch, fault, after
        self.expected = len(grid.committed)
        self.segment, self.seen, self.mute = [], 0, False
        self.tasks = set()
        self.channel.grant(CREDIT)
        self.channel.listen(self.on_data)
        self.say(Opened(epoch=epoch, next_seq=self.expected))

    def say(self, message):
        async def send():
            with contextlib.suppress(StaddleError):
                await self.channel.send(0, msgspec.msgpack.encode(message))

        if not self.mute:
            task = asyncio.get_running_loop().create_task(send())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def on_data(self, data):
        if not isinstance(data, Data) or self.mute:
            return
        self.channel.grant(data.cost_bytes)
        if data.seq == FLUSH_SEQ:
            flush = msgspec.msgpack.decode(data.meta, type=Flush)
            if flush.upto <= self.expected:
                if flush.cut:
                    self.commit()
            else:
                self.say(Nack(epoch=self.epoch, expected=self.expected))
            return
        if data.seq != self.expected:
            return  # what comes after a gap is dropped; the sender goes back
        self.seen += 1
        if self.fault and self.seen > self.after:
            fault, self.fault = self.fault, ""
            self.grid.bit.append(fault)
            if not self.act(fault):
                return
        self.segment.append((data.meta, bytes(data.payload)))
        self.expected += 1
        if sum(len(payload) for _, payload in self.segment) >= SEGMENT:
            self.commit()

    def act(self, fault):
        """Do it; whether the record is taken all the same."""
        if fault == "cut":
            self.mute = True
            self.link.abort(PathLost("killed"))
        elif fault == "silence":
            self.mute = True
        elif fault == "nack":
            self.say(Nack(epoch=self.epoch, expected=self.expected))
        elif fault == "medium":
            self.say(
                PathFailed(
                    epoch=self.epoch, cause=Cause.MEDIUM_LOST, exclude=[Exclude("", "m")], message="EIO"
                )
            )
            self.mute = True
        elif fault == "refuse":
            self.say(Refused(epoch=self.epoch, containers=[bytes([self.epoch]) * 16]))
            self.mute = True
        elif fault == "commit, then cut":
            self.commit(tell=False)
            self.mute = True
            self.link.abort(PathLost("killed"))
        elif fault == "nonsense":
            task = asyncio.get_running_loop().create_task(self.channel.send(0, b"\xc1"))
            self.tasks.add(task)
            self.mute = True
        elif fault == "progress":
            self.say(Progress(epoch=self.epoch, message="waiting for a mount"))
            return True
        return False

    def commit(self, *, tell=True):
        assert self.expected - len(self.segment) == len(self.grid.committed)
        if self.epoch == self.grid.epoch:
            self.grid.committed += self.segment
            self.segment = []
            if tell:
                self.say(Durable(epoch=self.epoch, upto=self.expected))


class Remaking:
    """Stands for the source: what is made again comes in records of other sizes."""

    def remake(self, dropped, bad):
        for record in dropped:
            half = len(record.payload) // 2
            yield Record(record.meta, bytes(record.payload[:half]))
            yield Record(record.meta, bytes(record.payload[half:]))


def backup(sizes, grid, *, window=3 * SEGMENT, silence_s=SILENCE_S, records=None):
    content = [bytes([number % 251]) * size for number, size in enumerate(sizes)]

    async def work():
        await grid.start()
        manager = Redial([grid.manager.url], NO_CREDENTIALS, CLIENT, expect_role="manager")
        limits = SenderLimits(
            window_bytes_max=window,
            silence_ns=int(silence_s * 1e9),
            ask_repeat_ns=50_000_000,
            flush_repeat_ns=50_000_000,
        )
        sender = StreamSender(1, 0, limits, session=b"s")
        feed = records or (Record(b"m", each) for each in content)
        driver = StreamDriver(sender, Remaking(), iter(feed), manager, grid.dial)
        try:
            await driver.run()
        finally:
            await manager.close()
            await grid.stop()
        return sender

    sender = run(work())
    assert b"".join(payload for _, payload in grid.committed) == b"".join(content)
    assert grid.closed == len(grid.committed)
    return sender
