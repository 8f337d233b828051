"""`staddle backup`."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from staddle.cli.output import path_text, say, size_text
from staddle.cli.selecting import chosen, selecting_options
from staddle.cli.session import grid_options, with_grid

if TYPE_CHECKING:
    from staddle.client.backup import BackupOptions, FailoverSeen, Summary
    from staddle.client.connection import GridConnection
    from staddle.client.progress import Progress

_LOST_SHOWN = 20


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--name", required=True, metavar="NAME", help="What the backups of these paths are called.")
@click.option("--pool", metavar="NAME", help="Where to; the default pool if it is not given.")
@selecting_options
@click.option("--streams", default=1, show_default=True, help="Streams at a time, 1 to 16.")
@click.option("--full", is_flag=True, help="Read every file, also unchanged ones.")
@grid_options
def backup(
    *,
    paths: tuple[str, ...],
    name: str,
    pool: str | None,
    streams: int,
    full: bool,
    home: str | None,
    as_json: bool,
    **selecting: Any,
) -> int:
    """Back up files and directories; or one stream (--stdin), or devices (--image).

    A pattern without `/` is matched against names, one with `/` against the ends of paths, one that begins
    with `/` against whole paths; a part `**` stands for any directories, a `!` before it takes back.
    """
    from staddle.client.backup import BackupOptions
    from staddle.client.progress import Progress
    from staddle.errors import UsageError

    _check_name(name)
    if pool == "":
        raise UsageError("--pool is empty", hint="leave it out for the default pool")
    options = BackupOptions(
        name=name, pool=pool or "", streams=streams, full=full, **chosen(paths, home, selecting)
    )
    progress = Progress("backup", as_json=as_json)
    summary = with_grid(home, lambda grid: _run(grid, options, progress))
    if as_json:
        progress.line(summary_document(summary))
    else:
        _show(summary)
    return exit_code(summary)


def _check_name(name: str) -> None:
    """Raises UsageError for a name that no backup can have, before anything is read."""
    from msgspec import ValidationError

    from staddle import typed
    from staddle.engine.bounds import Name
    from staddle.errors import UsageError

    if not name:
        raise UsageError("--name is empty", hint="name the backups of these paths, such as `documents`")
    try:
        typed.convert(name, Name)
    except ValidationError:
        shown = repr(name) if len(name) <= 80 else f"{name[:80]!r}…"
        raise UsageError(
            f"--name {shown} is no name for a backup",
            hint="take at most 256 characters, none of them a control",
        ) from None


async def _run(grid: GridConnection, options: BackupOptions, progress: Progress) -> Summary:
    import asyncio

    from staddle.client.backup import Backup
    from staddle.client.progress import PreScan

    def on_job(job: int, number: int) -> None:
        if progress.has_bar:
            say(f"job {job}, backup {number}", err=True)

    # In a thread: it looks at every path that is named, and a list may name millions.
    running = await asyncio.to_thread(Backup, grid, options, progress.tally, on_job)
    ahead = PreScan(running.input.sizes(), progress) if progress.has_bar else None
    try:
        async with progress.running():
            return await running.run()
    finally:
        if ahead is not None:
            ahead.close()


def exit_code(summary: Summary) -> int:
    """0; 3 with warnings, or while a copy is owed; 1 if the backup is not whole."""
    if summary.state not in {"complete", "warnings"} or summary.lost_count:
        return 1
    return 3 if summary.warnings or summary.notes or summary.state == "warnings" else 0


def summary_document(summary: Summary) -> dict[str, Any]:
    """The last line of `--json`."""
    from staddle.client.progress import path_fields

    document = dataclasses.asdict(summary)
    document["failovers"] = [
        {
            "cause": each.cause,
            "from": {"agent": each.from_agent, "media": each.from_media},
            "to": {"agent": each.to_agent, "media": each.to_media},
            "gap_s": round(each.gap_s, 3),
            "bytes_resent": each.bytes_resent,
        }
        for each in summary.failovers
    ]
    document["lost"] = [path_fields(path) for path in summary.lost]
    document["left_out"] = [path_fields(path) for path in summary.left_out]
    document["duration_s"] = round(summary.duration_s, 3)
    return {"message_type": "summary", **document}


def _show(summary: Summary) -> None:
    good = summary.state in {"complete", "warnings"}
    state = {"warnings": "complete, with warnings"}.get(summary.state, summary.state)
    say(
        f"backup {summary.backup} is {state} (job {summary.job}): "
        f"{summary.files} files and {summary.dirs} directories in {summary.duration_s:.1f} s"
    )
    say(
        f"  read {size_text(summary.bytes_read)}, unchanged {size_text(summary.bytes_unchanged)}, "
        f"stored {size_text(summary.bytes_stored)}"
    )
    for each in summary.failovers:
        say(f"  {_failover_text(each)}")
    for note in summary.notes:
        say(f"  note: {note}")
    for path in summary.left_out:
        say(f"  left out: {path_text(path)} is the grid's own")
    if summary.warnings:
        say(f"  {summary.warnings} warnings: see above")
    if not good and summary.message:
        say(f"staddle: {summary.message}", err=True)
    for path in summary.lost[:_LOST_SHOWN]:
        say(f"  lost: {path_text(path)}", err=True)
    if summary.lost_count > _LOST_SHOWN:
        say(f"  and {summary.lost_count - _LOST_SHOWN} more files are lost (--json names them)", err=True)
    sys.stdout.flush()


def _failover_text(each: FailoverSeen) -> str:
    cause = each.cause.replace("_", " ")
    away = f"{each.from_agent} with {', '.join(each.from_media)}"
    if not each.to_agent:
        return f"failover: {cause}: away from {away}"
    return (
        f"failover: {cause}: from {away} to {each.to_agent} with {', '.join(each.to_media)} "
        f"after {each.gap_s:.1f} s, {size_text(each.bytes_resent)} sent again"
    )
