"""`staddle verify`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from staddle.cli.output import size_text
from staddle.cli.session import grid_options, with_grid

if TYPE_CHECKING:
    from staddle.client.connection import GridConnection
    from staddle.client.progress import Progress
    from staddle.client.verify import Finding, VerifySummary

_INTEGRITY, _WARNINGS = 13, 3


@click.command()
@click.argument("backups", nargs=-1, type=click.IntRange(1), metavar="[BACKUP]...")
@click.option("--read-data", is_flag=True, help="Read and check every byte, not only that it is there.")
@grid_options
def verify(backups: tuple[int, ...], read_data: bool, home: str | None, as_json: bool) -> int:
    """Check that backups can be restored: these, or all."""
    from staddle.client.progress import Progress

    progress = Progress("verify", as_json=as_json)
    summary = with_grid(home, lambda grid: _run(grid, list(backups), read_data, progress))
    if as_json:
        document = dataclasses.asdict(summary) | {"read_data": read_data}
        progress.line({"message_type": "summary", **document, "duration_s": round(summary.duration_s, 3)})
    else:
        what = "every byte of" if read_data else "the presence of"
        click.echo(
            f"checked {what} {summary.objects} objects in {summary.copies} copies "
            f"({size_text(summary.bytes_checked)}) in {summary.duration_s:.1f} s: "
            + (f"{summary.findings} findings" if summary.findings else "all is well")
            + (", as far as it was checked" if summary.unchecked else "")
        )
        for line in summary.unchecked:
            click.echo(f"not checked: {line}", err=True)
    if summary.findings:
        return _INTEGRITY
    return _WARNINGS if summary.unchecked else 0


async def _run(
    grid: GridConnection, backups: list[int], read_data: bool, progress: Progress
) -> VerifySummary:
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
            tally=progress.tally,
            on_finding=on_finding,
            on_total=on_total,
        )
        return await work.run()
