"""The log and the catalog made again from what lies on the media (C3)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import numpy as np

from staddle.api.types import Kind, parse_object_name
from staddle.daemon.manager.adoption import Adoption, unread_media
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.listing import listed
from staddle.daemon.manager.presence import Presence
from staddle.data import manifest as manifest_format
from staddle.data.crypto import DomainKeys, digest
from staddle.data.manifest import EntryFlag, EntryType, Manifest, ManifestHead
from staddle.data.seal import decode_journal, decode_seal
from staddle.engine import ops
from staddle.engine.found import FoundBad, FoundContainer, FoundManifest, FoundSeal
from staddle.engine.importing import (
    decide_backup_imported,
    decide_objects_imported,
    decide_unread,
    manifests_found_again,
)
from staddle.engine.jobs import STREAMS_MAX
from staddle.engine.messages import CopyOf, StreamEndOf
from staddle.engine.rebuild import plan_rebuild
from staddle.engine.state import GridState
from staddle.engine.tables import BackupState, MediumStatus
from staddle.errors import Corrupt, Locked, StaddleError, Unavailable
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops.admin import REBUILD_CATALOG, Rebuilt
from staddle.wire.ops.base import register
from staddle.wire.ops.data import GET_OBJECT, GetObject, ScanMedium, ScannedObject

log = logging.getLogger(__name__)

SCAN_BATCH = 256
SCAN_TIMEOUT_S = 300.0
IMPORT_BATCH = 10_000
"""Objects in one record of the log."""
NAMED_MAX = 10_000
"""Findings that are told one by one."""


@dataclass
class _Found:
    """One object and every placement of it that was met."""

    scanned: ScannedObject
    copies: list[CopyOf] = field(default_factory=list)


class _Media:
    """What one pass over the media has found, and what it has to tell of it."""

    def __init__(self) -> None:
        self.found: dict[Kind, dict[bytes, _Found]] = {}
        self.bad: dict[bytes, FoundBad] = {}
        self.unread: set[str] = set()
        self.missing: list[str] = []

    def note(self, medium: str, each: ScannedObject) -> None:
        """One object: it is told of if it is damaged, or contradicts another copy of it."""
        name = each.name
        if each.problem:
            self.missing.append(f"medium {medium}: {name}: {each.problem}")
            self.note_bad(medium, name, each.size_bytes)
            return
        try:
            kind, item_id, _ = parse_object_name(name)
        except ValueError:
            return  # not ours
        known = self.found[kind].setdefault(item_id, _Found(each))
        if known.scanned.digest != each.digest:
            self.missing.append(f"medium {medium}: {name}: not the bytes of the other copies")
            return
        known.copies.append(CopyOf(medium, name))

    def note_bad(self, medium: str, name: str, size_bytes: int) -> None:
        """A copy that can't be read."""
        try:
            _, item_id, _ = parse_object_name(name)
        except ValueError:
            return  # not ours
        known = self.bad.get(item_id)
        copies = [*(known.copies if known else ()), CopyOf(medium, name)]
        size_bytes = max(size_bytes, known.size_bytes if known else 0)  # most often a copy is cut off
        self.bad[item_id] = FoundBad(id=item_id, size_bytes=size_bytes, copies=copies)


