"""Keeps the fingerprint libraries in step with the manager's log: only committed chunks get in (S2)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.locator import Locator
from staddle.daemon.agent.mending import Mender, bad_for_good
from staddle.dedup.library import Library
from staddle.dedup.publication import Publication
from staddle.errors import StaddleError
from staddle.wire.ops.agents import COMMITTED, Committed, CommittedContainer

log = logging.getLogger(__name__)

BUSY_S = 0.5
IDLE_S = 2.0
BATCH = 128
ROUNDS_MAX = 64
"""Batches of one catching up before the others have their turn."""
AGAIN_MIN_S = 2.0
AGAIN_MAX_S = 60.0
"""Between two openings of a library whose disk refuses: each reads all of its log."""
DIRECTORY_TRIES = 3
TRIES_KEPT = 10_000


class Publisher:
    """A task on the loop; all work is done in threads."""

    def __init__(self, context: AgentContext, locator: Locator, busy: Callable[[], bool]) -> None:
        """Args: busy: are streams served now."""
        self._context = context
        self._locator = locator
        self._busy = busy
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._tries: OrderedDict[bytes, int] = OrderedDict()
        self._said: dict[str, str] = {}
        self._due: dict[str, tuple[float, float]] = {}
        self._mender = Mender(context, self._publication)

    def wake(self) -> None:
        """Something was committed."""
        self._wake.set()

    async def catch_up(self, timeout_s: float) -> None:
        """Wait, for a while, until what was committed before this call is known; by other agents, too."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await done

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BUSY_S if self._busy() else IDLE_S):
                    await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            for domain, library in list(self._context.libraries.items()):
                try:
                    if library.refused and not await self._open_again(domain, library):
                        continue
                    await self._catch_up(domain, library)
                    self._mender.look_at(domain, library)
                except (StaddleError, OSError, RuntimeError) as error:
                    # A cache that lags costs space, which is found again later; no backup fails for it.
                    self._complain(domain, str(error))
                except Exception:
                    log.exception("fingerprint library of %s: it is not up to date", domain)
                else:
                    self._due.pop(domain, None)
                    if self._said.pop(domain, None):
                        log.info("fingerprint library of %s: it is up to date again", domain)
            for done in waiting:
                if not done.done():
                    done.set_result(None)

    def stop(self) -> None:
        """End soon what `run` has set off. After it was cancelled."""
        self._mender.stop()

    async def ended(self, timeout_s: float) -> None:
        """Wait for that, for so long at most."""
        await self._mender.ended(timeout_s)

    async def _open_again(self, domain: str, library: Library) -> bool:
        """A disk that was full or broken may be well again. False: it is too soon to look."""
        now_s = time.monotonic()
        due_s, pause_s = self._due.get(domain, (now_s, AGAIN_MIN_S))
        if now_s < due_s:
            return False
        self._due[domain] = now_s + pause_s, min(2 * pause_s, AGAIN_MAX_S)
        await asyncio.to_thread(library.reopen)
        return True

    def _complain(self, domain: str, message: str) -> None:
        """Once: what does not mend itself would be said again every few seconds."""
        if self._said.get(domain) != message:
            self._said[domain] = message
            log.warning("fingerprint library of %s: %s", domain, message)

    async def _catch_up(self, domain: str, library: Library) -> None:
        for _ in range(ROUNDS_MAX):
            after = library.applied_lsn
            request = Committed(after_lsn=after, domain=domain, limit=BATCH)
            answer = await self._context.manager.call(COMMITTED, request, timeout_s=10.0)
            if answer.lsn < after:
                log.warning("the manager's log is at %d, the library of %s at %d", answer.lsn, domain, after)
                await asyncio.to_thread(library.clear)
                continue
            if answer.lsn == after:
                return
            await asyncio.to_thread(self._take, domain, library, answer.containers, answer.lsn)
            if len(answer.containers) < BATCH:
                return

    def _take(
        self, domain: str, library: Library, containers: list[CommittedContainer], upto_lsn: int
    ) -> None:
        """Publish and withdraw in the order of the log."""
        for lsn, group in itertools.groupby(containers, lambda item: item.lsn):
            items = list(group)
            fresh = [item for item in items if not item.dropped]
            publications = [self._publication(domain, item) for item in fresh]
            gone = [item.object.id for item in items if item.dropped]
            if gone:
                library.remove_containers(gone, lsn=0 if publications else lsn)
            library.publish_many([each for each in publications if each is not None], upto_lsn=lsn)
        library.publish_many([], upto_lsn=upto_lsn)

    def _publication(self, domain: str, item: CommittedContainer) -> Publication | None:
        """A container's directory: as this agent wrote it, or read. None if it can't be had for good.

        Raises: StaddleError while it is worth another try; for a medium that is away that is always so.
        """
        container_id = item.object.id
        written = self._context.written.get(container_id)
        if written is None:
            keys = self._context.keys(domain)
            if all(medium not in self._context.media.names for medium, _ in item.object.copies):
                log.debug("container %s is left out of the library: it lies elsewhere", container_id.hex())
                return None
            try:
                directory = self._locator.directory(item.object, keys)
            except StaddleError as error:
                if not bad_for_good(error) or self._again(container_id):
                    raise
                log.warning("container %s is left out of the library: %s", container_id.hex(), error)
                return None
            written = directory.fingerprints, directory.raw_lengths
        return Publication(item.lsn, container_id, *written)

    def _again(self, container_id: bytes) -> bool:
        tries = self._tries.pop(container_id, 0) + 1
        if tries >= DIRECTORY_TRIES:
            return False
        self._tries[container_id] = tries
        while len(self._tries) > TRIES_KEPT:
            self._tries.popitem(last=False)
        return True
