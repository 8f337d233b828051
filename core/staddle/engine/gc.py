"""Deletion (G2): mark and sweep, prunes that reach the media first, orphans, copies and their repair.

Nothing is deleted from a medium before the record that says so is durable in the log of the manager in
office: a deposed one can log nothing that counts, so it can delete nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from staddle.api.types import Kind, parse_object_name
from staddle.engine import ops
from staddle.engine.commit import add_object
from staddle.engine.messages import CopyOf, StoredObject
from staddle.engine.tables import (
    BackupState,
    JobState,
    MediumStatus,
    Object,
    ObjectState,
    PlannedCopy,
    StreamState,
    Tables,
)
from staddle.errors import NotFound

DELETED = "deleted"


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What a prune did: `held` backups stay, since active jobs use them."""

    backups: list[int]
    held: list[int]


# --- prune --------------------------------------------------------------------------------------


def decide_prune(t: Tables, backups: Iterable[int], wall_ns: int) -> tuple[list[ops.Op], Pruned]:
    """Give backups up. Their data stays until `decide_journalled`. Raises NotFound."""
    wanted = sorted(set(backups))
    if unknown := [number for number in wanted if number not in t.backups]:
        raise NotFound("no backup " + ", ".join(map(str, unknown)), hint="`staddle ls` shows them")
    held = [number for number in wanted if t.held(number)]
    pruned = [
        number
        for number in wanted
        if number not in held and t.backups[number].state is not BackupState.PRUNED
    ]
    if not pruned:
        return [], Pruned(backups=[], held=held)
    return [ops.BackupsPruned(backups=pruned, at_ns=wall_ns)], Pruned(backups=pruned, held=held)


def to_journal(t: Tables) -> list[int]:
    """Pruned backups that no journal on the media names yet: the driver stores one, on every medium."""
    return [b.id for b in t.backups.values() if b.state is BackupState.PRUNED and not b.journalled]


def journal_media(t: Tables, backups: Iterable[int]) -> list[str]:
    """Media that must hold the journal of this prune: those with a manifest or a seal of these backups."""
    holders = {
        copy.medium
        for number in backups
        for item in (*(row.manifest for row in t.backups[number].segments), t.backups[number].seal)
        if item in t.objects
        for copy in t.objects[item].placements()
    }
    gone = {MediumStatus.LOST, MediumStatus.RETIRED}
    return sorted(name for name in holders if t.media[name].state not in gone)


def decide_journalled(t: Tables, backups: Iterable[int], journal: StoredObject) -> list[ops.Op]:
    """The journal is stored: manifests and seals of these backups may go, their containers lose a root.

    It must stand on every medium that holds a manifest or a seal of theirs and is not lost: otherwise a
    rebuild from that medium alone would bring them back. If all those are lost it stands on any other.
    """
    pending = [number for number in backups if number in to_journal(t)]
    if not pending:
        return []
    deleting = [
        item
        for number in pending
        for item in (*(row.manifest for row in t.backups[number].segments), t.backups[number].seal)
        if item in t.objects
    ]
    on = {copy.medium for copy in journal.copies}
    if not on or set(journal_media(t, pending)) - on:
        return []
    return [
        ops.PruneJournalled(
            backups=pending,
            journal=journal,
            domain=t.backups[pending[0]].domain,
            want=len(journal.copies),
            deleting=deleting,
        )
    ]


# --- containers ---------------------------------------------------------------------------------


def marked(t: Tables) -> set[bytes]:
    """Every container that a backup refers to, unless its prune stands in a journal on the media."""
    live: set[bytes] = set()
    for backup in t.backups.values():
        if backup.state is not BackupState.PRUNED or not backup.journalled:
            for row in backup.segments:
                live.update(row.ref_ids())
    return live


def decide_condemn(t: Tables, wall_ns: int) -> list[ops.Op]:
    """Mark and sweep: condemn what nothing refers to."""
    live = marked(t)
    found = [
        item.id
        for item in t.objects.values()
        if item.kind == "container" and item.state is ObjectState.LIVE and item.id not in live
    ]
    return [ops.ContainersCondemned(containers=found, at_ns=wall_ns)] if found else []


