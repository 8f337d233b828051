"""The state made again from what is found on the media (C3): containers, manifests, seals and journals.

A seal names the last manifest of each stream by digest, a manifest its predecessor: walking back gives
exactly the committed segments. Without a seal a backup is `incomplete`: its job still ran. Of several with
one ordinal at most one was committed, the one of the highest epoch: a later assignment starts behind it.
Only a successor proves that it was: the very last one is left out, an unfinished backup promises nothing.
Backups that a journal names as pruned never come back.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from staddle.engine import ops
from staddle.engine.messages import CopyOf, StreamEndOf
from staddle.engine.tables import (
    SEALED,
    Backup,
    BackupState,
    Job,
    JobState,
    Object,
    SegmentRow,
    Stream,
    StreamState,
    Tables,
)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An object that was found, read and verified, and all its placements."""

    id: bytes
    size_bytes: int
    digest: bytes
    domain: str
    copies: list[CopyOf]


class FoundContainer(Found, frozen=True, kw_only=True):
    """A container."""

    raw_bytes: int
    chunks: int


class FoundManifest(Found, frozen=True, kw_only=True):
    """A manifest: its head, the containers that it refers to, and its counts."""

    job: int
    backup: int
    client: str
    name: str
    stream: int
    epoch: int
    ordinal: int
    first: int
    next: int
    previous_manifest: bytes
    previous_digest: bytes
    refs: list[bytes]
    created_ns: int
    files: int = 0
    dirs: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0


class FoundSeal(Found, frozen=True, kw_only=True):
    """A seal, as SealNeeded had it."""

    manager_epoch: int
    job: int
    backup: int
    client: str
    name: str
    pool: str
    roots: list[bytes]
    started_ns: int
    finished_ns: int
    state: str
    files: int
    dirs: int
    bytes_read: int
    bytes_stored: int
    warnings: int
    streams: list[StreamEndOf]


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """The ops that make the state again, and what could not be made whole."""

    ops: list[ops.Op]
    findings: list[str]


