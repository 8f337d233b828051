"""Drives one stream of a backup: the engine's sender, over real links, fed by a record pump."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

import msgspec

from staddle import typed
from staddle.client.pump import RecordPump
from staddle.client.units import Record
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
)
from staddle.engine.messages import (
    WHOLE_BASE,
    AgentToClient,
    Assigned,
    Ended,
    Flush,
    PathFailed,
    Stale,
    StreamClosed,
    Ticket,
    Wait,
)
from staddle.engine.said import TEXT_CHARS_MAX
from staddle.engine.sender import StreamSender
from staddle.errors import Cancelled, PathLost, StaddleError
from staddle.wire.channel import Channel, Data
from staddle.wire.link import Link
from staddle.wire.ops.data import FLUSH_SEQ, OPEN_STREAM, OpenStream
from staddle.wire.ops.jobs import ASSIGN, CLOSE_STREAM, REPORT_FAILOVER
from staddle.wire.redial import Redial, is_transport_error

log = logging.getLogger(__name__)

Dial = Callable[[str, list[str]], Awaitable[Link]]
"""Opens a link to an agent: its name and its URLs."""

REVERSE_CREDIT_BYTES = 1 << 20
_OPEN_TIMEOUT_S = 10.0
_agent_message: typed.Decoder[AgentToClient] = typed.decoder(AgentToClient)


class Remakes(Protocol):
    """Where a stream's records come from."""

    def remake(self, dropped: list[Record], bad: list[bytes], /) -> Iterator[Record]:
        """The same input again, without referring to the containers in `bad`."""


class StreamFailed(StaddleError):
    """A stream ended without all of its records being durable."""

    default_code = "STREAM_FAILED"


