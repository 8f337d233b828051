"""The state made again from what is found on the media (C3): containers, manifests, seals and journals.

A seal names the last manifest of each stream by digest, a manifest its predecessor: walking back gives
exactly the committed segments. Without a seal a backup is `incomplete`: its job still ran. Only a successor
proves that a manifest was committed: the very last one is left out, an unfinished backup promises nothing.
Where a manifest can't be read its segment is lost and the backup `incomplete`; all others are there.
Backups that a journal names as pruned never come back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from staddle.engine import ops
from staddle.engine.chains import Chain, Chains
from staddle.engine.found import Found, FoundBad, FoundContainer, FoundManifest, FoundSeal
from staddle.engine.importing import decide_backup_imported
from staddle.engine.messages import CopyOf
from staddle.engine.tables import SEALED, BackupState, Tables

NAMED_MAX = 8
"""Lost manifests of one stream that a finding names."""
NUMBERS_LEFT = 1000
"""Left free behind a rebuild with media missing: what comes back with them keeps its numbers."""
NUMBER_MAX = 2**31 - 2**20
"""Of a job or a backup: more is made up, and would leave no number that the catalog can hold."""


Head = TypeVar("Head", FoundManifest, FoundSeal)


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """The ops that make the state again, and what could not be made whole."""

    ops: list[ops.Op]
    findings: list[str]


class _Builder:
    """Collects what belongs together; used once."""

    def __init__(
        self,
        t: Tables,
        *,
        containers: Iterable[FoundContainer],
        manifests: Iterable[FoundManifest],
        seals: Iterable[FoundSeal],
        bad: Iterable[FoundBad],
        pruned: set[int],
    ) -> None:
        self.t = t
        self.containers = {item.id: item for item in containers}
        self.manifests = {item.id: item for item in manifests if item.backup not in pruned}
        self.chains = Chains(self.manifests.values())
        self.bad = {item.id: item for item in bad}
        self.seals: dict[int, FoundSeal] = {}
        for seal in sorted(seals, key=lambda item: (item.manager_epoch, item.id)):  # the last one counts
            if seal.backup not in pruned:
                self.seals[seal.backup] = seal
        self.used: dict[int, set[bytes]] = defaultdict(set)
        self.lost: dict[bytes, ops.ObjectImport] = {}
        self.findings: list[str] = []

    def sealed(self, seal: FoundSeal) -> ops.BackupImported:
        """Walk back from a seal."""
        problems: list[str] = []
        chains: list[Chain] = []
        for end in seal.streams:
            place = seal.backup, end.stream
            chain = self.chains.back(place, end.last_manifest, end.last_digest, end.segments - 1)
            chains.append(chain)
            if len(chain.found) != end.segments:
                problems.append(_incomplete(end.stream, chain, end.segments))
        problem = "; ".join(problems + self._missing(chains))
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
            segments=self._segments(chains, seal.domain),
            message=problem or ("it was not finished" if seal.state == BackupState.INCOMPLETE else ""),
        )

    def unsealed(self, backup: int) -> ops.BackupImported | None:
        """Of each stream what is known to be committed, from its first segment on; None if nothing is."""
        chains: list[Chain] = []
        problems = ["no seal was found: its job still ran when the manager was lost"]
        streams = self.chains.streams(backup)
        for stream in streams:
            last = self.chains.newest((backup, stream))
            chain = self.chains.back((backup, stream), last.id, last.digest, last.ordinal)
            chain.found.pop()  # the last one itself: nothing names it
            if len(chain.found) != last.ordinal:
                problems.append(_incomplete(stream, chain, last.ordinal))
                self.findings.append(f"backup {backup} ({last.client}, {last.name}): {problems[-1]}")
            chains.append(chain)
        found = [item for chain in chains for item in chain.found]
        if not found:
            return None
        head = found[0]
        return ops.BackupImported(
            backup=backup,
            job=head.job,
            client=head.client,
            name=head.name,
            roots=[],
            pool="",
            domain=head.domain,
            state=BackupState.INCOMPLETE.value,
            started_ns=min(item.created_ns for item in found),
            finished_ns=max(item.created_ns for item in found),
            files=sum(item.files for item in found),
            dirs=sum(item.dirs for item in found),
            bytes_read=sum(item.bytes_read for item in found),
            bytes_stored=sum(item.bytes_stored for item in found),
            warnings=0,
            seal=b"",
            streams=max(streams) + 1,
            segments=self._segments(chains, head.domain),
            message="; ".join(problems + self._missing(chains)),
        )

    def _missing(self, chains: list[Chain]) -> list[str]:
        refs = {ref for chain in chains for item in chain.found for ref in item.refs}
        missing = sum(ref not in self.containers for ref in refs)
        return [f"{missing} containers were not found"] if missing else []

    def _segments(self, chains: list[Chain], domain: str) -> list[ops.SegmentImport]:
        rows: list[ops.SegmentImport] = []
        for chain in chains:
            for item in chain.found:
                self.used[item.backup].update((item.id, *item.refs))
                rows.append(
                    ops.SegmentImport(
                        stream=item.stream,
                        ordinal=item.ordinal,
                        first=item.first,
                        next=item.next,
                        manifest=item.id,
                        digest=item.digest,
                        refs=b"".join(sorted(item.refs)),
                        plain_digest=item.plain_digest,
                    )
                )
            for row in chain.lost:
                self._lose(row, domain)
            rows += chain.lost
        return sorted(rows, key=lambda row: (row.stream, row.ordinal))

    def _lose(self, row: ops.SegmentImport, domain: str) -> None:
        """The backup goes on naming it, so that it is told of, and mended if a good copy turns up."""
        bad = self.bad.get(row.manifest)
        self.lost[row.manifest] = ops.ObjectImport(
            id=row.manifest,
            kind="manifest",
            size_bytes=bad.size_bytes if bad else 0,
            digest=row.digest,
            domain=domain,
            want=1,
            copies=[],
            bad=_sorted(bad.copies) if bad else [],
        )

    def objects(self, backups: Iterable[ops.BackupImported]) -> list[ops.ObjectImport]:
        """What those of the backups use that the log takes: what no backup in it uses it would delete."""
        taken = {backup.backup: backup for backup in backups if self._is_taken(backup)}
        used = {item for number in taken for item in self.used[number]}
        named = {row.manifest for backup in taken.values() for row in backup.segments}
        kinds: list[tuple[str, dict[bytes, Found]]] = [
            ("container", dict(self.containers)),
            ("manifest", dict(self.manifests)),
            ("seal", {seal.id: seal for seal in self.seals.values() if seal.backup in taken}),
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
                copies=_sorted(item.copies),
                raw_bytes=item.raw_bytes if isinstance(item, FoundContainer) else 0,
                chunks=item.chunks if isinstance(item, FoundContainer) else 0,
            )
            for kind, found in kinds
            for item in found.values()
            if kind == "seal" or item.id in used
        ] + [
            msgspec.structs.replace(item, want=want.get(item.domain, item.want))
            for item in self.lost.values()
            if item.id in named and item.id not in used
        ]

    def _is_taken(self, backup: ops.BackupImported) -> bool:
        known = self.t.backups.get(backup.backup)
        pruned = known is not None and known.state is BackupState.PRUNED
        return not pruned and not decide_backup_imported(self.t, backup)[1]


def _incomplete(stream: int, chain: Chain, segments: int) -> str:
    said = f"stream {stream}: {len(chain.found)} of {segments} manifests were found"
    names = [row.manifest.hex() for row in chain.lost[:NAMED_MAX]]
    return said + (f"; whole in no copy: {', '.join(names)}" if names else "")


def _sorted(copies: Iterable[CopyOf]) -> list[CopyOf]:
    return sorted(copies, key=lambda copy: (copy.medium, copy.name))


def _counted(found: Iterable[Head]) -> list[Head]:
    return [item for item in found if max(item.job, item.backup) <= NUMBER_MAX]


def plan_rebuild(
    t: Tables,
    *,
    containers: Iterable[FoundContainer],
    manifests: Iterable[FoundManifest],
    seals: Iterable[FoundSeal],
    pruned: Iterable[int],
    bad: Iterable[FoundBad] = (),
    unread: Iterable[str] = (),
) -> Rebuilt:
    """The ops that bring everything back, on a state that knows agents, media and pools already.

    Args:
        t: tables with the configuration.
        containers: all that were found on any medium.
        manifests: likewise, those that could be read from any copy.
        seals: likewise.
        pruned: numbers of the backups that the journals name.
        bad: manifests that were found and could not be read from any copy.
        unread: media whose objects are not among these.
    """
    gone, missing = {number for number in pruned if number <= NUMBER_MAX}, sorted(unread)
    manifests, seals = list(manifests), list(seals)
    all_heads = len(manifests) + len(seals)
    manifests, seals = _counted(manifests), _counted(seals)
    builder = _Builder(t, containers=containers, manifests=manifests, seals=seals, bad=bad, pruned=gone)
    if made_up := all_heads - len(manifests) - len(seals):
        builder.findings.append(f"{made_up} manifests and seals name a job or a backup above {NUMBER_MAX}")
    backups = [builder.sealed(seal) for _, seal in sorted(builder.seals.items())]
    loose = sorted({item.backup for item in builder.manifests.values()} - set(builder.seals))
    backups += [found for number in loose if (found := builder.unsealed(number)) is not None]
    backups.sort(key=lambda item: item.backup)
    # Unadopted manifests count too: the numbers of what was running must not be used again.
    heads = [(item.job, item.backup) for item in builder.manifests.values()]
    heads += [(item.job, item.backup) for item in builder.seals.values()]
    last_job = max((job for job, _ in heads), default=0)
    last_backup = max([*gone, *(backup for _, backup in heads)], default=0)
    left = NUMBERS_LEFT if missing else 0
    forgotten = ops.BackupsForgotten(
        backups=sorted(gone),
        next_job=max(last_job, last_backup) + left + 1,
        next_backup=last_backup + left + 1,
    )
    imported = ops.ObjectsImported(objects=builder.objects(backups))
    unseen = ops.MediaUnread(media=missing)
    return Rebuilt(ops=[imported, *backups, forgotten, unseen], findings=builder.findings)


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
