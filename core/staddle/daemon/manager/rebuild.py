"""The log and the catalog made again from what lies on the media (C3)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import numpy as np

from staddle.api.types import Kind, parse_object_name
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.presence import Presence
from staddle.data import manifest as manifest_format
from staddle.data.crypto import DomainKeys
from staddle.data.manifest import EntryFlag, EntryType, Manifest
from staddle.data.seal import decode_journal, decode_seal
from staddle.engine import ops
from staddle.engine.messages import CopyOf, StreamEndOf
from staddle.engine.rebuild import FoundContainer, FoundManifest, FoundSeal, plan_rebuild
from staddle.engine.state import GridState
from staddle.errors import Locked, StaddleError, Unavailable
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops.admin import REBUILD_CATALOG, Rebuilt
from staddle.wire.ops.base import register
from staddle.wire.ops.data import GET_OBJECT, SCAN_MEDIUM, GetObject, ScanMedium, ScannedObject

log = logging.getLogger(__name__)

SCAN_BATCH = 256
SCAN_TIMEOUT_S = 300.0
IMPORT_BATCH = 10_000
"""Objects in one record of the log."""


@dataclass
class _Found:
    """One object and every placement of it that was met."""

    scanned: ScannedObject
    copies: list[CopyOf] = field(default_factory=list)


class Rebuilder:
    """Reads all media through the agents, and logs what they say."""

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
            state = self._manager.state
            # With the marker there, what backups there are come from a rebuild that was cut off.
            if state.backups and not self._adoption.rebuild_needed:
                raise Locked(
                    "the manager's log knows backups already: nothing is rebuilt",
                    hint="only a manager whose directory was lost needs it; `staddle catalog verify` checks",
                )
            if not state.media:
                raise Unavailable(
                    "no agent has shown a medium yet", hint="see `staddle status`, then try again"
                )
            return await self._run()

    async def _run(self) -> Rebuilt:
        seen, wanted = self._manager.state.media, self._manager.settings.medium
        missing = [f"medium {name}: no agent has shown it" for name in wanted if name not in seen]
        found: dict[Kind, dict[bytes, _Found]] = {}
        for kind in (Kind.JOURNAL, Kind.SEAL, Kind.MANIFEST, Kind.CONTAINER):
            found[kind] = await self._scan(kind, missing)
        pruned = await self._pruned(found[Kind.JOURNAL], missing)
        seals = await self._seals(found[Kind.SEAL], missing)
        manifests, plains = await self._manifests(found[Kind.MANIFEST], pruned, missing)
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
            self._manager.state, containers=containers, manifests=manifests, seals=seals, pruned=pruned
        )
        await self._log(plan.ops)
        self._adoption.rebuilt()
        for backup in list(self._manager.state.backups.values()):
            for row in backup.segments:
                try:
                    await self._ingest(backup.id, row.manifest, plains[row.manifest])
                except StaddleError as error:
                    missing.append(f"files of backup {backup.id}, manifest {row.manifest.hex()}: {error}")
        await self._catalog.settled()
        state = self._manager.state
        kinds = [item.kind for item in state.objects.values()]
        return Rebuilt(
            backups=len(state.backups),
            containers=kinds.count("container"),
            manifests=kinds.count("manifest"),
            missing=[*missing, *plan.findings],
        )

    async def _log(self, planned: list[ops.Op]) -> None:
        """In pieces that the log takes; one that was cut off is done again, and repeats nothing."""
        for op in planned:
            if isinstance(op, ops.ObjectsImported):
                for at in range(0, len(op.objects), IMPORT_BATCH):
                    part = ops.ObjectsImported(objects=op.objects[at : at + IMPORT_BATCH])
                    await self._manager.change(_these, [part])
            elif not (isinstance(op, ops.BackupImported) and op.backup in self._manager.state.backups):
                await self._manager.change(_these, [op])

    async def _ingest(self, backup: int, manifest: bytes, where: _Found) -> None:
        plain = await self._plain(where)
        await self._catalog.settled()  # one manifest in memory at a time
        self._catalog.add_manifest(backup, manifest, plain)

    # --- reading the media --------------------------------------------------------------------------

    async def _scan(self, kind: Kind, missing: list[str]) -> dict[bytes, _Found]:
        """Every object of a kind on every medium; one that can't be read is named in `missing`."""
        found: dict[bytes, _Found] = {}
        for medium in self._manager.state.media:
            after = ""
            while True:
                request = ScanMedium(medium=medium, kind=kind.value, after=after, limit=SCAN_BATCH)
                try:
                    answer = await self._presence.call(
                        SCAN_MEDIUM, request, medium=medium, timeout_s=SCAN_TIMEOUT_S
                    )
                except StaddleError as error:
                    missing.append(f"medium {medium}: {error}")
                    break
                for each in answer.objects:
                    self._note(found, medium, each, missing)
                if len(answer.objects) < SCAN_BATCH:
                    break
                after = answer.objects[-1].name
        return found

    def _note(self, found: dict[bytes, _Found], medium: str, each: ScannedObject, missing: list[str]) -> None:
        if each.problem:
            missing.append(f"medium {medium}: {each.name}: {each.problem}")
            return
        _, item_id, _ = parse_object_name(each.name)
        known = found.setdefault(item_id, _Found(each))
        if known.scanned.digest != each.digest:
            missing.append(f"medium {medium}: {each.name}: not the bytes of the other copies")
            return
        known.copies.append(CopyOf(medium, each.name))

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
        self, found: dict[bytes, _Found], pruned: set[int], missing: list[str]
    ) -> tuple[list[FoundManifest], dict[bytes, _Found]]:
        manifests: list[FoundManifest] = []
        where: dict[bytes, _Found] = {}
        for item_id, each in found.items():
            try:
                plain = await self._plain(each)
                manifest = await asyncio.to_thread(manifest_format.decode, plain)
            except StaddleError as error:
                missing.append(f"manifest {item_id.hex()}: {error}")
                continue
            if manifest.head.backup in pruned:
                continue
            where[item_id] = each
            manifests.append(_found_manifest(item_id, each, manifest))
        return manifests, where


def _these(_: GridState, planned: list[ops.Op]) -> list[ops.Op]:
    return planned


def _found_manifest(item_id: bytes, each: _Found, manifest: Manifest) -> FoundManifest:
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
        files=int(np.count_nonzero(whole & ~is_dir)),
        dirs=int(np.count_nonzero(is_dir)),
        bytes_read=int(manifest.chunks.lengths.sum()),
    )
