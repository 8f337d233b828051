"""The driver: a volume is a directory with its label and one SQLite database. Every call is a transaction."""

# ruff: noqa: D102 - what the methods mean stands in staddle.api.media

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import blake3

from staddle import Buffer, Deadline, Label, Receipt, errors
from staddle.api.media import Mode, check_label
from staddle.api.types import (
    Capability,
    Capacity,
    Durability,
    Health,
    MediumState,
    ObjectInfo,
    check_object_name,
)

TABLE = "CREATE TABLE IF NOT EXISTS object (name TEXT PRIMARY KEY, digest BLOB, body BLOB) STRICT"


class ExampleMedium:
    """One directory, one volume."""

    def __init__(self, name: str, config: object) -> None:
        self.path: str = config.path

    def initialize(self, label: Label, text: bytes, deadline: Deadline) -> None:
        """Make the database, then the label; the transaction lets only one do so."""
        os.makedirs(self.path, exist_ok=True)
        if set(os.listdir(self.path)) - {
            "objects.sqlite",
            "objects.sqlite-journal",
            "label.new",
            "LABEL.txt",
        }:
            raise errors.Conflict(f"{self.path} is not empty", hint="give the medium an empty directory")
        with ExampleVolume(self.path, label).transaction(deadline, mode="rwc") as database:
            database.execute(TABLE)
            if os.path.exists(f"{self.path}/LABEL.txt") and self.read_label(deadline) != text:
                raise errors.Conflict(f"{self.path} is labelled already, as another volume")
            with open(f"{self.path}/label.new", "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{self.path}/label.new", f"{self.path}/LABEL.txt")

    def read_label(self, deadline: Deadline) -> bytes:
        try:
            with open(f"{self.path}/LABEL.txt", "rb") as file:
                return file.read(65_536)
        except FileNotFoundError:
            raise errors.NotFound(f"{self.path} has no label", scope="volume") from None

    def open(self, label: Label, mode: Mode, epoch: int, deadline: Deadline) -> "ExampleVolume":
        try:
            check_label(self.read_label(deadline), label, self.path)
        except errors.NotFound as error:
            raise errors.MediumFailed(error.message, hint="is it mounted?") from None
        return ExampleVolume(self.path, label)

    def probe(self, deadline: Deadline) -> list[Capability]:
        return []  # nothing is tried, so all that is declared stays "declared"

    def health(self, deadline: Deadline) -> Health:
        there = os.path.exists(f"{self.path}/LABEL.txt")
        return Health(MediumState.UP) if there else Health(MediumState.OFFLINE, f"{self.path} has no label")

    def close(self) -> None:
        pass


class ExampleVolume:
    """Its objects are the rows of a table."""

    def __init__(self, path: str, label: Label) -> None:
        self.path, self.label = path, label

    @contextmanager
    def transaction(
        self, deadline: Deadline, begin: str = "BEGIN IMMEDIATE", mode: str = "rw"
    ) -> Iterator[sqlite3.Connection]:
        """Durable at its end (M2). A missing file is an error: it may be unmounted.

        Readers too open it for writing: after a crash the first one of all rolls back.
        """
        uri = "file:" + f"{self.path}/objects.sqlite".replace("?", "%3f").replace("#", "%23")
        database = None
        try:
            database = sqlite3.connect(
                f"{uri}?mode={mode}", uri=True, timeout=deadline.left_s(), isolation_level=None
            )
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute(begin)
            yield database
            if deadline.left_s() <= 0:  # the last moment at which nothing is visible (M8)
                raise errors.DeadlineExceeded(f"{self.path}: out of time", outcome="not_done")
            database.execute("COMMIT")
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            kind = errors.MediumFull if full else errors.MediumFailed
            raise kind(f"{self.path}: {error}", outcome="in_doubt") from error
        finally:
            if database is not None:
                database.close()

    def put(self, name: str, parts: Sequence[Buffer], digest: bytes, deadline: Deadline) -> Receipt:
        body = b"".join(parts)
        if blake3.blake3(body).digest() != digest:
            raise errors.Corrupt(f"object {name}: its bytes don't have the digest that was given")
        with self.transaction(deadline) as database:
            held = database.execute("SELECT digest FROM object WHERE name = ?", (checked(name),)).fetchone()
            if held is None:
                database.execute("INSERT INTO object VALUES (?, ?, ?)", (name, digest, body))
            elif held[0] != digest:  # M4
                raise errors.Conflict(f"object {name} holds other bytes; they were kept")
        volume, durability = self.label.volume, Durability.POWER_LOSS
        return Receipt(name=name, size_bytes=len(body), digest=digest, volume=volume, durability=durability)

    def get(self, name: str, offset: int, length: int, deadline: Deadline) -> bytes:
        with self.transaction(deadline, "BEGIN") as database:
            sql = "SELECT length(body), substr(body, ?, ?) FROM object WHERE name = ?"
            found = database.execute(sql, (offset + 1, length, checked(name))).fetchone()
        if found is None:
            raise errors.NotFound(f"no object {name}")
        if found[0] < offset + length:  # M7
            raise errors.Corrupt(f"object {name} is shorter than {offset + length} bytes")
        return found[1] or b""  # SQLite has NULL for an empty range

    def stat(self, name: str, deadline: Deadline) -> ObjectInfo:
        with self.transaction(deadline, "BEGIN") as database:
            sql = "SELECT name, length(body) FROM object WHERE name = ?"
            found = database.execute(sql, (checked(name),)).fetchone()
        if found is None:
            raise errors.NotFound(f"no object {name}")
        return ObjectInfo(*found)

    def list(self, after: str, deadline: Deadline, prefix: str = "") -> Iterator[ObjectInfo]:
        sql = "SELECT name, length(body) FROM object WHERE name > ? AND name GLOB ? ORDER BY name LIMIT 1000"
        while True:
            with self.transaction(deadline, "BEGIN") as database:
                page = database.execute(sql, (after, prefix + "*")).fetchall()
            yield from (ObjectInfo(*row) for row in page)
            if not page:
                return
            after = page[-1][0]

    def delete(self, name: str, deadline: Deadline) -> None:
        with self.transaction(deadline) as database:
            database.execute("DELETE FROM object WHERE name = ?", (checked(name),))

    def capacity(self) -> Capacity:
        usage = shutil.disk_usage(self.path)
        return Capacity(usage.total, usage.free, low=usage.free < min(256 << 20, usage.total // 8))

    def close(self) -> None:
        pass


def checked(name: str) -> str:
    """Refuse a name that may not stand on a medium: a wrong request, not a broken medium."""
    try:
        return check_object_name(name)
    except ValueError as error:
        raise errors.UsageError(str(error)) from None
