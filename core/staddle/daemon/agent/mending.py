"""A fingerprint library that has lost rows gets them again, from the directories of all committed containers.

It costs a read of every container's directory, so one library at a time, beside everything else; streams
go on with what the library still knows, and store what it has forgotten again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait

from staddle.daemon.agent.context import AgentContext
from staddle.dedup.library import Library
from staddle.dedup.publication import Publication
from staddle.errors import Denied, NewerFormat, StaddleError, Unavailable
from staddle.wire.ops.agents import COMMITTED, Committed, CommittedContainer, CommittedList

log = logging.getLogger(__name__)

BATCH = 128
ASK_TIMEOUT_S = 30.0
AGAIN_S = 60.0
AGAIN_MAX_S = 1800.0
"""Before another try, when one has failed; longer each time, since each begins with the first container."""
LOOK_S = 0.2
"""Between two looks whether the agent ends, while the manager is waited for."""


def bad_for_good(error: StaddleError) -> bool:
    """Whether the object itself can't be read, and neither what it lies on nor this host is at fault."""
    # A medium may be denied, too; a key that is not held, or a format that is not known, is the object's.
    unreadable = isinstance(error, Denied | NewerFormat) and error.scope in {"op", "volume"}
    return error.scope == "object" or unreadable


class Mender:
    """One task at a time; its work is done in a thread, which ends soon after `stop`."""

    def __init__(
        self,
        context: AgentContext,
        publication: Callable[[str, CommittedContainer], Publication | None],
    ) -> None:
        """Args: publication: a container's rows, None after some tries of a bad one; raises StaddleError."""
        self._context = context
        self._publication = publication
        self._stopped = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._due_s = 0.0
        self._pause_s = AGAIN_S

    def look_at(self, domain: str, library: Library) -> None:
        """Begin to mend the library if it has lost rows, and nothing is being mended now."""
        if self._task is not None and not self._task.done():
            return
        if time.monotonic() < self._due_s or not library.damaged():
            return
        self._task = asyncio.create_task(self._mend(domain, library))

    def stop(self) -> None:
        """Leave off soon; what is not mended is looked at again after the next start."""
        self._stopped.set()

    async def ended(self, timeout_s: float) -> None:
        """Wait, after `stop`, until its thread is done: for so long at most."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_s)

    async def _mend(self, domain: str, library: Library) -> None:
        lost = library.damaged()
        log.warning("fingerprint library of %s: %d of its partitions have lost rows", domain, len(lost))
        source = self._all(domain, library.applied_lsn, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(library.rebuild, lost, source)
        except (StaddleError, OSError, RuntimeError) as error:
            self._put_off()
            if not self._stopped.is_set():
                log.warning("fingerprint library of %s is not mended yet: %s", domain, error)
        except Exception:
            self._put_off()
            log.exception("fingerprint library of %s is not mended", domain)
        else:
            self._pause_s = AGAIN_S
            log.info("fingerprint library of %s: its partitions are whole again", domain)

    def _put_off(self) -> None:
        self._due_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, AGAIN_MAX_S)

    # --- in the thread --------------------------------------------------------------------------------

    def _all(self, domain: str, upto_lsn: int, loop: asyncio.AbstractEventLoop) -> Iterator[Publication]:
        """All live containers that were committed up to there; what comes after them is published as ever."""
        after = 0
        while after < upto_lsn:
            answer = self._page(domain, after, loop)
            for item in answer.containers:
                if not item.dropped and (publication := self._readable(domain, item)) is not None:
                    yield publication
            if answer.lsn <= after:
                return  # the log is shorter than what was taken in: `Publisher` sees to that
            after = answer.lsn

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise Unavailable("the agent ends", scope="agent")

    def _page(self, domain: str, after: int, loop: asyncio.AbstractEventLoop) -> CommittedList:
        self._go_on()
        request = Committed(after_lsn=after, domain=domain, limit=BATCH)
        asked = self._context.manager.call(COMMITTED, request, timeout_s=ASK_TIMEOUT_S)
        answer = asyncio.run_coroutine_threadsafe(asked, loop)
        limit_s = time.monotonic() + 2 * ASK_TIMEOUT_S
        try:
            while not wait({answer}, LOOK_S).done:
                self._go_on()
                if time.monotonic() > limit_s:
                    raise Unavailable("the manager does not answer")
        finally:
            answer.cancel()
        return answer.result()

    def _readable(self, domain: str, item: CommittedContainer) -> Publication | None:
        """Its rows; None if nothing else will ever be said of it. Raises what may be otherwise next time."""
        while True:
            self._go_on()
            try:
                return self._publication(domain, item)
            except StaddleError as error:
                if not bad_for_good(error):
                    raise
