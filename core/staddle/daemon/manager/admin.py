"""What administrators and the command line ask: state, SQL, checks, deletion."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

from staddle.api.types import Kind
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.gc import Collector
from staddle.daemon.manager.presence import Presence
from staddle.daemon.manager.reads import ReadDesk
from staddle.engine.gc import marked
from staddle.engine.tables import Backup, BackupState, MediumStatus, Object
from staddle.errors import Denied, NotFound
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops import admin as wire
from staddle.wire.ops import reading
from staddle.wire.ops.base import Nothing, register
from staddle.wire.ops.jobs import Rows


class AdminDesk:
    """Answers the command line."""

    def __init__(
        self,
        *,
        manager: Manager,
        adoption: Adoption,
        presence: Presence,
        catalog: CatalogLink,
        reads: ReadDesk,
        collector: Collector,
        stop: asyncio.Event,
    ) -> None:
        self._manager = manager
        self._adoption = adoption
        self._presence = presence
        self._catalog = catalog
        self._reads = reads
        self._collector = collector
        self._stop = stop

    def install(self, handlers: Handlers) -> None:
        """Add the operations."""
        register(handlers, wire.STATUS, self._status)
        register(handlers, wire.STOP, self._on_stop)
        register(handlers, wire.PRUNE, self._prune)
        register(handlers, wire.VERIFY_PLAN, self._verify_plan)
        register(handlers, wire.VERIFY_CATALOG, self._verify_catalog)
        register(handlers, wire.SNAPSHOT_CATALOG, self._snapshot)
        register(handlers, reading.QUERY, self._query)
        register(handlers, reading.LIST_DIRECTORY, self._list_directory)
        register(handlers, reading.FIND, self._find)

    # --- state ------------------------------------------------------------------------------------

    async def _status(self, call: Call) -> wire.GridStatus:
        manager, state = self._manager, self._manager.state
        latency = manager.oplog.latency
        return wire.GridStatus(
            grid=state.grid,
            epoch=state.epoch,
            state="rebuild_needed" if self._adoption.rebuild_needed else "up",
            pids=[os.getpid(), self._catalog.pid],
            url=manager.settings.manager.listen,
            agents=[self._agent(name) for name in manager.settings.agent],
            media=[self._medium(name) for name in manager.settings.medium],
            commit_ms_p50=latency.quantile_s(0.5) * 1000,
            commit_ms_p99=latency.quantile_s(0.99) * 1000,
        )

    def _agent(self, name: str) -> wire.AgentStatus:
        session = self._presence.sessions.get(name)
        known = self._manager.state.agents.get(name)
        return wire.AgentStatus(
            name=name,
            state=self._presence.agent_state(name),
            urls=known.urls if known else [self._manager.settings.agent[name].listen],
            pids=sorted(session.pids.values()) if session else [],
        )

    def _medium(self, name: str) -> wire.MediumStatus:
        settings = self._manager.settings.medium[name]
        known = self._manager.state.media.get(name)
        reports = [s.media[name] for s in self._presence.serving(name) if name in s.media]
        problem = self._adoption.problem(name)
        said = next((report.message for report in reports if report.message), "")
        state = "unknown" if known is None else known.state.value
        if known is not None and known.state is MediumStatus.UP and reports:
            state = reports[0].state
        return wire.MediumStatus(
            name=name,
            plugin=settings.plugin,
            state=state,
            path=self._manager.settings.path_of(name),
            free_bytes=max((report.free_bytes for report in reports), default=0),
            message=problem or said or (known.message if known else "no agent has seen it yet"),
        )

    async def _on_stop(self, call: Call) -> Nothing:
        self._stop.set()
        return Nothing()

    # --- the catalog --------------------------------------------------------------------------------

    async def _query(self, call: Call) -> Rows:
        args: reading.Query = call.args
        found = await self._catalog.ask(
            "query", sql=args.sql, parameters=list(args.parameters), limit=args.limit
        )
        return Rows(found["columns"], found["rows"])

    async def _list_directory(self, call: Call) -> Rows:
        args: reading.ListDirectory = call.args
        known = self._manager.state.backups.get(args.backup)
        if known is not None and known.state is BackupState.PRUNED:
            raise NotFound(f"backup {args.backup} was pruned", hint="`staddle ls` shows those that are left")
        if not self._may_see(call, args.backup):
            raise Denied(f"backup {args.backup} is another client's", retry="never")
        return _entries(await self._catalog.ask("list_directory", backup=args.backup, path=args.path))

    async def _find(self, call: Call) -> Rows:
        args: reading.Find = call.args
        found = await self._catalog.ask(
            "find", pattern=args.pattern, backup=args.backup or None, limit=args.limit
        )
        return _entries([entry for entry in found if self._may_see(call, entry["backup"])])

    def _may_see(self, call: Call, number: int) -> bool:
        """A client sees its own backups only."""
        backup = self._manager.state.backups.get(number)
        return call.peer.role != "client" or (backup is not None and backup.client == call.peer.name)

    async def _verify_catalog(self, call: Call) -> wire.Findings:
        problems = list(await self._catalog.ask("verify"))
        return wire.Findings(problems + self._tier_one_problems())

    def _tier_one_problems(self) -> list[str]:
        """References of the manager's own tables that lead nowhere (C2)."""
        state = self._manager.state
        missing = [item.hex() for item in marked(state) if item not in state.objects]
        return [f"container {item} is referred to, but not known" for item in missing]

    async def _snapshot(self, call: Call) -> Nothing:
        args: wire.SnapshotCatalog = call.args
        await self._catalog.ask("snapshot", path=os.path.abspath(args.path))
        return Nothing()

    # --- backups ------------------------------------------------------------------------------------

    async def _prune(self, call: Call) -> wire.Pruned:
        self._adoption.check_serving()
        args: wire.Prune = call.args
        return await self._collector.prune(list(args.backups), dry_run=args.dry_run)

    async def _verify_plan(self, call: Call) -> wire.VerifyObjects:
        args: wire.VerifyPlan = call.args
        backups = self._chosen(list(args.backups))
        users: dict[bytes, list[int]] = {}
        for backup in backups:
            for used in _objects_of(backup):
                users.setdefault(used, []).append(backup.id)
        problems, objects = [], []
        away: Counter[str] = Counter()
        for item_id, numbers in users.items():
            item = self._manager.state.objects.get(item_id)
            if item is None or not item.copies:
                what = "only damaged copies" if item is not None and item.bad else "no copy"
                problems.append(f"object {item_id.hex()} of backups {_numbers(numbers)} has {what}")
                continue
            if not self._manager.state.available(item):
                where = ", ".join(copy.medium for copy in item.copies)
                problems.append(
                    f"{item.kind} {item_id.hex()} of backups {_numbers(numbers)}: no medium is up ({where})"
                )
            objects += _checks(item, numbers, self._up())
            away.update(copy.medium for copy in item.copies if copy.medium not in self._up())
        return wire.VerifyObjects(
            objects=objects,
            problems=problems,
            unchecked=[f"medium {name} is not up: {away[name]} copies on it" for name in sorted(away)],
            agents=self._reads.agents(),
            reach={
                name: list(self._manager.settings.media_of(name)) for name in self._manager.settings.agent
            },
        )

    def _up(self) -> set[str]:
        return {name for name, medium in self._manager.state.media.items() if medium.state is MediumStatus.UP}

    def _chosen(self, numbers: list[int]) -> list[Backup]:
        backups = self._manager.state.backups
        if not numbers:
            return [b for b in backups.values() if b.state is not BackupState.PRUNED]
        for number in numbers:
            if number not in backups or backups[number].state is BackupState.PRUNED:
                raise NotFound(f"there is no backup {number}", hint="`staddle ls` shows them")
        return [backups[number] for number in numbers]


def _objects_of(backup: Backup) -> set[bytes]:
    found = {item for row in backup.segments for item in (row.manifest, *row.ref_ids())}
    return found | {backup.seal} if backup.seal else found


def _checks(item: Object, numbers: list[int], up: set[str]) -> list[wire.VerifyObject]:
    return [
        wire.VerifyObject(
            Kind[item.kind.upper()].value,
            item.id,
            copy.medium,
            copy.name,
            item.size_bytes,
            item.digest,
            item.domain,
            numbers,
        )
        for copy in item.copies
        if copy.medium in up
    ]


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _entries(found: list[dict[str, Any]]) -> Rows:
    columns = list(found[0]) if found else []
    return Rows(columns, [[entry[name] for name in columns] for entry in found])
