"""What the manager knows of agents, paths and job leases just now. None of it is in the log.

A new manager starts with a clean page: every agent is given the benefit of the doubt until it was silent for
the limit, and every active job a whole lease.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from staddle.api.types import MediumState
from staddle.engine.messages import Exclude, Path


class HealthLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Patience of a manager. The back-off doubles with each failure in a row, up to its maximum."""

    agent_silence_ns: int = 15_000_000_000
    backoff_ns: int = 2_000_000_000
    backoff_max_ns: int = 60_000_000_000
    job_lease_ns: int = 120_000_000_000


class Suspicion(msgspec.Struct):
    """A path or agent that has failed somebody: avoided until `until_ns`, if anything else is left."""

    until_ns: int
    failures: int


class Health:
    """Volatile state of paths, on the manager's monotonic clock."""

    def __init__(self, limits: HealthLimits, now_ns: int) -> None:
        self.limits = limits
        self._started_ns = now_ns
        self._seen: dict[str, int] = {}
        self._gone: set[str] = set()
        self._reported: dict[Path, MediumState] = {}
        self._low: set[Path] = set()
        self._suspect: dict[Exclude, Suspicion] = {}
        self._leases: dict[int, int] = {}
        self._blamed: dict[tuple[int, int], int] = {}  # stream -> epoch of its last reported failure

    # --- agents and their paths -----------------------------------------------------------------

    def agent_seen(
        self,
        agent: str,
        now_ns: int,
        media: dict[str, MediumState] | None = None,
        low: Iterable[str] = (),
    ) -> None:
        """A heartbeat: the agent lives, and says how its media are, and which of them are nearly full."""
        self._seen[agent] = now_ns
        self._gone.discard(agent)
        low = set(low)
        for medium, state in (media or {}).items():
            self._reported[Path(agent, medium)] = state
            (self._low.add if medium in low else self._low.discard)(Path(agent, medium))

    def agent_gone(self, agent: str) -> None:
        """Its control link broke."""
        self._gone.add(agent)

    def failed(self, job: int, stream: int, epoch: int, excludes: Iterable[Exclude], now_ns: int) -> None:
        """A client reports what its stream must avoid; said again for the same epoch it counts once.

        A client that waits repeats its request, and must not prolong by that what it waits for.
        """
        if self._blamed.get((job, stream), -1) >= epoch:
            return
        self._blamed[job, stream] = epoch
        for exclude in excludes:
            known = self._suspect.get(exclude)
            failures = known.failures + 1 if known else 1
            pause = min(self.limits.backoff_ns << min(failures - 1, 16), self.limits.backoff_max_ns)
            self._suspect[exclude] = Suspicion(now_ns + pause, failures)

    def worked(self, agent: str, media: Iterable[str]) -> None:
        """A COMMIT came over these paths: forget what was held against them."""
        self._suspect.pop(Exclude(agent=agent), None)
        for medium in media:
            self._suspect.pop(Exclude(medium=medium), None)
            self._suspect.pop(Exclude(agent=agent, medium=medium), None)

    def agent_alive(self, agent: str, now_ns: int) -> bool:
        """Was it heard of within the limit?"""
        seen = self._seen.get(agent, self._started_ns)
        return agent not in self._gone and now_ns - seen < self.limits.agent_silence_ns

    def path_state(self, path: Path, now_ns: int) -> MediumState:
        """The state of a data path, as far as it is known."""
        if not self.agent_alive(path.agent, now_ns):
            return MediumState.OFFLINE
        reported = self._reported.get(path, MediumState.UP)
        if reported is MediumState.UP and self.suspect_until_ns(path) > now_ns:
            return MediumState.SUSPECT
        return reported

    def low(self, path: Path) -> bool:
        """Has the medium said that it is nearly full (M9)."""
        return path in self._low

    def suspect_until_ns(self, path: Path) -> int:
        """Until when the path is avoided; 0 = not at all."""
        keys = (
            Exclude(agent=path.agent),
            Exclude(medium=path.medium),
            Exclude(agent=path.agent, medium=path.medium),
        )
        return max((self._suspect[key].until_ns for key in keys if key in self._suspect), default=0)

    # --- job leases (S3) ------------------------------------------------------------------------

    def renew(self, job: int, now_ns: int) -> None:
        """The client of a job lives."""
        self._leases[job] = now_ns + self.limits.job_lease_ns

    def expired(self, active: Iterable[int], now_ns: int) -> list[int]:
        """Which of the active jobs have outlived their lease."""
        active = set(active)
        for job in set(self._leases) - active:
            del self._leases[job]
        for key in [key for key in self._blamed if key[0] not in active]:
            del self._blamed[key]
        first = self._started_ns + self.limits.job_lease_ns
        return sorted(job for job in active if self._leases.get(job, first) <= now_ns)
