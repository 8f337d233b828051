"""`staddle verify`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from staddle.cli.output import path_text, say, size_text
from staddle.cli.params import NUMBER
from staddle.cli.session import grid_options, with_grid

if TYPE_CHECKING:
    from staddle.client.connection import GridConnection
    from staddle.client.progress import Progress
    from staddle.client.verify import Finding, Hit, Verify, VerifySummary

_INTEGRITY, _WARNINGS = 13, 3
FILES_SHOWN = 20
"""Files of one backup that people are shown; `--json` names all that are hit."""


@click.command()
@click.argument("backups", nargs=-1, type=NUMBER, metavar="[BACKUP]...")
@click.option("--read-data", is_flag=True, help="Read and check every byte, not only that it is there.")
@click.option("--repair", is_flag=True, help="Make bad copies again from good ones, and remove the bad ones.")
@grid_options
def verify(
    *, backups: tuple[int, ...], read_data: bool, repair: bool, home: str | None, as_json: bool
) -> int:
    """Check that backups can be restored: these, or all.

    Says which copies are bad, and which backups and files are hit by what has no good copy. Nothing is
    changed without --repair. Exit code 13: some data has no good copy that could be read; 3: everything has
    one, but copies are bad or could not be checked.
    """
    from staddle.client.progress import Progress

    progress = Progress("verify", as_json=as_json)
    summary, files_hit = with_grid(
        home, lambda grid: _run(grid, list(backups), progress, read_data=read_data, repair=repair)
    )
    if as_json:
        document = dataclasses.asdict(summary) | {"read_data": read_data, "files_hit": files_hit}
        progress.line({"message_type": "summary", **document, "duration_s": round(summary.duration_s, 3)})
    else:
        _show(summary, read_data=read_data, repair=repair)
    return exit_code(summary)


def exit_code(summary: VerifySummary) -> int:
    """13 if something can't be restored as far as is known now; 3 if anything else is not as it should be."""
    if summary.objects_lost or summary.objects_unsure:
        return _INTEGRITY
    return _WARNINGS if summary.findings or summary.unchecked else 0


async def _run(
    grid: GridConnection, backups: list[int], progress: Progress, *, read_data: bool, repair: bool
) -> tuple[VerifySummary, int]:
    from staddle.client.verify import Verify

    def on_finding(finding: Finding) -> None:
        if progress.as_json:
            progress.line({"message_type": "finding", **dataclasses.asdict(finding)})
        else:
            progress.lost(b"", finding.text())

    def on_total(size_bytes: int) -> None:
        progress.total_bytes = size_bytes

    async with progress.running():
        work = Verify(
            grid,
            backups,
            read_data=read_data,
            repair=repair,
            tally=progress.tally,
            on_finding=on_finding,
            on_total=on_total,
        )
        summary = await work.run()
    return summary, await _tell_hits(grid, work, progress)


async def _tell_hits(grid: GridConnection, work: Verify, progress: Progress) -> int:
    """Which backups are hit, and which of their files; how many files in all."""
    from staddle.client.losses import names_of_backups
    from staddle.errors import StaddleError

    if not work.hits:
        return 0
    try:
        names = await names_of_backups(grid)
    except StaddleError:
        names = {}  # their numbers are told
    total = 0
    for number, hit in sorted(work.hits.items()):
        try:
            files, more = await _tell_files(grid, number, hit, progress)
        except StaddleError as error:
            files, more = 0, f"; which of its files are hit can't be told: {error.message}"
        total += files
        counts = {f"objects_{verdict}": count for verdict, count in sorted(hit.objects.items())}
        if progress.as_json:
            line: dict[str, Any] = {"message_type": "backup_hit", "backup": number, **counts}
            progress.line(line | {"name": names.get(number, ""), "files_hit": files})
            continue
        named = f" ({names[number]})" if number in names else ""
        count = hit.objects.total()
        say(f"backup {number}{named}: {_counted(count, 'object')} hit, {_fate(files, hit)}{more}", err=True)
    return total


async def _tell_files(grid: GridConnection, number: int, hit: Hit, progress: Progress) -> tuple[int, str]:
    """Name the files of one backup that are hit; how many, and what is to be said of those not named."""
    from staddle.client.losses import files_lost
    from staddle.client.progress import path_fields

    count = 0
    async for path in files_lost(grid, number, hit.lost):
        count += 1
        if progress.as_json:
            progress.line({"message_type": "file_hit", "backup": number, **path_fields(path)})
        elif count <= FILES_SHOWN:
            say(f"hit: backup {number}: {path_text(path)}", err=True)
    return count, f" ({FILES_SHOWN} are named here; --json names all)" if count > FILES_SHOWN else ""


def damage_lines(status: dict[str, Any]) -> list[str]:
    """What `staddle status` says of damage that is known."""
    damaged, lost = status["damage"]["damaged"], status["damage"]["lost"]
    where = ", ".join(f"{m['bad_copies']} on {m['name']}" for m in status["media"] if m.get("bad_copies"))
    lines = []
    if damaged > lost:
        lines.append(f"{_counted(damaged - lost, 'object')} being repaired; bad copies: {where or 'none'}")
    if lost:
        lines.append(f"{_counted(lost, 'object')} without a good copy: `staddle verify` names the files")
    return lines


def _fate(files: int, hit: Hit) -> str:
    if hit.lost:
        return f"{_counted(files, 'file')} hit: a restore brings back what can still be read of them"
    if hit.objects["unsure"]:
        return "which can't be read until a medium with another copy of them is back"
    if hit.objects["split"]:
        return (
            "all its files can be restored once `staddle verify --read-data --repair` has joined the copies"
        )
    return "all its files can be restored"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{' is' if count == 1 else 's are'}"


def _show(summary: VerifySummary, *, read_data: bool, repair: bool) -> None:
    what = "every byte of" if read_data else "the presence of"
    say(
        f"checked {what} {summary.objects} objects in {summary.copies} copies "
        f"({size_text(summary.bytes_checked)}) in {summary.duration_s:.1f} s: "
        + (f"{summary.findings} findings" if summary.findings else "all is well")
        + (f", {summary.repaired} repaired" if summary.repaired else "")
        + (", as far as it was checked" if summary.unchecked else "")
    )
    for line in summary.unchecked:
        say(f"not checked: {line}", err=True)
    if (summary.objects_damaged or summary.objects_split) and not repair:
        say("`staddle verify --repair` makes bad copies again from the good ones", err=True)
    if summary.objects_lost:
        say(
            "what has no good copy left is stored again by the next backup of the same files, if they are "
            "still there",
            err=True,
        )
