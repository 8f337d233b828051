"""Bounds of a link."""

from __future__ import annotations

import msgspec


class LinkLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a link.

    Attributes:
        ping_s: how often a ping goes out.
        silence_s: a peer that sends nothing for so long is lost.
        greeting_s: how long the greeting may take.
        frame_s: how long one frame may take to arrive, and one write to be taken.
        calls_max: requests under way at once, in each direction.
        payload_bytes_max: memory for payloads of requests and split replies.
    """

    ping_s: float = 1.0
    silence_s: float = 5.0
    greeting_s: float = 10.0
    frame_s: float = 60.0
    calls_max: int = 256
    payload_bytes_max: int = 256 << 20
