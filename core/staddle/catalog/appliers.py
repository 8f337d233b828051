"""What each op of the log changes in the tables: the twin, in rows, of the engine's own appliers.

A test replays the simulator's logs through both and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from staddle.api.catalog import Record
from staddle.catalog.changes import Row
from staddle.catalog.context import Context, copy_row, object_row, printable, segment_row, stream_row
from staddle.engine import ops
from staddle.engine.messages import StoredObject
from staddle.errors import Corrupt, NewerFormat


def apply_record(context: Context, record: Record) -> None:
    """Take in one record. Raises NewerFormat for an op that is not known, Corrupt for a broken one."""
    kind = ops.TYPES.get(record.op)
    if kind is None:
        raise NewerFormat(
            f"catalog: record {record.lsn} has the unknown op {record.op!r}",
            hint="start the release that wrote it, or a newer one",
        )
    try:
        op = ops.from_args(record.op, record.args)
    except msgspec.ValidationError as error:
        raise Corrupt(f"catalog: record {record.lsn} is no {record.op}: {error}") from error
    applier = APPLIERS.get(kind)
    if applier is not None:
        applier(context, op)


# --- the grid -----------------------------------------------------------------------------------


def _grid_created(context: Context, op: ops.GridCreated) -> None:
    context.grid = op.grid


def _agent_set(context: Context, op: ops.AgentSet) -> None:
    row = {"agent": op.name, "urls": op.urls, "streams_max": op.streams_max, "enabled": op.enabled}
    context.changes.replace("agents", row)


def _medium_set(context: Context, op: ops.MediumSet) -> None:
    row = {
        "plugin": op.plugin,
        "volume": op.volume.hex(),
        "failure_domain": op.failure_domain,
        "agents": op.agents,
    }
    context.changes.upsert("media", (op.name,), row, {"state": "up", "message": ""})


def _medium_changed(context: Context, op: ops.MediumChanged) -> None:
    context.changes.update("media", (op.name,), {"state": op.state, "message": op.message})


def _pool_set(context: Context, op: ops.PoolSet) -> None:
    row = {name: getattr(op, name) for name in op.__struct_fields__ if name != "name"}
    context.changes.replace("pools", {"pool": op.name, **row})


def _client_set(context: Context, op: ops.ClientSet) -> None:
    context.changes.replace("clients", {"client": op.name, "joined_ns": op.joined_ns})


# --- jobs ---------------------------------------------------------------------------------------


def _job_begun(context: Context, op: ops.JobBegun) -> None:
    context.changes.insert(
        "jobs",
        {
            "job": op.job,
            "kind": op.kind,
            "client": op.client,
            "name": op.name,
            "roots": printable(op.roots),
            "pool": op.pool,
            "backup": op.backup,
            "base_backup": op.base_backup,
            "created_ns": op.at_ns,
            "state": "running",
            "sealing_ns": 0,
            "ended_ns": 0,
            "message": "",
            "warnings": 0,
            "bytes_resent": 0,
            "lost": [],
        },
    )
    for stream in range(op.streams):
        context.changes.insert("streams", stream_row(op.job, stream, "new"))
    context.changes.insert(
        "backups",
        {
            "backup": op.backup,
            "job": op.job,
            "client": op.client,
            "name": op.name,
            "roots": printable(op.roots),
            "roots_raw": op.roots,
            "pool": op.pool,
            "domain": op.domain,
            "state": "running",
            "started_ns": op.at_ns,
            "finished_ns": 0,
            **dict.fromkeys(("files", "dirs", "bytes_read", "bytes_stored", "warnings"), 0),
            "seal": "",
        },
    )


def _stream_assigned(context: Context, op: ops.StreamAssigned) -> None:
    values = {"epoch": op.epoch, "agent": op.agent, "media": op.media, "state": "open"}
    context.changes.update("streams", (op.job, op.stream), values)
    if op.failover:
        context.changes.insert(
            "failovers",
            {
                "job": op.job,
                "stream": op.stream,
                "epoch": op.epoch,
                "at_ns": op.at_ns,
                "cause": op.cause,
                "from_agent": op.from_agent,
                "from_media": op.from_media,
                "to_agent": op.agent,
                "to_media": op.media,
                "detail": op.detail,
                "gap_ns": -1,
                "bytes_resent": 0,
            },
        )


def _failover_measured(context: Context, op: ops.FailoverMeasured) -> None:
    values = {"gap_ns": op.gap_ns, "bytes_resent": op.bytes_resent}
    context.changes.update("failovers", (op.job, op.stream, op.epoch), values)


def _segment_committed(context: Context, op: ops.SegmentCommitted) -> None:
    changes = context.changes
    _add_object(context, op.manifest, "manifest", op.domain, op.want)
    for item in op.containers:
        _add_object(context, item, "container", op.domain, op.want)
    for item_id in op.revived:
        changes.update("objects", (item_id.hex(),), {"state": "live", "condemned_ns": 0})
    changes.insert("segments", segment_row(op.backup, op, op.manifest.id, op.manifest.digest))
    context.refer(op.backup, op.stream, op.ordinal, op.refs)
    changes.update("streams", (op.job, op.stream), {"next_seq": op.next, "segments": op.ordinal + 1})
    deltas = {name: getattr(op, name) for name in ("files", "dirs", "bytes_read", "bytes_stored")}
    changes.add("backups", (op.backup,), deltas)


def _stream_ended(context: Context, op: ops.StreamEnded) -> None:
    context.changes.update("streams", (op.job, op.stream), {"epoch": op.epoch, "state": "done"})


def _job_sealing(context: Context, op: ops.JobSealing) -> None:
    values = {"state": "sealing", "sealing_ns": op.at_ns, "warnings": op.warnings}
    context.changes.update("jobs", (op.job,), {**values, "bytes_resent": op.bytes_resent})


def _job_finished(context: Context, op: ops.JobFinished) -> None:
    changes, job = context.changes, context.read("jobs", (op.job,))
    lost = [each.hex() for each in op.lost]
    values = {"state": op.state, "message": op.message, "ended_ns": op.at_ns, "lost": lost}
    changes.update("jobs", (op.job,), values)
    for stream, epoch in enumerate(op.epochs):
        if context.read("streams", (op.job, stream))["state"] != "done":
            changes.update("streams", (op.job, stream), {"state": "ended", "epoch": epoch})
    of_backup = {
        "state": op.backup_state,
        "warnings": job["warnings"],
        "finished_ns": job["sealing_ns"] or op.at_ns,
    }
    if op.seal is not None:
        _add_object(context, op.seal, "seal", op.seal_domain, op.seal_want)
        of_backup["seal"] = op.seal.id.hex()
    changes.update("backups", (job["backup"],), of_backup)


# --- objects ------------------------------------------------------------------------------------


def _copy_added(context: Context, op: ops.CopyAdded) -> None:
    context.changes.replace("copies", copy_row(op.object, op.copy))


def _copy_dropped(context: Context, op: ops.CopyDropped) -> None:
    context.changes.drop("copies", (op.object.hex(), op.copy.medium, op.copy.name))


def _backup_marked(context: Context, op: ops.BackupMarked) -> None:
    _add_object(context, op.seal, "seal", op.domain, op.want)
    context.changes.update("backups", (op.backup,), {"seal": op.seal.id.hex()})


def _backups_pruned(context: Context, op: ops.BackupsPruned) -> None:
    for backup in op.backups:
        context.changes.update("backups", (backup,), {"state": "pruned"})
    context.forget(op.backups)


def _prune_journalled(context: Context, op: ops.PruneJournalled) -> None:
    _add_object(context, op.journal, "journal", op.domain, op.want)
    _set_state(context, op.deleting, {"state": "deleting"})


def _containers_condemned(context: Context, op: ops.ContainersCondemned) -> None:
    _set_state(context, op.containers, {"state": "condemned", "condemned_ns": op.at_ns})


def _objects_deleting(context: Context, op: ops.ObjectsDeleting) -> None:
    _set_state(context, op.objects, {"state": "deleting"})


def _objects_dropped(context: Context, op: ops.ObjectsDropped) -> None:
    gone = [each.hex() for each in op.objects]
    for each in gone:
        context.changes.drop("objects", (each,))
    context.changes.erase("copies", "object", gone)


# --- rebuild ------------------------------------------------------------------------------------


def _objects_imported(context: Context, op: ops.ObjectsImported) -> None:
    for item in op.objects:
        context.changes.replace("objects", object_row(item, item.kind, item.domain, item.want))
        for copy in item.copies:
            context.changes.replace("copies", copy_row(item.id, copy))


def _backup_imported(context: Context, op: ops.BackupImported) -> None:
    changes = context.changes
    context.forget([op.backup])  # media that came back tell more of it
    common = {"client": op.client, "name": op.name, "roots": printable(op.roots), "pool": op.pool}
    job = {
        "job": op.job,
        "kind": "backup",
        "backup": op.backup,
        "base_backup": 0,
        "created_ns": op.started_ns,
        "state": op.state,
        "sealing_ns": 0,
        "ended_ns": op.finished_ns,
        "message": op.message,
        "warnings": op.warnings,
        "bytes_resent": 0,
        "lost": [],
    }
    changes.replace("jobs", {**common, **job})
    counts = ("started_ns", "finished_ns", "files", "dirs", "bytes_read", "bytes_stored", "warnings")
    backup = {name: getattr(op, name) for name in ("backup", "job", "domain", "state", *counts)}
    changes.replace("backups", {**common, **backup, "roots_raw": op.roots, "seal": op.seal.hex()})
    for stream in range(op.streams):
        changes.replace("streams", stream_row(op.job, stream, "ended"))
    for row in op.segments:
        changes.insert("segments", segment_row(op.backup, row, row.manifest, row.digest))
        context.refer(op.backup, row.stream, row.ordinal, row.refs)


# --- helpers ------------------------------------------------------------------------------------


def _add_object(context: Context, item: StoredObject, kind: str, domain: str, want: int) -> None:
    context.changes.insert("objects", object_row(item, kind, domain, want))
    for copy in item.copies:
        context.changes.insert("copies", copy_row(item.id, copy))


def _set_state(context: Context, objects: Iterable[bytes], values: Row) -> None:
    for each in objects:
        context.changes.update("objects", (each.hex(),), values)


APPLIERS: dict[type[ops.Op], Callable[[Context, Any], None]] = {
    ops.GridCreated: _grid_created,
    ops.AgentSet: _agent_set,
    ops.MediumSet: _medium_set,
    ops.MediumChanged: _medium_changed,
    ops.PoolSet: _pool_set,
    ops.ClientSet: _client_set,
    ops.JobBegun: _job_begun,
    ops.StreamAssigned: _stream_assigned,
    ops.FailoverMeasured: _failover_measured,
    ops.SegmentCommitted: _segment_committed,
    ops.StreamEnded: _stream_ended,
    ops.JobSealing: _job_sealing,
    ops.JobFinished: _job_finished,
    ops.CopyAdded: _copy_added,
    ops.CopyDropped: _copy_dropped,
    ops.BackupMarked: _backup_marked,
    ops.BackupsPruned: _backups_pruned,
    ops.PruneJournalled: _prune_journalled,
    ops.ContainersCondemned: _containers_condemned,
    ops.ObjectsDeleting: _objects_deleting,
    ops.ObjectsDropped: _objects_dropped,
    ops.ObjectsImported: _objects_imported,
    ops.BackupImported: _backup_imported,
}
NOT_SHOWN: frozenset[type[ops.Op]] = frozenset(
    {
        ops.EpochBegun,
        ops.OwnerMapSet,
        ops.JobTaken,
        ops.CopyPlanned,
        ops.OrphansDoomed,
        ops.OrphansRemoved,
        ops.BackupsForgotten,
        ops.MediaUnread,
    }
)
"""Ops that change nothing that SQL users see. A test asserts that every op is in one of the two."""
