"""Metrics: what a medium was asked, how it answered and how long it took, as plain numbers."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from staddle.errors import StaddleError
from staddle.wrap.layers import Call

T = TypeVar("T")

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the latency histogram; one more bucket holds what took longer."""


class OpMetrics(msgspec.Struct):
    """Numbers of one operation since the start.

    Attributes:
        calls: begun.
        in_flight: begun and not ended.
        errors: ended with an error, by its code.
        write_bytes: of calls that succeeded.
        read_bytes: of calls that succeeded.
        total_s: time in all ended calls.
        buckets: how many ended within each bound of BUCKETS_S, and beyond; not cumulative.
    """

    calls: int = 0
    in_flight: int = 0
    errors: dict[str, int] = {}
    write_bytes: int = 0
    read_bytes: int = 0
    total_s: float = 0.0
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))


class MetricsLayer:
    """Counts calls, bytes, errors and latencies by operation."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Args: clock: monotonic seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._ops: dict[str, OpMetrics] = {}

    def around(self, call: Call, make: Callable[[], T]) -> T:
        """Make the call and note how it went."""
        with self._lock:
            op = self._ops.setdefault(call.op, OpMetrics())
            op.calls += 1
            op.in_flight += 1
        begun_s = self._clock()
        code: str | None = "UNEXPECTED"
        try:
            result = make()
            code = None
        except StaddleError as error:
            code = error.code
            raise
        finally:
            self._note(op, call, code, self._clock() - begun_s)
        return result

    def _note(self, op: OpMetrics, call: Call, code: str | None, took_s: float) -> None:
        with self._lock:
            op.in_flight -= 1
            op.total_s += took_s
            op.buckets[bisect.bisect_left(BUCKETS_S, took_s)] += 1
            if code is None:
                op.write_bytes += call.write_bytes
                op.read_bytes += call.read_bytes
            else:
                op.errors[code] = op.errors.get(code, 0) + 1

    def snapshot(self) -> dict[str, OpMetrics]:
        """A copy of all numbers, by operation."""
        with self._lock:
            return {
                name: msgspec.structs.replace(op, errors=dict(op.errors), buckets=list(op.buckets))
                for name, op in self._ops.items()
            }

    def close(self) -> None:
        """Nothing is held."""
