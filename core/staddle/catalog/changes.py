"""Row changes of many records, gathered and then made in a few statements.

DuckDB takes a statement in a millisecond, whether it carries one row or a hundred thousand. So appliers
only say what changes, by table and key; `flush` makes it so inside the caller's transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

Key = tuple[Any, ...]
Row = dict[str, Any]


class _Pending(msgspec.Struct):
    """What becomes of one row.

    `row` is the whole new one; else `set` and `add` change the present one, which is made from `ensure` if it
    is missing.
    """

    dropped: bool = False
    fresh: bool = False
    row: Row | None = None
    ensure: Row | None = None
    set: Row = msgspec.field(default_factory=dict)
    add: Row = msgspec.field(default_factory=dict)


class Changes:
    """Changes in the order of the log; a later one of the same row is folded into the earlier."""

    def __init__(self, keys: Mapping[str, tuple[str, ...]]) -> None:
        """Args: keys: the key columns of every table that may change."""
        self._keys = keys
        self._pending: dict[str, dict[Key, _Pending]] = defaultdict(dict)
        self._erased: dict[tuple[str, str], list[Any]] = defaultdict(list)

    def insert(self, table: str, row: Row) -> None:
        """A row whose key is new."""
        key = self._key_of(table, row)
        before = self._pending[table].get(key)
        fresh = before is None or before.fresh
        self._pending[table][key] = _Pending(fresh=fresh, row=dict(row))

    def replace(self, table: str, row: Row) -> None:
        """A row whose key may be there."""
        self._pending[table][self._key_of(table, row)] = _Pending(row=dict(row))

    def update(self, table: str, key: Key, values: Row) -> None:
        """Set columns of a row; nothing happens if it is not there."""
        pending = self._pending[table].setdefault(key, _Pending())
        if pending.dropped:
            return
        if pending.row is not None:
            pending.row.update(values)
            return
        pending.set.update(values)
        for column in values:
            pending.add.pop(column, None)

    def add(self, table: str, key: Key, deltas: Mapping[str, int]) -> None:
        """Add to columns of a row; nothing happens if it is not there."""
        pending = self._pending[table].setdefault(key, _Pending())
        if pending.dropped:
            return
        for column, delta in deltas.items():
            if pending.row is not None:
                pending.row[column] = (pending.row.get(column) or 0) + delta
            elif column in pending.set:
                pending.set[column] += delta
            else:
                pending.add[column] = pending.add.get(column, 0) + delta

    def drop(self, table: str, key: Key) -> None:
        """Remove a row."""
        self._pending[table][key] = _Pending(dropped=True)

    def upsert(self, table: str, key: Key, values: Row, defaults: Row) -> None:
        """Set columns of a row; if it is not there, make it with `defaults` for the others."""
        pending = self._pending[table].setdefault(key, _Pending())
        whole = {**dict(zip(self._keys[table], key, strict=True)), **defaults, **values}
        if pending.dropped:
            self._pending[table][key] = _Pending(row=whole)
            return
        if pending.row is None and pending.ensure is None:
            pending.ensure = whole
        self.update(table, key, values)

    def erase(self, table: str, column: str, values: Sequence[Any]) -> None:
        """Remove all rows with one of these values in `column`, also those that are gathered here."""
        self._erased[table, column].extend(values)
        gone, pending = set(values), self._pending.get(table, {})
        for key in [k for k, p in pending.items() if p.row is not None and p.row.get(column) in gone]:
            pending[key] = _Pending(dropped=True)

    def read(self, connection: duckdb.DuckDBPyConnection, table: str, key: Key) -> Row | None:
        """A row as it will be after `flush`, or None."""
        pending = self._pending[table].get(key, _Pending())
        if pending.dropped or pending.row is not None:
            return pending.row
        where = " AND ".join(f"{name} = ?" for name in self._keys[table])
        found = connection.execute(f"SELECT * FROM {table} WHERE {where}", list(key))  # noqa: S608 - own names
        names = [column[0] for column in found.description or ()]
        rows = found.fetchall()
        if not rows:
            return pending.ensure
        row = {**dict(zip(names, rows[0], strict=True)), **pending.set}
        return {
            name: value + pending.add.get(name, 0) if name in pending.add else value
            for name, value in row.items()
        }

    def flush(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the changes, inside the caller's transaction, and forget them."""
        for (table, column), values in self._erased.items():
            delete = f"DELETE FROM {table} USING batch WHERE {table}.{column} = batch.{column}"  # noqa: S608 - own names
            run_batch(connection, {column: list(dict.fromkeys(values))}, delete)
        for table, pending in self._pending.items():
            self._flush_table(connection, table, pending)
        self._erased.clear()
        self._pending.clear()

    def _flush_table(
        self, connection: duckdb.DuckDBPyConnection, table: str, pending: dict[Key, _Pending]
    ) -> None:
        keys = self._keys[table]
        match = " AND ".join(f"{table}.{key} = batch.{key}" for key in keys)
        stale = [key for key, p in pending.items() if (p.dropped or p.row is not None) and not p.fresh]
        if stale:
            run_batch(connection, _columns(keys, stale), f"DELETE FROM {table} USING batch WHERE {match}")  # noqa: S608 - own names
        rows = [p.row for p in pending.values() if p.row is not None]
        if rows:
            run_batch(connection, _table(rows), f"INSERT INTO {table} BY NAME SELECT * FROM batch")  # noqa: S608 - own names
        missing = [p.ensure for p in pending.values() if p.ensure is not None]
        if missing:
            absent = f"SELECT * FROM batch ANTI JOIN {table} USING ({', '.join(keys)})"  # noqa: S608 - own names
            run_batch(connection, _table(missing), f"INSERT INTO {table} BY NAME {absent}")
        for changed, group in _by_columns(pending).items():
            columns = _columns(keys, [key for key, _ in group])
            assignments = []
            for name, added in changed:
                columns[f"new_{name}"] = [p.add[name] if added else p.set[name] for _, p in group]
                before = f"coalesce({table}.{name}, 0) + " if added else ""
                assignments.append(f"{name} = {before}batch.new_{name}")
            change = f"UPDATE {table} SET {', '.join(assignments)} FROM batch WHERE {match}"  # noqa: S608 - own names
            run_batch(connection, columns, change)

    def _key_of(self, table: str, row: Row) -> Key:
        return tuple(row[name] for name in self._keys[table])


