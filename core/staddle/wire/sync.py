"""Links for plain threaded code: the loop runs in a thread of its own.

Bulk sends do not hop between threads one by one: they are queued, bounded in bytes, and one wake-up sends
whatever has gathered. Messages received are handed over by the loop without being asked for.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from staddle.api.transport import Credentials, StreamTransport
from staddle.api.types import Buffer
from staddle.errors import DeadlineExceeded, PathLost, StaddleError
from staddle.wire.calls import Reply
from staddle.wire.channel import Channel, Data
from staddle.wire.endpoint import connect
from staddle.wire.frames import cost_bytes, flat
from staddle.wire.handlers import Handlers
from staddle.wire.limits import LinkLimits
from staddle.wire.link import Link
from staddle.wire.messages import Hello

_T = TypeVar("_T")
_GRACE_S = 5.0  # a call on the loop has its own deadline; this one only catches a loop that hangs
OUTBOX_BYTES_MAX = 4 << 20


class LoopThread:
    """An event loop in a daemon thread; links of one thread share it. Use as a context manager, or `stop`."""

    def __init__(self, name: str = "staddle-wire") -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def call(self, work: Coroutine[Any, Any, _T], timeout_s: float) -> _T:
        """Run a coroutine on the loop and wait for it. Raises DeadlineExceeded if the loop itself hangs."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s + _GRACE_S)
        except TimeoutError:
            future.cancel()
            raise DeadlineExceeded(
                f"the event loop has not answered within {timeout_s + _GRACE_S:g} s"
            ) from None

    def stop(self) -> None:
        """End the loop and its thread. Idempotent."""
        if self._thread.is_alive():
            self.call(self._cancel_all(), _GRACE_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_GRACE_S)

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()


