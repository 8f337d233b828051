"""Deletion: prune, journal on the media, condemn, delete in two phases (G2). The engine decides each step."""

from __future__ import annotations

import asyncio
import logging
import time

from staddle.api.types import Kind
from staddle.daemon.manager.adoption import unread_media
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.placing import Placer
from staddle.daemon.manager.presence import Presence
from staddle.data.crypto import DomainKeys
from staddle.data.seal import Journal, encode_journal
from staddle.engine.gc import (
    decide_condemn,
    decide_copies_deleted,
    decide_delete,
    decide_drop,
    decide_journalled,
    decide_prune,
    journal_media,
    to_delete,
    to_journal,
)
from staddle.engine.messages import CopyOf, StoredObject
from staddle.engine.tables import Backup, MediumStatus
from staddle.errors import NotFound, StaddleError
from staddle.wire.ops.admin import Pruned
from staddle.wire.ops.data import DELETE_OBJECT, DeleteObject

log = logging.getLogger(__name__)

GRACE_NS = 3600 * 1_000_000_000
"""How long a container stays condemned: a backup that begins meanwhile may still take it up again."""
DELETE_BATCH = 256


class Collector:
    """Carries out what the engine's garbage collection decides. One pass at a time."""

    def __init__(
        self, manager: Manager, presence: Presence, domains: dict[str, DomainKeys], grace_ns: int = GRACE_NS
    ) -> None:
        self._manager = manager
        self._presence = presence
        self._placer = Placer(manager, presence)
        self._domains = domains
        self._grace_ns = grace_ns
        self._turn = asyncio.Lock()

    async def prune(self, numbers: list[int], *, dry_run: bool) -> Pruned:
        """Give backups up, or say what that would free. Raises NotFound; held ones stay."""
        state = self._manager.state
        for number in numbers:
            if number not in state.backups:
                raise NotFound(f"there is no backup {number}", hint="`staddle ls` shows them")
        held = [number for number in numbers if state.held(number)]
        going = [number for number in numbers if number not in held]
        freed = self._only_used_by(going)
        size = sum(state.objects[item].size_bytes * len(state.objects[item].copies) for item in freed)
        if dry_run:
            return Pruned(backups=going, containers=len(freed), bytes_freed=size, held=held)
        done = await self._manager.change(decide_prune, numbers, time.time_ns())
        await self.collect()
        return Pruned(backups=done.backups, containers=len(freed), bytes_freed=size, held=done.held)

    def _only_used_by(self, numbers: list[int]) -> set[bytes]:
        state = self._manager.state
        chosen = set(numbers)
        kept: set[bytes] = set()
        for backup in state.backups.values():
            if backup.id not in chosen:
                kept |= _refs(backup)
        gone = set().union(*(_refs(state.backups[number]) for number in chosen)) if chosen else set()
        return {item for item in gone - kept if item in state.objects}

    async def collect(self) -> None:
        """One pass over all steps. What can't be done now is done by a later pass."""
        async with self._turn:
            await self._journal()
            if not unread_media(self._manager):
                await self._manager.change(decide_condemn, time.time_ns())
                await self._manager.change(decide_delete, self._grace_ns, time.time_ns())
            await self._delete()
            await self._manager.change(decide_drop)

    async def _journal(self) -> None:
        """The prune stands on the media before anything of it is deleted."""
        state = self._manager.state
        for domain in sorted({state.backups[number].domain for number in to_journal(state)}):
            numbers = [n for n in to_journal(state) if state.backups[n].domain == domain]
            up = {name for name, medium in state.media.items() if medium.state is MediumStatus.UP}
            if away := set(journal_media(state, numbers)) - up:
                # Each backup waits for its own media only.
                numbers = [n for n in numbers if up.issuperset(journal_media(state, [n]))]
                log.warning("a prune waits for media that are away: %s", ", ".join(sorted(away)))
            if not numbers:
                continue
            stored = await self._put_journal(domain, numbers, up)
            if stored is not None:
                await self._manager.change(decide_journalled, numbers, stored)

    async def _put_journal(self, domain: str, numbers: list[int], media: set[str]) -> StoredObject | None:
        state, keys = self._manager.state, self._domains[domain]
        journals = sum(item.kind == "journal" for item in state.objects.values())
        journal = Journal(
            grid=keys.grid,
            sequence=journals + 1,
            kind="prune",
            epoch=state.epoch,
            lsn=state.lsn,
            at_ns=time.time_ns(),
            backups=numbers,
        )
        return await self._placer.store(Kind.JOURNAL, keys, encode_journal(journal), media)

    async def _delete(self) -> None:
        """Delete the placements of objects that are on their way out; each is logged when it is gone."""
        by_medium: dict[str, list[tuple[bytes, CopyOf]]] = {}
        for item, copy in to_delete(self._manager.state):
            by_medium.setdefault(copy.medium, []).append((item, copy))
        for medium, doomed in by_medium.items():
            for at in range(0, len(doomed), DELETE_BATCH):
                batch = doomed[at : at + DELETE_BATCH]
                request = DeleteObject(medium=medium, names=[copy.name for _, copy in batch])
                try:
                    await self._presence.call(DELETE_OBJECT, request, medium=medium, timeout_s=120.0)
                except StaddleError as error:
                    log.warning("medium %s: nothing deleted now: %s", medium, error)
                    break
                await self._manager.change(decide_copies_deleted, batch)


def _refs(backup: Backup) -> set[bytes]:
    return {ref for row in backup.segments for ref in row.ref_ids()}