def decide_delete(t: Tables, grace_ns: int, wall_ns: int) -> list[ops.Op]:
    """Containers condemned for the grace time or longer are on their way out; there is no way back."""
    found = [
        item.id
        for item in t.objects.values()
        if item.state is ObjectState.CONDEMNED and item.condemned_ns + grace_ns <= wall_ns
    ]
    return [ops.ObjectsDeleting(objects=found)] if found else []


def to_delete(t: Tables) -> list[tuple[bytes, CopyOf]]:
    """Copies to be deleted now: of objects in `deleting`, on media that are up."""
    return [
        (item.id, copy)
        for item in t.objects.values()
        if item.state is ObjectState.DELETING
        for copy in item.placements()
        if t.media[copy.medium].state is MediumStatus.UP
    ]


def decide_copies_deleted(t: Tables, deleted: Iterable[tuple[bytes, CopyOf]]) -> list[ops.Op]:
    """These placements are gone from their media."""
    return [
        ops.CopyDropped(object=item, copy=copy, reason=DELETED)
        for item, copy in deleted
        if item in t.objects and t.objects[item].state is ObjectState.DELETING
        if copy in t.objects[item].placements()
    ]


def decide_drop(t: Tables) -> list[ops.Op]:
    """Forget what is deleted: copies on lost or retired media are given up with the rest."""
    gone = {MediumStatus.LOST, MediumStatus.RETIRED}
    dropped = [
        item.id
        for item in t.objects.values()
        if item.state is ObjectState.DELETING
        and all(t.media[copy.medium].state in gone for copy in item.placements())
    ]
    return [ops.ObjectsDropped(objects=dropped)] if dropped else []


# --- copies -------------------------------------------------------------------------------------


def decide_plan_copy(t: Tables, item_id: bytes, medium: str, name: str, wall_ns: int) -> list[ops.Op]:
    """A copy is about to be made (repair). Logged first, so that its name is no orphan meanwhile."""
    item = t.objects.get(item_id)
    if item is None or item.state is ObjectState.DELETING:
        return []
    return [ops.CopyPlanned(object=item_id, medium=medium, name=name, at_ns=wall_ns)]


def decide_copy_added(t: Tables, item_id: bytes, copy: CopyOf) -> list[ops.Op]:
    """It is there. Nothing if it was not planned, or is an orphan by now, or its object is gone."""
    planned = t.planned.get(copy.medium, {}).get(copy.name)
    if planned is None or planned.object != item_id or item_id not in t.objects:
        return []
    return [ops.CopyAdded(object=item_id, copy=copy)]


def decide_copy_lost(t: Tables, item_id: bytes, copy: CopyOf, reason: str) -> list[ops.Op]:
    """A copy is damaged or missing. It counts no longer; readers take it when no other one is left."""
    item = t.objects.get(item_id)
    if item is None or copy not in item.copies:
        return []
    return [ops.CopyDropped(object=item_id, copy=copy, reason=reason)]


# --- orphans (S1) -------------------------------------------------------------------------------


def orphans(
    t: Tables, medium: str, names: Iterable[str], *, age_ns: int, skew_ns: int, wall_ns: int
) -> list[str]:
    """Names on a medium that nothing committed knows, and that nobody can commit any more.

    An object's id carries its wall time of creation (UUIDv7). Only an assignment in force can still commit
    one, and only objects made after it was issued; `skew_ns` bounds how far the agents' clocks are apart.

    Args:
        t: the tables.
        medium: where `names` were listed.
        names: of objects.
        age_ns: younger ones are left alone; at least the job lease.
        skew_ns: bound of the difference between any two wall clocks.
        wall_ns: now.
    """
    before_ns = wall_ns - age_ns - skew_ns
    for number in t.active:
        job = t.jobs[number]
        if job.state is JobState.SEALING:
            before_ns = min(before_ns, job.sealing_ns - skew_ns)
        for stream in job.streams:
            if stream.state is StreamState.OPEN:
                before_ns = min(before_ns, stream.issued_ns - skew_ns)
    planned, doomed = t.planned.get(medium, {}), t.doomed.get(medium, ())
    found = []
    for name in names:
        try:
            kind, item_id, _ = parse_object_name(name)
        except ValueError:
            continue  # not ours to remove
        known = t.objects.get(item_id)
        if kind in {Kind.KEYRING, Kind.JOURNAL} or name in doomed:
            continue
        if known is not None and CopyOf(medium, name) in known.placements():
            continue
        plan = planned.get(name)
        born_ns = plan.at_ns if plan else int.from_bytes(item_id[:6]) * 1_000_000
        # What is older than the log may belong to a backup that a rebuild could not see: it stays.
        if (plan is not None or born_ns >= t.began_ns) and born_ns < before_ns:
            found.append(name)
    return found


