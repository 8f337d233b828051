"""How the command line shows things: tables, sizes, times."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headings; plain and tab-separated when nobody looks at it."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(str(cell) for cell in row))
    Console().print(shown)


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
    return datetime.fromtimestamp(at_ns / 1e9, UTC).astimezone().isoformat(timespec="seconds")


def path_text(path: bytes) -> str:
    """A path for a terminal: bytes that are not text become replacement characters."""
    return (
        path.decode(errors="replace")
        if os.name == "nt"
        else os.fsdecode(path).encode(errors="replace").decode()
    )
