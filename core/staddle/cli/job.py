"""`staddle job`: running and past jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from staddle.cli.output import dump, say, size_text, table, time_text
from staddle.cli.params import NUMBER
from staddle.cli.session import grid_options, with_grid
from staddle.errors import StaddleError

if TYPE_CHECKING:
    from staddle.client.connection import GridConnection
    from staddle.wire.ops.jobs import FailoverRow, JobRow

_EXITS = {"complete": 0, "warnings": 3}
_UNDER_WAY = frozenset({"running", "sealing"})
_WATCH_S = 1.0


@click.group()
def job() -> None:
    """Jobs: what runs, what has run, and what it lived through."""


@job.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest ones."
)
@grid_options
def list_jobs(limit: int, home: str | None, as_json: bool) -> None:
    """List jobs, the newest first."""
    rows = _jobs(home, 0, limit)
    if as_json:
        dump([_document(row) for row in rows])
        return
    table(
        ["job", "backup", "name", "state", "started", "duration", "files", "read", "stored", "failovers"],
        [
            [
                *(row.job, row.backup, row.name, row.state, time_text(row.started_ns), _duration(row)),
                *(_files(row), size_text(_bytes(row)), size_text(row.bytes_stored), len(row.failovers)),
            ]
            for row in rows
        ],
    )


@job.command("show")
@click.argument("number", type=NUMBER, metavar="JOB")
@grid_options
def show(number: int, home: str | None, as_json: bool) -> None:
    """Show one job with its failovers."""
    row = _one(_jobs(home, number, 1), number)
    if as_json:
        dump(_document(row))
        return
    for name, value in [
        *(("job", row.job), ("backup", row.backup), ("name", row.name), ("client", row.client)),
        *(("pool", row.pool), ("state", row.state), ("started", time_text(row.started_ns))),
        *(("duration", _duration(row)), ("files", _files(row)), ("read", size_text(_bytes(row)))),
        *(("stored", size_text(row.bytes_stored)), ("warnings", row.warnings)),
    ]:
        say(f"{name:9} {value}")
    if row.message:
        say(f"message   {row.message}")
    for path in row.paths:
        via = f"{path.agent} with {', '.join(path.media)}" if path.agent else "no path yet"
        say(f"stream {path.stream}  {path.state}, {via}")
    for each in row.failovers:
        say(f"failover  {_failover(each)}")


@job.command("watch")
@click.argument("number", type=NUMBER, required=False, metavar="[JOB]")
@grid_options
def watch(number: int | None, home: str | None, as_json: bool) -> int:
    """Follow a job to its end: this one, or the newest that runs. Ends as the job does: 0, 3 or 1."""
    return with_grid(home, lambda grid: _watch(grid, number, as_json=as_json))


@job.command("cancel")
@click.argument("number", type=NUMBER, metavar="JOB")
@grid_options
def cancel(number: int, home: str | None, as_json: bool) -> None:
    """Cancel a job. What is durable stays, as an incomplete backup."""
    from staddle.engine.messages import CancelJob
    from staddle.wire.ops.jobs import CANCEL_JOB

    request = CancelJob(job=number, reason="cancelled by the user")
    state = with_grid(home, lambda grid: grid.manager.call(CANCEL_JOB, request))
    if state.state in _EXITS:
        raise StaddleError(
            f"job {number} has ended before, it is {state.state}", hint="`staddle job list` shows what runs"
        )
    if as_json:
        dump({"job": state.job, "state": state.state, "message": state.message})
    else:
        say(f"job {state.job} is {state.state}" + (f": {state.message}" if state.message else ""))


def _jobs(home: str | None, number: int, limit: int) -> list[JobRow]:
    return with_grid(home, lambda grid: _ask(grid, number, limit))


async def _ask(grid: GridConnection, number: int, limit: int) -> list[JobRow]:
    from staddle.wire.ops.jobs import LIST_JOBS, ListJobs

    answer = await grid.manager.call_patiently(LIST_JOBS, ListJobs(job=number, limit=limit), patience_s=60.0)
    return answer.jobs


def _one(rows: list[JobRow], number: int) -> JobRow:
    from staddle.errors import NotFound

    if not rows:
        raise NotFound(f"there is no job {number}", hint="`staddle job list` shows them")
    return rows[0]


async def _watch(grid: GridConnection, number: int | None, *, as_json: bool) -> int:
    import asyncio

    from staddle.errors import NotFound

    if number is None:
        running = [row.job for row in await _ask(grid, 0, 100) if row.state in _UNDER_WAY]
        if not running:
            raise NotFound("no job is running", hint="`staddle job list` shows those that have run")
        number = running[0]
    shown = ""
    while True:
        row = _one(await _ask(grid, number, 1), number)
        if as_json:
            kind = "status" if row.state in _UNDER_WAY else "summary"
            dump({"message_type": kind, **_document(row)})
        elif (text := _line(row)) != shown:
            say(text)
            shown = text
        if row.state not in _UNDER_WAY:
            return _EXITS.get(row.state, 1)
        await asyncio.sleep(_WATCH_S)


def _line(row: JobRow) -> str:
    seen = f"job {row.job} ({row.name}) {row.state}: {_files(row)} files, {size_text(_bytes(row))}"
    return seen + (f"; {_failover(row.failovers[-1])}" if row.failovers else "")


def _files(row: JobRow) -> int:
    return max(row.files, row.seen_files)


def _bytes(row: JobRow) -> int:
    return max(row.bytes_read, row.seen_bytes)


def _duration(row: JobRow) -> str:
    end_ns = row.finished_ns or time.time_ns()
    return f"{max(0, end_ns - row.started_ns) / 1e9:.1f} s"


def _failover(each: FailoverRow) -> str:
    to = f" to {each.to_agent} with {', '.join(each.to_media)}" if each.to_agent else ""
    return (
        f"{time_text(each.at_ns)} stream {each.stream}: {each.cause.replace('_', ' ')}: from "
        f"{each.from_agent} with {', '.join(each.from_media)}{to}, {max(each.gap_s, 0):.1f} s, "
        f"{size_text(each.bytes_resent)} sent again"
    ) + (f"; {each.detail}" if each.detail else "")


def _document(row: JobRow) -> dict[str, object]:
    import msgspec

    document: dict[str, object] = msgspec.to_builtins(row)
    return document | {"started": time_text(row.started_ns), "finished": time_text(row.finished_ns)}