def decide_orphans(t: Tables, medium: str, names: Iterable[str]) -> list[ops.Op]:
    """They are going to be removed: durable before the first delete, so that no deposed manager deletes."""
    doomed = [name for name in names if name not in t.doomed.get(medium, ())]
    return [ops.OrphansDoomed(medium=medium, names=doomed)] if doomed else []


def decide_orphans_removed(t: Tables, medium: str, names: Iterable[str]) -> list[ops.Op]:
    """They are gone."""
    gone = [name for name in names if name in t.doomed.get(medium, ())]
    return [ops.OrphansRemoved(medium=medium, names=gone)] if gone else []


# --- appliers -----------------------------------------------------------------------------------


def apply_backups_pruned(t: Tables, op: ops.BackupsPruned) -> None:
    """Backups are no longer wanted."""
    for number in op.backups:
        t.backups[number].state = BackupState.PRUNED


def apply_prune_journalled(t: Tables, op: ops.PruneJournalled) -> None:
    """The media know of the prune."""
    add_object(t, op.journal, "journal", op.domain, op.want)
    for item in op.deleting:
        t.objects[item].state = ObjectState.DELETING
    for number in op.backups:
        t.backups[number].journalled = True
        t.backups[number].segments = []


def apply_containers_condemned(t: Tables, op: ops.ContainersCondemned) -> None:
    """Nothing refers to them."""
    for item in op.containers:
        t.objects[item].state, t.objects[item].condemned_ns = ObjectState.CONDEMNED, op.at_ns


def apply_objects_deleting(t: Tables, op: ops.ObjectsDeleting) -> None:
    """No way back."""
    for item in op.objects:
        t.objects[item].state = ObjectState.DELETING


def apply_objects_dropped(t: Tables, op: ops.ObjectsDropped) -> None:
    """No copy is left."""
    for item in op.objects:
        del t.objects[item]
        t.damaged.pop(item, None)


def apply_copy_planned(t: Tables, op: ops.CopyPlanned) -> None:
    """A copy will be made."""
    t.planned.setdefault(op.medium, {})[op.name] = PlannedCopy(object=op.object, at_ns=op.at_ns)


def apply_copy_added(t: Tables, op: ops.CopyAdded) -> None:
    """A copy was made, or one that was called bad is whole."""
    t.planned.get(op.copy.medium, {}).pop(op.copy.name, None)
    item = t.objects[op.object]
    item.bad = [copy for copy in item.bad if copy != op.copy]
    item.copies.append(op.copy)
    t.note_damage(item)


def apply_copy_dropped(t: Tables, op: ops.CopyDropped) -> None:
    """A copy is gone, or counts no longer."""
    item: Object = t.objects[op.object]
    item.copies = [copy for copy in item.copies if copy != op.copy]
    item.bad = [copy for copy in item.bad if copy != op.copy]
    if op.reason != DELETED:
        item.bad.append(op.copy)
    t.note_damage(item)


def apply_orphans_doomed(t: Tables, op: ops.OrphansDoomed) -> None:
    """Names that are being removed."""
    t.doomed.setdefault(op.medium, []).extend(op.names)
    for name in op.names:
        t.planned.get(op.medium, {}).pop(name, None)


def apply_orphans_removed(t: Tables, op: ops.OrphansRemoved) -> None:
    """They are removed."""
    gone = set(op.names)
    t.doomed[op.medium] = [name for name in t.doomed[op.medium] if name not in gone]
