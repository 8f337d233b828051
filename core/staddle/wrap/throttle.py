"""Throttle: a bound on the bytes per second that a medium is asked to take and give."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from staddle.errors import Unavailable
from staddle.wrap.layers import Call

T = TypeVar("T")


class ThrottleLayer:
    """A token bucket that may go into debt: an object larger than the bucket passes, and the next one waits.

    A call that would wait past its deadline is refused at once, having done nothing.
    """

    def __init__(
        self,
        rate_bytes_per_s: int,
        *,
        burst_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """A bucket, full at first.

        Args:
            rate_bytes_per_s: of reads and writes together.
            burst_s: how many seconds' worth of bytes may pass at once after a pause.
            clock: monotonic seconds.
            sleep: waits for seconds.
        """
        self._rate = rate_bytes_per_s
        self._burst_bytes = rate_bytes_per_s * burst_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._tokens = self._burst_bytes
        self._at_s = clock()

    def around(self, call: Call, make: Callable[[], T]) -> T:
        """Wait for the debt of earlier calls, then make this one."""
        size = call.write_bytes + call.read_bytes
        if size:
            wait_s = self._take(size, call.deadline.left_s(), call.medium)
            if wait_s > 0:
                self._sleep(wait_s)
        return make()

    def _take(self, size: int, left_s: float, medium: str) -> float:
        with self._lock:
            now_s = self._clock()
            self._tokens = min(self._burst_bytes, self._tokens + (now_s - self._at_s) * self._rate)
            self._at_s = now_s
            wait_s = max(0.0, -self._tokens / self._rate)
            if wait_s >= left_s:
                raise Unavailable(
                    f"medium {medium} is held to {self._rate} bytes/s: {wait_s:.1f} s to wait is too long",
                    code="THROTTLED",
                    scope="op",
                    hint="raise throttle_bytes_per_s or deadline_s",
                )
            self._tokens -= size
            return wait_s

    def close(self) -> None:
        """Nothing is held."""
