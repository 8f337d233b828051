"""Channels: ordered messages in both directions of a link, each direction under credit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from staddle.api.types import Buffer
from staddle.errors import Cancelled, DeadlineExceeded, ProtocolError, StaddleError
from staddle.wire.frames import CREDIT_BYTES_MAX, Frame, FrameType, cost_bytes, flat
from staddle.wire.messages import pack_error, unpack_error
from staddle.wire.writer import FrameWriter


class Data(NamedTuple):
    """One message. `cost_bytes` is what to grant again once it is consumed."""

    seq: int
    meta: bytes | None
    payload: memoryview
    cost_bytes: int


Listener = Callable[["Data | StaddleError | None"], None]
"""Gets each message, then once `None` (the peer closed) or the error that ended the channel."""


class Channel:
    """One end of a channel. All methods belong to the link's event loop.

    Each side may send as many bytes as the other has granted and no more, so what a receiver must hold is
    what it has granted. A grant below `PAYLOAD_BYTES_MAX` plus meta and cost can leave a full record waiting.
    """

    def __init__(
        self, channel_id: int, writer: FrameWriter, done: Callable[[int], None], *, announced: bool
    ) -> None:
        self.id = channel_id
        self.announced = announced  # whether the peer knows of it: the request that opens it was written
        self.credit_bytes = 0
        self._granted_bytes = 0
        self._writer = writer
        self._done = done
        self._turn = asyncio.Lock()
        self._senders = 0
        self._more_credit = asyncio.Event()
        self._queue: deque[Data] = deque()
        self._arrived = asyncio.Event()
        self._listener: Listener | None = None
        self._error: StaddleError | None = None
        self._closed = self._peer_closed = self._told = False

    async def send(
        self, seq: int, meta: bytes | None = None, payload: Buffer = b"", *, timeout_s: float = 30.0
    ) -> None:
        """Send one message of at most `PAYLOAD_BYTES_MAX` once the peer has granted its cost.

        The payload is not copied; leave its bytes alone until the peer has granted credit for them again.

        Raises:
            DeadlineExceeded: no credit or no room in time; not done, the same message may be sent again.
            PathLost, Cancelled or what the peer's cancel said: the channel has ended.
        """
        payload = flat(payload)
        cost = cost_bytes(meta, payload)
        if self.credit_bytes >= cost and not self._senders and not self._writer.paused:
            await self._send_now(seq, meta, payload, cost)  # the usual case, without a timer
            return
        self._senders += 1
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                while self.credit_bytes < cost and self._error is None and not self._peer_closed:
                    self._more_credit.clear()
                    await self._more_credit.wait()
                await self._send_now(seq, meta, payload, cost)
        except TimeoutError:
            raise DeadlineExceeded(
                f"channel {self.id}: message {seq} could not be sent within {timeout_s:g} s",
                hint="the receiver has granted no credit: it is slow or waits for its medium",
                outcome="not_done",
            ) from None
        finally:
            self._senders -= 1

    async def _send_now(self, seq: int, meta: bytes | None, payload: Buffer, cost: int) -> None:
        self.credit_bytes -= cost
        try:
            await self._writer.send(
                FrameType.DATA,
                channel=self.id,
                seq=seq,
                meta=meta,
                payload=payload,
                gate=self._check_sendable,
            )
        except BaseException:
            self.credit_bytes += cost
            raise

    async def receive(self, timeout_s: float = 30.0) -> Data | None:
        """The next message, or None once the peer has closed and all its messages were received.

        Raises: DeadlineExceeded; the error that ended the channel, after the messages that came before it.
        """
        if not self._queue and not self._peer_closed and self._error is None:
            try:
                async with asyncio.timeout(timeout_s):
                    while not self._queue and not self._peer_closed and self._error is None:
                        self._arrived.clear()
                        await self._arrived.wait()
            except TimeoutError:
                raise DeadlineExceeded(
                    f"channel {self.id}: nothing was received within {timeout_s:g} s", outcome="not_done"
                ) from None
        if self._queue:
            return self._queue.popleft()
        self._check_open()
        return None

    def listen(self, listener: Listener) -> None:
        """Hand every message, also those that wait already, to `listener` instead of `receive`.

        It runs on the link's loop and must not block; credit still bounds what it may have to hold.
        """
        self._listener = listener
        while self._queue:
            listener(self._queue.popleft())
        if self._error is not None or self._peer_closed:
            self._told = True
            listener(self._error)

    def grant(self, n_bytes: int) -> None:
        """Let the peer send `n_bytes` more. Raises ValueError beyond `CREDIT_BYTES_MAX` in all."""
        if not 0 < n_bytes <= CREDIT_BYTES_MAX - self._granted_bytes:
            raise ValueError(
                f"channel {self.id}: cannot grant {n_bytes} bytes on top of {self._granted_bytes}"
            )
        if not self._closed and self._error is None:
            self._granted_bytes += n_bytes
            self._writer.now(FrameType.CREDIT, channel=self.id, seq=n_bytes)

    def cancel(self, reason: StaddleError) -> None:
        """End the channel on both sides; the peer's calls raise `reason`. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self.announced:
            self._writer.now(FrameType.CANCEL, channel=self.id, meta=pack_error(reason))
        self._ended_here(reason)

    def close(self) -> None:
        """Send nothing more and want nothing more; messages sent before still arrive. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self.announced:
            self._writer.now(FrameType.CLOSE, channel=self.id)
        self._ended_here(Cancelled(f"channel {self.id} is closed"))

    def _ended_here(self, reason: StaddleError) -> None:
        self._queue.clear()
        if self._peer_closed or not self.announced:
            self._done(self.id)
        self._end(reason)

    # --- called by the link -------------------------------------------------------------------

    def on_frame(self, frame: Frame) -> None:
        """Take a DATA, CREDIT, CANCEL or CLOSE frame of this channel. Raises ProtocolError."""
        if self._peer_closed:
            raise ProtocolError(f"{frame.type.name} frame on channel {self.id} after its end")
        if frame.type is FrameType.DATA:
            self._on_data(frame)
        elif frame.type is FrameType.CREDIT:
            self._on_credit(frame.seq)
        else:
            reason = unpack_error(frame.meta) if frame.type is FrameType.CANCEL else None
            self._on_end(reason)

    def fail(self, error: StaddleError) -> None:
        """The link is lost."""
        self._closed = self._peer_closed = True
        self._end(error)

    def _on_data(self, frame: Frame) -> None:
        cost = cost_bytes(frame.meta, frame.payload)
        self._granted_bytes -= cost
        if self._granted_bytes < 0:
            raise ProtocolError(
                f"channel {self.id}: the peer sent {-self._granted_bytes} bytes beyond its credit"
            )
        if self._closed:
            return  # sent before our end reached the peer
        data = Data(frame.seq, frame.meta, frame.payload, cost)
        if self._listener is not None:
            self._listener(data)
        else:
            self._queue.append(data)
            self._arrived.set()

    def _on_credit(self, n_bytes: int) -> None:
        self.credit_bytes += n_bytes
        if not 0 < n_bytes <= CREDIT_BYTES_MAX or self.credit_bytes > CREDIT_BYTES_MAX:
            raise ProtocolError(f"channel {self.id}: a grant of {n_bytes} bytes")
        self._more_credit.set()

    def _on_end(self, reason: StaddleError | None) -> None:
        self._peer_closed = True
        if reason is not None and not self._closed:
            self._closed = True
            self._writer.now(FrameType.CLOSE, channel=self.id)
        if self._closed:
            self._done(self.id)
        self._end(reason)

    def _end(self, reason: StaddleError | None) -> None:
        self._error = self._error or reason
        if self._listener is not None and not self._told:
            self._told = True
            self._listener(reason)
        self._arrived.set()
        self._more_credit.set()

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error

    def _check_sendable(self) -> None:
        self._check_open()
        if self._peer_closed:
            raise Cancelled(f"channel {self.id} was closed by the peer")
