"""The clock that leases are measured on: it never goes back, and it counts the time that a host sleeps."""

from __future__ import annotations

import sys
import time

if sys.platform == "linux":

    def lease_clock_ns() -> int:
        """Nanoseconds since boot, suspend included (CLOCK_BOOTTIME)."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

elif sys.platform == "darwin":
    # On macOS CLOCK_MONOTONIC is mach_continuous_time, which counts sleep.
    def lease_clock_ns() -> int:
        """Nanoseconds since boot, sleep included."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)

else:
    import ctypes

    def lease_clock_ns() -> int:
        """Nanoseconds since boot, sleep included (GetTickCount64: 10-16 ms fine)."""
        tick = ctypes.windll.kernel32.GetTickCount64
        tick.restype = ctypes.c_ulonglong
        return int(tick()) * 1_000_000
