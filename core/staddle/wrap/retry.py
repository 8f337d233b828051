"""Retry: again, at once and on the same path, what its error says may be tried again now.

Only `error.retry == "now"` is repeated; every other word is the failover engine's. All calls of the contract
may be repeated: a put takes the same bytes under the same name (M4), the others change nothing twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from staddle.errors import StaddleError
from staddle.wrap.layers import Call

T = TypeVar("T")

ATTEMPTS_MAX = 4
FIRST_PAUSE_S = 0.05
PAUSE_MAX_S = 1.0


class RetryLayer:
    """Repeats a call a few times, with growing, jittered pauses, within its deadline."""

    def __init__(
        self,
        *,
        attempts_max: int = ATTEMPTS_MAX,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Clock and chance are passed in, for tests and simulation.

        Args:
            attempts_max: of one call, the first included.
            sleep: waits for seconds.
            jitter: a number in [0, 1).
        """
        self._attempts_max = attempts_max
        self._sleep = sleep
        self._jitter = jitter

    def around(self, call: Call, make: Callable[[], T]) -> T:
        """Make the call until it succeeds, can't be retried, or there is no more time or patience."""
        for attempt in range(1, self._attempts_max):
            try:
                return make()
            except StaddleError as error:
                if error.retry != "now":
                    raise
                # Half fixed, half random, so that many writers don't come back together.
                pause_s = min(PAUSE_MAX_S, FIRST_PAUSE_S * 2 ** (attempt - 1)) * (0.5 + self._jitter() / 2)
                if pause_s >= call.deadline.left_s():
                    raise
                self._sleep(pause_s)
        return make()

    def close(self) -> None:
        """Nothing is held."""
