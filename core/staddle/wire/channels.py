"""The channels of one link: who may open which id, and when an id is free again."""

from __future__ import annotations

from staddle.errors import ProtocolError, StaddleError, Unavailable
from staddle.wire.channel import Channel
from staddle.wire.frames import CHANNELS_MAX, Frame
from staddle.wire.writer import FrameWriter

_ID_MAX = 0xFFFF


class ChannelTable:
    """Open channels by id. The connecting side opens odd ids, the accepting side even ones."""

    def __init__(self, writer: FrameWriter, *, accepting: bool) -> None:
        self._writer = writer
        self._first_id = 2 if accepting else 1
        self._next_id = self._first_id
        self._channels: dict[int, Channel] = {}

    def open(self) -> Channel:
        """A channel with a free id, not yet announced. Raises Unavailable at our half of the bound."""
        # Half the bound for each side, so that both together never exceed it.
        own = sum(channel_id % 2 == self._first_id % 2 for channel_id in self._channels)
        if own >= CHANNELS_MAX // 2:
            raise Unavailable(f"{own} channels of this link are open already", code="BUSY")
        while self._next_id in self._channels:
            self._advance()
        channel = self._add(self._next_id, announced=False)
        self._advance()
        return channel

    def accept(self, channel_id: int) -> Channel:
        """The peer opens a channel with a request. Raises ProtocolError."""
        ours = channel_id % 2 == self._first_id % 2
        if ours or channel_id in self._channels or len(self._channels) >= CHANNELS_MAX:
            raise ProtocolError(
                f"channel {channel_id} cannot be opened: not the peer's, in use, or one too many"
            )
        return self._add(channel_id, announced=True)

    def on_frame(self, frame: Frame) -> None:
        """Take a frame on a channel. Raises ProtocolError."""
        channel = self._channels.get(frame.channel)
        if channel is None:
            raise ProtocolError(f"{frame.type.name} frame on channel {frame.channel}, which is not open")
        channel.on_frame(frame)

    def fail(self, error: StaddleError) -> None:
        """The link is lost: end every channel."""
        for channel in list(self._channels.values()):
            channel.fail(error)
        self._channels.clear()

    def _add(self, channel_id: int, *, announced: bool) -> Channel:
        channel = Channel(channel_id, self._writer, self._done, announced=announced)
        self._channels[channel_id] = channel
        return channel

    def _done(self, channel_id: int) -> None:
        self._channels.pop(channel_id, None)

    def _advance(self) -> None:
        self._next_id += 2
        if self._next_id > _ID_MAX:
            self._next_id = self._first_id