class _Builder:
    """Collects what belongs together; used once."""

    def __init__(
        self,
        t: Tables,
        containers: Iterable[FoundContainer],
        manifests: Iterable[FoundManifest],
        seals: Iterable[FoundSeal],
        pruned: set[int],
    ) -> None:
        self.t = t
        self.containers = {item.id: item for item in containers}
        self.manifests = {item.id: item for item in manifests if item.backup not in pruned}
        self.seals: dict[int, FoundSeal] = {}
        for seal in sorted(seals, key=lambda item: (item.manager_epoch, item.id)):  # the last one counts
            if seal.backup not in pruned:
                self.seals[seal.backup] = seal
        self.used: set[bytes] = set()
        self.findings: list[str] = []

    def sealed(self, seal: FoundSeal) -> ops.BackupImported:
        """Walk back from a seal."""
        chain: list[FoundManifest] = []
        problem = ""
        for end in seal.streams:
            found = self._walk_back(end)
            chain += found
            if len(found) != end.segments:
                problem = f"stream {end.stream}: {len(found)} of {end.segments} manifests were found"
        missing = {ref for manifest in chain for ref in manifest.refs if ref not in self.containers}
        if missing:
            problem = f"{len(missing)} containers were not found"
        if problem:
            self.findings.append(f"backup {seal.backup} ({seal.client}, {seal.name}): {problem}")
        return ops.BackupImported(
            backup=seal.backup,
            job=seal.job,
            client=seal.client,
            name=seal.name,
            roots=seal.roots,
            pool=seal.pool,
            domain=seal.domain,
            state=BackupState.INCOMPLETE.value if problem else seal.state,
            started_ns=seal.started_ns,
            finished_ns=seal.finished_ns,
            files=seal.files,
            dirs=seal.dirs,
            bytes_read=seal.bytes_read,
            bytes_stored=seal.bytes_stored,
            warnings=seal.warnings,
            seal=seal.id,
            streams=len(seal.streams),
            segments=self._segments(chain),
            message=problem or ("it was not finished" if seal.state == BackupState.INCOMPLETE else ""),
        )

    def _walk_back(self, end: StreamEndOf) -> list[FoundManifest]:
        found: list[FoundManifest] = []
        at, digest = end.last_manifest, end.last_digest
        while at and (manifest := self.manifests.get(at)) is not None and manifest.digest == digest:
            found.append(manifest)
            at, digest = manifest.previous_manifest, manifest.previous_digest
        return found[::-1]

    def unsealed(self, backup: int) -> ops.BackupImported | None:
        """Of each stream what is known to be committed, from its first segment on; None if nothing is."""
        mine = [item for item in self.manifests.values() if item.backup == backup]
        chain: list[FoundManifest] = []
        for stream in sorted({item.stream for item in mine}):
            chain += self._walk_on([item for item in mine if item.stream == stream])
        if not chain:
            return None
        head = mine[0]
        return ops.BackupImported(
            backup=backup,
            job=head.job,
            client=head.client,
            name=head.name,
            roots=[],
            pool="",
            domain=head.domain,
            state=BackupState.INCOMPLETE.value,
            started_ns=min(item.created_ns for item in chain),
            finished_ns=max(item.created_ns for item in chain),
            files=sum(item.files for item in chain),
            dirs=sum(item.dirs for item in chain),
            bytes_read=sum(item.bytes_read for item in chain),
            bytes_stored=sum(item.bytes_stored for item in chain),
            warnings=0,
            seal=b"",
            streams=max(item.stream for item in mine) + 1,
            segments=self._segments(chain),
            message="no seal was found: its job still ran when the manager was lost",
        )

    def _walk_on(self, mine: list[FoundManifest]) -> list[FoundManifest]:
        chain: list[FoundManifest] = []
        previous = (b"", b"")
        while True:
            following = [
                item
                for item in mine
                if item.ordinal == len(chain)
                and (item.previous_manifest, item.previous_digest) == previous
                and all(ref in self.containers for ref in item.refs)
            ]
            if not following:
                named = {item.previous_manifest for item in mine}
                return [item for item in chain if item.id in named]
            chosen = max(following, key=lambda item: item.epoch)
            chain.append(chosen)
            previous = (chosen.id, chosen.digest)

    def _segments(self, chain: list[FoundManifest]) -> list[ops.SegmentImport]:
        for item in chain:
            self.used.update((item.id, *item.refs))
        return [
            ops.SegmentImport(
                stream=item.stream,
                ordinal=item.ordinal,
                first=item.first,
                next=item.next,
                manifest=item.id,
                digest=item.digest,
                refs=b"".join(sorted(item.refs)),
            )
            for item in chain
        ]

    def objects(self) -> list[ops.ObjectImport]:
        """What the imported backups use."""
        kinds: list[tuple[str, dict[bytes, Found]]] = [
            ("container", dict(self.containers)),
            ("manifest", dict(self.manifests)),
            ("seal", {seal.id: seal for seal in self.seals.values()}),
        ]
        want = {pool.domain: pool.copies for pool in self.t.pools.values()}
        return [
            ops.ObjectImport(
                id=item.id,
                kind=kind,
                size_bytes=item.size_bytes,
                digest=item.digest,
                domain=item.domain,
                want=want.get(item.domain, len(item.copies)),
                copies=sorted(item.copies, key=lambda copy: (copy.medium, copy.name)),
                raw_bytes=item.raw_bytes if isinstance(item, FoundContainer) else 0,
                chunks=item.chunks if isinstance(item, FoundContainer) else 0,
            )
            for kind, found in kinds
            for item in found.values()
            if kind == "seal" or item.id in self.used
        ]


def plan_rebuild(
    t: Tables,
    *,
    containers: Iterable[FoundContainer],
    manifests: Iterable[FoundManifest],
    seals: Iterable[FoundSeal],
    pruned: Iterable[int],
) -> Rebuilt:
    """The ops that bring everything back, on a state that knows agents, media and pools already.

    Args:
        t: tables with the configuration.
        containers: all that were found on any medium.
        manifests: likewise; damaged ones are left out by the caller, and named by it.
        seals: likewise.
        pruned: numbers of the backups that the journals name.
    """
    gone = set(pruned)
    builder = _Builder(t, containers, manifests, seals, gone)
    backups = [builder.sealed(seal) for _, seal in sorted(builder.seals.items())]
    loose = sorted({item.backup for item in builder.manifests.values()} - set(builder.seals))
    backups += [found for number in loose if (found := builder.unsealed(number)) is not None]
    backups.sort(key=lambda item: item.backup)
    # Unadopted manifests count too: the numbers of what was running must not be used again.
    heads = [(item.job, item.backup) for item in builder.manifests.values()]
    heads += [(item.job, item.backup) for item in builder.seals.values()]
    last_job = max((job for job, _ in heads), default=0)
    last_backup = max([*gone, *(backup for _, backup in heads)], default=0)
    forgotten = ops.BackupsForgotten(
        backups=sorted(gone),
        next_job=max(last_job, last_backup) + 1,
        next_backup=last_backup + 1,
    )
    imported = ops.ObjectsImported(objects=builder.objects())
    return Rebuilt(ops=[imported, *backups, forgotten], findings=builder.findings)


