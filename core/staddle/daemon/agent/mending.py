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

from staddle.daemon.agent.context import AgentContext
from staddle.dedup.library import Library
from staddle.dedup.publication import Publication
from staddle.errors import StaddleError, Unavailable
from staddle.wire.ops.agents import COMMITTED, Committed, CommittedContainer, CommittedList

log = logging.getLogger(__name__)

BATCH = 128
ASK_TIMEOUT_S = 30.0
AGAIN_S = 60.0
"""Before another try, when one has failed."""
TRIES = 3
"""To read one container's directory: what lies in one that can't be read is stored again when it comes."""


class Mender:
    """One task at a time; its work is done in a thread, which ends soon after `stop`."""

    def __init__(
        self,
        context: AgentContext,
        publication: Callable[[str, CommittedContainer], Publication | None],
    ) -> None:
        """Args: publication: a container's directory, None if it can't be had; raises StaddleError."""
        self._context = context
        self._publication = publication
        self._stopped = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._due_s = 0.0

    def look_at(self, domain: str, library: Library) -> None:
        """Begin to mend the library if it has lost rows, and nothing is being mended now."""
        if self._task is not None and not self._task.done():
            return
        if time.monotonic() < self._due_s or not library.damaged():
            return
        self._task = asyncio.create_task(self._mend(domain, library))

    async def stop(self) -> None:
        """Leave off; what is not mended is looked at again after the next start."""
        self._stopped.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _mend(self, domain: str, library: Library) -> None:
        lost = library.damaged()
        log.warning("fingerprint library of %s: %d of its partitions have lost rows", domain, len(lost))
        source = self._all(domain, library.applied_lsn, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(library.rebuild, lost, source)
        except (StaddleError, OSError, RuntimeError) as error:
            self._due_s = time.monotonic() + AGAIN_S
            if not self._stopped.is_set():
                log.warning("fingerprint library of %s is not mended yet: %s", domain, error)
        except Exception:
            self._due_s = time.monotonic() + AGAIN_S
            log.exception("fingerprint library of %s is not mended", domain)
        else:
            log.info("fingerprint library of %s: its partitions are whole again", domain)

    # --- in the thread --------------------------------------------------------------------------------

    def _all(self, domain: str, upto_lsn: int, loop: asyncio.AbstractEventLoop) -> Iterator[Publication]:
        """All live containers that were committed up to there; what comes after them is published as ever."""
        after = 0
        while after < upto_lsn:
            answer = self._page(domain, after, loop)
            for item in answer.containers:
                if not item.dropped and (publication := self._tried(domain, item)) is not None:
                    yield publication
            if answer.lsn <= after:
                return  # the log is shorter than what was taken in: `Publisher` sees to that
            after = answer.lsn

    def _page(self, domain: str, after: int, loop: asyncio.AbstractEventLoop) -> CommittedList:
        request = Committed(after_lsn=after, domain=domain, limit=BATCH)
        asked = self._context.manager.call(COMMITTED, request, timeout_s=ASK_TIMEOUT_S)
        return asyncio.run_coroutine_threadsafe(asked, loop).result(2 * ASK_TIMEOUT_S)

    def _tried(self, domain: str, item: CommittedContainer) -> Publication | None:
        for _ in range(TRIES):
            if self._stopped.is_set():
                raise Unavailable("the agent ends", scope="agent")
            try:
                return self._publication(domain, item)
            except StaddleError as error:
                problem = error
        log.warning("container %s is left out of the library: %s", item.object.id.hex(), problem)
        return None
