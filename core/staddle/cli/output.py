"""How the command line shows things: tables, sizes, times."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from staddle.text import visible

__all__ = ["dump", "path_text", "say", "size_text", "table", "time_text", "visible"]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def say(text: str, *, err: bool = False) -> None:
    """Print one line for a person. Wherever its text is from, it stays one and commands no terminal."""
    click.echo(visible(text), err=err)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headings; plain and tab-separated when nobody looks at it.

    One line for each row, whatever is in it, and never cut off: a terminal wraps long lines itself.
    """
    texts = [[visible(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in texts:
            click.echo("\t".join(row))
        return
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(columns, *texts, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    click.secho(line(columns), bold=True)
    for row in texts:
        click.echo(line(row))


def dump(document: Any, *, before: str = "", end: str = "\n") -> None:
    """Print a JSON document; `before` and `end` make several of them one. Bytes and times become text."""
    click.echo(before + json.dumps(document, default=_plain) + end, nl=False)


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def size_text(count: float) -> str:
    """Bytes for a person: 1.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def time_text(at_ns: int) -> str:
    """UTC nanoseconds as RFC 3339 in local time with its offset; empty for 0."""
    if not at_ns:
        return ""
    # `fromtimestamp` refuses times before 1970 on Windows.
    at = _EPOCH + timedelta(seconds=at_ns // 1_000_000_000)
    try:
        return at.astimezone().isoformat(timespec="seconds")
    except (OSError, OverflowError, ValueError):
        return at.isoformat(timespec="seconds")


def path_text(path: bytes) -> str:
    r"""A path for a terminal: bytes that are not text become escapes such as `\xff`."""
    return path.decode(errors="backslashreplace")
