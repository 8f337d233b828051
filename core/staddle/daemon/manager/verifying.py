"""What `verify` asks: the copies of some backups in pages, and the files that are lost.

Nothing is kept between two pages: a page is the next ids in their order, so that what is stored or deleted
meanwhile shifts nothing, and the work of a page is bounded whatever the size of the grid.
"""

from __future__ import annotations

import asyncio
import bisect
import heapq
from collections import Counter
from collections.abc import Iterator

from staddle.api.types import Kind
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.reads import ReadDesk
from staddle.engine.messages import CopyOf
from staddle.engine.tables import Backup, BackupState, MediumStatus, Object, ObjectState
from staddle.errors import NotFound
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops import admin as wire
from staddle.wire.ops.base import register
from staddle.wire.ops.repair import FILES_LOST, FilePage, FilesLost

PAGE_OBJECTS_MAX = 4096
PAGE_ENTRIES_MAX = 200_000
"""Backups named in one page, all copies together: an old container may be in thousands of backups."""
FILES_PAGE_MAX = 10_000
_ID_BYTES = 16
_ROWS_AT_ONCE = 2000
"""Segments looked at before other work of the manager has its turn."""
_LAST_ID = b"\xff" * _ID_BYTES

_Users = dict[bytes, list[int]]


class VerifyDesk:
    """Answers `staddle verify`; changes nothing."""

    def __init__(self, manager: Manager, catalog: CatalogLink, reads: ReadDesk) -> None:
        self._manager = manager
        self._catalog = catalog
        self._reads = reads

    def install(self, handlers: Handlers) -> None:
        """Add the operations."""
        register(handlers, wire.VERIFY_PLAN, self._plan)
        register(handlers, FILES_LOST, self._files)

    # --- the plan ---------------------------------------------------------------------------------------

    async def _plan(self, call: Call) -> wire.VerifyObjects:
        args: wire.VerifyPlan = call.args
        backups = self._chosen(list(args.backups))
        if not args.limit:
            return await self._whole(backups)
        limit = max(1, min(args.limit, PAGE_OBJECTS_MAX))
        objects, following = await self._page(backups, args.after, limit)
        first = not args.after
        return self._answer(
            objects,
            next=following,
            total_bytes=self._total_bytes(backups, everything=not args.backups) if first else 0,
            media=sorted(self._up()) if first else [],
        )

    def _answer(
        self,
        objects: list[wire.VerifyObject],
        *,
        problems: list[str] | None = None,
        unchecked: list[str] | None = None,
        next: bytes = b"",  # noqa: A002 - the field's name on the wire
        total_bytes: int = 0,
        media: list[str] | None = None,
    ) -> wire.VerifyObjects:
        settings = self._manager.settings
        return wire.VerifyObjects(
            objects=objects,
            problems=problems or [],
            unchecked=unchecked or [],
            agents=self._reads.agents(),
            reach={name: list(settings.media_of(name)) for name in settings.agent},
            next=next,
            total_bytes=total_bytes,
            media=media or [],
        )

    async def _page(
        self, backups: list[Backup], after: bytes, limit: int
    ) -> tuple[list[wire.VerifyObject], bytes]:
        """The copies of the next objects, and where the page after it begins; empty at the end."""
        known = self._manager.state.objects
        ids = heapq.nsmallest(limit, (item for item in known if item > after))
        upto = ids[-1] if len(ids) == limit else _LAST_ID
        users = await _users_between(backups, after, upto)
        found: list[wire.VerifyObject] = []
        entries = 0
        for item_id in sorted(users):
            numbers = users[item_id]
            rows = self._rows(item_id, known.get(item_id), numbers)
            entries += len(rows) * len(numbers)
            if found and entries > PAGE_ENTRIES_MAX:
                return found, found[-1].id
            found += rows
        return found, upto if upto != _LAST_ID else b""

    def _rows(self, item_id: bytes, item: Object | None, numbers: list[int]) -> list[wire.VerifyObject]:
        """All copies of one object; a row of its own says that there is none."""
        media, gone = self._manager.state.media, {MediumStatus.LOST, MediumStatus.RETIRED}
        placed = item.placements() if item else []
        there = [copy for copy in placed if media[copy.medium].state not in gone]
        # Taken out of the configuration with the only copies: they are there, and told of.
        there = there or [copy for copy in placed if media[copy.medium].state is MediumStatus.RETIRED]
        if item is None or not there:
            kind = Kind[item.kind.upper()].value if item is not None else Kind.CONTAINER.value
            return [wire.VerifyObject(kind, item_id, "", "", 0, b"", "", numbers, "none")]
        up = self._up()
        return [
            _row(item, copy, numbers, ("bad" if copy in item.bad else "") if copy.medium in up else "away")
            for copy in there
        ]

    async def _whole(self, backups: list[Backup]) -> wire.VerifyObjects:
        """All pages in one, as clients of the first release want it: the rest of it in words."""
        objects: list[wire.VerifyObject] = []
        problems: list[str] = []
        away: Counter[str] = Counter()
        after = b""
        while True:
            page, after = await self._page(backups, after, PAGE_OBJECTS_MAX)
            by_object: dict[bytes, list[wire.VerifyObject]] = {}
            for row in page:
                by_object.setdefault(row.id, []).append(row)
            for rows in by_object.values():
                objects += [row for row in rows if not row.known]
                away.update(row.medium for row in rows if row.known == "away")
                if problem := _problem(rows):
                    problems.append(problem)
            if not after:
                break
        unchecked = [f"medium {name} is not up: {away[name]} copies on it" for name in sorted(away)]
        return self._answer(objects, problems=problems, unchecked=unchecked)

    def _total_bytes(self, backups: list[Backup], *, everything: bool) -> int:
        known = self._manager.state.objects
        if everything:
            return sum(
                item.size_bytes * len(item.copies)
                for item in known.values()
                if item.state is ObjectState.LIVE
            )
        used = {each for backup in backups for each in _objects_of(backup)}
        return sum(known[each].size_bytes * len(known[each].copies) for each in used if each in known)

    def _up(self) -> set[str]:
        return {name for name, medium in self._manager.state.media.items() if medium.state is MediumStatus.UP}

    def _chosen(self, numbers: list[int]) -> list[Backup]:
        backups = self._manager.state.backups
        if not numbers:
            return [b for b in backups.values() if b.state is not BackupState.PRUNED]
        for number in numbers:
            if number not in backups or backups[number].state is BackupState.PRUNED:
                raise NotFound(f"there is no backup {number}", hint="`staddle ls` shows them")
        return [backups[number] for number in sorted(set(numbers))]

    # --- files --------------------------------------------------------------------------------------------

    async def _files(self, call: Call) -> FilePage:
        args: FilesLost = call.args
        self._chosen([args.backup])
        limit = max(1, min(args.limit, FILES_PAGE_MAX))
        page = await self._catalog.ask(
            "files_lost", backup=args.backup, objects=list(args.objects), after=args.after, limit=limit
        )
        return FilePage(paths=[bytes(path) for path in page["paths"]], next=bytes(page["after"]))


