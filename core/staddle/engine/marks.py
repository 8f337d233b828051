"""Incomplete backups leave a seal, too: it says where their streams end, so that a rebuild need not guess.

A job that fails or is given up may leave a last manifest that was never committed. Without the log nobody can
tell it from the last committed one; with the seal the chain ends where it ended.

A backup whose seal is damaged in every copy gets a new one.
"""

from __future__ import annotations

import msgspec

from staddle.engine import ops
from staddle.engine.commit import add_object
from staddle.engine.jobs import seal_needed
from staddle.engine.messages import SealNeeded, StoredObject, StreamEndOf
from staddle.engine.tables import ACTIVE, Backup, BackupState, ObjectState, Tables


def to_mark(t: Tables) -> list[int]:
    """Incomplete backups that hold something and have no seal; their jobs have ended in this log."""
    return [
        backup.id
        for backup in t.backups.values()
        if backup.state is BackupState.INCOMPLETE and not backup.seal and backup.segments
        if t.jobs[backup.job].state not in ACTIVE and t.jobs[backup.job].pool in t.pools
    ]


def mark_needed(t: Tables, number: int) -> SealNeeded:
    """What the seal of an incomplete backup says."""
    backup = t.backups[number]
    needed = seal_needed(t, t.jobs[backup.job])
    return msgspec.structs.replace(needed, state=BackupState.INCOMPLETE.value, finished_ns=backup.finished_ns)


def decide_marked(t: Tables, number: int, seal: StoredObject) -> list[ops.Op]:
    """It is stored. Nothing if the backup was pruned meanwhile: then the seal is an orphan."""
    if number not in to_mark(t):
        return []
    pool = t.pools[t.jobs[t.backups[number].job].pool]
    return [ops.BackupMarked(backup=number, seal=seal, domain=pool.domain, want=pool.copies)]


def reseal_needed(t: Tables, item_id: bytes) -> SealNeeded | None:
    """What the new seal of a finished backup says, whose own has no whole copy; None where it needs none.

    The log holds all that a seal says, also of a backup that a rebuild has brought: its job has no streams
    that were written here, so their ends are read from the segments.
    """
    backup = _of_seal(t, item_id)
    pool = t.pools.get(backup.pool) if backup is not None else None
    if backup is None or pool is None:
        return None
    job = t.jobs[backup.job]
    last = {row.stream: row for row in sorted(backup.segments, key=lambda row: row.ordinal)}
    ends = [
        StreamEndOf(
            stream=stream.stream,
            segments=last[stream.stream].ordinal + 1 if stream.stream in last else 0,
            last_manifest=last[stream.stream].manifest if stream.stream in last else b"",
            last_digest=last[stream.stream].digest if stream.stream in last else b"",
        )
        for stream in job.streams
    ]
    return SealNeeded(
        manager_epoch=t.epoch,
        job=job.id,
        backup=backup.id,
        client=backup.client,
        name=backup.name,
        pool=backup.pool,
        domain=backup.domain,
        roots=backup.roots,
        base_backup=job.base_backup,
        started_ns=backup.started_ns,
        finished_ns=backup.finished_ns,
        state=backup.state.value,
        files=backup.files,
        dirs=backup.dirs,
        bytes_read=backup.bytes_read,
        bytes_stored=backup.bytes_stored,
        warnings=backup.warnings,
        streams=ends,
        media=[name for name in pool.media if name in t.up_domains(pool)],
        min_copies=pool.min_copies,
    )


def decide_resealed(t: Tables, item_id: bytes, seal: StoredObject) -> tuple[list[ops.Op], bool]:
    """It is stored, and the bad one goes. False if a copy of that one is whole after all, or it is gone."""
    backup = _of_seal(t, item_id)
    if backup is None:
        return [], False
    want = t.objects[item_id].want
    return [
        ops.BackupMarked(backup=backup.id, seal=seal, domain=backup.domain, want=want),
        ops.ObjectsDeleting(objects=[item_id]),
    ], True


def _of_seal(t: Tables, item_id: bytes) -> Backup | None:
    """The backup whose seal this is, if all copies of it are bad."""
    item = t.objects.get(item_id)
    if item is None or item.kind != "seal" or item.copies or item.state is not ObjectState.LIVE:
        return None
    found = (backup for backup in t.backups.values() if backup.seal == item_id)
    return next((backup for backup in found if backup.state is not BackupState.PRUNED), None)


def apply_backup_marked(t: Tables, op: ops.BackupMarked) -> None:
    """A backup has a seal, which its job did not leave or which is no more."""
    add_object(t, op.seal, "seal", op.domain, op.want)
    t.backups[op.backup].seal = op.seal.id
