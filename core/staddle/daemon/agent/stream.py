"""Drives one served stream: the engine's receiver between a client's channel, the worker and the manager."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from staddle import typed
from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.segments import SegmentWorker
from staddle.data.pipeline import StreamPlan
from staddle.engine.effects import Accept, CloseSegment, ReceiverEffect, Send, SendCommit, Stop
from staddle.engine.messages import Commit, CommitOk, Flush, Progress, Ticket
from staddle.engine.receiver import Failure, ReceiverLimits, Stored, StreamReceiver
from staddle.errors import Cancelled, Denied, Fenced, ProtocolError, StaddleError
from staddle.wire.channel import Channel, Data
from staddle.wire.ops.data import FLUSH_SEQ
from staddle.wire.ops.jobs import COMMIT

log = logging.getLogger(__name__)

CREDIT_BYTES = 8 << 20
"""What a client may send ahead of the pipeline: milliseconds of a fast link, bounded memory for many."""
GRANT_STEP_BYTES = 1 << 20
IN_WORKER_MAX = 8
"""Records that the receiver has accepted and the worker has not taken: what a segment can overrun by."""
META_WEIGHT = 4
"""A byte of metadata counts for so many of contents, so that manifests of small files stay small too."""
TICK_S = 0.25
COMMIT_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 30.0
OUTBOX_MAX = 1024

_flush: typed.Decoder[Flush] = typed.decoder(Flush)


class ServedStream:
    """One opened ticket. Belongs to the loop."""

    def __init__(
        self,
        context: AgentContext,
        ticket: Ticket,
        channel: Channel,
        make_plan: Callable[[Any], StreamPlan],
        *,
        on_committed: Callable[[], None],
        on_ended: Callable[[ServedStream], None],
        limits: ReceiverLimits | None = None,
    ) -> None:
        """Args: on_committed: after each COMMIT that counts. on_ended: all of its threads are gone."""
        self.ticket = ticket
        self._context = context
        self._channel = channel
        self._receiver = StreamReceiver(ticket, limits or ReceiverLimits(), _now_ns())
        self._worker = SegmentWorker(context, ticket, make_plan, self)
        self._on_committed = on_committed
        self._on_ended = on_ended
        self._inbox: deque[Data] = deque()
        self._in_worker = 0
        self._full = False
        self._owed_bytes = 0
        self._packed = b""
        self._heard_ns = _now_ns()
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue(OUTBOX_MAX)
        self._last_word: StaddleError | None = None
        self._stopped = False
        self._threads_gone = asyncio.Event()
        self._committing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def silent_s(self) -> float:
        """For how long its client has sent nothing, though nothing of ours kept it from that."""
        at_work = self._in_worker or self._inbox or self._worker.storing or self._committing is not None
        return 0.0 if at_work else (_now_ns() - self._heard_ns) / 1e9

    def begin(self) -> None:
        """Serve: from now on records are taken."""
        self._worker.start()
        self._tasks = [asyncio.create_task(self._send_all()), asyncio.create_task(self._tick())]
        self._apply(self._receiver.open(_now_ns()))
        self._channel.grant(CREDIT_BYTES)
        self._channel.listen(self._on_channel)

    def stop(self, error: StaddleError) -> None:
        """End it from outside: a later epoch is opened here, or the agent goes down."""
        self._last_word = self._last_word or error
        self._halt()

    async def ended(self, timeout_s: float) -> None:
        """Wait until no thread works for it any more. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._threads_gone.wait()

    async def close(self) -> None:
        """End the tasks. After `stop` and `ended`."""
        tasks = [*self._tasks, *([self._committing] if self._committing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the client -----------------------------------------------------------------------------------

    def _on_channel(self, data: Data | StaddleError | None) -> None:
        if isinstance(data, Data):
            self._heard_ns = _now_ns()
            if not self._stopped:
                self._inbox.append(data)
                self._pump()
            return
        log.info(
            "job %d stream %d: the client is gone: %s", self.ticket.job, self.ticket.stream, data or "closed"
        )
        self._halt()

    def _pump(self) -> None:
        """Hand over what has come, as far as the worker keeps up. Credit bounds the rest."""
        while self._inbox and self._in_worker < IN_WORKER_MAX and self._receiver.wants_data:
            if self._full or self._stopped:
                return
            data = self._inbox.popleft()
            if data.seq == FLUSH_SEQ:
                self._owe(data.cost_bytes)
                self._on_flush(data)
                continue
            size = len(data.payload) + META_WEIGHT * len(data.meta or b"")
            effects = self._receiver.on_data(data.seq, size, _now_ns())
            if any(isinstance(effect, Accept) for effect in effects):
                self._in_worker += 1
                self._worker.feed(data)
            else:
                self._owe(data.cost_bytes)
            self._apply(effects)

    def _on_flush(self, data: Data) -> None:
        try:
            flush = _flush.decode(data.meta or b"")
        except msgspec.MsgspecError as error:
            self.on_broken(ProtocolError(f"a flush that can't be read: {error}"))
            return
        if flush.epoch == self.ticket.epoch:
            self._apply(self._receiver.on_flush(flush.upto, flush.cut, _now_ns()))

    def _owe(self, cost_bytes: int) -> None:
        """Credit to give back, in steps: a frame for each record would cost more than it is worth."""
        self._owed_bytes += cost_bytes
        if not self._stopped and (self._owed_bytes >= GRANT_STEP_BYTES or not self._in_worker):
            self._channel.grant(self._owed_bytes)
            self._owed_bytes = 0

    async def _send_all(self) -> None:
        try:
            while (message := await self._outbox.get()) is not None:
                await self._channel.send(0, message, timeout_s=SEND_TIMEOUT_S)
        except StaddleError as error:
            log.info("job %d stream %d: nothing can be said: %s", self.ticket.job, self.ticket.stream, error)
            self._channel.cancel(error)
            self._halt()
            return
        if self._last_word is not None:
            self._channel.cancel(self._last_word)
        else:
            self._channel.close()

    # --- the receiver ---------------------------------------------------------------------------------

    def _apply(self, effects: list[ReceiverEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(message=message):
                    # Whoever does not read needs no second sign of life.
                    if not isinstance(message, Progress) or self._outbox.empty():
                        self._say(msgspec.msgpack.encode(message))
                case CloseSegment(segment=segment):
                    self._full = False
                    self._worker.close(segment)
                case SendCommit(commit=commit):
                    self._send_commit(commit)
                case Stop():
                    self._on_stop(effect)

    def _say(self, message: bytes | None) -> None:
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            self._channel.cancel(Cancelled("the client does not read what it is told"))
            self._halt()

    def _on_stop(self, stop: Stop) -> None:
        log.warning("job %d stream %d: %s", self.ticket.job, self.ticket.stream, stop.message)
        if stop.fenced:
            self._last_word = Fenced(stop.message)
        self._halt()

    def _halt(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._receiver.ended = True
        self._inbox.clear()
        self._packed = b""
        self._say(None)
        self._worker.cancel()

    async def _tick(self) -> None:
        while not self._stopped:
            left_s = (self._receiver.next_wake_ns - _now_ns()) / 1e9
            await asyncio.sleep(min(max(left_s, 0.01), TICK_S))
            self._apply(self._receiver.tick(_now_ns()))

    # --- the manager ----------------------------------------------------------------------------------

    def _send_commit(self, commit: Commit) -> None:
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit(commit))

    async def _commit(self, commit: Commit) -> None:
        try:
            answer = await self._context.manager.call(
                COMMIT, commit, self._packed, timeout_s=COMMIT_TIMEOUT_S
            )
        except StaddleError as error:
            if isinstance(error, Denied) or error.code == "BAD_REQUEST":
                failure = msgspec.structs.replace(Failure.of("", error), scope="agent")
                self._apply(self._receiver.on_store_failed([failure], _now_ns()))
            else:
                # The receiver repeats the very same COMMIT: a manager is away, or has just taken over.
                log.info("job %d stream %d: COMMIT again: %s", commit.job, commit.stream, error)
            return
        self._committing = None  # what the reply sets off may be the next COMMIT
        self._apply(self._receiver.on_commit_reply(commit.first, answer.reply, _now_ns()))
        if isinstance(answer.reply, CommitOk):
            self._packed = b""
            self._on_committed()
            self._pump()

    # --- the worker -------------------------------------------------------------------------------------

    def on_consumed(self, cost_bytes: int, full: bool) -> None:
        """See Events."""
        self._in_worker -= 1
        self._owe(cost_bytes)
        if full and not self._full and not self._stopped:
            self._full = True
            self._apply(self._receiver.on_flush(self._receiver.expected, True, _now_ns()))
        self._pump()

    def on_stored(self, stored: Stored, packed_manifest: bytes) -> None:
        """See Events."""
        self._packed = packed_manifest
        self._apply(self._receiver.on_stored(stored, _now_ns()))

    def on_failed(self, failures: list[Failure]) -> None:
        """See Events."""
        self._apply(self._receiver.on_store_failed(failures, _now_ns()))

    def on_refused(self, containers: list[bytes]) -> None:
        """See Events."""
        self._apply(self._receiver.refuse(containers, _now_ns()))

    def on_broken(self, error: StaddleError) -> None:
        """See Events."""
        self._last_word = error
        self._halt()

    def on_ended(self) -> None:
        """See Events."""
        self._halt()
        self._threads_gone.set()
        self._on_ended(self)


def _now_ns() -> int:
    return time.monotonic_ns()
