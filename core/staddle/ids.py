"""Where identifiers and random bytes come from: passed into the engine, never drawn inside it."""

from __future__ import annotations

import secrets
import time


def uuid7(now_ns: int, entropy: bytes) -> bytes:
    """A UUIDv7 (RFC 9562 clause 5.7) as 16 bytes: 48 bits of milliseconds, then random bits.

    Args:
        now_ns: UTC nanoseconds.
        entropy: 10 random bytes.
    """
    out = bytearray((now_ns // 1_000_000).to_bytes(6, "big") + entropy[:10])
    out[6] = 0x70 | (out[6] & 0x0F)
    out[8] = 0x80 | (out[8] & 0x3F)
    return bytes(out)


class Ids:
    """The operating system's randomness and clock; tests pass a seeded twin."""

    def new_id(self) -> bytes:
        """A fresh UUIDv7, 16 bytes."""
        return uuid7(time.time_ns(), secrets.token_bytes(10))

    def random(self, count: int) -> bytes:
        """Random bytes fit for keys."""
        return secrets.token_bytes(count)
