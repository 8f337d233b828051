"""`staddle restore`."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import click

from staddle.cli.output import size_text
from staddle.cli.session import grid_options, with_grid

if TYPE_CHECKING:
    from staddle.client.connection import GridConnection
    from staddle.client.progress import Progress
    from staddle.client.restore import RestoreOptions, RestoreSummary

_INTEGRITY = 13


@click.command()
@click.argument("backup")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--to", "target", required=True, metavar="DIR", help="The full source path appears below it.")
@click.option("--name", default="", help="With `latest`: the newest backup of this name.")
@grid_options
def restore(
    *, backup: str, paths: tuple[str, ...], target: str, name: str, home: str | None, as_json: bool
) -> int:
    """Restore BACKUP (a number, or `latest`), or only some paths of it and what is below them.

    What is at --to already stays, but files of the backup replace files of the same path.
    """
    from staddle.client.progress import Progress
    from staddle.client.restore import RestoreOptions
    from staddle.client.scan import absolute

    options = RestoreOptions(
        target=absolute(target),
        backup=backup_number(backup, name),
        name=name,
        paths=[absolute(path) for path in paths],
    )
    progress = Progress("restore", as_json=as_json)
    summary = with_grid(home, lambda grid: _run(grid, options, progress))
    if as_json:
        progress.line(summary_document(summary))
    else:
        _show(summary, os.fsdecode(options.target))
    return exit_code(summary)


def backup_number(text: str, name: str) -> int:
    """A backup's number from the command line; 0 for the newest. Raises UsageError."""
    from staddle.errors import UsageError

    if text == "latest":
        return 0
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise UsageError(f"{text!r} is no backup", hint="give its number (`staddle ls`), or `latest`")
    if name:
        raise UsageError("--name goes with `latest`, not with a number", hint="leave one of them out")
    return int(text)


async def _run(grid: GridConnection, options: RestoreOptions, progress: Progress) -> RestoreSummary:
    from staddle.client.restore import Restore

    async with progress.running():
        return await Restore(grid, options, progress.tally, progress.lost).run()


def exit_code(summary: RestoreSummary) -> int:
    """0; 3 with warnings; 13 if the content of a file can't be had: stored data is not as it was written."""
    if summary.lost_count:
        return _INTEGRITY
    return 3 if summary.warnings else 0


def summary_document(summary: RestoreSummary) -> dict[str, Any]:
    """The last line of `--json`."""
    from staddle.client.progress import path_fields

    document = dataclasses.asdict(summary)
    document["lost"] = [path_fields(path) for path in summary.lost]
    document["duration_s"] = round(summary.duration_s, 3)
    return {"message_type": "summary", **document}


def _show(summary: RestoreSummary, target: str) -> None:
    click.echo(
        f"backup {summary.backup} ({summary.name}) is restored to {target}: {summary.files} files and "
        f"{summary.dirs} directories, {size_text(summary.bytes_restored)} in {summary.duration_s:.1f} s"
    )
    if summary.warnings:
        click.echo(f"  {summary.warnings} warnings: see above")
    if summary.lost_count:
        click.echo(f"  {summary.lost_count} files are not restored: their content can't be had", err=True)
