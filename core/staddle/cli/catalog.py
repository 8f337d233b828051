"""`staddle catalog`: rebuild, verify, snapshot, diff."""

from __future__ import annotations

import os

import click

from staddle.cli.output import dump, say, table
from staddle.cli.params import GIVEN
from staddle.cli.session import grid_options, with_grid

_INTEGRITY = 13
_WARNINGS = 3
_REBUILD_TIMEOUT_S = 24 * 3600.0
_TIMEOUT_S = 600.0


@click.group()
def catalog() -> None:
    """The catalog: what the media hold, in tables. It can always be made again from the media."""


@catalog.command("rebuild")
@grid_options
def rebuild(home: str | None, as_json: bool) -> int:
    """Make it from the media, when the manager's own directory is lost, or a medium came back since.

    Exit code 3: it is made, but something was missing or damaged, and is named.
    """
    from staddle.wire.ops.admin import REBUILD_CATALOG, RebuildCatalog

    request = RebuildCatalog()
    done = with_grid(
        home, lambda grid: grid.manager.call(REBUILD_CATALOG, request, timeout_s=_REBUILD_TIMEOUT_S)
    )
    if as_json:
        dump(
            {
                "backups": done.backups,
                "containers": done.containers,
                "manifests": done.manifests,
                "missing": done.missing,
            }
        )
    else:
        say(f"rebuilt: {done.backups} backups, {done.manifests} manifests, {done.containers} containers")
        for each in done.missing:
            say(f"missing: {each}", err=True)
    return _WARNINGS if done.missing else 0


@catalog.command("verify")
@grid_options
def verify(home: str | None, as_json: bool) -> int:
    """Check that its references hold, and that it is what the log says."""
    from staddle.wire.ops.admin import VERIFY_CATALOG, VerifyCatalog

    request = VerifyCatalog()
    found = with_grid(home, lambda grid: grid.manager.call(VERIFY_CATALOG, request, timeout_s=_TIMEOUT_S))
    if as_json:
        dump({"problems": found.problems})
    else:
        for problem in found.problems:
            say(problem)
        if not found.problems:
            say("all is well")
    return _INTEGRITY if found.problems else 0


@catalog.command("snapshot")
@click.argument("file", type=GIVEN)
@grid_options
def snapshot(file: str, home: str | None, as_json: bool) -> None:
    """Write a consistent copy of it to FILE, a path on the manager's host."""
    from staddle.wire.ops.admin import SNAPSHOT_CATALOG, SnapshotCatalog

    request = SnapshotCatalog(path=os.path.abspath(file))
    with_grid(home, lambda grid: grid.manager.call(SNAPSHOT_CATALOG, request, timeout_s=_TIMEOUT_S))
    if as_json:
        dump({"path": request.path})
    else:
        say(request.path)


@catalog.command("diff")
@click.argument("file_a", type=click.Path(exists=True, dir_okay=False))
@click.argument("file_b", type=click.Path(exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def diff(file_a: str, file_b: str, as_json: bool) -> int:
    """Compare two snapshots in backups, files, containers and copies; exit 1 if they differ."""
    import duckdb

    from staddle.catalog.check import catalog_diff
    from staddle.errors import UsageError

    sides = {"only here": file_a, "only there": file_b}
    try:
        rows = [(what, sides[side], row) for what, side, row in catalog_diff(file_a, file_b)]
    except duckdb.Error as error:
        raise UsageError(
            f"{file_a} and {file_b} can't be compared: one of them is no catalog of this release",
            hint="name two files written by `staddle catalog snapshot`",
        ) from error
    if as_json:
        dump([{"table": what, "only_in": side, "row": row} for what, side, row in rows])
    elif rows:
        table(["table", "only in", "row"], rows)
    else:
        say("no difference")
    return 1 if rows else 0
