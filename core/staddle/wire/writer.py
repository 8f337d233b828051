"""The sending half of a link: whole frames, one after the other, with bounded memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from staddle.api.types import Buffer
from staddle.errors import PathLost, StaddleError
from staddle.wire.frames import FrameType, encode_head

_HIGH_WATER_BYTES = 256 << 10
_LOW_WATER_BYTES = 64 << 10
_HARD_LIMIT_BYTES = 8 << 20
_JOIN_BYTES = 64 << 10  # below this one copy is cheaper than a second system call
_LOCAL_BUFFER_BYTES = 2 << 20  # of a local socket: with less, both ends wake up five times for one record


class FrameWriter:
    """Writes frames to a transport.

    `send` waits while the peer does not read; senders take turns, so at most the high water mark and one
    frame lie in memory. `now` never waits: it is for small control frames, and a peer that provokes them
    without reading loses its link at a hard limit.

    Args:
        lost: ends the link with the given error.
        timeout_s: how long a send may wait for the peer to read before the link is given up.
    """

    def __init__(self, lost: Callable[[StaddleError], None], timeout_s: float) -> None:
        self._lost = lost
        self._timeout_s = timeout_s
        self._transport: asyncio.WriteTransport | None = None
        self._error: StaddleError | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._writable = asyncio.Event()
        self._writable.set()

    def open(self, transport: asyncio.BaseTransport) -> None:
        """Start writing to `transport`."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES, low=_LOW_WATER_BYTES)
        end = transport.get_extra_info("socket")
        # TCP finds its own size; a local socket keeps the small one that it begins with.
        if end is not None and end.family == getattr(socket, "AF_UNIX", None):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LOCAL_BUFFER_BYTES)

    def fail(self, error: StaddleError) -> None:
        """End every wait; all later sends raise `error`."""
        self._error = error
        self._transport = None
        self._writable.set()

    def pause(self) -> None:
        """The transport's buffer is above its high water mark."""
        self._writable.clear()

    def resume(self) -> None:
        """The transport's buffer has drained."""
        self._writable.set()

    @property
    def paused(self) -> bool:
        """Whether the peer does not read fast enough just now."""
        return not self._writable.is_set()

    def now(self, kind: FrameType, *, channel: int = 0, seq: int = 0, meta: bytes | None = None) -> None:
        """Write a frame without payload at once; does nothing on a lost link."""
        if self._transport is None:
            return
        self._transport.write(encode_head(kind, channel=channel, seq=seq, meta=meta))
        if self._transport.get_write_buffer_size() > _HARD_LIMIT_BYTES:
            self._lost(PathLost("the peer provokes answers and does not read them", scope="path"))

    async def send(
        self,
        kind: FrameType,
        *,
        flags: int = 0,
        channel: int = 0,
        seq: int = 0,
        meta: bytes | None = None,
        payload: Buffer = b"",
        gate: Callable[[], None] | None = None,
    ) -> None:
        """Write one frame when it is our turn and the peer reads.

        The payload is not copied: its bytes must stay as they are until the peer has answered or granted more
        credit. Cancelling the wait writes nothing of the frame. `gate` is called last before the write and
        may raise: what was true before a wait need not be true after it.

        Raises: the error that ended the link (not done: nothing of this frame was written).
        """
        head = encode_head(kind, flags=flags, channel=channel, seq=seq, meta=meta, payload_bytes=len(payload))
        if self._waiting or not self._writable.is_set():
            self._waiting += 1
            try:
                async with self._turn:
                    await self._until_writable()
                    self._write(head, payload, gate)
            finally:
                self._waiting -= 1
        else:
            self._write(head, payload, gate)

    def _write(self, head: bytes, payload: Buffer, gate: Callable[[], None] | None) -> None:
        if gate is not None:
            gate()
        if self._transport is None:
            raise self._error or PathLost("the link is not open")
        if len(payload) <= _JOIN_BYTES:
            self._transport.write(b"".join((head, payload)) if payload else head)
        else:
            # The first part goes with the header, so that the peer does not wake up for 16 bytes.
            view = memoryview(payload)
            self._transport.write(b"".join((head, view[:_JOIN_BYTES])))
            self._transport.write(view[_JOIN_BYTES:])

    async def _until_writable(self) -> None:
        if self._writable.is_set():
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._writable.wait()
        except TimeoutError:
            error = PathLost(f"the peer has read nothing for {self._timeout_s:g} s")
            self._lost(error)
            raise error from None