def facts(t: Tables) -> dict[str, object]:
    """What C3 compares: the sealed backups, their segments, the objects that they use, and the copies."""
    backups = [backup for backup in t.backups.values() if backup.state in SEALED]
    used = {backup.seal for backup in backups}
    for backup in backups:
        for row in backup.segments:
            used.update((row.manifest, *row.ref_ids()))
    return {
        "backups": sorted(
            (b.id, b.job, b.client, b.name, tuple(b.roots), b.pool, b.state.value, b.finished_ns, b.seal)
            for b in backups
        ),
        "counts": sorted((b.id, b.files, b.dirs, b.bytes_read, b.bytes_stored, b.warnings) for b in backups),
        "segments": sorted(
            (b.id, row.stream, row.ordinal, row.first, row.next, row.manifest, row.digest, row.refs)
            for b in backups
            for row in b.segments
        ),
        "objects": sorted(
            (item.id, item.kind, item.size_bytes, item.digest, item.domain, item.raw_bytes, item.chunks)
            for item in t.objects.values()
            if item.id in used
        ),
        "copies": sorted(
            (item.id, copy.medium, copy.name)
            for item in t.objects.values()
            if item.id in used
            for copy in item.copies
        ),
    }


# --- appliers -----------------------------------------------------------------------------------


def apply_objects_imported(t: Tables, op: ops.ObjectsImported) -> None:
    """Objects found on the media."""
    for item in op.objects:
        t.objects[item.id] = Object(
            id=item.id,
            kind=item.kind,
            size_bytes=item.size_bytes,
            digest=item.digest,
            domain=item.domain,
            want=item.want,
            copies=item.copies,
            raw_bytes=item.raw_bytes,
            chunks=item.chunks,
        )
        t.note_damage(t.objects[item.id])


def apply_backup_imported(t: Tables, op: ops.BackupImported) -> None:
    """A backup and its job."""
    t.backups[op.backup] = Backup(
        id=op.backup,
        job=op.job,
        client=op.client,
        name=op.name,
        roots=op.roots,
        pool=op.pool,
        domain=op.domain,
        started_ns=op.started_ns,
        state=BackupState(op.state),
        finished_ns=op.finished_ns,
        files=op.files,
        dirs=op.dirs,
        bytes_read=op.bytes_read,
        bytes_stored=op.bytes_stored,
        warnings=op.warnings,
        seal=op.seal,
        segments=[
            SegmentRow(
                stream=row.stream,
                ordinal=row.ordinal,
                first=row.first,
                next=row.next,
                manifest=row.manifest,
                digest=row.digest,
                refs=row.refs,
                lsn=t.lsn,
            )
            for row in op.segments
        ],
    )
    t.jobs[op.job] = Job(
        id=op.job,
        kind="backup",
        client=op.client,
        name=op.name,
        roots=op.roots,
        pool=op.pool,
        backup=op.backup,
        base_backup=0,
        request=b"",
        session=b"",
        created_ns=op.started_ns,
        state=JobState(op.state),
        ended_ns=op.finished_ns,
        message=op.message,
        warnings=op.warnings,
        streams=[Stream(stream=number, state=StreamState.ENDED) for number in range(op.streams)],
    )


def apply_backups_forgotten(t: Tables, op: ops.BackupsForgotten) -> None:
    """Their numbers are never used again."""
    t.next_job, t.next_backup = max(t.next_job, op.next_job), max(t.next_backup, op.next_backup)
