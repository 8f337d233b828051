"""`staddle prune`: the only command that removes backups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from staddle.cli.output import dump, say, size_text
from staddle.cli.params import NUMBER
from staddle.cli.session import grid_options, with_grid

if TYPE_CHECKING:
    from staddle.client.connection import GridConnection
    from staddle.wire.ops.admin import Pruned

_USAGE, _WARNINGS = 2, 3
_OF_NAME = "SELECT backup, state FROM v_backups WHERE name = ? AND state <> 'pruned' ORDER BY backup DESC"
_GOOD = frozenset({"complete", "warnings"})
_TIMEOUT_S = 300.0


@click.command()
@click.argument("backups", nargs=-1, type=NUMBER, metavar="[BACKUP]...")
@click.option("--keep-last", type=click.IntRange(1), metavar="N", help="Of a --name all but the newest N.")
@click.option("--name", default="", metavar="NAME", help="Whose backups --keep-last counts.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", is_flag=True, help="Really remove it.")
@grid_options
def prune(
    *,
    backups: tuple[int, ...],
    keep_last: int | None,
    name: str,
    dry_run: bool,
    yes: bool,
    home: str | None,
    as_json: bool,
) -> int:
    """Remove backups, and free what only they used. Without --yes it only shows what it would do."""
    from staddle.errors import UsageError

    if bool(backups) == (keep_last is not None) or (keep_last is not None) != bool(name):
        raise UsageError(
            "name the backups to be removed, or give --keep-last with --name", hint="`staddle ls` shows them"
        )
    really = yes and not dry_run

    async def work(grid: GridConnection) -> Pruned:
        chosen = list(backups) if keep_last is None else await _older(grid, name, keep_last)
        return await _prune(grid, chosen, dry_run=not really)

    done = with_grid(home, work)
    if as_json:
        dump(
            {
                "backups": done.backups,
                "containers": done.containers,
                "bytes_freed": done.bytes_freed,
                "held": done.held,
                "done": really,
            }
        )
    else:
        _show(done, really=really)
    for number in done.held:
        say(
            f"staddle: backup {number} stays: a running job builds on it; "
            "prune it when that job has ended (`staddle job list`)",
            err=True,
        )
    if really or dry_run or not done.backups:
        return _WARNINGS if done.held else 0
    say("staddle: nothing was removed; add --yes to remove it", err=True)
    return _USAGE


async def _older(grid: GridConnection, name: str, keep: int) -> list[int]:
    """Finished backups of a name but the newest; with unfinished ones older than all that stay."""
    from staddle.errors import NotFound
    from staddle.wire.ops.reading import QUERY, Query

    answer = await grid.manager.call(QUERY, Query(sql=_OF_NAME, parameters=(name,), limit=50_000))
    if not answer.rows:
        raise NotFound(f"there is no backup of the name {name!r}", hint="`staddle ls` shows them")
    return older([(int(number), str(state)) for number, state in answer.rows], keep)


def older(backups: list[tuple[int, str]], keep: int) -> list[int]:
    """Which of these (number, state) `--keep-last` removes, ascending.

    Only finished backups count as kept. One that is running is never removed, and one that was cut off only
    when as many finished ones as asked for are newer.
    """
    good = sorted((number for number, state in backups if state in _GOOD), reverse=True)
    if len(good) < keep:
        return []
    oldest_kept = good[keep - 1]
    return sorted(number for number, state in backups if number < oldest_kept and state != "running")


async def _prune(grid: GridConnection, chosen: list[int], *, dry_run: bool) -> Pruned:
    from staddle.wire.ops.admin import PRUNE, Prune, Pruned

    if not chosen:
        return Pruned(backups=[], containers=0, bytes_freed=0)
    return await grid.manager.call(PRUNE, Prune(backups=chosen, dry_run=dry_run), timeout_s=_TIMEOUT_S)


def _show(done: Pruned, *, really: bool) -> None:
    if not done.backups:
        say("there is nothing to remove")
        return
    numbers = ", ".join(map(str, done.backups))
    verb = "removed" if really else "would remove"
    say(
        f"{verb} backup {numbers}: {done.containers} containers, {size_text(done.bytes_freed)} "
        f"{'are freed' if really else 'would be freed'}"
    )
