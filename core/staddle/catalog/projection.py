"""The whole tier-1 state as rows: how a catalog begins when the log's oldest records have been dropped.

The appliers and this must agree; a test compares them over simulated logs.
"""

from __future__ import annotations

from collections.abc import Iterator

from staddle.catalog.changes import Row
from staddle.catalog.context import copy_row, object_row, printable, segment_row, stream_row
from staddle.engine.tables import BackupState, Job, Tables


def project(tables: Tables) -> Iterator[tuple[str, Row]]:
    """Every row of tier 1, as (table, row). Segments and references of pruned backups are left out."""
    for agent in tables.agents.values():
        yield (
            "agents",
            {
                "agent": agent.name,
                "urls": agent.urls,
                "streams_max": agent.streams_max,
                "enabled": agent.enabled,
            },
        )
    for medium in tables.media.values():
        names = ("plugin", "failure_domain", "agents", "message")
        row = {name: getattr(medium, name) for name in names}
        yield (
            "media",
            {"medium": medium.name, "volume": medium.volume.hex(), "state": medium.state.value, **row},
        )
    for pool in tables.pools.values():
        row = {name: getattr(pool, name) for name in pool.__struct_fields__ if name != "name"}
        yield "pools", {"pool": pool.name, **row}
    for client in tables.clients.values():
        yield "clients", {"client": client.name, "joined_ns": client.joined_ns}
    for job in tables.jobs.values():
        yield from _job_rows(job)
    for backup in tables.backups.values():
        if backup.state is not BackupState.PRUNED:
            for each in backup.segments:
                yield "segments", segment_row(backup.id, each, each.manifest, each.digest)
    for number in tables.backups:
        yield "backups", _backup_row(tables, number)
    for item in tables.objects.values():
        row = object_row(item, item.kind, item.domain, item.want)
        yield "objects", {**row, "state": item.state.value, "condemned_ns": item.condemned_ns}
        for copy in item.copies:
            yield "copies", copy_row(item.id, copy)


def references(tables: Tables) -> Iterator[tuple[int, int, int, bytes]]:
    """(backup, stream, ordinal, container ids joined) of every segment that counts."""
    for backup in tables.backups.values():
        if backup.state is not BackupState.PRUNED:
            for segment in backup.segments:
                yield backup.id, segment.stream, segment.ordinal, segment.refs


def _job_rows(job: Job) -> Iterator[tuple[str, Row]]:
    names = ("kind", "client", "name", "pool", "backup", "base_backup", "created_ns")
    more = ("sealing_ns", "ended_ns", "message", "warnings", "bytes_resent")
    row = {name: getattr(job, name) for name in (*names, *more)}
    lost = [each.hex() for each in job.lost]
    yield (
        "jobs",
        {"job": job.id, **row, "roots": printable(job.roots), "state": job.state.value, "lost": lost},
    )
    for stream in job.streams:
        row = {name: getattr(stream, name) for name in ("epoch", "agent", "media", "next_seq")}
        yield (
            "streams",
            {**stream_row(job.id, stream.stream, stream.state.value), **row, "segments": stream.ordinal},
        )
    for failover in job.failovers:
        row = {name: getattr(failover, name) for name in failover.__struct_fields__}
        yield "failovers", {"job": job.id, **row}


def _backup_row(tables: Tables, number: int) -> Row:
    backup = tables.backups[number]
    names = ("job", "client", "name", "pool", "domain", "started_ns", "finished_ns")
    more = ("files", "dirs", "bytes_read", "bytes_stored", "warnings")
    return {
        "backup": number,
        **{name: getattr(backup, name) for name in (*names, *more)},
        "roots": printable(backup.roots),
        "roots_raw": backup.roots,
        "state": backup.state.value,
        "seal": backup.seal.hex(),
    }
