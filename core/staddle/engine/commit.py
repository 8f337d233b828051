"""COMMIT: the one step that makes a segment part of a backup, and the rules G1 and G2 that guard it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from staddle.engine import ops
from staddle.engine.messages import Commit, CommitOk, CommitReply, Gone, Short, Stale, StoredObject
from staddle.engine.tables import (
    Backup,
    JobState,
    Object,
    ObjectState,
    Pool,
    SegmentRow,
    StreamState,
    Tables,
)
from staddle.errors import Denied

COUNT_MAX = 2**63 - 1
"""What a count of the catalog, and of a snapshot, holds."""
_COUNTS = ("files", "dirs", "bytes_read", "bytes_stored")


def decide_commit(t: Tables, commit: Commit, wall_ns: int) -> tuple[list[ops.Op], CommitReply]:
    """Accept a segment iff its epoch is current, it is the next one, and all it refers to is good.

    The order of the checks matters: a repeat of what was accepted is OK even if the epoch has moved on since;
    its sender only missed the answer.
    """
    job = t.jobs.get(commit.job)
    if job is None or commit.stream >= len(job.streams):
        return [], Stale(epoch=0, next_seq=0)
    stream, backup, pool = job.streams[commit.stream], t.backups[job.backup], t.pools[job.pool]
    if commit.first < stream.next_seq and (row := committed_before(backup, commit)) is not None:
        return [], CommitOk(next_seq=row.next, lsn=row.lsn, repeat=True)
    current = job.state is JobState.RUNNING and stream.state is StreamState.OPEN
    mine = (stream.epoch, stream.agent) == (commit.epoch, commit.agent)
    if not (current and mine and commit.first == stream.next_seq < commit.next):
        return [], Stale(epoch=stream.epoch, next_seq=stream.next_seq)
    if commit.manifest.id in t.objects:
        raise Denied(f"job {job.id} stream {stream.stream}: the manifest has the id of another object")
    if any(getattr(backup, name) + getattr(commit, name) > COUNT_MAX for name in _COUNTS):
        raise Denied(f"job {job.id} stream {stream.stream}: a backup can't be that large")
    domains = t.up_domains(pool)
    if short := _short(t, commit, stream.media, pool, domains):
        return [], short
    new = {item.id for item in commit.containers}
    refs = sorted({*commit.refs, *new})
    gone = [item for item in refs if item not in new and not usable(t, item, pool, domains)]
    gone += [item for item in sorted(new) if item in t.objects]
    if gone:
        return [], Gone(containers=gone)
    op = ops.SegmentCommitted(
        job=job.id,
        backup=job.backup,
        stream=commit.stream,
        epoch=commit.epoch,
        ordinal=stream.ordinal,
        first=commit.first,
        next=commit.next,
        manifest=_on(stream.media, commit.manifest),
        containers=[_on(stream.media, item) for item in commit.containers],
        refs=b"".join(refs),
        revived=[i for i in refs if i not in new and t.objects[i].state is ObjectState.CONDEMNED],
        domain=pool.domain,
        want=pool.copies,
        files=commit.files,
        dirs=commit.dirs,
        bytes_read=commit.bytes_read,
        bytes_stored=commit.bytes_stored,
        at_ns=wall_ns,
        plain_digest=commit.plain_digest,
    )
    return [op], CommitOk(next_seq=commit.next, lsn=t.lsn + 1)


def committed_before(backup: Backup, commit: Commit) -> SegmentRow | None:
    """The segment of an identical COMMIT that was accepted, if there is one."""
    for row in reversed(backup.segments):
        if row.stream == commit.stream and row.first == commit.first:
            same = (row.next, row.manifest, row.digest) == (
                commit.next,
                commit.manifest.id,
                commit.manifest.digest,
            )
            return row if same else None
    return None


def _short(t: Tables, commit: Commit, media: list[str], pool: Pool, domains: dict[str, str]) -> Short | None:
    """Receipts count on the ticket's media only, while those are up, and not under a doomed name."""
    short: list[bytes] = []
    missing: set[str] = set()
    for item in (commit.manifest, *commit.containers):
        counted = {
            copy.medium
            for copy in item.copies
            if copy.medium in media
            and copy.medium in domains
            and copy.name not in t.doomed.get(copy.medium, ())
        }
        if len({domains[name] for name in counted}) < pool.min_copies:
            short.append(item.id)
            missing.update(name for name in media if name not in counted)
    return Short(objects=short, media=sorted(missing)) if short else None


def _on(media: list[str], item: StoredObject) -> StoredObject:
    """The object with its receipts of these media alone: an agent vouches for those of its ticket."""
    if all(copy.medium in media for copy in item.copies):
        return item
    return msgspec.structs.replace(item, copies=[copy for copy in item.copies if copy.medium in media])


def usable(t: Tables, container: bytes, pool: Pool, domains: dict[str, str] | None = None) -> bool:
    """G1 and G2: may a manifest of this pool refer to this container now?

    It must be committed, of the same dedup domain, not being deleted, and have its copies on the pool's media
    that are up: as many as the pool wants, or as many as there are failure domains left, and never fewer than
    `min_copies`.
    """
    item = t.objects.get(container)
    if item is None or item.kind != "container" or item.domain != pool.domain:
        return False
    if item.state is ObjectState.DELETING:
        return False
    if domains is None:
        domains = t.up_domains(pool)
    need = max(pool.min_copies, min(pool.copies, len(set(domains.values()))))
    return len({domains[copy.medium] for copy in item.copies if copy.medium in domains}) >= need


def unusable(t: Tables, containers: Iterable[bytes], pool: Pool) -> list[bytes]:
    """Of these containers, those that a COMMIT would refuse now: an agent asks before it uses its hits."""
    domains = t.up_domains(pool)
    return [item for item in containers if not usable(t, item, pool, domains)]


# --- appliers -----------------------------------------------------------------------------------


def apply_segment_committed(t: Tables, op: ops.SegmentCommitted) -> None:
    """A segment is part of its backup."""
    backup, stream = t.backups[op.backup], t.jobs[op.job].streams[op.stream]
    add_object(t, op.manifest, "manifest", op.domain, op.want)
    for item in op.containers:
        add_object(t, item, "container", op.domain, op.want)
    for item_id in op.revived:
        t.objects[item_id].state = ObjectState.LIVE
        t.objects[item_id].condemned_ns = 0
    backup.segments.append(
        SegmentRow(
            stream=op.stream,
            ordinal=op.ordinal,
            first=op.first,
            next=op.next,
            manifest=op.manifest.id,
            digest=op.manifest.digest,
            refs=op.refs,
            lsn=t.lsn,
            plain_digest=op.plain_digest,
        )
    )
    backup.files += op.files
    backup.dirs += op.dirs
    backup.bytes_read += op.bytes_read
    backup.bytes_stored += op.bytes_stored
    stream.next_seq, stream.ordinal = op.next, op.ordinal + 1
    stream.last_manifest, stream.last_digest = op.manifest.id, op.manifest.digest


def add_object(t: Tables, item: StoredObject, kind: str, domain: str, want: int) -> None:
    """An object is committed."""
    t.objects[item.id] = Object(
        id=item.id,
        kind=kind,
        size_bytes=item.size_bytes,
        digest=item.digest,
        domain=domain,
        want=want,
        copies=list(item.copies),
        raw_bytes=item.raw_bytes,
        chunks=item.chunks,
    )
