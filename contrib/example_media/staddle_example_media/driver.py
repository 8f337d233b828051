"""The driver: keys and values in one SQLite file. Each call is one statement, and one transaction."""

# ruff: noqa: D102 - what the methods promise stands in staddle.api.simple

import os
import shutil
import sqlite3
from contextlib import closing
from urllib.parse import quote

from staddle import Deadline, Durability, StoreMedium, errors
from staddle.api.checks import check_deadline
from staddle.api.types import Capacity, ObjectInfo


class ExampleMedium(StoreMedium):
    """A directory with one SQLite file, `objects.sqlite`."""

    durability = Durability.POWER_LOSS

    def run(self, deadline: Deadline, sql: str, *values: object, mode: str = "rw") -> list:
        """Rows of the answer; what changed is durable. Readers open it for writing, to roll back a crash."""
        uri = f"file:{quote(self.config.path)}/objects.sqlite?mode={mode}"
        try:
            with closing(sqlite3.connect(uri, deadline.left_s(), uri=True)) as database, database:
                database.execute("PRAGMA synchronous = EXTRA")
                rows = database.execute(sql, values).fetchall()
                check_deadline(deadline, f"medium {self.name}")  # the last moment at which nothing is visible
                return rows
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            kind = errors.MediumFull if full else errors.MediumFailed
            raise kind(f"{self.config.path}: {error}", outcome="in_doubt") from error

    def prepare(self, deadline: Deadline) -> None:
        os.makedirs(self.config.path, exist_ok=True)
        if set(os.listdir(self.config.path)) - {"objects.sqlite", "objects.sqlite-journal"}:
            raise errors.Conflict(f"{self.config.path} is not empty", hint="give it an empty directory")
        sql = "CREATE TABLE IF NOT EXISTS object (key TEXT PRIMARY KEY, body BLOB) STRICT"
        self.run(deadline, sql, mode="rwc")

    def create(self, key: str, body: bytes, deadline: Deadline) -> bool:
        sql = "INSERT INTO object VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING true"
        return bool(self.run(deadline, sql, key, body))

    def read(self, key: str, offset: int, length: int, deadline: Deadline) -> tuple[int, bytes] | None:
        file = f"{self.config.path}/objects.sqlite"
        if not os.path.exists(file) or not os.path.getsize(file):
            return None  # never prepared, or not to the end
        sql = "SELECT length(body), coalesce(substr(body, ?, ?), x'') FROM object WHERE key = ?"
        return next(iter(self.run(deadline, sql, offset + 1, length, key)), None)

    def page(self, after: str, deadline: Deadline) -> list[ObjectInfo]:
        sql = "SELECT key, length(body) FROM object WHERE key > ? ORDER BY key LIMIT 1000"
        return [ObjectInfo(*row) for row in self.run(deadline, sql, after)]

    def remove(self, key: str, deadline: Deadline) -> None:
        self.run(deadline, "DELETE FROM object WHERE key = ?", key)

    def capacity(self) -> Capacity:
        total, _, free = shutil.disk_usage(self.config.path)
        return Capacity(total, free, low=free < min(256 << 20, total // 8))
