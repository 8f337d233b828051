"""`staddle restore`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from staddle.cli.output import say, size_text
from staddle.cli.params import GIVEN, NUMBER_MAX
from staddle.cli.problems import from_os
from staddle.cli.session import grid_options, with_grid

if TYPE_CHECKING:
    from staddle.client.connection import GridConnection
    from staddle.client.policy import Item
    from staddle.client.progress import Progress
    from staddle.client.restore import RestoreOptions, RestoreSummary

_INTEGRITY = 13
_POLICIES = ("always", "if-changed", "if-newer", "never")


def _once(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> str | None:
    """The value of an option that stands there at most once: a second place must not win silently."""
    if len(given) > 1:
        raise click.BadParameter("it is given twice", ctx, param)
    return given[0] if given else None


@click.command()
@click.argument("backup")
@click.argument("paths", nargs=-1, type=GIVEN, metavar="[PATH]...")
@click.option(
    "--to",
    "target",
    type=GIVEN,
    multiple=True,
    callback=_once,
    metavar="DIR",
    help="The full source path appears below it; `-`: one file to stdout.",
)
@click.option("--in-place", is_flag=True, help="Restore to the original paths.")
@click.option(
    "--onto",
    type=GIVEN,
    multiple=True,
    callback=_once,
    metavar="DEVICE_OR_FILE",
    help="Write the content of one file or image onto it.",
)
@click.option("--name", default="", metavar="NAME", help="With `latest`: the newest backup of this name.")
@click.option("--client", default="", metavar="NAME", help="With `latest`: the newest backup of this client.")
@click.option(
    "--overwrite",
    type=click.Choice(_POLICIES),
    default="if-changed",
    show_default=True,
    help="Which existing files are replaced: if-changed compares kind, size and time.",
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only what a pattern matches; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not what a pattern matches; repeatable.")
@click.option("--delete", is_flag=True, help="Delete from restored directories what the backup has not.")
@click.option("--dry-run", is_flag=True, help="Change nothing, say what would be done.")
@click.option("--owner-map", multiple=True, metavar="FROM:TO", help="Give a user's files to another one.")
@click.option("--group-map", multiple=True, metavar="FROM:TO", help="The same for a group.")
@click.option("--numeric-ids", is_flag=True, help="Owners by number, also where their names are known.")
@click.option("--no-owner", is_flag=True, help="Everything belongs to the user who restores.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each thing done.")
@click.option("--yes", is_flag=True, help="Do delete; without it --delete needs --dry-run.")
@grid_options
def restore(*, home: str | None, as_json: bool, **given: Any) -> int:
    """Restore BACKUP (a number, or `latest`), or only some paths of it and what is below them.

    What is at the target already stays, but files of the backup replace others of the same path as
    --overwrite says. See docs/restore.md.
    """
    from staddle.client.progress import Progress

    options = _options(given, home)
    if options.onto == b"-":
        _check_stdout(as_json=as_json, verbose=given["verbose"])
    progress = Progress("restore", as_json=as_json)
    itemized = given["verbose"] or options.dry_run
    summary = with_grid(home, lambda grid: _run(grid, options, progress, itemized=itemized))
    if as_json:
        progress.line(summary_document(summary))
    else:
        _show(summary, options)
    return exit_code(summary)


def _options(given: dict[str, Any], home: str | None) -> RestoreOptions:
    """What the command line says. Raises UsageError where it contradicts itself."""
    from staddle.client.owners import OwnerOptions
    from staddle.client.policy import Overwrite
    from staddle.client.restore import RestoreOptions
    from staddle.client.scan import absolute
    from staddle.errors import UsageError

    target, onto = given["target"], given["onto"]
    if target == "-":
        target, onto = None, "-"
    if sum((target is not None, onto is not None, given["in_place"])) != 1:
        raise UsageError(
            "give one of --to, --in-place and --onto",
            hint="`--to DIR` restores below a directory, `--in-place` to the original paths",
        )
    if given["delete"] and not (given["yes"] or given["dry_run"]):
        raise UsageError(
            "--delete removes files that the backup has not",
            hint="look with --dry-run first, then confirm with --yes",
        )
    if given["no_owner"] and (given["owner_map"] or given["group_map"] or given["numeric_ids"]):
        raise UsageError(
            "--no-owner leaves nothing to --owner-map, --group-map and --numeric-ids",
            hint="leave one of them out",
        )
    return RestoreOptions(
        target=b"/" if given["in_place"] else absolute(target) if target is not None else b"",
        backup=backup_number(given["backup"], given["name"], given["client"]),
        name=given["name"],
        client=given["client"],
        paths=[absolute(path) for path in given["paths"]],
        overwrite=Overwrite(given["overwrite"]),
        in_place=given["in_place"],
        delete=given["delete"],
        dry_run=given["dry_run"],
        include=list(given["include"]),
        exclude=list(given["exclude"]),
        owners=OwnerOptions(
            given["owner_map"], given["group_map"], numeric=given["numeric_ids"], none=given["no_owner"]
        ),
        onto=b"-" if onto == "-" else absolute(onto) if onto is not None else b"",
        protected=_protected(home),
    )


def _protected(home: str | None) -> list[bytes]:
    """The directories of this system's own grid, with its media, and of this client."""
    from staddle.client.connection import client_directory, home_from_environment
    from staddle.client.own import own_places
    from staddle.client.scan import absolute
    from staddle.errors import StaddleError

    found = [client_directory(), *own_places(home)]
    with contextlib.suppress(StaddleError):
        found.append(home_from_environment(home))
    return [absolute(each) for each in found if each and os.path.isdir(each)]


