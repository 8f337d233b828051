"""Checks that backups can be restored: every copy of every object is there, or every byte of it is right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from staddle.client.agents import AgentLinks, telling
from staddle.client.connection import GridConnection
from staddle.client.units import Tally
from staddle.errors import StaddleError
from staddle.wire.ops.admin import VERIFY_PLAN, VerifyObject, VerifyObjects, VerifyPlan
from staddle.wire.ops.data import CHECK_OBJECT, CheckObject

IN_FLIGHT = 8
_PLAN_TIMEOUT_S = 120.0
_CHECK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `kind`, `object` and `medium` are empty for what the manager found."""

    backups: list[int]
    kind: str
    object: str
    medium: str
    message: str

    def text(self) -> str:
        """In one line."""
        if not self.object:
            return self.message
        backups = ", ".join(map(str, sorted(self.backups)))
        return f"backup {backups}: {self.kind} {self.object} on {self.medium}: {self.message}"


@dataclass(frozen=True)
class VerifySummary:
    """How the check ended; nothing is wrong if there are no findings. Sizes in bytes, of all copies."""

    backups: list[int]
    objects: int
    copies: int
    bytes_checked: int
    findings: int
    duration_s: float
    unchecked: list[str]


class Verify:
    """One check of some backups (none named: of all).

    Args:
        grid: the connection.
        backups: their numbers.
        read_data: read every byte, instead of only looking whether each copy is there.
        on_finding: called for each thing that is wrong.
        tally: counts copies as files, and their bytes.
        on_total: called with the bytes that there are to check.
    """

    def __init__(
        self,
        grid: GridConnection,
        backups: list[int],
        *,
        read_data: bool,
        tally: Tally,
        on_finding: Callable[[Finding], None],
        on_total: Callable[[int], None],
    ) -> None:
        self._grid = grid
        self._backups = backups
        self._read_data = read_data
        self._tally = tally
        self._on_finding = on_finding
        self._on_total = on_total
        self._findings = 0

    async def run(self) -> VerifySummary:
        """To the end. Raises NotFound for a backup that does not exist."""
        started = time.monotonic()
        plan = await self._grid.manager.call_patiently(
            VERIFY_PLAN,
            VerifyPlan(backups=tuple(self._backups)),
            patience_s=10.0,
            timeout_s=_PLAN_TIMEOUT_S,
        )
        for problem in plan.problems:
            self._found(Finding([], "", "", "", problem))
        self._on_total(sum(each.size_bytes for each in plan.objects))
        links = AgentLinks(self._grid, plan.agents)
        rest = iter(plan.objects)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(IN_FLIGHT):
                    # All take from one iterator, on one loop: each object is checked once.
                    group.create_task(self._worker(links, plan, rest))
        finally:
            await links.close()
        return VerifySummary(
            unchecked=plan.unchecked,
            backups=sorted({number for each in plan.objects for number in each.backups}),
            objects=len({each.id for each in plan.objects}),
            copies=len(plan.objects),
            bytes_checked=self._tally.bytes_read,
            findings=self._findings,
            duration_s=time.monotonic() - started,
        )

    async def _worker(self, links: AgentLinks, plan: VerifyObjects, rest: Iterator[VerifyObject]) -> None:
        for each in rest:
            for problem in await self._check(links, plan, each):
                self._found(Finding(list(each.backups), each.kind, each.id.hex(), each.medium, problem))
            self._tally.add(files=1, read=each.size_bytes)

    async def _check(self, links: AgentLinks, plan: VerifyObjects, each: VerifyObject) -> list[str]:
        """What is wrong with one copy, by the first agent that can tell."""
        errors: list[StaddleError] = []
        reaching = [ref.name for ref in plan.agents if each.medium in plan.reach.get(ref.name, ())]
        for name in links.order(reaching):
            request = CheckObject(object=each, read_data=self._read_data)
            try:
                reply = await links.ask(name, CHECK_OBJECT, request, timeout_s=_CHECK_TIMEOUT_S)
                return CHECK_OBJECT.decode(reply).problems
            except StaddleError as error:
                errors.append(error)
        return [f"not checked: {telling(errors).message}"]

    def _found(self, finding: Finding) -> None:
        self._findings += 1
        self._on_finding(finding)
