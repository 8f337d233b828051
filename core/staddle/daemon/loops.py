"""The event loop of a daemon: what asyncio itself meets is told in the log, and does not flood it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from staddle.platform import descriptors
from staddle.platform.eventloop import run_loop
from staddle.platform.shortage import is_shortage

T = TypeVar("T")

log = logging.getLogger(__name__)

SAY_EVERY_S = 10.0
SAID_MAX = 100


class Complaints:
    """An exception handler: of a shortage one line now and then, of all else what asyncio says.

    A server that can't accept for want of a descriptor tries it again each second, a hundred times.
    """

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """As `loop.set_exception_handler` wants it."""
        error = context.get("exception")
        if error is None or not is_shortage(error):
            loop.default_exception_handler(context)
            return
        now_s, what = time.monotonic(), str(context.get("message", "event loop")).split("\n", 1)[0]
        if now_s - self._said_s.get(what, -SAY_EVERY_S) >= SAY_EVERY_S:
            if len(self._said_s) >= SAID_MAX:  # one that names an object is another one each time
                self._said_s.clear()
            self._said_s[what] = now_s
            log.error(what, exc_info=error)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a daemon's main coroutine until it ends, with all the descriptors that it may have."""

    async def told() -> T:
        descriptors.raise_limit()
        asyncio.get_running_loop().set_exception_handler(Complaints())
        return await main

    try:
        return run_loop(told())
    finally:
        main.close()  # which has ended, or will never begin
