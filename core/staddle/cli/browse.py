"""`staddle ls`, `find` and `sql`: what the catalog knows."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import click

from staddle.cli.output import dump, path_text, say, size_text, table, time_text
from staddle.cli.params import NUMBER
from staddle.cli.session import grid_options, query, with_grid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from staddle.client.connection import GridConnection
    from staddle.wire.ops.jobs import Rows

_ROWS_MAX = 50_000
_PAGE_ROWS = 5000
_TYPES = {
    1: "file",
    2: "directory",
    3: "symlink",
    4: "hardlink",
    5: "fifo",
    6: "socket",
    7: "block",
    8: "char",
    9: "image",
    10: "stream",
    11: "named_stream",
}
_DIRECTORY = 2
_HARDLINK = 4
_NO_FILES = {9, 10}
_LETTERS = {2: "d", 3: "l", 5: "p", 6: "s", 7: "b", 8: "c"}

Entry = dict[str, Any]


@click.command()
@click.argument("backup", required=False, default="")
@click.argument("path", required=False, default="")
@grid_options
def ls(backup: str, path: str, home: str | None, as_json: bool) -> None:
    """List all backups; or, of BACKUP (a number, or `latest`), a directory."""
    if not backup:
        from staddle.wire.ops.reading import LIST_BACKUPS, ListBackups

        rows = with_grid(home, lambda grid: grid.manager.call(LIST_BACKUPS, ListBackups()))
        _list_backups(rows, as_json=as_json)
        return
    from staddle.cli.restore import backup_number
    from staddle.client.scan import absolute

    number = backup_number(backup)
    where = absolute(path) if path else b""
    with_grid(home, lambda grid: _list_directory(grid, number, where, as_json=as_json))


def _list_backups(rows: Rows, *, as_json: bool) -> None:
    backups = [dict(zip(["backup", *rows.columns[1:]], row, strict=True)) for row in rows.rows]
    if as_json:
        dump([each | {"started": time_text(each["started_ns"] or 0)} for each in backups])
        return
    table(
        ["backup", "name", "client", "started", "state", "files", "read", "stored", "warnings"],
        [
            [
                *(each["backup"], each["name"], each["client"], time_text(each["started_ns"] or 0)),
                *(each["state"], each["files"], size_text(each["bytes_read"])),
                *(size_text(each["bytes_stored"]), each["warnings"]),
            ]
            for each in backups
        ],
    )


async def _list_directory(grid: GridConnection, number: int, path: bytes, *, as_json: bool) -> None:
    """Show a directory page by page: it may have millions of entries."""
    before = "["
    async for entries in _pages(grid, number, path):
        if not as_json:
            _show_entries(entries, as_json=False)
            continue
        for entry in entries:  # one document of all pages
            dump(_document(entry), before=before, end="")
            before = ", "
    if as_json:
        say("[]" if before == "[" else "]")


async def _pages(grid: GridConnection, number: int, path: bytes) -> AsyncIterator[list[Entry]]:
    """Entries of a directory; without a path of the first one that is more than a way to the roots."""
    from staddle.errors import NotFound
    from staddle.wire.ops.reading import LIST_BACKUPS, LIST_DIRECTORY, ListBackups, ListDirectory

    if not number:
        rows = await grid.manager.call(LIST_BACKUPS, ListBackups())
        state = rows.columns.index("state")
        number = max((row[0] for row in rows.rows if row[state] in {"complete", "warnings"}), default=0)
        if not number:
            raise NotFound("there is no finished backup", hint="`staddle ls` shows all of them")
    here, after = path or b"/", b""
    while True:
        request = ListDirectory(backup=number, path=here, after=after, limit=_PAGE_ROWS)
        entries = _entries(await grid.manager.call(LIST_DIRECTORY, request))
        above_roots = not after and len(entries) == 1 and not entries[0]["manifest"]
        if not path and above_roots and entries[0]["path"] != here:
            here = entries[0]["path"]
            continue
        yield entries
        last = entries[-1]["path"].rpartition(b"/")[2] if entries else b""
        if len(entries) != _PAGE_ROWS or last <= after:
            return  # a manager of an earlier release gives all at once
        after = last


def _entries(rows: Rows) -> list[Entry]:
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]


def _show_entries(entries: list[Entry], *, as_json: bool, with_backup: bool = False) -> None:
    if as_json:
        dump([_document(entry) for entry in entries])
        return
    rows = [
        [
            *([entry["backup"]] if with_backup else []),
            *(_mode(entry), entry["uid"], entry["gid"], entry["size_bytes"], time_text(entry["mtime_ns"])),
            path_text(entry["path"]) + _addition(entry),
        ]
        for entry in entries
    ]
    heads = ["mode", "uid", "gid", "bytes", "modified", "path"]
    table(["backup", *heads] if with_backup else heads, rows)


def _mode(entry: Entry) -> str:
    return _LETTERS.get(entry["type"], "-") + stat.filemode(entry["mode"])[1:]


def _addition(entry: Entry) -> str:
    """What follows the path: where a link leads, or that the content is no file's."""
    if entry["link"] and entry["type"] == _HARDLINK:
        return f" (hard link to {entry['link']})"  # the arrow is a symlink's; what it links to may be one
    if entry["link"]:
        return f" -> {entry['link']}"
    return f" ({_TYPES[entry['type']]})" if entry["type"] in _NO_FILES else ""


def _document(entry: Entry) -> dict[str, Any]:
    from staddle.client.progress import path_fields

    return {
        "backup": entry["backup"],
        **path_fields(entry["path"]),
        "type": _TYPES.get(entry["type"], "other"),
        "mode": entry["mode"],
        "uid": entry["uid"],
        "gid": entry["gid"],
        "size_bytes": entry["size_bytes"],
        "mtime_ns": entry["mtime_ns"],
        "modified": time_text(entry["mtime_ns"]),
        "link": entry["link"],
    }


@click.command()
@click.argument("pattern")
@click.option("--backup", type=NUMBER, help="Only in this backup.")
@click.option(
    "--limit", type=click.IntRange(1, _ROWS_MAX), default=10_000, show_default=True, help="At most."
)
@grid_options
def find(pattern: str, backup: int | None, limit: int, home: str | None, as_json: bool) -> None:
    """Find files in all backups: names that contain PATTERN, or match it if it has `*`, `?` or `[`.

    With a `/` in it the pattern is for whole paths.
    """
    from staddle.wire.ops.reading import FIND, Find

    request = Find(pattern=pattern, backup=backup or 0, limit=limit)
    rows = with_grid(home, lambda grid: grid.manager.call(FIND, request, timeout_s=120.0))
    _tell_limit(rows, limit)
    _show_entries(_entries(rows), as_json=as_json, with_backup=True)


@click.command()
@click.argument("statement", metavar="QUERY")
@click.option("--limit", type=click.IntRange(1, _ROWS_MAX), default=10_000, show_default=True, help="Rows.")
@grid_options
def sql(statement: str, limit: int, home: str | None, as_json: bool) -> None:
    """Query the catalog: one SELECT over its documented views, such as v_backups and v_files."""
    rows = query(home, statement, limit=limit)
    _tell_limit(rows, limit)
    if as_json:
        dump({"columns": rows.columns, "rows": rows.rows})
    else:
        table(rows.columns, [["" if cell is None else _cell(cell) for cell in row] for row in rows.rows])


def _tell_limit(rows: Rows, limit: int) -> None:
    if len(rows.rows) >= limit:
        say(f"only the first {limit} rows are shown: --limit asks for more", err=True)


def _cell(value: object) -> object:
    return path_text(value) if isinstance(value, bytes) else value
