"""What administrators and the command line ask: state, SQL, checks, deletion."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import Any

from staddle.daemon.manager.adoption import Adoption, unread_media
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.gc import Collector
from staddle.daemon.manager.labels import LabelDesk
from staddle.daemon.manager.presence import Presence
from staddle.engine.gc import marked
from staddle.engine.repair import left_on, lost_for_good, stranded
from staddle.engine.tables import BackupState, MediumStatus, ObjectState
from staddle.errors import Denied, Locked, NotFound, Unavailable
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops import admin as wire
from staddle.wire.ops import reading
from staddle.wire.ops.base import Nothing, register
from staddle.wire.ops.jobs import Rows

ASKS_MAX = 4
"""Questions to the catalog that one client may have under way."""
ROWS_MAX = 50_000
"""Of one answer: it stands in memory several times on its way."""
STRANDED_EVERY_S = 1e-4
"""For each object of the grid: so long after a look at all of them there is none."""


class AdminDesk:
    """Answers the command line."""

    def __init__(
        self,
        *,
        manager: Manager,
        adoption: Adoption,
        presence: Presence,
        labels: LabelDesk,
        catalog: CatalogLink,
        collector: Collector,
        stop: asyncio.Event,
    ) -> None:
        self._manager = manager
        self._adoption = adoption
        self._presence = presence
        self._labels = labels
        self._catalog = catalog
        self._collector = collector
        self._stop = stop
        self._asking: Counter[str] = Counter()
        self._stranded: Counter[str] = Counter()
        self._stranded_due_s = 0.0

    def install(self, handlers: Handlers) -> None:
        """Add the operations."""
        register(handlers, wire.STATUS, self._status)
        register(handlers, wire.STOP, self._on_stop)
        register(handlers, wire.PRUNE, self._prune)
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
            media=[self._medium(name) for name in manager.settings.medium] + self._not_configured(),
            commit_ms_p50=latency.quantile_s(0.5) * 1000,
            commit_ms_p99=latency.quantile_s(0.99) * 1000,
            damaged=sum(state.objects[item].state is ObjectState.LIVE for item in state.damaged),
            lost=len(lost_for_good(state)),
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
        problem = self._labels.said(name) or self._adoption.problem(name)
        said = next((report.message for report in reports if report.message), "")
        state = "unknown" if known is None else known.state.value
        if known is not None and known.state is MediumStatus.UP:
            state = reports[0].state if reports else MediumStatus.OFFLINE.value
            why = problem or said or ("" if reports else "no agent that reaches it is up")
        else:
            why = problem or said or (known.message if known else "no agent has seen it yet")
        return wire.MediumStatus(
            name=name,
            plugin=settings.plugin,
            state=state,
            path=self._manager.settings.path_of(name),
            free_bytes=max((report.free_bytes for report in reports), default=0),
            message="; ".join(filter(None, (why, self._to_be_done(name)))),
            bad_copies=sum(
                copy.medium == name
                for item in self._manager.state.damaged
                for copy in self._manager.state.objects[item].bad
            ),
        )

    def _not_configured(self) -> list[wire.MediumStatus]:
        """Media that were taken out of the configuration too early: without them something can't be read."""
        state, media, now_s = self._manager.state, self._manager.state.media, time.monotonic()
        if now_s >= self._stranded_due_s:  # all objects are looked at: the more there are, the more seldom
            self._stranded = stranded(state)
            self._stranded_due_s = now_s + len(state.objects) * STRANDED_EVERY_S
        return [
            wire.MediumStatus(
                name=name,
                plugin=media[name].plugin,
                state=MediumStatus.RETIRED.value,
                path="",
                free_bytes=0,
                message=f"it is not in the configuration, but {count} objects are on no other medium: "
                f"put its table [medium.{name}] back",
            )
            for name, count in sorted(self._stranded.items())
            if name not in self._manager.settings.medium
        ]

    def _to_be_done(self, medium: str) -> str:
        """What an administrator should know of a medium that is well."""
        state = self._manager.state
        up = medium in state.media and state.media[medium].state is MediumStatus.UP
        if up and medium in unread_media(self._manager):
            return "it holds what the log does not know: `staddle catalog rebuild` reads it in"
        if medium not in state.media or any(medium in pool.media for pool in state.pools.values()):
            return ""
        if left := left_on(state, medium):
            return f"it is in no pool: {left} objects on it are still to be copied to other media"
        return "it is in no pool, and nothing needs it any more: its table may be taken out"

    async def _on_stop(self, call: Call) -> Nothing:
        self._stop.set()
        return Nothing()

    # --- the catalog --------------------------------------------------------------------------------

    async def _query(self, call: Call) -> Rows:
        args: reading.Query = call.args
        found = await self._catalog.ask(
            "query", sql=args.sql, parameters=list(args.parameters), limit=min(args.limit, ROWS_MAX)
        )
        return Rows(found["columns"], found["rows"])

    async def _list_directory(self, call: Call) -> Rows:
        args: reading.ListDirectory = call.args
        known = self._manager.state.backups.get(args.backup)
        if known is not None and known.state is BackupState.PRUNED:
            raise NotFound(f"backup {args.backup} was pruned", hint="`staddle ls` shows those that are left")
        if not self._may_see(call, args.backup):
            raise Denied(f"backup {args.backup} is another client's", retry="never")
        return _entries(
            await self._asked(
                call,
                "list_directory",
                backup=args.backup,
                path=args.path,
                after=args.after,
                limit=args.limit,
            )
        )

    async def _find(self, call: Call) -> Rows:
        args: reading.Find = call.args
        if args.backup and args.backup not in self._manager.state.backups:
            raise NotFound(f"there is no backup {args.backup}", hint="`staddle ls` shows them")
        backups = [args.backup] if args.backup else None
        if call.peer.role == "client":
            backups = [
                number for number in backups or self._manager.state.backups if self._may_see(call, number)
            ]
        return _entries(
            await self._asked(
                call, "find", pattern=args.pattern, backups=backups, limit=min(args.limit, ROWS_MAX)
            )
        )

    async def _asked(self, call: Call, method: str, **arguments: Any) -> Any:
        """Ask the catalog for a client, which may ask so much at a time and no more: it has one owner."""
        if call.peer.role != "client":
            return await self._catalog.ask(method, **arguments)
        name = call.peer.name
        if self._asking[name] >= ASKS_MAX:
            raise Unavailable(
                f"client {name!r} asks the catalog {ASKS_MAX} things already", hint="ask again", code="BUSY"
            )
        self._asking[name] += 1
        try:
            return await self._catalog.ask(method, **arguments)
        finally:
            self._asking[name] -= 1
            if not self._asking[name]:
                del self._asking[name]

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
        if os.path.lexists(args.path):
            raise Locked(f"{args.path} exists already", hint="name a new file: a snapshot replaces nothing")
        await self._catalog.ask("snapshot", path=os.path.abspath(args.path))
        return Nothing()

    # --- backups ------------------------------------------------------------------------------------

    async def _prune(self, call: Call) -> wire.Pruned:
        self._adoption.check_serving()
        args: wire.Prune = call.args
        return await self._collector.prune(list(args.backups), dry_run=args.dry_run)


def _entries(found: list[dict[str, Any]]) -> Rows:
    columns = list(found[0]) if found else []
    return Rows(columns, [[entry[name] for name in columns] for entry in found])
