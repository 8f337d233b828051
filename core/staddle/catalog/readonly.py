"""Users' SQL: one SELECT, in a read-only transaction, with a row limit and a time limit.

The database itself is opened without access to files, network or extensions. On top of that a query is parsed
first: only a SELECT passes, and of the table functions only those that generate or unpack rows, since others
change settings or write logs even in a read-only transaction.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import duckdb

from staddle.api.catalog import QueryResult
from staddle.catalog.failures import has_ended
from staddle.errors import DeadlineExceeded, UsageError

TABLE_FUNCTIONS = frozenset(
    {"generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"}
)
"""Table functions that a query may call. All are pure."""

_HINT = "the catalog takes one SELECT over the views of docs/sql.md"
_WORDS_MAX = 64 << 10
_INT64 = range(-(1 << 63), 1 << 64)


def run_query(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[Any],
    limit: int,
    timeout_s: float,
) -> QueryResult:
    """Run a user's query on a cursor of its own.

    Raises:
        UsageError: not one SELECT, refused, or wrong: with the database's own message.
        DeadlineExceeded: it took longer than `timeout_s`; nothing has changed.
        duckdb.Error: the database has to be opened again (`has_ended`).
    """
    cursor = connection.cursor()
    overdue = threading.Event()
    timer = threading.Timer(timeout_s, _interrupt, [cursor, overdue])
    timer.daemon = True
    try:
        _check(cursor, sql)
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        timer.start()
        cursor.execute(sql, list(parameters))
        columns = [str(column[0]) for column in cursor.description or ()]
        rows = cursor.fetchmany(limit + 1)
    except duckdb.Error as error:
        if overdue.is_set():
            raise DeadlineExceeded(
                f"the query took longer than {timeout_s:g} s",
                hint="narrow it with WHERE, or raise the time limit",
                scope="op",
                outcome="not_done",
            ) from None
        if has_ended(error):
            raise
        raise UsageError(f"SQL: {_first_words(error)}", hint=_HINT) from None
    finally:
        timer.cancel()
        cursor.close()
    return QueryResult(columns, [[_plain(value) for value in row] for row in rows[:limit]], len(rows) > limit)


def _first_words(error: duckdb.Error) -> str:
    """The database's message as one line, without the drawing of the query below it."""
    if "Required module" in str(error):  # it would be for all time zones of the world
        return "a time with a time zone can't be shown: cast it, such as now()::TIMESTAMP"
    return " ".join(str(error).split("\n\nLINE ", 1)[0].split())


def _check(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse whatever is not one SELECT over tables, views and pure functions."""
    if len(sql) > _WORDS_MAX:
        raise UsageError(f"SQL: {len(sql)} characters, at most {_WORDS_MAX} are taken")
    statements = cursor.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        if not statements:
            raise UsageError("SQL: the query is empty", hint=_HINT)
        kinds = ", ".join(statement.type.name for statement in statements)
        raise UsageError(f"SQL: {kinds} is refused", hint=_HINT)
    serialized = cursor.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0]
    try:
        tree = json.loads(serialized)
    except RecursionError:
        raise UsageError("SQL: the query is nested too deeply", hint=_HINT) from None
    if tree.get("error"):
        raise UsageError(
            f"SQL: {' '.join(str(tree.get('error_message', 'not a SELECT')).split())}", hint=_HINT
        )
    for name in _table_functions(tree):
        if name not in TABLE_FUNCTIONS:
            raise UsageError(f"SQL: the table function {name} is refused", hint=_HINT)


def _table_functions(tree: Any) -> Iterator[str]:
    """Names of all table functions in a serialized statement, however deep. Iterative: trees are deep."""
    rest = [tree]
    while rest:
        node = rest.pop()
        if isinstance(node, dict):
            if node.get("type") == "TABLE_FUNCTION":
                yield str(node["function"].get("function_name", "?")).lower()
            rest.extend(node.values())
        elif isinstance(node, list):
            rest.extend(node)


def _interrupt(cursor: duckdb.DuckDBPyConnection, overdue: threading.Event) -> None:
    overdue.set()
    with suppress(duckdb.Error):  # it has ended and was closed at this very moment
        cursor.interrupt()


def _plain(value: Any) -> Any:
    """A value that msgpack and JSON can carry: integers beyond 64 bits (sums) become text."""
    return str(value) if isinstance(value, int) and value not in _INT64 else value