class SyncLink:
    """A Link with blocking calls, usable from any thread."""

    def __init__(self, link: Link, thread: LoopThread, *, owns_thread: bool = False) -> None:
        self.link = link
        self._thread = thread
        self._owns_thread = owns_thread

    @classmethod
    def connect(
        cls,
        url: str,
        credentials: Credentials,
        hello: Hello,
        handlers: Handlers | None = None,
        *,
        expect_role: str | None,
        expect_name: str | None = None,
        timeout_s: float = 10.0,
        limits: LinkLimits | None = None,
        transport: StreamTransport | None = None,
        thread: LoopThread | None = None,
    ) -> Self:
        """As `endpoint.connect`, on `thread` or on a new one that ends with the link."""
        runner = thread or LoopThread()
        work = connect(
            url,
            credentials,
            hello,
            handlers,
            expect_role=expect_role,
            expect_name=expect_name,
            timeout_s=timeout_s,
            limits=limits,
            transport=transport,
        )
        try:
            link = runner.call(work, timeout_s)
        except BaseException:
            if thread is None:
                runner.stop()
            raise
        return cls(link, runner, owns_thread=thread is None)

    def request(
        self,
        op: str,
        args: Any = None,
        payload: Buffer | None = None,
        *,
        timeout_s: float = 30.0,
        reply: Any = dict,
    ) -> Reply:
        """As `Link.request`."""
        return self._thread.call(
            self.link.request(op, args, payload, timeout_s=timeout_s, reply=reply), timeout_s
        )

    def open_channel(
        self,
        op: str,
        args: Any = None,
        payload: Buffer | None = None,
        *,
        timeout_s: float = 30.0,
        reply: Any = dict,
    ) -> tuple[SyncChannel, Reply]:
        """As `Link.open_channel`."""
        channel, answer = self._thread.call(self._open(op, args, payload, timeout_s, reply), timeout_s)
        return channel, answer

    async def _open(
        self, op: str, args: Any, payload: Buffer | None, timeout_s: float, reply: Any
    ) -> tuple[SyncChannel, Reply]:
        channel, answer = await self.link.open_channel(op, args, payload, timeout_s=timeout_s, reply=reply)
        return SyncChannel(channel, asyncio.get_running_loop()), answer

    def event(self, op: str, args: Any = None, *, timeout_s: float = 30.0) -> None:
        """As `Link.event`."""
        self._thread.call(self.link.event(op, args), timeout_s)

    def close(self) -> None:
        """Close the link, and the thread if it is the link's own. Idempotent."""
        if not self._thread.loop.is_closed():
            self._thread.call(self.link.close(), _GRACE_S)
        if self._owns_thread:
            self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class SyncChannel:
    """A Channel for worker threads, one per direction. It must be made on the channel's loop.

    Args:
        channel: an open channel.
        loop: its loop.
    """

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop
        self._inbox: queue.SimpleQueue[Data | StaddleError | None] = queue.SimpleQueue()
        self._end: StaddleError | None = None
        self._ended = False
        self._outbox: deque[tuple[int, bytes | None, Buffer, float]] = deque()
        self._outbox_bytes = 0
        self._send_error: StaddleError | None = None
        self._change = threading.Condition()
        self._pump_task: asyncio.Task[None] | None = None
        self._pumping = False
        channel.listen(self._inbox.put)

    def send(
        self, seq: int, meta: bytes | None = None, payload: Buffer = b"", *, timeout_s: float = 30.0
    ) -> None:
        """Queue one message; waits while `OUTBOX_BYTES_MAX` are queued already.

        The payload is not copied; leave its bytes alone until the peer has granted credit for them again. An
        error of an earlier message is raised by a later call, at the latest by `flush`.

        Raises: DeadlineExceeded (no room in time, this message is not queued); what ended the channel.
        """
        payload = flat(payload)
        cost = cost_bytes(meta, payload)
        with self._change:
            self._wait(
                lambda: not self._outbox_bytes or self._outbox_bytes + cost <= OUTBOX_BYTES_MAX,
                timeout_s,
                seq,
            )
            self._outbox.append((seq, meta, payload, timeout_s))
            self._outbox_bytes += cost
            if self._pumping:
                return
            self._pumping = True
        self._on_loop(self._start_pump)

    def flush(self, *, timeout_s: float = 30.0) -> None:
        """Wait until all queued messages are with the transport. Raises as `send`."""
        with self._change:
            self._wait(lambda: not self._outbox_bytes, timeout_s, -1)

    def receive(self, timeout_s: float = 30.0) -> Data | None:
        """As `Channel.receive`."""
        if self._ended:
            item: Data | StaddleError | None = self._end
        else:
            try:
                item = self._inbox.get(timeout=timeout_s)
            except queue.Empty:
                raise DeadlineExceeded(
                    f"channel {self._channel.id}: nothing was received within {timeout_s:g} s",
                    outcome="not_done",
                ) from None
        if isinstance(item, Data):
            return item
        self._ended, self._end = True, item
        if item is not None:
            raise item
        return None

    def grant(self, n_bytes: int) -> None:
        """As `Channel.grant`."""
        self._on_loop(self._channel.grant, n_bytes)

    def cancel(self, reason: StaddleError) -> None:
        """As `Channel.cancel`; what is queued is dropped."""
        self._on_loop(self._channel.cancel, reason)

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Flush, then close. Raises as `flush`; the channel is closed in any case."""
        try:
            self.flush(timeout_s=timeout_s)
        finally:
            self._on_loop(self._channel.close)

    def _wait(self, ready: Any, timeout_s: float, seq: int) -> None:
        end_s = time.monotonic() + timeout_s
        while self._send_error is None and not ready():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(
                    f"channel {self._channel.id}: no room for message {seq} within {timeout_s:g} s",
                    hint="the receiver is slow, or waits for its medium",
                    outcome="not_done",
                )
            self._change.wait(left_s)
        if self._send_error is not None:
            raise self._send_error

    def _on_loop(self, call: Any, *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError as error:
            raise PathLost("the link is closed") from error

    # --- on the loop --------------------------------------------------------------------------

    def _start_pump(self) -> None:
        self._pump_task = asyncio.ensure_future(self._pump())

    async def _pump(self) -> None:
        error: StaddleError | None = PathLost("the link is closed")
        try:
            while True:
                with self._change:
                    if not self._outbox:
                        self._pumping = False
                        error = None
                        return
                    seq, meta, payload, timeout_s = self._outbox[0]
                await self._channel.send(seq, meta, payload, timeout_s=timeout_s)
                self._sent(cost_bytes(meta, payload))
        except StaddleError as caught:
            error = caught
        finally:
            if error is not None:  # else the outbox was empty, and another pump may run already
                with self._change:
                    self._send_error = error
                    self._outbox.clear()
                    self._outbox_bytes = 0
                    self._change.notify_all()

    def _sent(self, cost: int) -> None:
        with self._change:
            self._outbox.popleft()
            self._outbox_bytes -= cost
            self._change.notify_all()
