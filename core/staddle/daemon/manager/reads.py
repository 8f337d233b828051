"""Where data is: what readers, agents and the fingerprint library ask of the manager."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

import msgspec

from staddle.api.catalog import Record
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.allowance import Allowance
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.presence import Presence
from staddle.engine.commit import unusable
from staddle.engine.gc import decide_copy_lost
from staddle.engine.manager import LibraryChange, library_change
from staddle.engine.messages import CopyOf
from staddle.engine.tables import Backup, BackupState, MediumStatus, Object, SegmentRow
from staddle.errors import Denied, NotFound, UsageError
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops import agents as agent_ops
from staddle.wire.ops import reading as wire
from staddle.wire.ops.base import Nothing, register
from staddle.wire.ops.jobs import Rows
from staddle.wire.tickets import TicketSigner

log = logging.getLogger(__name__)

READ_TICKET_NS = 24 * 3600 * 1_000_000_000
RECENT_CHANGES_MAX = 20_000
CHANGES_PER_ANSWER = 512
_CLIENTS_SHOWN = 20
_LISTED = (
    *("id", "client", "name", "state", "started_ns", "finished_ns"),
    *("files", "dirs", "bytes_read", "bytes_stored", "warnings"),
)


class ReadDesk:
    """Answers questions; the only thing it changes is the record of a bad copy."""

    def __init__(
        self, manager: Manager, adoption: Adoption, presence: Presence, signer: TicketSigner
    ) -> None:
        self._manager = manager
        self._adoption = adoption
        self._presence = presence
        self._signer = signer
        self._changes: deque[LibraryChange] = deque(maxlen=RECENT_CHANGES_MAX)
        self._floor_lsn = manager.core.durable_lsn
        self._allowance = Allowance()
        manager.subscribe(self._on_records)

    def install(self, handlers: Handlers) -> None:
        """Add the operations."""
        register(handlers, wire.LIST_BACKUPS, self._list)
        register(handlers, wire.OPEN_BACKUP, self._open)
        register(handlers, agent_ops.USABLE, self._usable)
        register(handlers, agent_ops.LOCATE, self._locate)
        register(handlers, agent_ops.BAD_COPY, self._bad_copy)
        register(handlers, agent_ops.COMMITTED, self._committed)

    # --- readers ----------------------------------------------------------------------------------

    async def _list(self, call: Call) -> Rows:
        shown = [
            backup
            for backup in self._manager.state.backups.values()
            if backup.state is not BackupState.PRUNED
            and (call.peer.role != "client" or backup.client == call.peer.name)
        ]
        return Rows(list(_LISTED), [[getattr(backup, name) for name in _LISTED] for backup in shown])

    async def _open(self, call: Call) -> wire.OpenedBackup:
        self._adoption.check_serving()
        args: wire.OpenBackup = call.args
        if call.peer.role == "client":
            args = msgspec.structs.replace(args, client=args.client or call.peer.name)
        backup = self._find(args)
        if call.peer.role == "client" and backup.client != call.peer.name:
            raise Denied(f"backup {backup.id} is another client's")
        ticket = wire.ReadTicket(
            grid=self._manager.state.grid,
            backup=backup.id,
            client=call.peer.name,
            domain=backup.domain,
            manager_epoch=self._manager.state.epoch,
            expires_ns=time.time_ns() + READ_TICKET_NS,
        )
        return wire.OpenedBackup(
            backup=backup.id,
            name=backup.name,
            client=backup.client,
            state=backup.state.value,
            started_ns=backup.started_ns,
            roots=backup.roots,
            manifests=[
                wire.ManifestRef(row.manifest, row.stream, row.ordinal, row.plain_digest)
                for row in _in_order(backup)
            ],
            agents=self.agents(),
            signed=self._signer.sign(msgspec.msgpack.encode(ticket)),
            fingerprint_key=self._presence.fingerprint_key(backup.domain),
        )

    def _find(self, args: wire.OpenBackup) -> Backup:
        """By its number, whosever it is; or the newest one that fits."""
        backups = self._manager.state.backups
        if args.backup:
            found = backups.get(args.backup)
            if found is None or found.state is BackupState.PRUNED:
                raise NotFound(f"there is no backup {args.backup}", hint="`staddle ls` shows them")
            return found
        good = {BackupState.COMPLETE, BackupState.WARNINGS}
        newest: dict[str, Backup] = {}
        for backup in backups.values():
            if backup.state in good and (not args.name or backup.name == args.name):
                newest[backup.client] = backup
        what = f" of the name {args.name!r}" if args.name else ""
        if args.client:
            newest = {client: backup for client, backup in newest.items() if client == args.client}
            what += f" of client {args.client!r}"
        if not newest:
            raise NotFound(f"there is no finished backup{what}", hint="`staddle ls` shows all of them")
        if len(newest) > 1:
            # Any client may call its backups as another one does: which of them is meant is not guessed.
            clients = ", ".join(sorted(newest)[:_CLIENTS_SHOWN])
            raise UsageError(
                f"{len(newest)} clients have backups{what}: {clients}", hint="choose one with --client"
            )
        return newest.popitem()[1]

    def agents(self) -> list[wire.AgentRef]:
        """The agents that are there now, all others behind them: they may be back when they are tried."""
        state, there = self._manager.state, [session.name for session in self._presence.serving()]
        names = [*there, *(name for name in state.agents if name not in there)]
        return [wire.AgentRef(name, state.agents[name].urls) for name in names]

    # --- agents -----------------------------------------------------------------------------------

    async def _usable(self, call: Call) -> agent_ops.IdList:
        args: agent_ops.Usable = call.args
        state = self._manager.state
        pool = state.pools.get(args.pool)
        if pool is None:
            raise NotFound(f"there is no pool {args.pool!r}")
        refused = set(unusable(state, args.containers, pool))
        return agent_ops.IdList([item for item in args.containers if item not in refused])

    async def _locate(self, call: Call) -> agent_ops.LocatedList:
        args: agent_ops.Locate = call.args
        ids = list(args.ids)
        if (backup := self._manager.state.backups.get(args.backup)) is not None:
            ids += [row.manifest for row in _in_order(backup)]
        found = (self._manager.state.objects.get(item) for item in ids)
        return agent_ops.LocatedList([self._located(item) for item in found if item is not None])

    def _located(self, item: Object) -> agent_ops.Located:
        media = self._manager.state.media
        # A medium that is not up may still answer by the time it is asked: it comes last, not never.
        copies = sorted(item.copies, key=lambda copy: media[copy.medium].state is not MediumStatus.UP)
        copies += item.bad  # most of a damaged container can still be read
        return agent_ops.Located(
            item.id, item.size_bytes, item.digest, [(copy.medium, copy.name) for copy in copies]
        )

    async def _bad_copy(self, call: Call) -> Nothing:
        args: agent_ops.BadCopy = call.args
        settings = self._manager.settings
        if call.peer.name not in settings.agent or args.medium not in settings.media_of(call.peer.name):
            raise Denied(f"agent {call.peer.name!r} does not reach medium {args.medium!r}", retry="never")
        self._allowance.take(call.peer, args)
        log.error("agent %s: copy %s on %s: %s", call.peer.name, args.name, args.medium, args.code)
        if args.code in {"CORRUPT", "NOT_FOUND"}:
            copy = CopyOf(args.medium, args.name)
            await self._manager.change(decide_copy_lost, args.id, copy, args.code.lower())
        return Nothing()

    # --- the fingerprint library (S2) ---------------------------------------------------------------

    def _on_records(self, records: list[Record]) -> None:
        for record in records:
            change = library_change(record, self._manager.state)
            if change is not None:
                if len(self._changes) == RECENT_CHANGES_MAX:
                    self._floor_lsn = self._changes[0].lsn
                self._changes.append(change)

    async def _committed(self, call: Call) -> agent_ops.CommittedList:
        args: agent_ops.Committed = call.args
        upto = self._manager.core.durable_lsn
        if args.after_lsn >= self._floor_lsn:
            changes = [change for change in self._changes if args.after_lsn < change.lsn <= upto]
        else:
            changes = await asyncio.to_thread(self._replayed, args.after_lsn)
        answer: list[agent_ops.CommittedContainer] = []
        for change in changes:
            if len(answer) >= min(args.limit, CHANGES_PER_ANSWER):
                # Whole records only: all containers of one record are published together.
                return agent_ops.CommittedList(lsn=answer[-1].lsn, containers=answer)
            answer += self._entries(change, args.domain)
        end = changes[-1].lsn if len(changes) >= CHANGES_PER_ANSWER else upto
        return agent_ops.CommittedList(lsn=end, containers=answer)

    def _replayed(self, after_lsn: int) -> list[LibraryChange]:
        """From the log itself, for an agent that was away for long or is new."""
        changes: list[LibraryChange] = []
        for record in self._manager.oplog.replay(max(after_lsn, self._manager.oplog.first_lsn - 1)):
            change = library_change(record, self._manager.state)
            if change is not None:
                changes.append(change)
                if len(changes) >= CHANGES_PER_ANSWER:
                    break
        return changes

    def _entries(self, change: LibraryChange, domain: str) -> list[agent_ops.CommittedContainer]:
        objects = self._manager.state.objects
        entries = []
        if change.domain == domain:
            entries = [
                agent_ops.CommittedContainer(change.lsn, self._located(objects[item]))
                for item in change.publish
                if item in objects
            ]
        gone = [
            agent_ops.CommittedContainer(change.lsn, agent_ops.Located(item, 0, b"", []), dropped=True)
            for item in change.withdraw
        ]
        return entries + gone


def _in_order(backup: Backup) -> list[SegmentRow]:
    """Its segments as readers count them: the index of a base row's manifest is the place in this list."""
    return sorted(backup.segments, key=lambda row: (row.stream, row.ordinal))
