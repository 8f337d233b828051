"""How long commits take: a histogram for metrics, and one word for people."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from typing import Literal

Band = Literal["good", "acceptable", "degraded"]

BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the histogram's buckets; one more holds what is above."""

GOOD_S = 0.001
ACCEPTABLE_S = 0.005
_RECENT = 256


class CommitLatency:
    """Seconds from `append` to durable. Safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.count = 0
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Take in one commit."""
        with self._lock:
            self.counts[bisect_left(BOUNDS_S, seconds)] += 1
            self.count += 1
            self.sum_s += seconds
            self._recent.append(seconds)

    def quantile_s(self, share: float) -> float:
        """A quantile of the last 256 commits; 0 before the first."""
        with self._lock:
            recent = sorted(self._recent)
        return recent[min(len(recent) - 1, int(share * len(recent)))] if recent else 0.0

    @property
    def band(self) -> Band:
        """Below 1 ms good, below 5 ms acceptable, else degraded; by the median of the last 256."""
        median_s = self.quantile_s(0.5)
        if median_s < GOOD_S:
            return "good"
        return "acceptable" if median_s < ACCEPTABLE_S else "degraded"
