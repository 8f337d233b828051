"""Thread pools that can't be short of a thread later."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

_START_S = 30.0


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads all run already. Raises RuntimeError if the host has not so many.

    An ordinary one starts them with the first submissions; one that fails then leaves its work in the queue,
    done by others or by nobody, and whoever counts what is on its way has counted wrong.

    Args:
        threads: how many, at least 1.
        name: what the threads' names begin with.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    meeting = threading.Barrier(threads)
    try:
        for waiting in [pool.submit(meeting.wait, _START_S) for _ in range(threads)]:
            waiting.result(2 * _START_S)
    except BaseException:
        meeting.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return pool
