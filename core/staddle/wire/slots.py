"""Receive buffers that are used again as soon as nobody looks at them any more."""

from __future__ import annotations

from collections import deque


class SlotPool:
    """Lends buffers of one size; a slot is free again when the last view of it is gone.

    There is nothing to give back: a `bytearray` refuses to change its length while any view of it exists, so
    one `pop` tells whether a slot is still looked at. A forgotten view costs memory, never wrong bytes.

    Args:
        slot_bytes: size of each slot.
        keep: how many slots are kept for use again; beyond that a fresh one is made and forgotten.
    """

    def __init__(self, slot_bytes: int, keep: int) -> None:
        self._slot_bytes = slot_bytes
        self._keep = keep
        self._slots: deque[bytearray] = deque()
        self._used = False

    def take(self, length: int) -> memoryview:
        """A writable view of `length` bytes; what it holds is undefined.

        Short requests get a buffer of their own, so that a small message never pins a large slot.
        """
        if length > self._slot_bytes or length * 2 < self._slot_bytes:
            return memoryview(bytearray(length))
        self._used = True
        for _ in range(len(self._slots)):
            slot = self._slots[0]
            self._slots.rotate(-1)
            if _unseen(slot):
                return memoryview(slot)[:length]
        slot = bytearray(self._slot_bytes)
        if len(self._slots) < self._keep:
            self._slots.append(slot)
        return memoryview(slot)[:length]

    def trim(self) -> None:
        """Forget the slots if none was lent since the last `trim`, so that an idle link holds no memory."""
        if not self._used:
            self._slots.clear()
        self._used = False


def _unseen(slot: bytearray) -> bool:
    try:
        last = slot.pop()
    except BufferError:
        return False
    slot.append(last)
    return True