async def _users_between(backups: list[Backup], after: bytes, upto: bytes) -> _Users:
    """Objects with ids in `(after, upto]` that these backups need, and which of them need each."""
    users: _Users = {}
    rows = 0
    for backup in backups:
        number = backup.id
        if backup.seal and after < backup.seal <= upto:
            users.setdefault(backup.seal, []).append(number)
        for row in list(backup.segments):
            rows += 1
            if rows % _ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
            named = [row.manifest] if after < row.manifest <= upto else []
            for item in (*named, *_between(row.refs, after, upto)):
                numbers = users.setdefault(item, [])
                if not numbers or numbers[-1] != number:
                    numbers.append(number)
    return users


def _between(refs: bytes, after: bytes, upto: bytes) -> Iterator[bytes]:
    """Of ascending ids, 16 bytes each, joined, those in `(after, upto]`."""
    if not refs or refs[-_ID_BYTES:] <= after or refs[:_ID_BYTES] > upto:
        return

    def at(index: int) -> bytes:
        return refs[index * _ID_BYTES : (index + 1) * _ID_BYTES]

    count = len(refs) // _ID_BYTES
    index = bisect.bisect_right(range(count), after, key=at)
    while index < count and (item := at(index)) <= upto:
        yield item
        index += 1


def _objects_of(backup: Backup) -> Iterator[bytes]:
    for row in backup.segments:
        yield row.manifest
        yield from row.ref_ids()
    if backup.seal:
        yield backup.seal


def _row(item: Object, copy: CopyOf, numbers: list[int], known: str) -> wire.VerifyObject:
    return wire.VerifyObject(
        Kind[item.kind.upper()].value,
        item.id,
        copy.medium,
        copy.name,
        item.size_bytes,
        item.digest,
        item.domain,
        numbers,
        known,
    )


def _problem(rows: list[wire.VerifyObject]) -> str:
    """What is wrong with an object that no copy of can be checked; else empty."""
    if any(not row.known for row in rows):
        return ""
    first = rows[0]
    backups = ", ".join(map(str, first.backups))
    what = f"{Kind(first.kind).name.lower()} {first.id.hex()} of backups {backups}"
    if any(row.known == "away" for row in rows):
        where = ", ".join(row.medium for row in rows if row.known == "away")
        return f"{what}: no medium is up ({where})"
    return f"{what} has {'only damaged copies' if first.known == 'bad' else 'no copy'}"
