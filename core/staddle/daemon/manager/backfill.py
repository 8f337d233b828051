"""Files of committed segments that the catalog lacks are read again from the media.

A manifest comes to the manager with its COMMIT, but stands in no log: a manager that is killed, or whose
queue was full, has not passed it on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from staddle.api.catalog import Record
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.presence import Presence
from staddle.engine.tables import ACTIVE, Backup, BackupState, MediumStatus
from staddle.errors import StaddleError, Unavailable
from staddle.wire.ops.data import GET_OBJECT, GetObject

log = logging.getLogger(__name__)


class Backfill:
    """One pass at a time, called by the collector's loop."""

    def __init__(self, manager: Manager, presence: Presence, catalog: CatalogLink) -> None:
        self._manager = manager
        self._presence = presence
        self._catalog = catalog
        self._whole: set[int] = set()
        manager.subscribe(self._on_records)

    def _on_records(self, records: list[Record]) -> None:
        """A rebuild may bring more of a backup than was known of it."""
        self._whole.difference_update(
            record.args["backup"] for record in records if record.op == "backup_imported"
        )

    async def step(self) -> None:
        """Bring in what is missing of backups whose jobs have ended; what can't be read now, later."""
        state = self._manager.state
        for backup in list(state.backups.values()):
            if backup.id in self._whole or state.jobs[backup.job].state in ACTIVE:
                continue
            whole = True
            async for manifest in self._missing(backup):
                try:
                    plain = await self._plain(manifest)
                except StaddleError as error:
                    log.info("manifest %s of backup %d: %s", manifest.hex(), backup.id, error)
                    whole = False
                    continue
                await self._catalog.settled()  # one manifest in memory at a time
                self._catalog.add_manifest(backup.id, manifest, plain)
            if whole:
                self._whole.add(backup.id)

    async def _missing(self, backup: Backup) -> AsyncIterator[bytes]:
        known = {bytes(each) for each in await self._catalog.ask("ingested", backup=backup.id)}
        for row in list(backup.segments):
            if row.manifest not in known and backup.state is not BackupState.PRUNED:
                log.info("backup %d: its files in manifest %s are read again", backup.id, row.manifest.hex())
                yield row.manifest

    async def _plain(self, manifest: bytes) -> bytes:
        item = self._manager.state.objects.get(manifest)
        last: StaddleError = Unavailable("no copy of it is on a medium that is up")
        for copy in item.placements() if item is not None else []:
            if item is None or self._manager.state.media[copy.medium].state is not MediumStatus.UP:
                continue
            request = GetObject(medium=copy.medium, name=copy.name, domain=item.domain)
            try:
                return bytes((await self._presence.raw(GET_OBJECT, request, medium=copy.medium)).payload)
            except StaddleError as error:
                last = error
        raise last
