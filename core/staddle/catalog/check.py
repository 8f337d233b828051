"""Is the catalog sound in itself, and is it equal to another one? The statements stand in two .sql files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.resources import files as package_files
from typing import Any

import duckdb

Rows = Callable[[str], list[tuple[Any, ...]]]

DIFF_ROWS_MAX = 1000
_SHOWN = 5
_STATEMENT = re.compile(r"^-- \[([^]\n]+)\]\n(.+?);$", re.MULTILINE | re.DOTALL)


def findings(rows: Rows) -> list[str]:
    """One line per kind of damage, with its first few rows; empty when all references hold.

    Args:
        rows: runs a statement, gives all rows.
    """
    found = []
    for what, statement in _statements("checks.sql"):
        hits = rows(f"SELECT *, count(*) OVER () FROM ({statement}) LIMIT {_SHOWN}")  # noqa: S608 - own statements
        if hits:
            shown = "; ".join(", ".join(map(str, hit[:-1])) for hit in hits)
            found.append(f"{hits[0][-1]} {what}: {shown}")
    return found


def catalog_diff(here: str, there: str) -> list[tuple[str, str, str]]:
    """Compare two catalog files that no process has open (C3).

    Returns:
        (what, `only here` or `only there`, the row as text), at most `DIFF_ROWS_MAX` of a kind.
    """
    connection = duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    try:
        for name, path in (("here", here), ("there", there)):
            quoted = path.replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS {name} (READ_ONLY)")
        difference: list[tuple[str, str, str]] = []
        for what, statement in _statements("compared.sql"):
            one, other = statement.replace("$db", "here"), statement.replace("$db", "there")
            for side, first, second in (("only here", one, other), ("only there", other, one)):
                only = f"SELECT x::VARCHAR FROM (({first}) EXCEPT ALL ({second})) x LIMIT {DIFF_ROWS_MAX}"  # noqa: S608 - own statements
                difference += [(what, side, row[0]) for row in connection.execute(only).fetchall()]
        return difference
    finally:
        connection.close()


def _statements(name: str) -> Iterator[tuple[str, str]]:
    """(title, statement) of a file whose statements each stand below a line `-- [title]`."""
    text = package_files("staddle.catalog").joinpath(name).read_text("utf-8")
    return ((match[1], match[2]) for match in _STATEMENT.finditer(text))
