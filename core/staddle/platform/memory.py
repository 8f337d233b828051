"""Freed memory that a process keeps for its next buffers."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_THRESHOLD_BYTES = 32 << 20


def keep_freed(n_bytes: int) -> None:
    """Keep up to `n_bytes` of freed memory instead of giving it back at once. Call it before threads start.

    A process that moves data frees and takes buffers of megabytes all the time. Where the C library gives
    each back to the system, the next one costs a page fault and a zeroed page for every 4 KiB: half of a
    restore's time. This changes no peak. Only glibc has the call (mallopt(3)); elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    # One arena: what one thread frees serves all others.
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, n_bytes)
