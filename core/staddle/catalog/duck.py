"""The catalog in DuckDB: one file, one process, one thread at a time.

What was applied and `applied_lsn` change in one transaction (C2), so replaying the log from anywhere below is
harmless. Tier 2 comes in by whole manifests, each once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files as package_files
from typing import Any

import duckdb
import pyarrow as pa

from staddle.api.catalog import ManifestColumns, ManifestDecoder, ManifestRows, QueryResult, Record
from staddle.catalog.appliers import apply_record
from staddle.catalog.browse import Browser
from staddle.catalog.changes import run_batch
from staddle.catalog.check import catalog_diff, findings
from staddle.catalog.context import KEYS, Context
from staddle.catalog.failures import Ended, opening_failed
from staddle.catalog.ingest import directory_rows, file_rows
from staddle.catalog.projection import project, references
from staddle.catalog.readonly import run_query
from staddle.engine.state import GridState
from staddle.errors import Corrupt, Fenced, NewerFormat, NotFound, StaddleError
from staddle.platform.durable import FILES, fsync_dir

SCHEMA_VERSION = 1
MEMORY_BYTES = 192 << 20
THREADS = 2
SPILL_BYTES_MAX = 4 << 30
CHECKPOINT_BYTES = 256 << 20
QUERY_S = 30.0
_COPY_BYTES = 8 << 20


class DuckCatalog(Browser):
    """The projection of the op-log; implements `staddle.api.catalog.Catalog`."""

    def __init__(
        self,
        path: str,
        decode_manifest: ManifestDecoder,
        *,
        memory_bytes: int = MEMORY_BYTES,
        threads: int = THREADS,
        query_s: float = QUERY_S,
    ) -> None:
        """Open or make the catalog file.

        Args:
            path: the file; its directory exists.
            decode_manifest: turns a manifest's plain bytes into columns.
            memory_bytes: what DuckDB may use; beyond it spills beside the file.
            threads: of DuckDB.
            query_s: time limit of one query.

        Raises:
            Locked: another process has it open.
            Unavailable: the host lacks something (room, descriptors, memory) or refuses the file.
            NewerFormat: a newer release made it.
            Corrupt: it is no catalog, or damaged.
        """
        self._path, self._decode, self._query_s = path, decode_manifest, query_s
        self._settings: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "enable_external_access": "false",
            "python_enable_replacements": "false",
            "memory_limit": f"{memory_bytes >> 20}MiB",
            "max_temp_directory_size": f"{SPILL_BYTES_MAX >> 20}MiB",
            "checkpoint_threshold": f"{CHECKPOINT_BYTES >> 20}MiB",
            "threads": threads,
            "lock_configuration": "true",
        }
        self._closed = False
        self._epoch = self._lsn = 0
        self._next_manifest_no = self._next_dir_no = 1
        self._connection = self._open()
        try:
            self._read_counters()
        except duckdb.Error as error:
            self._connection.close()
            raise opening_failed(path, error) from error

    # --- tier 1 ----------------------------------------------------------------------------------

    def applied_lsn(self) -> int:
        """The last LSN whose record is in the catalog, durably; 0 for none."""
        return self._lsn

    def applied_epoch(self) -> int:
        """The manager epoch that wrote that record; 0 for none."""
        return self._epoch

    def apply(self, records: Sequence[Record]) -> None:
        """Apply in order, atomically; what is applied already is skipped.

        Raises:
            Fenced: a record of an epoch below one that was applied (C4).
            Corrupt: an LSN is missing, or a record refers to what is not there.
            NewerFormat: an op that this release does not know.
        """
        epoch, lsn = self._epoch, self._lsn
        fresh = [record for record in records if record.lsn > lsn]
        if not fresh:
            return
        with self._transaction():
            context = Context(self._connection)
            for record in fresh:
                self._check_order(record, epoch, lsn)
                apply_record(context, record)
                epoch, lsn = record.epoch, record.lsn
            context.flush(self._number_containers)
            self._mark(epoch, lsn)
        self._epoch, self._lsn = epoch, lsn

    def load_state(self, state: bytes) -> int:
        """Take tier 1 from a snapshot of the manager's state instead of from records; the LSN applied then.

        For a catalog that is behind the log's oldest record. Files of segments that still count are kept.

        Raises:
            Corrupt, NewerFormat: the snapshot can't be read.
            Fenced: it is older than what was applied.
        """
        tables = GridState.load(state)
        if (tables.epoch, tables.lsn) < (self._epoch, self._lsn):
            raise Fenced(f"catalog: a snapshot of record {tables.lsn}, record {self._lsn} was applied")
        with self._transaction():
            for table in (*KEYS, "refs"):
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - own names
            context = Context(self._connection)
            context.grid = tables.grid
            for table, row in project(tables):
                context.changes.insert(table, row)
            for reference in references(tables):
                context.refer(*reference)
            context.flush(self._number_containers)
            self._connection.execute(
                "DELETE FROM manifests "
                "WHERE (manifest, backup) NOT IN (SELECT manifest, backup FROM segments)"
            )
            for table in ("files", "dirs"):
                self._connection.execute(
                    f"DELETE FROM {table} "  # noqa: S608 - own names
                    "WHERE manifest_no NOT IN (SELECT manifest_no FROM manifests)"
                )
            self._mark(tables.epoch, tables.lsn)
        self._epoch, self._lsn = tables.epoch, tables.lsn
        return self._lsn

    def _check_order(self, record: Record, epoch: int, lsn: int) -> None:
        if record.epoch < epoch:
            raise Fenced(
                f"catalog: record {record.lsn} of epoch {record.epoch}, epoch {epoch} was applied",
                hint="another manager has taken over",
                scope="cluster",
            )
        if record.lsn != lsn + 1:
            hint = "run: staddle catalog rebuild"
            raise Corrupt(f"catalog: record {record.lsn} follows {lsn}", hint=hint)

    # --- tier 2 ----------------------------------------------------------------------------------

    def ingest(self, manifests: Sequence[ManifestRows]) -> None:
        """Take in files and chunk runs; the same manifest again, or one of a pruned backup, changes nothing.

        Raises:
            NotFound: no committed segment names the manifest.
            Corrupt, NewerFormat: it can't be decoded.
        """
        wanted = self._wanted(manifests)
        decoded = [(rows, self._decode(rows.plain)) for rows in wanted]
        if not decoded:
            return
        with self._transaction():
            numbers = self._number_containers(
                [each.hex() for _, columns in decoded for each in columns.chunks.containers]
            )
            dir_no = self._insert_manifests(decoded, numbers)
        self._next_manifest_no += len(decoded)
        self._next_dir_no = dir_no

    def _insert_manifests(
        self, decoded: Sequence[tuple[ManifestRows, ManifestColumns]], numbers: Mapping[str, int]
    ) -> int:
        dirs, files, heads = [], [], []
        dir_no = self._next_dir_no
        for manifest_no, (rows, columns) in enumerate(decoded, self._next_manifest_no):
            containers = [numbers[each.hex()] for each in columns.chunks.containers]
            dirs.append(directory_rows(columns, rows.backup, manifest_no, dir_no))
            files.append(file_rows(columns, rows.backup, manifest_no, dir_no, containers))
            heads.append((manifest_no, rows.manifest.hex(), rows.backup, files[-1].num_rows))
            dir_no += dirs[-1].num_rows
        names = ("manifest_no", "manifest", "backup", "entries")
        heads_table = pa.table(dict(zip(names, map(list, zip(*heads, strict=True)), strict=True)))
        for table, rows_table in (
            ("manifests", heads_table),
            ("dirs", pa.concat_tables(dirs)),
            ("files", pa.concat_tables(files)),
        ):
            run_batch(self._connection, rows_table, f"INSERT INTO {table} BY NAME SELECT * FROM batch")  # noqa: S608 - own names
        return dir_no

    def _wanted(self, manifests: Sequence[ManifestRows]) -> list[ManifestRows]:
        """Those that are neither in nor pruned, each once. Raises NotFound."""
        by_id = {rows.manifest.hex(): rows for rows in manifests}
        known = run_batch(
            self._connection,
            {"manifest": list(by_id), "backup": [rows.backup for rows in by_id.values()]},
            "SELECT batch.manifest, s.manifest IS NOT NULL, m.manifest IS NOT NULL, b.state "
            "FROM batch LEFT JOIN segments s USING (manifest, backup) LEFT JOIN manifests m USING (manifest) "
            "LEFT JOIN backups b ON b.backup = batch.backup",
        )
        wanted = set()
        for manifest, committed, ingested, state in known:
            if not committed and not ingested and state != "pruned":
                raise NotFound(
                    f"catalog: manifest {manifest} is in no segment of backup {by_id[manifest].backup}",
                    hint="apply the log's records first",
                )
            if committed and not ingested:
                wanted.add(manifest)
        return [rows for manifest, rows in by_id.items() if manifest in wanted]

    def ingested(self, backup: int) -> list[bytes]:
        """Ids of the manifests of a backup that are already in."""
        rows = self._rows("SELECT manifest FROM manifests WHERE backup = ? ORDER BY manifest_no", [backup])
        return [bytes.fromhex(row[0]) for row in rows]

    def _number_containers(self, ids: Sequence[str]) -> dict[str, int]:
        """The number of each container, new ones included; inside the caller's transaction."""
        distinct = list(dict.fromkeys(ids))
        if not distinct:
            return {}
        known = run_batch(
            self._connection,
            {"container": distinct},
            "SELECT container, container_no FROM container_ids JOIN batch USING (container)",
        )
        numbers: dict[str, int] = dict(known)
        fresh = [each for each in distinct if each not in numbers]
        if fresh:
            first = self._rows("SELECT coalesce(max(container_no), 0) + 1 FROM container_ids")[0][0]
            numbers.update(zip(fresh, range(first, first + len(fresh)), strict=True))
            columns = {"container_no": list(range(first, first + len(fresh))), "container": fresh}
            run_batch(self._connection, columns, "INSERT INTO container_ids BY NAME SELECT * FROM batch")
        return numbers

    # --- questions -------------------------------------------------------------------------------

    def query(self, sql: str, parameters: Sequence[Any] = (), limit: int = 100_000) -> QueryResult:
        """Read-only SQL over the documented views. Raises UsageError, DeadlineExceeded."""
        return run_query(self._connection, sql, parameters, limit, self._query_s)

    def verify(self) -> list[str]:
        """Findings of an internal check; empty when all references hold."""
        return findings(self._rows)

    def snapshot(self, path: str) -> int:
        """Write a consistent copy to `path`, durably; its applied LSN. Raises StaddleError."""
        with self._offline():
            try:
                _copy_durable(self._path, path)
            except OSError as error:
                raise StaddleError(
                    f"cannot write the snapshot {path}: {(error.strerror or str(error)).lower()}",
                    hint="name a file in a directory that the manager's user may write, with room for it",
                    retry="operator",
                ) from error
        return self._lsn

    def diff(self, other: str) -> list[tuple[str, str, str]]:
        """What differs from another catalog file in backups, files, containers and copies (C3).

        Returns:
            (table, `only here` or `only there`, the row as text); empty if they are equal.
        """
        with self._offline():
            return catalog_diff(self._path, other)

    def close(self) -> None:
        """Checkpoint and close. Idempotent."""
        if not self._closed:
            self._closed = True
            self._connection.close()

    # --- helpers ---------------------------------------------------------------------------------

    def _open(self) -> duckdb.DuckDBPyConnection:
        try:
            connection = duckdb.connect(self._path, config=self._settings)
        except duckdb.Error as error:
            raise opening_failed(self._path, error) from error
        try:
            self._check_schema(connection)
        except duckdb.Error as error:  # a database whose tables are not ours
            connection.close()
            raise opening_failed(self._path, error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_schema(self, connection: duckdb.DuckDBPyConnection) -> None:
        tables = {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if not tables:
            connection.execute("BEGIN")
            for name in ("schema.sql", "views.sql"):
                connection.execute(package_files("staddle.catalog").joinpath(name).read_text("utf-8"))
            connection.execute("INSERT INTO projection VALUES (?, 0, 0, '')", [SCHEMA_VERSION])
            connection.execute("COMMIT")
            return
        if "projection" not in tables:
            raise Corrupt(f"{self._path} is a DuckDB file, but no catalog")
        row = connection.execute("SELECT schema_version FROM projection").fetchone()
        version = row[0] if row else 0
        if version > SCHEMA_VERSION:
            raise NewerFormat(
                f"catalog {self._path} has version {version}, this release reads up to {SCHEMA_VERSION}",
                hint="start the release that wrote it, or remove the file: it is made again from the op-log",
            )
        if version < SCHEMA_VERSION:
            raise Corrupt(f"catalog {self._path} has version {version}, this release writes {SCHEMA_VERSION}")

    def _read_counters(self) -> None:
        self._epoch, self._lsn = self._rows("SELECT applied_epoch, applied_lsn FROM projection")[0]
        self._next_manifest_no = self._rows("SELECT coalesce(max(manifest_no), 0) + 1 FROM manifests")[0][0]
        self._next_dir_no = self._rows("SELECT coalesce(max(dir_no), 0) + 1 FROM dirs")[0][0]

    def _mark(self, epoch: int, lsn: int) -> None:
        self._connection.execute("UPDATE projection SET applied_epoch = ?, applied_lsn = ?", [epoch, lsn])

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows: a result that is left open would refuse the next statement."""
        return self._connection.execute(sql, list(parameters)).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            _rollback(self._connection)
            raise

    @contextmanager
    def _offline(self) -> Iterator[None]:
        """The file closed and whole, its write-ahead log folded in.

        Reading it beside the open database would do harm: on POSIX, closing any descriptor of a file drops
        this process's locks on it. Raises Ended if it can't be opened again.
        """
        self._connection.execute("CHECKPOINT")
        self._connection.close()
        try:
            yield
        finally:
            try:
                self._connection = self._open()
            except Exception as error:
                raise Ended(f"the catalog can't be opened again: {error}") from error


def open_catalog(path: str, decode_manifest: ManifestDecoder) -> DuckCatalog:
    """What the plugin's `load` returns."""
    return DuckCatalog(path, decode_manifest)


def _rollback(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.execute("ROLLBACK")
    except duckdb.Error:  # the failed COMMIT has done it
        return


def _copy_durable(source: str, target: str) -> None:
    # Others may write to the directory: no name that they can know is opened, and what all clients have in
    # their backups is for this user's eyes only.
    temporary = f"{target}.{os.urandom(8).hex()}.tmp"
    fd = FILES.create(temporary)
    try:
        try:
            with open(source, "rb") as old:
                while block := old.read(_COPY_BYTES):
                    FILES.write(fd, block)
            FILES.datasync(fd)
        finally:
            FILES.close(fd)
        os.replace(temporary, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    fsync_dir(os.path.dirname(os.path.abspath(target)))