def _check_stdout(*, as_json: bool, verbose: bool) -> None:
    from staddle.errors import UsageError

    if as_json or verbose:
        raise UsageError(
            "with `--to -` standard output is the file's content", hint="leave out --json and --verbose"
        )
    if sys.stdout.isatty():
        raise UsageError(
            "standard output is a terminal, and a file's content may be anything",
            hint="redirect it: `staddle restore … --to - > FILE`",
        )


def backup_number(text: str, name: str = "", client: str = "") -> int:
    """A backup's number from the command line; 0 for the newest. Raises UsageError."""
    from staddle.errors import UsageError

    if text == "latest":
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= NUMBER_MAX):
        raise UsageError(f"{text!r} is no backup", hint="give its number (`staddle ls`), or `latest`")
    if name:
        raise UsageError("--name goes with `latest`, not with a number", hint="leave one of them out")
    if client:
        raise UsageError("--client goes with `latest`, not with a number", hint="leave one of them out")
    return int(text)


async def _run(
    grid: GridConnection, options: RestoreOptions, progress: Progress, *, itemized: bool
) -> RestoreSummary:
    from staddle.client.progress import path_fields
    from staddle.client.restore import Restore

    unwritten: list[OSError] = []

    def show(item: Item) -> None:
        if unwritten:
            return
        try:
            print_item(item)
        except OSError as error:  # of the output: no reason to break off what goes to the target
            unwritten.append(error)

    def print_item(item: Item) -> None:
        fields = path_fields(item.path)
        if progress.as_json:
            action = {"message_type": "item", "action": item.action.value, **fields}
            progress.line({**action, "size_bytes": item.size_bytes})
        else:
            say(f"{item.action.value:<8}{fields['path']}")

    restore = Restore(grid, options, progress.tally, progress.lost, show if itemized else None)
    async with progress.running():
        summary = await restore.run()
    if unwritten:
        raise from_os(unwritten[0]) from unwritten[0]
    return summary


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


def _show(summary: RestoreSummary, options: RestoreOptions) -> None:
    """What was done, for people; on stderr where stdout is the content."""
    err = options.onto == b"-"
    where = "its place" if options.in_place else os.fsdecode(options.onto or options.target)
    would = "would be" if summary.dry_run else "is"
    say(
        f"backup {summary.backup} ({summary.name}) {would} restored to {where}: {summary.files} files and "
        f"{summary.dirs} directories, {size_text(summary.bytes_restored)} in {summary.duration_s:.1f} s",
        err=err,
    )
    if summary.unchanged:
        say(
            f"  {summary.unchanged} were there already, of the same size and time, and were not read again "
            "(--overwrite always does)"
        )
    if summary.kept:
        say(f"  {summary.kept} were left as they are (--overwrite {options.overwrite})")
    if summary.deleted:
        say(f"  {summary.deleted} {'would be' if summary.dry_run else 'were'} deleted")
    for note in summary.notes:
        say(f"  note: {note}", err=err)
    if summary.warnings:
        say(f"  {summary.warnings} warnings: see above", err=err)
    if summary.lost_count:
        say(f"  {summary.lost_count} files are not restored: their content can't be had", err=True)
