"""Incomplete backups leave a seal, too: it says where their streams end, so that a rebuild need not guess.

A job that fails or is given up may leave a last manifest that was never committed. Without the log nobody can
tell it from the last committed one; with the seal the chain ends where it ended.
"""

from __future__ import annotations

import msgspec

from staddle.engine import ops
from staddle.engine.commit import add_object
from staddle.engine.jobs import seal_needed
from staddle.engine.messages import SealNeeded, StoredObject
from staddle.engine.tables import ACTIVE, BackupState, Tables


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


def apply_backup_marked(t: Tables, op: ops.BackupMarked) -> None:
    """An incomplete backup has its seal."""
    add_object(t, op.seal, "seal", op.domain, op.want)
    t.backups[op.backup].seal = op.seal.id