class Rebuilder:
    """Reads all media through the agents, and logs what they say.

    A medium that was away then is read in by another rebuild when it is back: what it adds to the log is
    logged, and what the log knows already stays as it is.
    """

    def __init__(
        self,
        manager: Manager,
        adoption: Adoption,
        presence: Presence,
        catalog: CatalogLink,
        domains: dict[str, DomainKeys],
    ) -> None:
        self._manager = manager
        self._adoption = adoption
        self._presence = presence
        self._catalog = catalog
        self._domains = domains
        self._turn = asyncio.Lock()

    def install(self, handlers: Handlers) -> None:
        """Add the operation."""
        register(handlers, REBUILD_CATALOG, self._rebuild)

    async def _rebuild(self, call: Call) -> Rebuilt:
        async with self._turn:
            self._check_due()
            return await self._run()

    def _check_due(self) -> None:
        """Raise StaddleError if there is nothing to rebuild, or nothing to do it from."""
        state = self._manager.state
        if not state.media:
            raise Unavailable("no agent has shown a medium yet", hint="see `staddle status`, then try again")
        # With the marker there, what backups there are come from a rebuild that was cut off.
        if not state.backups or self._adoption.rebuild_needed or manifests_found_again(state):
            return
        unread = unread_media(self._manager)
        if not unread:
            raise Locked(
                "the manager's log knows backups already: nothing is rebuilt",
                hint="only a manager whose directory was lost needs it; `staddle catalog verify` checks",
            )
        there = [n for n in unread if n in state.media and state.media[n].state is MediumStatus.UP]
        if not there:
            raise Unavailable(
                f"all media that are up were read in; still away: {', '.join(unread)}",
                hint="mount them, and see `staddle status`; then try again",
            )

    async def _run(self) -> Rebuilt:
        state = self._manager.state
        media = await self._read_media()
        missing, found = media.missing, media.found
        pruned = await self._pruned(found[Kind.JOURNAL], missing)
        seals = await self._seals(found[Kind.SEAL], missing)
        manifests, plains = await self._manifests(media, pruned)
        containers = [
            FoundContainer(
                id=item_id,
                size_bytes=each.scanned.size_bytes,
                digest=each.scanned.digest,
                domain=each.scanned.domain,
                copies=each.copies,
                raw_bytes=each.scanned.raw_bytes,
                chunks=each.scanned.chunks,
            )
            for item_id, each in found[Kind.CONTAINER].items()
        ]
        plan = plan_rebuild(
            state,
            containers=containers,
            manifests=manifests,
            seals=seals,
            pruned=pruned,
            bad=[item for item in media.bad.values() if item.id not in plains],
            unread=media.unread,
        )
        # Objects come before the backups that need them: nothing is deleted until all of it is logged.
        await self._manager.change(decide_unread, [*state.unread, *state.media])
        missing += plan.findings + await self._log(plan.ops)
        for number in sorted(pruned & state.backups.keys()):
            if state.backups[number].state is not BackupState.PRUNED:
                missing.append(
                    f"backup {number} is there, though a journal says that one of this number was pruned"
                )
        self._adoption.rebuilt()
        await self._ingest_all(plains, missing)
        kinds = [item.kind for item in state.objects.values()]
        return Rebuilt(
            backups=len(state.backups),
            containers=kinds.count("container"),
            manifests=kinds.count("manifest"),
            missing=_shortened(missing),
        )

    async def _log(self, planned: list[ops.Op]) -> list[str]:
        """In pieces that the log takes; what it has already is not repeated. What was not taken, in words."""
        refused: list[str] = []
        for op in planned:
            match op:
                case ops.ObjectsImported(objects=objects):
                    for at in range(0, len(objects), IMPORT_BATCH):
                        part = objects[at : at + IMPORT_BATCH]
                        await self._manager.change(decide_objects_imported, part)
                case ops.BackupImported():
                    refused.append(await self._manager.change(decide_backup_imported, op))
                case ops.MediaUnread(media=names):
                    await self._manager.change(decide_unread, names)
                case _:
                    await self._manager.change(_these, [op])
        return [why for why in refused if why]

    async def _ingest_all(self, plains: dict[bytes, _Found], missing: list[str]) -> None:
        """The files of all backups; the catalog knows what it has."""
        for backup in list(self._manager.state.backups.values()):
            if backup.state is BackupState.PRUNED:
                continue
            known = {bytes(each) for each in await self._catalog.ask("ingested", backup=backup.id)}
            for row in backup.segments:
                if row.manifest not in plains or row.manifest in known:
                    continue  # it is named among what is lost, or by another log
                try:
                    await self._ingest(backup.id, row.manifest, plains[row.manifest])
                except StaddleError as error:
                    missing.append(f"files of backup {backup.id}, manifest {row.manifest.hex()}: {error}")
        await self._catalog.settled()

    async def _ingest(self, backup: int, manifest: bytes, where: _Found) -> None:
        plain = await self._plain(where)
        await self._catalog.settled()  # one manifest in memory at a time
        self._catalog.add_manifest(backup, manifest, plain)

    # --- reading the media --------------------------------------------------------------------------

    async def _read_media(self) -> _Media:
        """Every object of every medium; one that can't be read to its end is `unread`."""
        media = _Media()
        seen, wanted = list(self._manager.state.media), self._manager.settings.medium
        for name in wanted:
            if name not in seen:
                media.missing.append(f"medium {name}: no agent has shown it")
                media.unread.add(name)
        for kind in (Kind.JOURNAL, Kind.SEAL, Kind.MANIFEST, Kind.CONTAINER):
            media.found[kind] = {}
            for name in seen:
                try:
                    await self._scan(kind, name, media)
                except StaddleError as error:
                    media.missing.append(f"medium {name}: {error}")
                    media.unread.add(name)
        return media

    async def _scan(self, kind: Kind, medium: str, media: _Media) -> None:
        after = ""
        while True:
            request = ScanMedium(medium=medium, kind=kind.value, after=after, limit=SCAN_BATCH)
            page = await listed(self._presence, request, SCAN_TIMEOUT_S)
            for each in page:
                media.note(medium, each)
            if len(page) < SCAN_BATCH:
                return
            after = page[-1].name

    async def _plain(self, found: _Found) -> bytes:
        """The body of a small object, from any of its copies. Raises what the last one said."""
        last: StaddleError = Unavailable("no copy of it was found")
        for copy in found.copies:
            request = GetObject(medium=copy.medium, name=copy.name, domain=found.scanned.domain)
            try:
                return bytes((await self._presence.raw(GET_OBJECT, request, medium=copy.medium)).payload)
            except StaddleError as error:
                last = error
        raise last

    async def _pruned(self, found: dict[bytes, _Found], missing: list[str]) -> set[int]:
        pruned: set[int] = set()
        for item_id, each in found.items():
            try:
                journal = decode_journal(await self._plain(each))
            except StaddleError as error:
                missing.append(f"journal {item_id.hex()}: {error}")
                continue
            if journal.kind == "prune":
                pruned.update(journal.backups)
        return pruned

    async def _seals(self, found: dict[bytes, _Found], missing: list[str]) -> list[FoundSeal]:
        seals = []
        for item_id, each in found.items():
            try:
                seal = decode_seal(await self._plain(each))
            except StaddleError as error:
                missing.append(f"seal {item_id.hex()}: {error}")
                continue
            seals.append(
                FoundSeal(
                    id=item_id,
                    size_bytes=each.scanned.size_bytes,
                    digest=each.scanned.digest,
                    domain=each.scanned.domain,
                    copies=each.copies,
                    job=seal.job,
                    backup=seal.backup,
                    client=seal.client,
                    name=seal.name,
                    pool=seal.pool,
                    roots=seal.roots,
                    started_ns=seal.started_ns,
                    finished_ns=seal.finished_ns,
                    state=seal.state,
                    files=seal.files,
                    dirs=seal.dirs,
                    bytes_read=seal.bytes_read,
                    bytes_stored=seal.bytes_stored,
                    warnings=seal.warnings,
                    manager_epoch=seal.manager_epoch,
                    streams=[
                        StreamEndOf(
                            stream=end.stream,
                            segments=end.segments,
                            last_manifest=end.last_manifest_id or b"",
                            last_digest=end.last_manifest_digest or b"",
                        )
                        for end in seal.streams
                    ],
                )
            )
        return seals

    async def _manifests(
        self, media: _Media, pruned: set[int]
    ) -> tuple[list[FoundManifest], dict[bytes, _Found]]:
        manifests: list[FoundManifest] = []
        where: dict[bytes, _Found] = {}
        for item_id, each in media.found[Kind.MANIFEST].items():
            try:
                plain = await self._plain(each)
                manifest = await asyncio.to_thread(manifest_format.decode, plain)
                _check_head(manifest.head)
                plain_digest = await asyncio.to_thread(digest, [plain])
            except StaddleError as error:
                media.missing.append(f"manifest {item_id.hex()}: {error}")
                for copy in each.copies:
                    media.note_bad(copy.medium, copy.name, each.scanned.size_bytes)
                continue
            if manifest.head.backup in pruned:
                continue
            where[item_id] = each
            manifests.append(_found_manifest(item_id, each, manifest, plain_digest))
        return manifests, where


