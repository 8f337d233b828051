"""Frames: the 16-byte header, the body layout and every limit. Bytes in, frames out; no I/O (docs/wire.md).

length u32 | type u8 | flags u8 | channel u16 | seq u64      big-endian, `length` counts the body alone
body = [meta_length u32 | meta]  payload                     the bracket stands only with the flag META
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from staddle.api.types import Buffer
from staddle.errors import ProtocolError
from staddle.wire.slots import SlotPool

WIRE_VERSION = 1
WIRE_VERSIONS = (1,)
"""What this release speaks: N and, from version 2 on, N-1."""

HEADER = struct.Struct(">IBBHQ")
META_LENGTH = struct.Struct(">I")
HEADER_BYTES = HEADER.size
PAYLOAD_BYTES_MAX = 1 << 20
META_BYTES_MAX = 256 << 10
BODY_BYTES_MAX = META_LENGTH.size + META_BYTES_MAX + PAYLOAD_BYTES_MAX
HELLO_BYTES_MAX = 8 << 10
CREDIT_BYTES_MAX = 1 << 30
CHANNELS_MAX = 1024
FRAME_COST_BYTES = 256
"""What a message costs on top of its bytes, so that empty messages fill no memory for free."""

_STAGE_BYTES = 64 << 10
_SLOTS_KEPT = 8
_SLOT_BYTES = PAYLOAD_BYTES_MAX + (
    8 << 10
)  # a full payload with a small meta; larger bodies get their own buffer


class FrameType(IntEnum):
    """What a frame is; 0 and everything unknown is a ProtocolError."""

    HELLO = 1
    REQUEST = 2
    REPLY = 3
    ERROR = 4
    DATA = 5
    CREDIT = 6
    CANCEL = 7
    PING = 8
    PONG = 9
    EVENT = 10
    CLOSE = 11


class Flag:
    """Bits of the flags byte; all others must be zero."""

    META = 1
    MORE = 2


class Header(NamedTuple):
    """A parsed header. `seq` is a correlation id, a record's number, or a number of bytes, by type."""

    length: int
    type: FrameType
    flags: int
    channel: int
    seq: int


class Frame(NamedTuple):
    """A whole frame. `payload` is a view of a buffer that nobody else writes while the view lives."""

    type: FrameType
    flags: int
    channel: int
    seq: int
    meta: bytes | None
    payload: memoryview


_TYPES = {int(kind): kind for kind in FrameType}
_MAY_BE_SPLIT = (FrameType.REQUEST, FrameType.REPLY)
_ON_CHANNEL_ZERO = (FrameType.HELLO, FrameType.PING, FrameType.PONG, FrameType.EVENT, FrameType.REPLY)
_META_ONLY = META_LENGTH.size + META_BYTES_MAX
_LENGTH_MAX = {
    FrameType.HELLO: HELLO_BYTES_MAX,
    FrameType.REQUEST: BODY_BYTES_MAX,
    FrameType.REPLY: BODY_BYTES_MAX,
    FrameType.ERROR: _META_ONLY,
    FrameType.DATA: BODY_BYTES_MAX,
    FrameType.CREDIT: 0,
    FrameType.CANCEL: _META_ONLY,
    FrameType.PING: 0,
    FrameType.PONG: 0,
    FrameType.EVENT: _META_ONLY,
    FrameType.CLOSE: 0,
}


def cost_bytes(meta: bytes | None, payload: Buffer) -> int:
    """What a DATA message takes from the sender's credit."""
    return FRAME_COST_BYTES + len(meta or b"") + len(payload)


def flat(payload: Buffer) -> Buffer:
    """`payload` with one byte per item, so that `len` is its size."""
    if isinstance(payload, memoryview) and payload.nbytes != len(payload):
        return payload.cast("B")
    return payload


def encode_head(
    kind: FrameType,
    *,
    flags: int = 0,
    channel: int = 0,
    seq: int = 0,
    meta: bytes | None = None,
    payload_bytes: int = 0,
) -> bytes:
    """Header and meta of a frame whose payload of `payload_bytes` follows.

    Raises:
        ValueError: a length beyond the limits; a caller's mistake, never a peer's.
    """
    if payload_bytes > PAYLOAD_BYTES_MAX or len(meta or b"") > META_BYTES_MAX:
        raise ValueError(
            f"{kind.name} frame too large: payload {payload_bytes} of at most {PAYLOAD_BYTES_MAX} bytes, "
            f"meta {len(meta or b'')} of at most {META_BYTES_MAX}"
        )
    if meta is None:
        return HEADER.pack(payload_bytes, kind, flags, channel, seq)
    length = META_LENGTH.size + len(meta) + payload_bytes
    head = HEADER.pack(length, kind, flags | Flag.META, channel, seq)
    return b"".join((head, META_LENGTH.pack(len(meta)), meta))


