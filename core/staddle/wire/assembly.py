"""Joins payloads that came in several frames, within a budget of memory."""

from __future__ import annotations

from staddle.errors import ProtocolError, Unavailable
from staddle.wire.frames import Flag, Frame, FrameType, Header

CALL_PAYLOAD_BYTES_MAX = 64 << 20
"""Largest payload of one request or reply."""


class Budget:
    """Bytes of payloads that may be held at once, for a link or for all links of a peer."""

    def __init__(
        self, limit_bytes: int, hint: str = "send fewer large requests at once over one link"
    ) -> None:
        self._limit_bytes = limit_bytes
        self._hint = hint
        self.used_bytes = 0

    def take(self, n_bytes: int) -> None:
        """Reserve `n_bytes`. Raises Unavailable when they do not fit just now."""
        if n_bytes > CALL_PAYLOAD_BYTES_MAX:
            raise ProtocolError(f"a payload of {n_bytes} bytes, at most {CALL_PAYLOAD_BYTES_MAX} are allowed")
        if self.used_bytes + n_bytes > self._limit_bytes:
            raise Unavailable(
                f"no room for {n_bytes} bytes: {self.used_bytes} of {self._limit_bytes} are in use",
                hint=self._hint,
                code="BUSY",
            )
        self.used_bytes += n_bytes

    def give_back(self, n_bytes: int) -> None:
        """Free what `take` reserved."""
        self.used_bytes -= n_bytes


class Assembler:
    """The split payloads under way on a link, by frame type and seq.

    The first frame of a split payload carries the meta and no payload; the parts follow in order and land in
    their final place. A payload that nobody wants is taken in and dropped, so that the stream stays in step.
    """

    def __init__(self, open_max: int) -> None:
        self._open_max = open_max
        self._open: dict[tuple[FrameType, int], _Parts] = {}

    def begin(self, kind: FrameType, seq: int, size_bytes: int, *, wanted: bool) -> None:
        """Expect `size_bytes` in further frames, to be dropped unless `wanted`. Raises ProtocolError."""
        if size_bytes <= 0 or size_bytes > CALL_PAYLOAD_BYTES_MAX:
            raise ProtocolError(f"a split payload of {size_bytes} bytes")
        if (kind, seq) in self._open or len(self._open) >= self._open_max:
            raise ProtocolError(f"{kind.name} {seq}: a second or one too many split payload")
        self._open[kind, seq] = _Parts(size_bytes, memoryview(bytearray(size_bytes)) if wanted else None)

    def place(self, header: Header) -> memoryview:
        """Where the body of a continuation belongs. Raises ProtocolError."""
        parts = self._open.get((header.type, header.seq))
        if parts is None:
            raise ProtocolError(
                f"{header.type.name} {header.seq}: a part of a payload that was not announced"
            )
        if not 0 < header.length <= parts.size_bytes - parts.placed_bytes:
            raise ProtocolError(
                f"{header.type.name} {header.seq}: a part of {header.length} bytes does not fit"
            )
        start = parts.placed_bytes
        parts.placed_bytes += header.length
        if (parts.placed_bytes == parts.size_bytes) == bool(header.flags & Flag.MORE):
            raise ProtocolError(
                f"{header.type.name} {header.seq}: the parts do not add up to the announced size"
            )
        if parts.buffer is None:
            return memoryview(bytearray(header.length))
        return parts.buffer[start : parts.placed_bytes]

    def finish_if_last(self, frame: Frame) -> memoryview | None:
        """The whole payload, once `frame` was its last part and unless it was dropped."""
        if frame.flags & Flag.MORE:
            return None
        return self._open.pop((frame.type, frame.seq)).buffer

    def drop(self, kind: FrameType, seq: int) -> None:
        """Forget the buffer, and take in what still comes."""
        parts = self._open.get((kind, seq))
        if parts is not None:
            parts.buffer = None

    def abandon(self, kind: FrameType, seq: int) -> bool:
        """The sender sends no further parts. Returns whether there was such a payload."""
        return self._open.pop((kind, seq), None) is not None

    def clear(self) -> None:
        """The link is lost."""
        self._open.clear()


class _Parts:
    __slots__ = ("buffer", "placed_bytes", "size_bytes")

    def __init__(self, size_bytes: int, buffer: memoryview | None) -> None:
        self.size_bytes = size_bytes
        self.buffer = buffer
        self.placed_bytes = 0
