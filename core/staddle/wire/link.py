"""A link: two authenticated ends that send each other requests, events and channels of messages.

Theory of operation (docs/wire.md has the protocol itself):

1. The accepting side speaks first. The connecting side sends nothing before it has seen that greeting, and
   `wait_ready` returns once a ping has come back: by then each side has proved and accepted the other (T6).
2. Everything runs on one event loop. Frames are handled in the order in which they come (T3); handlers run as
   tasks of their own, so a slow one holds up nothing.
3. A link ends once, with one error. Then every wait ends: a request of which the last byte was written is
   InDoubt, one that was not is not done (T2), channels raise the link's error.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any

import msgspec

from staddle.api.transport import Peer, StreamTransport
from staddle.api.types import Buffer
from staddle.errors import (
    DeadlineExceeded,
    Denied,
    PathLost,
    ProtocolError,
    StaddleError,
    Unavailable,
)
from staddle.wire.assembly import Assembler, Budget
from staddle.wire.calls import Caller, Reply
from staddle.wire.channel import Channel
from staddle.wire.channels import ChannelTable
from staddle.wire.frames import BODY_BYTES_MAX, Frame, FrameReader, FrameType
from staddle.wire.greeting import accept_greeting
from staddle.wire.handlers import Handlers
from staddle.wire.limits import LinkLimits
from staddle.wire.messages import Hello, RequestMeta, pack, pack_error, unpack_error, unpack_hello
from staddle.wire.serving import Server
from staddle.wire.writer import FrameWriter

log = logging.getLogger(__name__)

_FLUSH_S = 2.0


class Link(asyncio.BufferedProtocol):
    """One end of a link. Made by staddle.wire.endpoint; all methods belong to its event loop.

    Args:
        transport_api: the transport that carries it; proves the peer.
        hello: own greeting.
        handlers: what this side answers.
        accepting: whether this is the accepting side.
        limits: bounds.
        expect_role: role that the peer must have; None accepts any known one.
        expect_name: name that the peer must have; None accepts any.
        on_ready: called when the peer is accepted; may raise StaddleError to refuse it.
        on_end: called once the connection is gone.

    Attributes:
        peer: who is at the other end; valid once ready.
        features: the peer's features.
        channels: the open channels.
        error: what ended the link; None while it lives.
    """

    def __init__(
        self,
        transport_api: StreamTransport,
        hello: Hello,
        handlers: Handlers,
        *,
        accepting: bool,
        limits: LinkLimits,
        expect_role: str | None = None,
        expect_name: str | None = None,
        on_ready: Callable[[Link], None] | None = None,
        on_end: Callable[[Link], None] | None = None,
    ) -> None:
        self._api = transport_api
        self._hello = hello
        self._accepting = accepting
        self._limits = limits
        self._expected = (expect_role, expect_name)
        self._on_ready = on_ready
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.BaseTransport | None = None
        self._writer = FrameWriter(self._lost, limits.frame_s)
        self._assembler = Assembler(2 * limits.calls_max)
        budget = Budget(limits.payload_bytes_max)
        self._caller = Caller(self._writer, self._assembler, budget, limits.calls_max)
        self._server = Server(
            self,
            handlers,
            writer=self._writer,
            assembler=self._assembler,
            budget=budget,
            calls_max=limits.calls_max,
        )
        self._reader = FrameReader(self._on_frame, self._assembler.place)
        self.channels = ChannelTable(self._writer, accepting=accepting)
        self._proved = Peer("", "")
        self.peer = Peer("", "")
        self.features: tuple[str, ...] = ()
        self._greeted = False
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._kill: asyncio.TimerHandle | None = None
        self._heard = True
        self._silent_s = self._stuck_s = 0.0
        self._frames_seen = 0
        self.error: StaddleError | None = None

    # --- for users of the link ----------------------------------------------------------------

    @property
    def own_name(self) -> str:
        """The name that this side has given."""
        return self._hello.name

    async def request(
        self,
        op: str,
        args: Any = None,
        payload: Buffer | None = None,
        *,
        timeout_s: float = 30.0,
        reply: Any = dict,
    ) -> Reply:
        """Call an operation of the peer.

        Args:
            op: its name.
            args: a dict or Struct, at most 256 KiB of msgpack.
            payload: at most 64 MiB; not copied, so leave its bytes alone until this returns.
            timeout_s: for the whole call, waiting for a free place included.
            reply: type of the reply's args (a Struct, or dict).

        Raises:
            StaddleError: what the handler raised, of the same class; code INTERNAL if it broke.
            DeadlineExceeded: no answer in time; the outcome says whether it may have been carried out.
            InDoubt: the link was lost after the request had gone out.
            PathLost, Denied: the link ended before; not done.
            ValueError: args or payload too large.
        """
        return await self._caller.request(op, args, payload, channel=None, timeout_s=timeout_s, reply=reply)

    async def open_channel(
        self,
        op: str,
        args: Any = None,
        payload: Buffer | None = None,
        *,
        timeout_s: float = 30.0,
        reply: Any = dict,
    ) -> tuple[Channel, Reply]:
        """Like `request`, and open a channel with it; the handler finds its end in `Call.channel`.

        Raises: as `request`, the channel is ended then; Unavailable if the link has no channel left.
        """
        if self.error is not None:
            raise self.error
        channel = self.channels.open()
        try:
            answer = await self._caller.request(
                op, args, payload, channel=channel, timeout_s=timeout_s, reply=reply
            )
        except BaseException as error:
            channel.cancel(error if isinstance(error, StaddleError) else Unavailable(f"{op} was given up"))
            raise
        return channel, answer

    async def event(self, op: str, args: Any = None) -> None:
        """Tell the peer something; no answer. Events arrive in order, or the link ends.

        Raises: the error that ended the link.
        """
        meta = pack(RequestMeta(op, 0, msgspec.Raw(pack({} if args is None else args))))
        await self._writer.send(FrameType.EVENT, meta=meta)

    async def close(self, timeout_s: float = _FLUSH_S) -> None:
        """Tell the peer, let running handlers end within `timeout_s`, and close. Idempotent."""
        if self.error is None:
            await self._server.drain(timeout_s)
            self._writer.now(FrameType.CLOSE)
        self._lost(PathLost("the link is closed", outcome="not_done"))
        await self.wait_closed()
        await self._server.drain(timeout_s)

    def abort(self, error: StaddleError) -> None:
        """End the link with `error`, after telling the peer why."""
        self._refuse(error)

    async def wait_ready(self) -> None:
        """Wait for the greeting, at most `greeting_s`. Raises what ended it, such as Denied."""
        await asyncio.shield(self._ready)

    async def wait_closed(self) -> None:
        """Wait until the connection is gone. `error` says why."""
        if self._transport is not None:
            await asyncio.shield(self._ended)

    # --- asyncio's protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the greeting."""
        self._transport = transport
        self._writer.open(transport)
        self._timer = self._loop.call_later(self._limits.greeting_s, self._greeting_late)
        try:
            self._proved = self._api.peer(transport)
        except StaddleError as error:
            self._refuse(error)
            return
        if self._accepting:
            self._writer.now(FrameType.HELLO, meta=pack(self._hello))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go. A memoryview, since asyncio's TLS slices it."""
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._heard = True
        if self.error is not None:
            return
        try:
            self._reader.buffer_updated(nbytes)
        except StaddleError as error:
            self._refuse(error)
        except Exception as error:
            # A mistake of ours, met by what one peer has sent: it costs that peer its link, and nobody else.
            log.exception("frames of %s %s can't be handled", self.peer.role, self.peer.name)
            self._refuse(StaddleError(f"a frame can't be handled: {type(error).__name__}", code="INTERNAL"))

    def eof_received(self) -> bool:
        """The peer has closed its side."""
        return False

    def pause_writing(self) -> None:
        """The peer does not keep up."""
        self._writer.pause()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._writer.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._kill is not None:
            self._kill.cancel()
        self._lost(_cause(exc, self._proved))
        if not self._ended.done():
            self._ended.set_result(None)
        if self._on_end is not None:
            self._on_end(self)

    # --- frames -------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        if self.error is not None:
            return  # the rest of a batch after the one that ended the link
        kind = frame.type
        if kind is FrameType.ERROR and not frame.seq:
            raise _ByPeer(unpack_error(frame.meta))
        if not self._greeted:
            if kind is not FrameType.HELLO:
                raise ProtocolError(f"a {kind.name} frame instead of a greeting")
            self._greet(unpack_hello(frame.meta))
        elif frame.channel and kind is not FrameType.REQUEST:
            self.channels.on_frame(frame)
        else:
            self._on_link_frame(frame)

    def _on_link_frame(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.REQUEST:
                self._server.on_request(frame, self.peer)
            case FrameType.REPLY:
                self._caller.on_reply(frame)
            case FrameType.ERROR:
                self._caller.on_error(frame)
            case FrameType.EVENT:
                self._server.on_event(frame, self.peer)
            case FrameType.CANCEL:
                self._server.on_cancel(frame.seq)
            case FrameType.PING:
                # A peer that does not read needs no answer now: it has bytes of ours to look at.
                if not self._writer.paused:
                    self._writer.now(FrameType.PONG, seq=frame.seq)
            case FrameType.PONG:
                if not self._ready.done():
                    self._ready.set_result(None)
            case FrameType.CLOSE:
                raise _ByPeer(PathLost("the peer has closed the link"))
            case _:
                raise ProtocolError(f"a {frame.type.name} frame on channel 0")

    def _greet(self, hello: Hello) -> None:
        self.peer = accept_greeting(self._hello, hello, self._proved, *self._expected)
        self.features = hello.features
        if self._on_ready is not None:
            self._on_ready(self)
        self._greeted = True
        self._reader.body_bytes_max = BODY_BYTES_MAX
        if self._accepting:
            self._ready.set_result(None)
        else:
            self._writer.now(FrameType.HELLO, meta=pack(self._hello))
            self._writer.now(FrameType.PING)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(
            self._limits.ping_s, self._tick, self._loop.time() + self._limits.ping_s
        )

    # --- liveness and the end -----------------------------------------------------------------

    def _greeting_late(self) -> None:
        self._lost(DeadlineExceeded(f"no greeting within {self._limits.greeting_s:g} s", outcome="not_done"))

    def _tick(self, due: float) -> None:
        # Silence is counted in our own ticks: a process that was stopped must not blame its peer.
        now = self._loop.time()
        elapsed = min(now - due + self._limits.ping_s, 1.5 * self._limits.ping_s)
        self._silent_s = 0.0 if self._heard else self._silent_s + elapsed
        self._heard = False
        stuck = self._reader.mid_frame and self._reader.frames == self._frames_seen
        self._stuck_s = self._stuck_s + elapsed if stuck else 0.0
        self._frames_seen = self._reader.frames
        if self._silent_s >= self._limits.silence_s:
            self._lost(
                PathLost(
                    f"{self.peer.role} {self.peer.name!r} has been silent for {self._limits.silence_s:g} s"
                )
            )
        elif self._stuck_s >= self._limits.frame_s:
            self._refuse(ProtocolError(f"a frame took more than {self._limits.frame_s:g} s to arrive"))
        else:
            self._reader.trim()
            if not self._writer.paused:
                self._writer.now(FrameType.PING)
            self._timer = self._loop.call_later(self._limits.ping_s, self._tick, now + self._limits.ping_s)

    def _refuse(self, error: StaddleError) -> None:
        if isinstance(error, _ByPeer):
            self._lost(error.said)
            return
        if self.error is None:
            log.info("link with %s %s ends: %s", self.peer.role, self.peer.name, error)
            self._writer.now(FrameType.ERROR, meta=pack_error(error))
        self._lost(error)

    def _lost(self, error: StaddleError) -> None:
        if self.error is not None:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        self._writer.fail(error)
        self._caller.fail(error)
        self.channels.fail(error)
        self._assembler.clear()
        self._server.fail()
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # looked at, whether or not anybody waits for it
        if self._transport is not None:
            self._kill = self._loop.call_later(_FLUSH_S, self._abort_transport)
            self._transport.close()

    def _abort_transport(self) -> None:
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()


class _ByPeer(StaddleError):
    """The peer has ended the link; `said` is its reason."""

    def __init__(self, said: StaddleError) -> None:
        super().__init__(said.message)
        self.said = said


def _cause(exc: Exception | None, proved: Peer) -> StaddleError:
    where = proved.address or "the peer"
    if isinstance(exc, ssl.SSLError):
        return Denied(f"{where} has refused this side's certificate: {exc.reason or exc}")
    if exc is not None:
        return PathLost(f"the connection with {where} broke: {exc}")
    return PathLost(
        f"{where} has closed the connection",
        hint="if it does so at once each time, it does not accept this side's certificate",
    )
