"""Orphans (S1): objects that nothing committed names are looked for on each medium, in parts, and removed.

Killed agents and cancelled jobs leave them behind. The engine judges the names; a removal stands in the log
before the first delete, so that a manager that was replaced can remove nothing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from staddle.api.types import Kind
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.listing import DOOMED_MAX, NAMES_PER_ROUND, listed
from staddle.daemon.manager.presence import Presence
from staddle.engine.gc import decide_orphans, decide_orphans_removed, orphans
from staddle.engine.ops import Op
from staddle.engine.state import GridState
from staddle.engine.tables import MediumStatus
from staddle.errors import StaddleError
from staddle.wire.ops.data import DELETE_OBJECT, DeleteObject, ScanMedium

log = logging.getLogger(__name__)

AGE_NS = 3600 * 1_000_000_000
"""Younger objects are left alone: far more than a job's lease."""
SKEW_NS = 600 * 1_000_000_000
"""Bound of the difference between the clocks of any two hosts of a grid."""
PAGE_NAMES = 1000
PAGES_PER_STEP = 10
"""Of one medium: looking for orphans must not slow down backups."""
DELETE_BATCH = 256
PAUSE_NS = 6 * 3600 * 1_000_000_000
"""Between the end of one round over a medium and the begin of the next."""
_KINDS = (Kind.CONTAINER, Kind.MANIFEST, Kind.SEAL)
_TIMEOUT_S = 120.0


@dataclass
class _Round:
    """How far the present round over one medium is, what it has met, and what of that it has doomed."""

    kind: int = 0
    after: str = ""
    rest_until_ns: int = 0
    names: int = 0
    doomed: int = 0


class OrphanSweeper:
    """One step at a time, called by the collector's loop."""

    def __init__(
        self,
        manager: Manager,
        adoption: Adoption,
        presence: Presence,
        *,
        age_ns: int = AGE_NS,
        skew_ns: int = SKEW_NS,
        pause_ns: int = PAUSE_NS,
    ) -> None:
        """Args: age_ns, skew_ns: see `engine.gc.orphans`. pause_ns: between two rounds over a medium."""
        self._manager = manager
        self._adoption = adoption
        self._presence = presence
        self._age_ns = age_ns
        self._skew_ns = skew_ns
        self._pause_ns = pause_ns
        self._rounds: dict[str, _Round] = {}

    async def step(self) -> None:
        """Look at some names of each medium that is up, and remove what nobody can commit any more."""
        if self._adoption.rebuild_needed:
            return  # this log does not know what the media hold
        for name, medium in list(self._manager.state.media.items()):
            if medium.state is not MediumStatus.UP:
                continue
            try:
                await self.remove(name)  # also what an earlier term has left
                await self._look(name)
                await self.remove(name)
            except StaddleError as error:
                log.warning("medium %s: orphans are looked for later: %s", name, error)

    async def _look(self, medium: str) -> None:
        here = self._rounds.setdefault(medium, _Round())
        if time.monotonic_ns() < here.rest_until_ns:
            return
        for _ in range(PAGES_PER_STEP):
            request = ScanMedium(
                medium=medium,
                kind=_KINDS[here.kind].value,
                after=here.after,
                limit=PAGE_NAMES,
                names_only=True,
            )
            names = [each.name for each in await listed(self._presence, request, _TIMEOUT_S)]
            await self._manager.change(self._doomed, medium, names)
            here.names += len(names)
            if self._is_endless(medium, here):
                self._rounds[medium] = _Round(rest_until_ns=time.monotonic_ns() + self._pause_ns)
                return
            if len(names) == PAGE_NAMES:
                here.after = names[-1]
                continue
            here.kind, here.after = here.kind + 1, ""
            if here.kind == len(_KINDS):
                self._rounds[medium] = _Round(rest_until_ns=time.monotonic_ns() + self._pause_ns)
                return

    def _is_endless(self, medium: str, here: _Round) -> bool:
        """Are there more names than there can be: a medium that makes them up must not fill the log."""
        # An object has few placements on one medium: mostly one, with a bad one beside it two.
        if here.doomed < DOOMED_MAX and here.names < NAMES_PER_ROUND + 2 * len(self._manager.state.objects):
            return False
        log.error(
            "medium %s lists %d objects, %d of them orphans: the rest is looked at in a later round; "
            "is its listing sound?",
            *(medium, here.names, here.doomed),
        )
        return True

    def _doomed(self, state: GridState, medium: str, names: list[str]) -> list[Op]:
        """Judged on the state as it is when it is logged: nothing can be committed in between."""
        found = orphans(
            state, medium, names, age_ns=self._age_ns, skew_ns=self._skew_ns, wall_ns=time.time_ns()
        )
        if found:
            log.info("medium %s: %d orphans are removed", medium, len(found))
            self._rounds[medium].doomed += len(found)
        return decide_orphans(state, medium, found)

    async def remove(self, medium: str) -> None:
        """Remove what the log has doomed on a medium. Raises StaddleError if it can't be done now."""
        if self._manager.state.media[medium].state is not MediumStatus.UP:
            return
        while names := list(self._manager.state.doomed.get(medium, ()))[:DELETE_BATCH]:
            request = DeleteObject(medium=medium, names=names)
            await self._presence.call(DELETE_OBJECT, request, medium=medium, timeout_s=_TIMEOUT_S)
            await self._manager.change(decide_orphans_removed, medium, names)
