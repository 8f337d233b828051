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


class IdsAfter(Ids):
    """Ids whose time is never before a moment, whatever this host's wall clock says.

    Objects that a stream stores are no older than its assignment: only then nobody can take them for orphans.
    """

    def __init__(self, ids: Ids, after_ns: int) -> None:
        """Args: ids: where they come from. after_ns: UTC nanoseconds, by the manager's clock."""
        self._ids = ids
        self._after = (after_ns // 1_000_000).to_bytes(6, "big")

    def new_id(self) -> bytes:
        """A fresh UUIDv7, 16 bytes."""
        found = self._ids.new_id()
        return max(found[:6], self._after) + found[6:]

    def random(self, count: int) -> bytes:
        """Random bytes fit for keys."""
        return self._ids.random(count)
