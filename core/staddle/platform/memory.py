"""Freed memory that a process keeps for its next buffers, and gives back."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import threading
import time

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_THRESHOLD_BYTES = 32 << 20
_GROWN_BYTES = 32 << 20
_LOOK_S = 0.5
_THREAD = "memory"


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


def trim_above(limit_bytes: int) -> None:
    """From now on give freed memory back whenever the process has more than this. The first call counts.

    Buffers of megabytes and small things that outlive them lie side by side: what is free between them stays
    the process's, and is too scattered to be used again. After a million files that is half of its memory.
    Only glibc has the call (malloc_trim(3)), and Linux the figure; elsewhere nothing happens.
    """
    if sys.platform != "linux" or any(thread.name == _THREAD for thread in threading.enumerate()):
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return  # another C library
    threading.Thread(target=_watch, args=(trim, limit_bytes), name=_THREAD, daemon=True).start()


def _watch(trim: ctypes._NamedFuncPointer, limit_bytes: int) -> None:
    above_bytes = limit_bytes
    while True:
        time.sleep(_LOOK_S)
        with contextlib.suppress(OSError, MemoryError):  # no descriptor is free just now
            if resident_bytes() > above_bytes:
                trim(0)
                # What is left is in use: to look through it again and again would give nothing.
                above_bytes = max(limit_bytes, resident_bytes() + _GROWN_BYTES)


def resident_bytes() -> int:
    """Memory of this process that is its own, not of files (proc_pid_statm(5)). Linux."""
    with open("/proc/self/statm", "rb") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * mmap.PAGESIZE
