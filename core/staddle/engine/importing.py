"""What a rebuild has found enters the log: at first all of it, later what media that come back add to it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from staddle.engine import ops
from staddle.engine.messages import CopyOf
from staddle.engine.tables import (
    ACTIVE,
    SEALED,
    Backup,
    BackupState,
    Job,
    JobState,
    Object,
    ObjectState,
    SegmentRow,
    Stream,
    StreamState,
    Tables,
)


def decide_objects_imported(t: Tables, found: Iterable[ops.ObjectImport]) -> list[ops.Op]:
    """Objects that the log does not know yet, and copies of known ones that it does not know.

    What is being deleted stays so: only what a journal on the media names is.
    """
    doomed = {CopyOf(medium, name) for medium, names in t.doomed.items() for name in names}
    objects = [merged for item in found if (merged := _merged(t, item, doomed)) is not None]
    return [ops.ObjectsImported(objects=objects)] if objects else []


def _merged(t: Tables, item: ops.ObjectImport, doomed: set[CopyOf]) -> ops.ObjectImport | None:
    """The object with all copies that are known but those being removed; None if none of them is new."""
    known = t.objects.get(item.id)
    if known is None:
        return item
    if known.state is ObjectState.DELETING or known.digest != item.digest:
        return None
    there = doomed.union(known.placements())
    copies = [copy for copy in item.copies if copy not in there]
    bad = [copy for copy in item.bad if copy not in there]
    if not copies and not bad and known.state is ObjectState.LIVE:
        return None
    return msgspec.structs.replace(
        item,
        want=max(known.want, item.want),
        copies=[*known.copies, *copies],
        bad=[*known.bad, *bad],
        size_bytes=item.size_bytes if item.copies else known.size_bytes,
    )


def decide_backup_imported(t: Tables, found: ops.BackupImported) -> tuple[list[ops.Op], str]:
    """A backup that the log does not know, or knows less of; and why it can't be taken, if it can't."""
    known = t.backups.get(found.backup)
    job = t.jobs.get(found.job)
    if known is None and job is None:
        return [found], ""
    if known is None or not _same(known, found):
        return [], (
            f"backup {found.backup} of job {found.job} ({found.client}, {found.name}): another one has that "
            "number by now; `contrib/rescue` restores it"
        )
    finished = known.state in SEALED or known.state is BackupState.PRUNED
    if finished or t.jobs[known.job].state in ACTIVE or _worth(t, known, found) <= 0:
        return [], ""
    return [found], ""


def _same(known: Backup, found: ops.BackupImported) -> bool:
    """Is it that very backup: the client may have made another one of the name with the number since."""
    if (known.job, known.client, known.name) != (found.job, found.client, found.name):
        return False
    manifests = {row.manifest for row in known.segments}
    return any(row.manifest in manifests for row in found.segments) or (
        known.started_ns <= max(found.started_ns, found.finished_ns)
        and found.started_ns <= max(known.started_ns, known.finished_ns)
    )


def _worth(t: Tables, known: Backup, found: ops.BackupImported) -> int:
    """How many segments more can be read; a finished backup is worth more than any unfinished one."""
    if found.state in SEALED:
        return 1
    return _readable(t, found.segments) - _readable(t, known.segments)


def _readable(t: Tables, rows: Iterable[SegmentRow | ops.SegmentImport]) -> int:
    """Segments whose manifest was read, and so is known to refer to something, or is whole at least."""
    return sum(
        bool(row.refs) + (row.manifest in t.objects and bool(t.objects[row.manifest].copies)) for row in rows
    )


def manifests_found_again(t: Tables) -> bool:
    """Is a manifest whole by now that a rebuild could not read: what it refers to is not known yet."""
    return any(
        not row.refs and row.manifest in t.objects and bool(t.objects[row.manifest].copies)
        for backup in t.backups.values()
        if backup.state is BackupState.INCOMPLETE
        for row in backup.segments
    )


def decide_unread(t: Tables, media: Iterable[str]) -> list[ops.Op]:
    """These media, and no others, hold what the log does not know."""
    wanted = sorted(set(media))
    return [ops.MediaUnread(media=wanted)] if wanted != t.unread else []


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
            bad=item.bad,
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
                plain_digest=row.plain_digest,
            )
            for row in op.segments
        ],
    )
    t.next_job, t.next_backup = max(t.next_job, op.job + 1), max(t.next_backup, op.backup + 1)
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


def apply_media_unread(t: Tables, op: ops.MediaUnread) -> None:
    """What lies on these media is not known."""
    t.unread = op.media
