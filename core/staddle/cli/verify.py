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
    summary, files_hit, lost_seals = with_grid(
        home, lambda grid: _run(grid, list(backups), progress, read_data=read_data, repair=repair)
    )
    if as_json:
        document = dataclasses.asdict(summary) | {"read_data": read_data, "files_hit": files_hit}
        progress.line({"message_type": "summary", **document, "duration_s": round(summary.duration_s, 3)})
    else:
        _show(summary, lost_seals, read_data=read_data, repair=repair)
    return exit_code(summary)


def exit_code(summary: VerifySummary) -> int:
    """13 if something can't be restored as far as is known now; 3 if anything else is not as it should be."""
    if summary.objects_lost or summary.objects_unsure:
        return _INTEGRITY
    return _WARNINGS if summary.findings or summary.unchecked else 0


class _Findings:
    """Tells what is wrong, and keeps what the summary needs to know of it.

    Attributes:
        lost_seals: seals that have no good copy, and got no new one.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._labels: dict[str, Finding] = {}
        self._again = 0
        self._restored: set[str] = set()
        self.lost_seals: set[str] = set()

    def add_label(self, finding: Finding) -> None:
        """A label that was repaired or could not be, before anything was checked."""
        self._labels[finding.medium] = finding
        self._tell(finding)

    def add(self, finding: Finding) -> None:
        """What the check has found."""
        from staddle.client.verify import LOST

        if finding.kind == "label" and finding.medium in self._labels:
            self._again += 1  # it was told of, with what became of it
            return
        # The manager mends by itself, too: what nothing needs any more was replaced, or pruned.
        if finding.verdict == LOST and finding.repair.startswith(("repaired", "not needed")):
            self._restored.add(finding.object)
        elif finding.verdict == LOST and finding.kind == "seal":
            self.lost_seals.add(finding.object)
        self._tell(finding)

    def counted_in(self, summary: VerifySummary) -> VerifySummary:
        """The summary with the labels, and without what was lost and is there again."""
        labels, restored = len(self._labels) - self._again, len(self._restored)
        return dataclasses.replace(
            summary,
            findings=summary.findings + labels,
            objects_damaged=summary.objects_damaged + labels + restored,
            objects_lost=summary.objects_lost - restored,
            repaired=summary.repaired + sum(each.repair == "repaired" for each in self._labels.values()),
        )

    def _tell(self, finding: Finding) -> None:
        if self._progress.as_json:
            self._progress.line({"message_type": "finding", **dataclasses.asdict(finding)})
        else:
            self._progress.lost(b"", finding.text())


async def _run(
    grid: GridConnection, backups: list[int], progress: Progress, *, read_data: bool, repair: bool
) -> tuple[VerifySummary, int, int]:
    """Check; the summary, how many files are hit, and how many seals are lost."""
    from staddle.client.labels import repair_labels
    from staddle.client.verify import Verify

    found = _Findings(progress)

    def on_total(size_bytes: int) -> None:
        progress.total_bytes = size_bytes

    async with progress.running():
        for label in await repair_labels(grid) if repair else []:
            found.add_label(label)
        work = Verify(
            grid,
            backups,
            read_data=read_data,
            repair=repair,
            tally=progress.tally,
            on_finding=found.add,
            on_total=on_total,
        )
        summary = found.counted_in(await work.run())
    return summary, await _tell_hits(grid, work, progress), len(found.lost_seals)


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
            fate = _fate(files, hit) + more
        except StaddleError as error:
            files, fate = 0, f"which of its files are hit can't be told: {error.message}"
        total += files
        counts = {f"objects_{verdict}": count for verdict, count in sorted(hit.objects.items())}
        if progress.as_json:
            line: dict[str, Any] = {"message_type": "backup_hit", "backup": number, **counts}
            progress.line(line | {"name": names.get(number, ""), "files_hit": files})
            continue
        named = f" ({names[number]})" if number in names else ""
        count = hit.objects.total()
        say(f"backup {number}{named}: {_counted(count, 'object')} hit, {fate}", err=True)
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
        lines.append(f"{_counted(lost, 'object')} without a good copy: `staddle verify` names what is hit")
    return lines


def _fate(files: int, hit: Hit) -> str:
    if hit.lost and not files:
        return "no file of it is hit"
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


def _show(summary: VerifySummary, lost_seals: int, *, read_data: bool, repair: bool) -> None:
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
    if lost_seals and not repair:
        say("`staddle verify --repair` makes a lost seal again: the manager knows what it says", err=True)
    if summary.objects_lost > lost_seals:
        say(
            "what has no good copy left is stored again by the next backup of the same files, if they are "
            "still there",
            err=True,
        )