def _shortened(missing: list[str]) -> list[str]:
    more = len(missing) - NAMED_MAX
    return [*missing[:NAMED_MAX], f"and {more} more"] if more > 0 else missing


def _these(_: GridState, planned: list[ops.Op]) -> list[ops.Op]:
    return planned


def _check_head(head: ManifestHead) -> None:
    """Each agent can write manifests: places that no job had would be filled up to. Raises Corrupt."""
    if not (0 <= head.stream < STREAMS_MAX and 0 <= head.ordinal < 2**31):
        raise Corrupt(f"segment {head.ordinal} of stream {head.stream} can't be")


def _found_manifest(item_id: bytes, each: _Found, manifest: Manifest, plain_digest: bytes) -> FoundManifest:
    head, columns = manifest.head, manifest.entries.columns
    whole = (columns["flags"] & EntryFlag.PART == 0) | (columns["flags"] & EntryFlag.LAST != 0)
    is_dir = columns["type"] == EntryType.DIRECTORY
    return FoundManifest(
        id=item_id,
        size_bytes=each.scanned.size_bytes,
        digest=each.scanned.digest,
        domain=each.scanned.domain,
        copies=each.copies,
        job=head.job,
        backup=head.backup,
        client=head.client,
        name=head.name,
        stream=head.stream,
        epoch=head.epoch,
        ordinal=head.ordinal,
        first=head.first,
        next=head.next,
        previous_manifest=head.previous_id or b"",
        previous_digest=head.previous_digest or b"",
        refs=manifest.chunks.containers,
        created_ns=head.created_ns,
        plain_digest=plain_digest,
        files=int(np.count_nonzero(whole & ~is_dir)),
        dirs=int(np.count_nonzero(is_dir)),
        bytes_read=int(manifest.chunks.lengths.sum()),
    )
