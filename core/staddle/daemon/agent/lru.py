"""A cache bounded by bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class ByteLru(Generic[Key, Value]):
    """Keeps what was used last, up to a number of bytes. Safe for several threads."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._items: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, if it is still kept."""
        with self._lock:
            found = self._items.get(key)
            if found is None:
                return None
            self._items.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        """Keep a value; one that is too large for the whole cache is not kept."""
        with self._lock:
            old = self._items.pop(key, None)
            self._bytes -= old[1] if old else 0
            if size_bytes > self._bytes_max:
                return
            self._items[key] = value, size_bytes
            self._bytes += size_bytes
            while self._bytes > self._bytes_max:
                self._bytes -= self._items.popitem(last=False)[1][1]

    def pop(self, key: Key) -> Value | None:
        """Take a value out."""
        with self._lock:
            found = self._items.pop(key, None)
            if found is None:
                return None
            self._bytes -= found[1]
            return found[0]
