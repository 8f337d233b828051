"""Pooled buffers of one size with a hard cap: the bounded memory of the data path.

A fresh `bytearray` of 8 MiB is zero-filled and page-faulted each time; a reused one is neither. The last
buffer given back is the first one taken again, since its pages are the warmest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from staddle.errors import Cancelled, Unavailable

BATCH_BYTES = 8 * 1024 * 1024
"""Size of the buffers in which a stream's records are collected and cut."""


class BufferPool:
    """At most `count_max` buffers of `size_bytes` each; made when first needed, kept until `close`."""

    def __init__(self, size_bytes: int, count_max: int) -> None:
        """Args: size_bytes: of each buffer. count_max: the hard cap on buffers that exist at once."""
        if size_bytes < 1 or count_max < 1:
            raise ValueError(f"a pool of {count_max} buffers of {size_bytes} bytes is no pool")
        self.size_bytes = size_bytes
        self.count_max = count_max
        self._changed = threading.Condition()
        self._free: list[bytearray] = []
        self._out: dict[int, bytearray] = {}
        self._closed = False
        self.in_use_max = 0

    @property
    def in_use(self) -> int:
        """Buffers that are out now."""
        return len(self._out)

    def acquire(self, timeout_s: float, stop: Callable[[], bool] = lambda: False) -> bytearray:
        """A buffer with undefined content; waits while all are out.

        Args:
            timeout_s: longest wait.
            stop: ends the wait early when it turns true and `wake` is called.

        Raises: Unavailable (none was given back in time), Cancelled (stopped, or the pool is closed).
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ready() or stop(), timeout_s):
                raise Unavailable(
                    f"no buffer of {self.size_bytes} bytes became free in {timeout_s:g} s, "
                    f"{self.count_max} are in use",
                    hint="the medium is slower than the stream, or the agent serves too many streams",
                    scope="agent",
                )
            if self._closed:
                raise Cancelled("the buffer pool is closed: the agent is going down", retry="elsewhere")
            if not self._ready():
                raise Cancelled("who waited for a buffer was told to stop", retry="elsewhere")
            buffer = self._free.pop() if self._free else bytearray(self.size_bytes)
            self._out[id(buffer)] = buffer
            self.in_use_max = max(self.in_use_max, len(self._out))
            return buffer

    def release(self, buffer: bytearray) -> None:
        """Give a buffer back; nobody may look at it any more. Raises ValueError if it is not out."""
        with self._changed:
            if self._out.pop(id(buffer), None) is None:
                raise ValueError("this buffer is not out: given back twice, or of another pool")
            if not self._closed:
                self._free.append(buffer)
            self._changed.notify()

    def wake(self) -> None:
        """Let all who wait look at their `stop` again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Free what is idle and wake all who wait (they get Cancelled). Idempotent."""
        with self._changed:
            self._closed = True
            self._free.clear()
            self._changed.notify_all()

    def _ready(self) -> bool:
        return self._closed or bool(self._free) or len(self._out) < self.count_max
