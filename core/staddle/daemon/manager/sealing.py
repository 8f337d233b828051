"""Seals: the last word of a backup on the media, written when all that it names can be read.

A job whose data lie on media that are away waits for them, as long as its pool says; then it is incomplete.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Literal

from staddle.api.types import Kind
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.placing import Placer
from staddle.data.crypto import DomainKeys
from staddle.data.seal import Seal, StreamEnd, encode_seal
from staddle.engine.jobs import decide_sealed, decide_waited, lost_objects, seal_needed
from staddle.engine.marks import decide_marked, decide_resealed, mark_needed, reseal_needed, to_mark
from staddle.engine.messages import FinishJob, JobEnded, SealNeeded, StoredObject
from staddle.engine.tables import JobState
from staddle.errors import Unavailable

log = logging.getLogger(__name__)

SEAL_TRIES = 5
SEAL_PAUSE_S = 1.0
_SEAL_STATES: dict[str, Literal["complete", "warnings", "incomplete"]] = {
    "complete": "complete",
    "warnings": "warnings",
    "incomplete": "incomplete",
}


class Sealer:
    """One task per job, whoever asks for it and how often."""

    def __init__(self, manager: Manager, placer: Placer, domains: dict[str, DomainKeys]) -> None:
        """Args: domains: the keys of every dedup domain, by name."""
        self._manager = manager
        self._placer = placer
        self._domains = domains
        self._running: dict[int, asyncio.Task[JobEnded]] = {}
        self._away_since_ns: dict[int, int] = {}

    def seal(self, number: int) -> asyncio.Task[JobEnded]:
        """Seal a job. The task raises Unavailable if that can't be done now; the job stays as it is."""
        task = self._running.get(number)
        if task is None:
            task = asyncio.create_task(self._seal(number))
            self._running[number] = task
            task.add_done_callback(lambda _: self._running.pop(number, None))
        return task

    async def resume(self) -> None:
        """Jobs that an earlier term has left without their seal, and those that wait for media."""
        for number in list(self._manager.state.active):
            job = self._manager.state.jobs[number]
            if job.state is JobState.SEALING and number not in self._running:
                reply: Any = await self._manager.ask(FinishJob(job=number, session=job.session))
                if isinstance(reply, SealNeeded):
                    # Nobody waits for it here: leases of other jobs run out meanwhile.
                    self.seal(number).add_done_callback(_log_failure)

    async def mark_incomplete(self) -> None:
        """Backups that were given up get their seal; what can't be stored now is tried again."""
        for number in to_mark(self._manager.state):
            stored = await self._put(mark_needed(self._manager.state, number))
            if stored is not None:
                await self._manager.change(decide_marked, number, stored)

    async def reseal(self, item: bytes) -> bool:
        """A new seal in the place of one that has no whole copy. Was it stored."""
        needed = reseal_needed(self._manager.state, item)
        stored = await self._put(needed) if needed is not None else None
        if stored is None:
            return False
        done: bool = await self._manager.change(decide_resealed, item, stored)
        return done

    async def _seal(self, number: int) -> JobEnded:
        for _ in range(SEAL_TRIES):
            away = self._away(number)
            if away and self._is_patient(number):
                await asyncio.sleep(SEAL_PAUSE_S)
                continue
            answer = await (self._give_up(number) if away else self._store(number))
            if isinstance(answer, JobEnded):
                self._away_since_ns.pop(number, None)
                return answer
            if not isinstance(answer, SealNeeded):
                await asyncio.sleep(SEAL_PAUSE_S)
        if away:
            raise Unavailable(
                f"{away} objects of the backup of job {number} lie on media that are away",
                hint="the job ends when they are back, or its pool no longer waits; see `staddle status`",
            )
        raise Unavailable(
            f"the seal of job {number} can't be stored now",
            hint="the manager goes on trying; see `staddle status` for its media",
        )

    def _away(self, number: int) -> int:
        """How many of the backup's objects no medium has that is up."""
        state = self._manager.state
        away = len(lost_objects(state, state.backups[state.jobs[number].backup]))
        if not away:
            self._away_since_ns.pop(number, None)
        return away

    def _is_patient(self, number: int) -> bool:
        """Are media that are offline still waited for. By a clock that does not jump."""
        state = self._manager.state
        wait_s, now_ns = state.pools[state.jobs[number].pool].wait_offline_s, time.monotonic_ns()
        return now_ns - self._away_since_ns.setdefault(number, now_ns) < wait_s * 1_000_000_000

    async def _give_up(self, number: int) -> Any:
        return await self._manager.change(decide_waited, number, time.time_ns())

    async def _store(self, number: int) -> Any:
        """Store the seal that is needed now."""
        state = self._manager.state
        needed = seal_needed(state, state.jobs[number])
        stored = await self._put(needed)
        if stored is None:
            return None
        return await self._manager.change(decide_sealed, number, stored, needed.state, time.time_ns())

    async def _put(self, needed: SealNeeded) -> StoredObject | None:
        """Store the seal on as many media as there are, over several agents if need be."""
        keys = self._domains[needed.domain]
        plain = encode_seal(_seal_of(needed, keys))
        return await self._placer.store(Kind.SEAL, keys, plain, needed.media)


def _log_failure(task: asyncio.Task[JobEnded]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s", error)


def _seal_of(needed: SealNeeded, keys: DomainKeys) -> Seal:
    return Seal(
        grid=keys.grid,
        domain=keys.domain_id,
        backup=needed.backup,
        job=needed.job,
        client=needed.client,
        name=needed.name,
        pool=needed.pool,
        roots=needed.roots,
        started_ns=needed.started_ns,
        finished_ns=needed.finished_ns,
        state=_SEAL_STATES[needed.state],
        files=needed.files,
        dirs=needed.dirs,
        bytes_read=needed.bytes_read,
        bytes_stored=needed.bytes_stored,
        warnings=needed.warnings,
        manager_epoch=needed.manager_epoch,
        streams=[
            StreamEnd(
                stream=end.stream,
                segments=end.segments,
                last_manifest_id=end.last_manifest or None,
                last_manifest_digest=end.last_digest or None,
            )
            for end in needed.streams
        ],
    )