class StreamDriver:
    """One stream, from its first assignment to its close. Everything runs on one event loop."""

    def __init__(
        self, sender: StreamSender, source: Remakes, records: Iterator[Record], manager: Redial, dial: Dial
    ) -> None:
        self.sender = sender
        self._source = source
        self._manager = manager
        self._dial = dial
        self._wake = asyncio.Event()
        self._pumps = [RecordPump(records, self._wake.set)]
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None
        self._outcome: Done | Failed | None = None
        self._crash: BaseException | None = None
        self._last_failure = ""
        self._bad: set[bytes] = set()
        self.signed: dict[int, bytes] = {}

    async def run(self) -> None:
        """To the end. Raises StreamFailed, or what ended the scan."""
        try:
            self._apply(self.sender.start(_now_ns()))
            while self._outcome is None:
                self._fill()
                self._send()
                await self._pause()
                if self._crash is not None:
                    raise self._crash
                if effects := self.sender.tick(_now_ns()):  # a tick of nothing must not wake us again
                    self._apply(effects)
            if isinstance(self._outcome, Failed):
                raise self._failed(self._outcome)
        finally:
            await self._clean_up()

    def _failed(self, outcome: Failed) -> StreamFailed:
        """Why the stream ended, with what the last path said: that is what must be mended."""
        message = outcome.message or outcome.state
        if self._last_failure and self._last_failure not in message:
            message = f"{message}; the last path failed: {self._last_failure}"
        return StreamFailed(
            message, hint="see `staddle status`; what is durable stays as an incomplete backup"
        )

    async def _pause(self) -> None:
        """Until something happens, or the engine wants its tick."""
        if self._outcome is not None:
            return
        left_s = (self.sender.next_wake_ns - _now_ns()) / 1e9
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(left_s, 0.001), 60.0)):
                await self._wake.wait()
        self._wake.clear()

    # --- records --------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Move what was read into the window, records made again first."""
        while self.sender.may_push:
            pump = self._pumps[-1]
            record = pump.take()
            if record is not None:
                self.sender.push(record)
            elif not pump.exhausted:
                return
            elif pump.error is not None:
                raise pump.error
            elif len(self._pumps) > 1:
                self._pumps.pop().close()
            else:
                self._apply(self.sender.finish(_now_ns()))
                return

    def _send(self) -> None:
        """Send what the link has credit for, without waiting for any of it here."""
        while self._channel is not None and self._sending is None and self._outcome is None:
            item = self.sender.poll(_now_ns())
            if item is None:
                return
            self._sending = self._spawn(self._send_one(self._channel, item))

    async def _send_one(self, channel: Channel, item: SendRecord | SendFlush) -> None:
        try:
            while True:
                if isinstance(item, SendFlush):
                    meta = msgspec.msgpack.encode(Flush(epoch=item.epoch, upto=item.upto, cut=item.cut))
                    await channel.send(FLUSH_SEQ, meta, timeout_s=60.0)
                else:
                    record = item.record
                    assert isinstance(record, Record)
                    await channel.send(item.seq, record.meta, record.payload, timeout_s=60.0)
                # As long as credit lasts, one task sends many: a task for each would cost more than the send.
                if channel is not self._channel or self._outcome is not None:
                    return
                following = self.sender.poll(_now_ns())
                if following is None:
                    return
                item = following
        except StaddleError as error:
            # The agent said why before it ended the channel, or the link is lost: `_on_channel` knows.
            log.debug("stream %d: not sent: %s", self.sender.stream, error)
            if channel is self._channel:
                self._lost(channel, str(error))
        finally:
            if self._sending is asyncio.current_task():
                self._sending = None
            self._wake.set()

    # --- effects --------------------------------------------------------------------------------

    def _apply(self, effects: list[SenderEffect]) -> None:
        for effect in effects:
            match effect:
                case AskAssign():
                    self._spawn(self._ask_assign(effect))
                case AskClose():
                    self._spawn(self._ask_close(effect))
                case Report():
                    self._spawn(self._report(effect))
                case OpenLink():
                    self._spawn(self._open(effect.ticket))
                case CloseLink():
                    self._close_link()
                case Regenerate():
                    dropped = [record for record in effect.dropped if isinstance(record, Record)]
                    # Refused once more, and for no other container: naming them did not help.
                    bad = effect.bad if set(effect.bad) - self._bad else [WHOLE_BASE]
                    self._bad.update(effect.bad)
                    self._pumps.append(RecordPump(self._source.remake(dropped, bad), self._wake.set))
                case Done() | Failed():
                    self._outcome = effect

    def _happened(self, effects: list[SenderEffect]) -> None:
        """Something came from outside: carry out what it means, and look what can be sent now."""
        self._apply(effects)
        self._wake.set()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._crash = self._crash or task.exception()
            self._wake.set()

    async def _ask_assign(self, effect: AskAssign) -> None:
        try:
            answer = await self._manager.call(ASSIGN, effect.request, timeout_s=10.0)
        except StaddleError as error:
            self._manager_said(error)
            return
        match answer.reply:
            case Assigned(ticket=ticket):
                self.signed = {ticket.epoch: answer.signed}
                self._happened(self.sender.on_assigned(ticket, _now_ns()))
            case Wait():
                self._happened(self.sender.on_wait(answer.reply, _now_ns()))
            case Ended():
                self._happened(self.sender.on_ended(answer.reply.state, answer.reply.message))

    async def _ask_close(self, effect: AskClose) -> None:
        try:
            answer = await self._manager.call(CLOSE_STREAM, effect.request, timeout_s=10.0)
        except StaddleError as error:
            self._manager_said(error)
            return
        if isinstance(answer.reply, StreamClosed):
            self._happened(self.sender.on_closed(answer.reply.total))
        elif isinstance(answer.reply, Stale):
            self._happened(self.sender.on_stale(_now_ns()))
        else:
            self._happened(self.sender.on_ended(answer.reply.state, answer.reply.message))

    def _manager_said(self, error: StaddleError) -> None:
        """A manager that is away is waited for: the engine asks again. Anything else ends the stream."""
        if not is_transport_error(error):
            self._happened(self.sender.on_ended("failed", str(error)))

    async def _report(self, effect: Report) -> None:
        with contextlib.suppress(StaddleError):
            await self._manager.call_patiently(REPORT_FAILOVER, effect.report, patience_s=5.0)

    # --- the link to the agent --------------------------------------------------------------------

    async def _open(self, ticket: Ticket) -> None:
        try:
            link = await self._dial(ticket.agent, ticket.agent_urls)
        except StaddleError as error:
            self._happened(self.sender.on_link_lost(ticket.epoch, str(error), _now_ns()))
            return
        if ticket.epoch != self.sender.epoch:
            await link.close()
            return
        self._link = link
        try:
            channel, _ = await link.open_channel(
                OPEN_STREAM.name, OpenStream(signed=self.signed[ticket.epoch]), timeout_s=_OPEN_TIMEOUT_S
            )
        except StaddleError as error:
            self._drop(link)
            self._happened(self.sender.on_link_lost(ticket.epoch, str(error), _now_ns()))
            return
        if link is not self._link:
            return
        self._channel = channel
        channel.grant(REVERSE_CREDIT_BYTES)
        channel.listen(lambda data: self._on_channel(channel, data))
        self._wake.set()

    def _on_channel(self, channel: Channel, data: Data | StaddleError | None) -> None:
        if channel is not self._channel:
            return
        if not isinstance(data, Data):
            self._lost(channel, str(data) if data is not None else "the agent ended the stream")
            return
        channel.grant(data.cost_bytes)
        try:
            message = _agent_message.decode(data.meta or b"")
        except msgspec.MsgspecError as error:
            channel.cancel(Cancelled("a message that cannot be read"))
            self._lost(channel, f"the agent sent what cannot be read: {error}")
            return
        if isinstance(message, PathFailed):
            self._last_failure = message.message[:TEXT_CHARS_MAX]
        self._happened(self.sender.on_message(message, _now_ns()))

    def _lost(self, channel: Channel, why: str) -> None:
        if channel is self._channel:
            self._channel = None
            self._happened(self.sender.on_link_lost(self.sender.epoch, why, _now_ns()))

    def _close_link(self) -> None:
        self._channel = None
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._link is not None:
            self._drop(self._link)

    def _drop(self, link: Link) -> None:
        """End a link at once: a stopped peer would never answer a polite close."""
        if link is self._link:
            self._link = None
        link.abort(PathLost("the client has left this path"))

    async def _clean_up(self) -> None:
        self._close_link()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pump in self._pumps:
            await asyncio.to_thread(pump.close)


def _now_ns() -> int:
    return time.monotonic_ns()
