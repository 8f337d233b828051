"""Checks that backups can be restored: every copy of every object is there, or every byte of it is right.

The plan comes in pages, so neither side holds more than a page of it; what is kept in memory grows with the
damage, not with the grid.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from staddle.api.types import Kind
from staddle.client.agents import AgentLinks, telling
from staddle.client.connection import GridConnection
from staddle.client.units import Tally
from staddle.errors import StaddleError
from staddle.wire.ops.admin import VERIFY_PLAN, VerifyObject, VerifyObjects, VerifyPlan
from staddle.wire.ops.data import CHECK_OBJECT, CheckObject
from staddle.wire.ops.repair import (
    CHECK_MEDIUM,
    CHECK_TOGETHER,
    REPAIR_OBJECT,
    BadPlacement,
    CheckMedium,
    CheckTogether,
    Repaired,
    RepairObject,
)

IN_FLIGHT = 8
PAGE_OBJECTS = 2048
_PLAN_TIMEOUT_S = 120.0
_CHECK_TIMEOUT_S = 120.0
_REPAIR_TIMEOUT_S = 600.0
_MANAGER_PATIENCE_S = 30.0

LOST, DAMAGED, UNSURE, SPLIT = "lost", "damaged", "unsure", "split"
"""What is to be said of an object: no copy of it is whole; another one is; none could be read now; none is
whole, but each place of it is in one of them."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `kind`, `object` and `medium` are empty where they say nothing.

    `verdict` is of the whole object: LOST, DAMAGED, UNSURE or SPLIT. `repair` says what became of it, if
    that was asked for.
    """

    backups: list[int]
    kind: str
    object: str
    medium: str
    message: str
    name: str = ""
    verdict: str = LOST
    repair: str = ""

    def text(self) -> str:
        """In one line."""
        if not self.object:
            return self.message
        backups = f"backup {_numbers(self.backups)}: " if self.backups else ""
        where = f" on {self.medium}" if self.medium else ""
        what = {
            LOST: "",
            DAMAGED: " (another copy is whole)",
            UNSURE: " (no other copy can be read now)",
            SPLIT: " (what is damaged here is whole in another copy: --repair joins them)",
        }
        repair = f"; {self.repair}" if self.repair else ""
        return f"{backups}{self.kind} {self.object}{where}: {self.message}{what[self.verdict]}{repair}"


@dataclass
class Hit:
    """What one backup has lost or may lose: objects by verdict, and the ids of those that are lost."""

    objects: Counter[str] = field(default_factory=Counter)
    lost: list[bytes] = field(default_factory=list)


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
    objects_lost: int = 0
    objects_unsure: int = 0
    objects_damaged: int = 0
    objects_split: int = 0
    repaired: int = 0


@dataclass
class _Copy:
    """One copy and what was found: `problem` in words, `code` of it; nothing for one that is whole."""

    row: VerifyObject
    problem: str = ""
    code: str = ""

    @property
    def bad(self) -> bool:
        """Is it known that this copy is no good (rather than that it could not be looked at)."""
        return self.code in {"CORRUPT", "NOT_FOUND"}


class Verify:
    """One check of some backups (none named: of all).

    Args:
        grid: the connection.
        backups: their numbers.
        read_data: read every byte, instead of only looking whether each copy is there.
        repair: have bad copies made again.
        on_finding: called for each thing that is wrong.
        tally: counts copies as files, and their bytes.
        on_total: called with the bytes that there are to check.

    Attributes:
        hits: by backup, what it has lost. Grows with the damage.
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
        repair: bool = False,
    ) -> None:
        self._grid = grid
        self._backups = backups
        self._read_data = read_data
        self._repair = repair
        self._tally = tally
        self._on_finding = on_finding
        self._on_total = on_total
        self._findings = 0
        self._objects = 0
        self._copies = 0
        self._verdicts: Counter[str] = Counter()
        self._repaired = 0
        self._seen: set[int] = set()
        self._away: Counter[str] = Counter()
        self._unchecked: list[str] = []
        self.hits: dict[int, Hit] = {}

    async def run(self) -> VerifySummary:
        """To the end. Raises NotFound for a backup that does not exist."""
        started = time.monotonic()
        links = AgentLinks(self._grid)
        after, first = b"", True
        try:
            while first or after:
                plan = await self._page(after)
                links.update(plan.agents)
                if first:
                    self._on_total(plan.total_bytes or sum(each.size_bytes for each in plan.objects))
                    await self._check_media(links, plan)
                await self._check_page(links, plan)
                after, first = plan.next, False
        finally:
            await links.close()
        away = [
            f"medium {name} is not up: {count} copies on it" for name, count in sorted(self._away.items())
        ]
        return VerifySummary(
            unchecked=[*self._unchecked, *away],
            backups=sorted(self._seen),
            objects=self._objects,
            copies=self._copies,
            bytes_checked=self._tally.bytes_read,
            findings=self._findings,
            duration_s=time.monotonic() - started,
            objects_lost=self._verdicts[LOST],
            objects_unsure=self._verdicts[UNSURE],
            objects_damaged=self._verdicts[DAMAGED],
            objects_split=self._verdicts[SPLIT],
            repaired=self._repaired,
        )

    async def _page(self, after: bytes) -> VerifyObjects:
        request = VerifyPlan(backups=tuple(self._backups), after=after, limit=PAGE_OBJECTS)
        return await self._grid.manager.call_patiently(
            VERIFY_PLAN, request, patience_s=_MANAGER_PATIENCE_S, timeout_s=_PLAN_TIMEOUT_S
        )

    async def _check_page(self, links: AgentLinks, plan: VerifyObjects) -> None:
        for problem in plan.problems:
            self._verdicts[UNSURE] += 1
            self._found(Finding([], "", "", "", problem, verdict=UNSURE))
        self._unchecked += plan.unchecked
        groups = (list(rows) for _, rows in itertools.groupby(plan.objects, lambda row: row.id))
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                # All take from one iterator, on one loop: each object is checked once.
                group.create_task(self._worker(links, plan, groups))

    async def _worker(
        self, links: AgentLinks, plan: VerifyObjects, groups: Iterator[list[VerifyObject]]
    ) -> None:
        for rows in groups:
            self._objects += 1
            self._seen.update(rows[0].backups)
            copies = [await self._look(links, plan, row) for row in rows]
            await self._judge(rows[0], copies)

    # --- one object -----------------------------------------------------------------------------------

    async def _look(self, links: AgentLinks, plan: VerifyObjects, row: VerifyObject) -> _Copy:
        if row.known == "none":
            return _Copy(row, "it has no copy", "NOT_FOUND")
        if row.known == "away":
            self._away[row.medium] += 1
            return _Copy(row, "its medium is not up", "UNAVAILABLE")
        found = await self._check(links, plan, row)
        self._copies += 1
        self._tally.add(files=1, read=row.size_bytes)
        if row.known == "bad" and not found.problem and not self._read_data:
            # That it is there was never in doubt.
            return _Copy(row, "a reader has found it damaged", "CORRUPT")
        return found

    async def _check(self, links: AgentLinks, plan: VerifyObjects, row: VerifyObject) -> _Copy:
        """What is wrong with one copy, by the first agent that can tell."""
        errors: list[StaddleError] = []
        reaching = [ref.name for ref in plan.agents if row.medium in plan.reach.get(ref.name, ())]
        for name in links.order(reaching):
            request = CheckObject(object=row, read_data=self._read_data)
            try:
                reply = await links.ask(name, CHECK_OBJECT, request, timeout_s=_CHECK_TIMEOUT_S)
            except StaddleError as error:
                errors.append(error)
                continue
            answer = CHECK_OBJECT.decode(reply)
            # An agent of the first release gives no code: it reports only what is wrong with the copy.
            code = answer.code or ("CORRUPT" if answer.problems else "")
            return _Copy(row, "; ".join(answer.problems), code)
        return _Copy(row, f"not checked: {telling(errors).message}", "UNAVAILABLE")

    async def _judge(self, first: VerifyObject, copies: list[_Copy]) -> None:
        whole = any(not copy.problem for copy in copies)
        wrong = [copy for copy in copies if copy.problem and (copy.row.known != "away" or not whole)]
        healed = [copy for copy in copies if copy.row.known == "bad" and not copy.problem]
        if not wrong and not healed:
            return
        verdict = DAMAGED if whole else LOST if all(copy.bad for copy in copies) else UNSURE
        if not whole and await self._whole_together(first.id, copies):
            verdict = SPLIT
        repair = ""
        if self._repair and (healed or any(copy.bad for copy in copies)):
            repair = await self._mend(first.id, [copy for copy in copies if copy.bad and copy.row.name])
        if wrong:
            self._verdicts[verdict] += 1
            for number in first.backups:
                hit = self.hits.setdefault(number, Hit())
                hit.objects[verdict] += 1
                if verdict == LOST:
                    hit.lost.append(first.id)
        for copy in wrong:
            self._found(_finding(copy, verdict, repair))

    async def _whole_together(self, item: bytes, copies: list[_Copy]) -> bool:
        """Can damaged copies be joined to a whole one. Only known once all of them were read."""
        damaged = [copy for copy in copies if copy.code == "CORRUPT" and copy.row.name]
        if len(damaged) < 2 or not self._read_data:
            return False
        request = CheckTogether(id=item, bad=_placements(damaged))
        try:
            answer = await self._grid.manager.call_patiently(
                CHECK_TOGETHER, request, patience_s=_MANAGER_PATIENCE_S, timeout_s=_REPAIR_TIMEOUT_S
            )
        except StaddleError:  # also a manager of an earlier release
            return False
        return answer.whole

    async def _mend(self, item: bytes, bad: list[_Copy]) -> str:
        """Have one object repaired now; what became of it, in words."""
        return await self._ask_repair(item, _placements(bad))

    async def _ask_repair(self, item: bytes, placements: list[BadPlacement]) -> str:
        try:
            done = await self._grid.manager.call_patiently(
                REPAIR_OBJECT,
                RepairObject(id=item, bad=placements),
                patience_s=_MANAGER_PATIENCE_S,
                timeout_s=_REPAIR_TIMEOUT_S,
            )
        except StaddleError as error:
            done = Repaired(state="waiting", message=error.message)
        if done.state == "whole":
            self._repaired += 1
        words = {"whole": "repaired", "lost": "not repaired", "gone": "not needed any more"}
        said = words.get(done.state, "not repaired yet")
        return f"{said}: {done.message}" if done.message and done.state != "whole" else said

    # --- what lies beside the objects -------------------------------------------------------------------

    async def _check_media(self, links: AgentLinks, plan: VerifyObjects) -> None:
        """Label and keyring of each medium that is up, by the first agent that can tell."""
        for medium in plan.media:
            errors: list[StaddleError] = []
            reaching = [ref.name for ref in plan.agents if medium in plan.reach.get(ref.name, ())]
            for agent in links.order(reaching):
                try:
                    reply = await links.ask(
                        agent, CHECK_MEDIUM, CheckMedium(medium=medium), timeout_s=_CHECK_TIMEOUT_S
                    )
                except StaddleError as error:
                    errors.append(error)
                    continue
                for problem in CHECK_MEDIUM.decode(reply).problems:
                    await self._medium_problem(medium, problem.name, problem.code, problem.message)
                break
            else:
                self._unchecked.append(f"label and keyring of medium {medium}: {telling(errors).message}")

    async def _medium_problem(self, medium: str, name: str, code: str, message: str) -> None:
        kind = "keyring" if name else "label"
        repair = ""
        if self._repair and name:
            grid = self._grid.settings.grid
            repair = await self._ask_repair(grid, [BadPlacement(medium, name, code)])
        self._verdicts[DAMAGED] += 1  # the grid has its keys and knows its volumes without them
        text = f"medium {medium}: its {kind} {name}".rstrip() + f": {code}: {message}"
        self._found(
            Finding([], kind, "", medium, text + (f"; {repair}" if repair else ""), name, DAMAGED, repair)
        )

    def _found(self, finding: Finding) -> None:
        self._findings += 1
        self._on_finding(finding)


def _placements(copies: list[_Copy]) -> list[BadPlacement]:
    return [BadPlacement(copy.row.medium, copy.row.name, copy.code) for copy in copies]


def _finding(copy: _Copy, verdict: str, repair: str) -> Finding:
    row = copy.row
    message = copy.problem.removeprefix(f"{row.name} on medium {row.medium!r}: ")
    return Finding(
        list(row.backups), kind_word(row.kind), row.id.hex(), row.medium, message, row.name, verdict, repair
    )


def kind_word(kind: str) -> str:
    """`container` for the `c0` of names on media."""
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return kind


def _numbers(backups: list[int]) -> str:
    return ", ".join(map(str, sorted(backups)))