def parse_header(buffer: Buffer, offset: int = 0) -> Header:
    """Parse and check the 16 bytes at `offset`. Raises ProtocolError."""
    length, code, flags, channel, seq = HEADER.unpack_from(buffer, offset)
    kind = _TYPES.get(code)
    if kind is None:
        raise ProtocolError(f"unknown frame type {code}")
    if length > _LENGTH_MAX[kind]:
        raise ProtocolError(f"{kind.name} frame of {length} bytes, at most {_LENGTH_MAX[kind]} are allowed")
    if flags & ~(Flag.META | Flag.MORE):
        raise ProtocolError(f"unknown flags {flags:#04x} on a {kind.name} frame")
    if flags & Flag.MORE and kind not in _MAY_BE_SPLIT:
        raise ProtocolError(f"the flag MORE on a {kind.name} frame")
    if channel and kind in _ON_CHANNEL_ZERO:
        raise ProtocolError(f"{kind.name} frame on channel {channel}, it belongs on channel 0")
    return Header(length, kind, flags, channel, seq)


def parse_body(header: Header, body: memoryview) -> Frame:
    """Split a whole body into meta and payload. Raises ProtocolError."""
    meta: bytes | None = None
    if header.flags & Flag.META:
        if len(body) < META_LENGTH.size:
            raise ProtocolError(f"{header.type.name} frame too short for its meta length")
        (meta_length,) = META_LENGTH.unpack_from(body)
        end = META_LENGTH.size + meta_length
        if meta_length > META_BYTES_MAX or end > len(body):
            raise ProtocolError(f"{header.type.name} frame with a meta length of {meta_length} bytes")
        meta, body = bytes(body[META_LENGTH.size : end]), body[end:]
    if len(body) > PAYLOAD_BYTES_MAX:
        raise ProtocolError(f"{header.type.name} frame with a payload of {len(body)} bytes")
    return Frame(header.type, header.flags, header.channel, header.seq, meta, body)


def is_continuation(header: Header) -> bool:
    """Whether the body is a further part of a split payload (it has no meta, all of it is payload)."""
    return header.type in _MAY_BE_SPLIT and not header.flags & Flag.META


class FrameReader:
    """Cuts a byte stream into frames, for `asyncio.BufferedProtocol`.

    Small frames are parsed out of one staging buffer. The rest of a large body is received straight into its
    own slot, or where `place` says, so that a payload is copied at most for its first 64 KiB.

    Args:
        on_frame: called for each whole frame; may raise ProtocolError.
        place: gives the buffer for a continuation's body (exactly `length` bytes); may raise ProtocolError.
    """

    def __init__(self, on_frame: Callable[[Frame], None], place: Callable[[Header], memoryview]) -> None:
        self._on_frame = on_frame
        self._place = place
        self._pool = SlotPool(_SLOT_BYTES, _SLOTS_KEPT)
        self._stage = memoryview(bytearray(_STAGE_BYTES))
        self._start = self._end = 0
        self._header: Header | None = None
        self._body = self._stage[:0]
        self._filled = 0
        self.body_bytes_max = HELLO_BYTES_MAX
        self.frames = 0

    def trim(self) -> None:
        """Free receive buffers that have not been used since the last call."""
        self._pool.trim()

    @property
    def mid_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._header is not None or self._end > self._start

    def get_buffer(self) -> memoryview:
        """Where the next bytes go. Never empty."""
        if self._header is not None:
            return self._body[self._filled :]
        return self._stage[self._end :]

    def buffer_updated(self, n_bytes: int) -> None:
        """`n_bytes` were written to the last `get_buffer`. Raises ProtocolError; then the reader is spent."""
        if self._header is not None:
            self._filled += n_bytes
            if self._filled == len(self._body):
                header, body = self._header, self._body
                self._header, self._body = None, self._stage[:0]
                self._emit(header, body)
            return
        self._end += n_bytes
        self._parse_stage()

    def _parse_stage(self) -> None:
        while self._end - self._start >= HEADER_BYTES:
            header = parse_header(self._stage, self._start)
            if header.length > self.body_bytes_max:
                raise ProtocolError(
                    f"{header.type.name} frame of {header.length} bytes before the greeting is over"
                )
            self._start += HEADER_BYTES
            body = self._place(header) if is_continuation(header) else self._pool.take(header.length)
            have = min(self._end - self._start, header.length)
            body[:have] = self._stage[self._start : self._start + have]
            self._start += have
            if have < header.length:
                self._header, self._body, self._filled = header, body, have
                break
            self._emit(header, body)
        rest = self._end - self._start
        if rest and self._start:
            self._stage[:rest] = bytes(self._stage[self._start : self._end])
        self._start, self._end = 0, rest

    def _emit(self, header: Header, body: memoryview) -> None:
        self.frames += 1
        self._on_frame(parse_body(header, body))
