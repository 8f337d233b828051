"""The calling side of requests: pending calls, split payloads, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from staddle.api.types import Buffer
from staddle.errors import Cancelled, DeadlineExceeded, InDoubt, StaddleError, Unavailable
from staddle.wire.assembly import CALL_PAYLOAD_BYTES_MAX, Assembler, Budget
from staddle.wire.channel import Channel
from staddle.wire.frames import PAYLOAD_BYTES_MAX, Flag, Frame, FrameType, flat
from staddle.wire.messages import ReplyMeta, RequestMeta, pack, pack_error, unpack, unpack_error
from staddle.wire.writer import FrameWriter


class Reply(NamedTuple):
    """Answer to a request: decoded args and the payload (empty if there was none)."""

    args: Any
    payload: Buffer


class _Pending:
    """A call under way. `started`: its first frame is written; `sent`: its last one is."""

    __slots__ = ("channel", "future", "raw", "reserved_bytes", "sent", "started")

    def __init__(self, channel: Channel | None) -> None:
        self.channel = channel
        self.future: asyncio.Future[tuple[msgspec.Raw, Buffer]] = asyncio.get_running_loop().create_future()
        self.started = self.sent = False
        self.reserved_bytes = 0
        self.raw: msgspec.Raw | None = None

    def mark_started(self) -> None:
        self.started = True
        if self.channel is not None:
            self.channel.announced = True

    def mark_sent(self) -> None:
        self.mark_started()
        self.sent = True

    def resolve(self, raw: msgspec.Raw, payload: Buffer) -> None:
        if not self.future.done():
            self.future.set_result((raw, payload))

    def reject(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


async def send_split(
    writer: FrameWriter,
    kind: FrameType,
    seq: int,
    meta: bytes,
    payload: Buffer,
    *,
    channel: int = 0,
    first: Callable[[], None] | None = None,
    last: Callable[[], None] | None = None,
) -> None:
    """Send a REQUEST or REPLY, in one frame or in several.

    `first` and `last` are called just before the first and the last frame are written.
    """
    if len(payload) <= PAYLOAD_BYTES_MAX:
        await writer.send(kind, channel=channel, seq=seq, meta=meta, payload=payload, gate=last)
        return
    await writer.send(kind, flags=Flag.MORE, channel=channel, seq=seq, meta=meta, gate=first)
    view = memoryview(payload)
    for start in range(0, len(view), PAYLOAD_BYTES_MAX):
        more = start + PAYLOAD_BYTES_MAX < len(view)
        part = view[start : start + PAYLOAD_BYTES_MAX]
        await writer.send(
            kind,
            flags=Flag.MORE if more else 0,
            channel=channel,
            seq=seq,
            payload=part,
            gate=None if more else last,
        )


def check_payload(payload: Buffer | None) -> Buffer:
    """The payload, flat. Raises ValueError beyond `CALL_PAYLOAD_BYTES_MAX`."""
    payload = flat(payload or b"")
    if len(payload) > CALL_PAYLOAD_BYTES_MAX:
        raise ValueError(
            f"a payload of {len(payload)} bytes, at most {CALL_PAYLOAD_BYTES_MAX}: use a channel"
        )
    return payload


class Caller:
    """Sends requests over a link and matches the replies.

    Args:
        writer: the link's writer.
        assembler: the link's split payloads.
        budget: the link's memory for split payloads.
        pending_max: calls under way at once; further ones wait within their deadline.
    """

    def __init__(self, writer: FrameWriter, assembler: Assembler, budget: Budget, pending_max: int) -> None:
        self._writer = writer
        self._assembler = assembler
        self._budget = budget
        self._room = asyncio.Semaphore(pending_max)
        self._pending: dict[int, _Pending] = {}
        self._next_seq = 1

    async def request(
        self,
        op: str,
        args: Any,
        payload: Buffer | None,
        *,
        channel: Channel | None,
        timeout_s: float,
        reply: Any,
    ) -> Reply:
        """See `Link.request`."""
        data = check_payload(payload)
        meta = pack(RequestMeta(op, len(data), msgspec.Raw(pack({} if args is None else args))))
        call = _Pending(channel)
        try:
            async with asyncio.timeout(timeout_s), self._room:
                raw, answer = await self._exchange(call, meta, data)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{op}: no answer within {timeout_s:g} s", outcome="in_doubt" if call.sent else "not_done"
            ) from None
        except _LinkLost as lost:
            if not call.sent:
                raise lost.cause from None
            raise InDoubt(
                f"{op}: the link was lost before the answer came: {lost.cause.message}",
                hint="ask for the state, or send the same request again",
                scope="path",
            ) from None
        return Reply(unpack(raw, reply), answer)

    async def _exchange(self, call: _Pending, meta: bytes, data: Buffer) -> tuple[msgspec.Raw, Buffer]:
        seq = self._next_seq
        self._next_seq += 1
        self._pending[seq] = call
        channel_id = call.channel.id if call.channel else 0
        try:
            await send_split(
                self._writer,
                FrameType.REQUEST,
                seq,
                meta,
                data,
                channel=channel_id,
                first=call.mark_started,
                last=call.mark_sent,
            )
            return await call.future
        except asyncio.CancelledError:
            if call.started:
                self._writer.now(
                    FrameType.CANCEL, seq=seq, meta=pack_error(Cancelled("the caller has given up"))
                )
            raise
        finally:
            del self._pending[seq]
            self._budget.give_back(call.reserved_bytes)
            self._assembler.drop(FrameType.REPLY, seq)
            if not call.future.cancel():
                call.future.exception()  # looked at, whether or not it was awaited

    def on_reply(self, frame: Frame) -> None:
        """Take a REPLY frame. Raises ProtocolError."""
        call = self._pending.get(frame.seq)
        if frame.meta is None:
            payload = self._assembler.finish_if_last(frame)
            if payload is not None and call is not None and call.raw is not None:
                call.resolve(call.raw, payload)
            return
        head = unpack(frame.meta, ReplyMeta)
        if frame.flags & Flag.MORE:
            wanted = call is not None and self._reserve(call, head.size_bytes)
            self._assembler.begin(FrameType.REPLY, frame.seq, head.size_bytes, wanted=wanted)
            if call is not None and wanted:
                call.raw = head.args
        elif call is not None:
            call.resolve(head.args, frame.payload)

    def on_error(self, frame: Frame) -> None:
        """Take an ERROR frame that answers a request."""
        call = self._pending.get(frame.seq)
        error = unpack_error(frame.meta)
        if call is not None:
            call.reject(error)

    def fail(self, error: StaddleError) -> None:
        """The link is lost: end every call."""
        for call in self._pending.values():
            call.reject(_LinkLost(error))

    def _reserve(self, call: _Pending, size_bytes: int) -> bool:
        try:
            self._budget.take(size_bytes)
        except Unavailable as error:
            error.outcome = "in_doubt"  # the request was carried out, only its answer finds no room
            call.reject(error)
            return False
        call.reserved_bytes = size_bytes
        return True


class _LinkLost(Exception):
    def __init__(self, cause: StaddleError) -> None:
        super().__init__(cause.message)
        self.cause = cause