def run_batch(
    connection: duckdb.DuckDBPyConnection, columns: Mapping[str, Sequence[Any]] | pa.Table, statement: str
) -> list[tuple[Any, ...]]:
    """Run a statement that reads the rows as the table `batch`; all rows of its answer."""
    batch = (
        columns if isinstance(columns, pa.Table) else pa.table({k: pa.array(v) for k, v in columns.items()})
    )
    connection.register("batch", batch)
    try:
        # fetched to the end: a result that is left open would refuse the next statement
        return connection.execute(statement).fetchall()
    finally:
        connection.unregister("batch")


def _columns(names: Sequence[str], rows: Sequence[Key]) -> dict[str, Sequence[Any]]:
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _table(rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _by_columns(
    pending: Mapping[Key, _Pending],
) -> dict[tuple[tuple[str, bool], ...], list[tuple[Key, _Pending]]]:
    """Rows to be changed in place, grouped by the columns that change: (name, is it added to)."""
    groups: dict[tuple[tuple[str, bool], ...], list[tuple[Key, _Pending]]] = defaultdict(list)
    for key, change in pending.items():
        names = tuple(sorted([*((n, False) for n in change.set), *((n, True) for n in change.add)]))
        if names and change.row is None and not change.dropped:
            groups[names].append((key, change))
    return groups
