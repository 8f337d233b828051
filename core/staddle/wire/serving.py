"""The answering side of requests: admission, handlers' tasks, replies, events."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from staddle.api.transport import Peer
from staddle.api.types import Buffer
from staddle.errors import ProtocolError, StaddleError, Unavailable
from staddle.platform.shortage import is_shortage
from staddle.wire.assembly import Assembler, Budget
from staddle.wire.calls import check_payload, send_split
from staddle.wire.channel import Channel
from staddle.wire.frames import Flag, Frame, FrameType
from staddle.wire.handlers import Call, Handler, Handlers
from staddle.wire.messages import ReplyMeta, RequestMeta, pack, pack_error, unpack
from staddle.wire.writer import FrameWriter

if TYPE_CHECKING:
    from staddle.wire.link import Link

log = logging.getLogger(__name__)

EVENTS_MAX = 1024
EVENT_BYTES_MAX = 4 << 20
"""Events, and their arguments, that may wait for their handlers; a peer that sends more loses its link."""


class _Admitted(NamedTuple):
    """A request that may run once its payload is here."""

    head: RequestMeta
    handler: Handler
    channel: Channel | None


class Server:
    """Runs handlers for the requests and events of one link.

    Attributes:
        room: of the peer, over all of its links: for requests' payloads until they are worked off, and for
            what is answered until it is sent. None: the peer is trusted.
    """

    def __init__(
        self,
        link: Link,
        handlers: Handlers,
        *,
        writer: FrameWriter,
        assembler: Assembler,
        budget: Budget,
        calls_max: int,
    ) -> None:
        self._link = link
        self._handlers = handlers
        self._writer = writer
        self._assembler = assembler
        self._budget = budget
        self._calls_max = calls_max
        self._waiting: dict[int, _Admitted] = {}
        self._tasks: dict[int, tuple[asyncio.Task[None], Handler]] = {}
        self.room: Budget | None = None
        self._events: deque[tuple[Handler, RequestMeta, int]] = deque()
        self._event_bytes = 0
        self._event_task: asyncio.Task[None] | None = None
        self._dropped_events = False

    def on_request(self, frame: Frame, peer: Peer) -> None:
        """Take a REQUEST frame. Raises ProtocolError."""
        if frame.meta is None:
            payload = self._assembler.finish_if_last(frame)
            if payload is not None:
                self._start(frame.seq, self._waiting.pop(frame.seq), payload, peer)
            return
        if frame.seq in self._tasks or frame.seq in self._waiting:
            raise ProtocolError(f"request {frame.seq} came twice")
        head = unpack(frame.meta, RequestMeta)
        split = bool(frame.flags & Flag.MORE)
        if len(frame.payload) != (0 if split else head.size_bytes):
            raise ProtocolError(
                f"request {frame.seq}: {len(frame.payload)} of {head.size_bytes} bytes of payload"
            )
        channel = self._link.channels.accept(frame.channel) if frame.channel else None
        admitted = self._admit(frame.seq, head, channel, peer)
        if split:
            self._assembler.begin(FrameType.REQUEST, frame.seq, head.size_bytes, wanted=admitted is not None)
            if admitted is not None:
                self._waiting[frame.seq] = admitted
        elif admitted is not None:
            self._start(frame.seq, admitted, frame.payload, peer)

    def on_cancel(self, seq: int) -> None:
        """The caller has given up on a request."""
        if self._assembler.abandon(FrameType.REQUEST, seq):
            waiting = self._waiting.pop(seq, None)
            if waiting is not None:
                self._release(waiting.head.size_bytes)
        task, handler = self._tasks.get(seq, (None, None))
        if task is not None and handler is not None and handler.cancellable:
            task.cancel()

    def on_event(self, frame: Frame, peer: Peer) -> None:
        """Take an EVENT frame; events run one after the other. Raises ProtocolError."""
        meta = frame.meta or b""
        head = unpack(meta, RequestMeta)  # its arguments keep all of these bytes
        try:
            handler = self._handlers.find(head.op, peer)
            _check_channel(head, handler, given=False)
        except StaddleError as error:
            self._event_failed(head, peer, error)
            return
        self._event_bytes += len(meta)
        if len(self._events) >= EVENTS_MAX or self._event_bytes > EVENT_BYTES_MAX:
            raise ProtocolError(f"{len(self._events)} events wait already: the peer sends them too fast")
        self._events.append((handler, head, len(meta)))
        if self._event_task is None:
            self._event_task = asyncio.create_task(self._run_events(peer))

    def fail(self) -> None:
        """The link is lost: cancel what may be cancelled, let the rest run to its end."""
        while self._waiting:
            self._release(self._waiting.popitem()[1].head.size_bytes)
        for task, handler in self._tasks.values():
            if handler.cancellable:
                task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Wait for the handlers that still run; cancel those that do not end in time."""
        tasks = [task for task, _ in self._tasks.values()]
        if self._event_task is not None:
            tasks.append(self._event_task)
        tasks = [task for task in tasks if task is not asyncio.current_task()]  # a handler may close its link
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _admit(self, seq: int, head: RequestMeta, channel: Channel | None, peer: Peer) -> _Admitted | None:
        try:
            handler = self._handlers.find(head.op, peer)
            self._check_fits(head, handler, channel)
            self._reserve(head.size_bytes)
        except ProtocolError:
            raise
        except StaddleError as error:
            self._answer_error(seq, error, channel)
            return None
        return _Admitted(head, handler, channel)

    def _reserve(self, n_bytes: int) -> None:
        self._budget.take(n_bytes)
        if self.room is not None:
            try:
                self.room.take(n_bytes)
            except StaddleError:
                self._budget.give_back(n_bytes)
                raise

    def _release(self, n_bytes: int) -> None:
        self._budget.give_back(n_bytes)
        if self.room is not None:
            self.room.give_back(n_bytes)

    def _check_fits(self, head: RequestMeta, handler: Handler, channel: Channel | None) -> None:
        _check_channel(head, handler, given=channel is not None)
        if head.size_bytes > handler.payload_bytes_max:
            raise StaddleError(
                f"{head.op}: {head.size_bytes} bytes of payload, at most {handler.payload_bytes_max} fit",
                code="BAD_REQUEST",
            )
        if len(self._tasks) + len(self._waiting) >= self._calls_max:
            raise Unavailable(f"{self._calls_max} requests of this link run already", code="BUSY")

    def _start(self, seq: int, admitted: _Admitted, payload: Buffer, peer: Peer) -> None:
        task = asyncio.create_task(
            self._run(seq, admitted, payload, peer), name=f"handler {admitted.head.op}"
        )
        self._tasks[seq] = (task, admitted.handler)

    async def _run(self, seq: int, admitted: _Admitted, payload: Buffer, peer: Peer) -> None:
        head, channel = admitted.head, admitted.channel
        try:
            meta, answer = await self._call(admitted, payload, peer)
            await self._send(seq, meta, answer)
        except StaddleError as error:
            self._answer_error(seq, error, channel)
        except asyncio.CancelledError:
            self._answer_error(seq, Unavailable(f"{head.op} was cancelled", outcome="in_doubt"), channel)
            raise
        except Exception as error:
            log.exception("%s failed for %s %s", head.op, peer.role, peer.name)
            self._answer_error(seq, _failed(head.op, self._link.own_name, error), channel)
        finally:
            del self._tasks[seq]
            self._release(head.size_bytes)

    async def _call(self, admitted: _Admitted, payload: Buffer, peer: Peer) -> tuple[bytes, Buffer]:
        head, handler, channel = admitted
        args = decode_args(head, handler)
        result = await handler.function(Call(peer, head.op, args, payload, self._link, channel))
        back, answer = result if isinstance(result, tuple) else (result, b"")
        data = check_payload(answer)
        return pack(ReplyMeta(len(data), msgspec.Raw(pack({} if back is None else back)))), data

    async def _send(self, seq: int, meta: bytes, answer: Buffer) -> None:
        """Raises Unavailable if the peer has not read what it asked for before."""
        room = self.room
        if room is None:
            await send_split(self._writer, FrameType.REPLY, seq, meta, answer)
            return
        room.take(len(answer))
        try:
            await send_split(self._writer, FrameType.REPLY, seq, meta, answer)
        finally:
            room.give_back(len(answer))

    async def _run_events(self, peer: Peer) -> None:
        while self._events:
            handler, head, size_bytes = self._events.popleft()
            self._event_bytes -= size_bytes
            try:
                args = decode_args(head, handler)
                await handler.function(Call(peer, head.op, args, b"", self._link))
            except Exception as error:  # noqa: BLE001 - it is logged; nobody waits for an answer
                self._event_failed(head, peer, error)
        self._event_task = None

    def _event_failed(self, head: RequestMeta, peer: Peer, error: Exception) -> None:
        """Logged once for a link: a peer that sends nothing else must not fill the log with it."""
        if not self._dropped_events:
            lines = None if isinstance(error, StaddleError) else error
            text = "event %s from %s %s was dropped, and what fails after it is not told: %s"
            log.warning(text, head.op[:64], peer.role, peer.name, error, exc_info=lines)
        self._dropped_events = True

    def _answer_error(self, seq: int, error: StaddleError, channel: Channel | None) -> None:
        if channel is not None:
            channel.cancel(error)
        self._writer.now(FrameType.ERROR, seq=seq, meta=pack_error(error))


def _check_channel(head: RequestMeta, handler: Handler, *, given: bool) -> None:
    if handler.opens_channel != given:
        wanted = "opens a" if handler.opens_channel else "opens no"
        raise StaddleError(f"{head.op} {wanted} channel", code="BAD_REQUEST")


def decode_args(head: RequestMeta, handler: Handler) -> Any:
    """The arguments in the handler's type. Raises StaddleError, code BAD_REQUEST."""
    try:
        return unpack(head.args, handler.args)
    except ProtocolError as error:
        raise StaddleError(f"{head.op}: wrong arguments: {error.message}", code="BAD_REQUEST") from None


def _failed(op: str, where: str, error: Exception) -> StaddleError:
    if is_shortage(error):
        return Unavailable(
            f"{op} failed inside {where}: {error.strerror if isinstance(error, OSError) else error}",
            hint=f"see the disk and the limits of {where}, and its log",
            outcome="in_doubt",
        )
    return StaddleError(
        f"{op} failed inside {where}", hint=f"see the log of {where}", code="INTERNAL", outcome="in_doubt"
    )
