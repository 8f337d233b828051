"""The catalog's database where the host lacks something: no damage, and one that gave up is replaced."""

import errno
import os
import stat
import subprocess
import sys
import threading

import duckdb
import pytest

from staddle.api.catalog import Record
from staddle.catalog import duck, failures
from staddle.catalog.duck import DuckCatalog
from staddle.catalog.process import CatalogOwner
from staddle.catalog.renewal import ASIDE, open_or_renew
from staddle.errors import Corrupt, Locked, StaddleError, Unavailable

REFUSED = [
    f'IO Error: Cannot open file "/x": {os.strerror(errno.EMFILE)}',
    f'IO Error: Could not write file "/x": {os.strerror(errno.ENOSPC)}',
    'IO Error: Could not write file "/x": In einer anderen Sprache',
    f'IO Error: Could not fsync file "/x": {os.strerror(errno.EIO)}',
    f'IO Error: Could not read from file "/x": {os.strerror(errno.ENOMEM)}',
]
DAMAGED = [
    'IO Error: The file "/x" exists, but it is not a valid DuckDB database file!',
    "IO Error: Corrupt database file: computed checksum 5381 does not match stored checksum 0",
    'IO Error: Could not read enough bytes from file "/x": attempted to read 9 bytes from location 2',
    f'IO Error: Could not read from file "/x": {os.strerror(errno.EIO)}',
]


def record(lsn):
    return Record(1, lsn, "client_set", {"name": f"c{lsn}", "joined_ns": 1})


def opened(path):
    return DuckCatalog(path, None, threads=1)


@pytest.fixture
def path(tmp_path):
    """A whole catalog with one record."""
    path = str(tmp_path / "catalog.duckdb")
    catalog = opened(path)
    catalog.apply([record(1)])
    catalog.close()
    return path


def refusing(monkeypatch, error, times=1):
    """Opening fails a few times."""
    connect, left = duckdb.connect, [error] * times

    def connected(*args, **more):
        if left:
            raise left.pop()
        return connect(*args, **more)

    monkeypatch.setattr(duck.duckdb, "connect", connected)


@pytest.mark.parametrize(
    "error",
    [
        *map(duckdb.IOException, REFUSED),
        duckdb.FatalException(f"FATAL Error: Failed to create checkpoint because of error: {REFUSED[1]}"),
        duckdb.OutOfMemoryException(
            "Out of Memory Error: Failed to allocate block of 262144 bytes (bad allocation)"
        ),
    ],
)
def test_a_shortage_sets_no_catalog_aside(path, monkeypatch, error):
    refusing(monkeypatch, error)
    with pytest.raises(Unavailable) as caught:
        open_or_renew(path, lambda: opened(path))
    assert str(error) in caught.value.message
    assert not os.path.exists(path + ASIDE)
    again = open_or_renew(path, lambda: opened(path))
    assert again.applied_lsn() == 1
    again.close()


@pytest.mark.parametrize("text", DAMAGED)
def test_damage_does(path, monkeypatch, text):
    refusing(monkeypatch, duckdb.IOException(text))
    fresh = open_or_renew(path, lambda: opened(path))
    assert fresh.applied_lsn() == 0
    assert os.path.exists(path + ASIDE)
    fresh.close()


def test_a_lock_is_neither(path, monkeypatch):
    refusing(monkeypatch, duckdb.IOException('IO Error: Could not set lock on file "/x": Conflicting lock'))
    with pytest.raises(Locked):
        open_or_renew(path, lambda: opened(path))
    assert not os.path.exists(path + ASIDE)


def test_what_is_found_only_after_opening_is_damage_too(path, monkeypatch):
    def fail(_):
        raise duckdb.IOException(DAMAGED[1])

    with monkeypatch.context() as patch:
        patch.setattr(DuckCatalog, "_read_counters", fail)
        with pytest.raises(Corrupt, match="checksum"):
            opened(path)
    opened(path).close()


class Failing:
    """A catalog whose `verify` raises; `apply` waits until it may go on."""

    def __init__(self, error):
        self.error, self.go, self.closed, self.calls = error, threading.Event(), False, 0

    def applied_lsn(self):
        return 0

    def apply(self, records):
        assert self.go.wait(20)

    def verify(self):
        self.calls += 1
        raise self.error

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    "error",
    [
        duckdb.FatalException("FATAL Error: database has been invalidated because of a previous fatal error"),
        duckdb.InternalException("INTERNAL Error: index out of bounds"),
        duckdb.ConnectionException("Connection Error: Connection already closed!"),
        failures.Ended("the catalog can't be opened again"),
    ],
)
def test_a_database_that_gave_up_ends_its_owner(error):
    ended = threading.Event()
    catalog = Failing(error)
    owner = CatalogOwner(lambda: catalog, on_end=ended.set)
    first = owner.apply([record(1)])
    asked = [owner.call("verify", {}) for _ in range(3)]
    catalog.go.set()
    assert first.result(20) == 0
    for future in asked:
        with pytest.raises(Unavailable) as caught:
            future.result(20)
        assert (caught.value.code, caught.value.retry) == ("CATALOG_FAILED", "after")
    assert ended.wait(20)
    assert (catalog.calls, catalog.closed) == (1, True)
    with pytest.raises(Unavailable):
        owner.call("verify", {})
    owner.close()


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (duckdb.TransactionException(f"TransactionContext Error: Failed to commit: {REFUSED[1]}"), "after"),
        (MemoryError(), "after"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "after"),
        (duckdb.ConstraintException("Constraint Error: NOT NULL constraint failed"), "never"),
        (ValueError("nobody had thought of it"), "never"),
    ],
)
def test_an_owner_outlives_all_else_and_says_what_may_be_tried_again(error, retry):
    ended = threading.Event()
    owner = CatalogOwner(lambda: Failing(error), on_end=ended.set)
    for _ in range(2):
        with pytest.raises(StaddleError) as caught:
            owner.call("verify", {}).result(20)
        assert (caught.value.code, caught.value.retry) == ("CATALOG_FAILED", retry)
    assert not ended.is_set()
    owner.close()
    assert ended.is_set()


def test_a_catalog_that_can_not_be_opened_again_after_its_snapshot_ends(path, tmp_path, monkeypatch):
    ended = threading.Event()
    owner = CatalogOwner(lambda: opened(path), on_end=ended.set)
    refusing(monkeypatch, duckdb.IOException(REFUSED[0]))
    with pytest.raises(Unavailable, match="can't be opened again") as caught:
        owner.call("snapshot", {"path": str(tmp_path / "copy")}).result(20)
    assert caught.value.code == "CATALOG_FAILED"
    assert ended.wait(20)
    owner.close()
    again = opened(path)
    assert again.applied_lsn() == 1
    again.close()


def test_a_users_query_that_breaks_the_database_is_no_usage_error(path, monkeypatch):
    class Cursor:
        def __init__(self, cursor):
            self._cursor = cursor

        def __getattr__(self, name):
            return getattr(self._cursor, name)

        def fetchmany(self, _):
            raise duckdb.InternalException("INTERNAL Error: index out of bounds")

    class Connection:
        def cursor(self):
            return Cursor(connection.cursor())

        def __getattr__(self, name):
            return getattr(connection, name)

    catalog = opened(path)
    connection, catalog._connection = catalog._connection, Connection()
    with pytest.raises(duckdb.InternalException):
        catalog.query("SELECT 1")
    catalog.close()


FULL = """
import resource, sys, threading
from test_catalog_shortage import opened, record
from staddle.catalog.process import CatalogOwner
from staddle.errors import Unavailable

ended = threading.Event()
owner = CatalogOwner(lambda: opened(sys.argv[1]), on_end=ended.set)
print(owner.apply([record(lsn) for lsn in range(2, 3000)]).result(60))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
try:
    owner.call("snapshot", {"path": sys.argv[1] + ".copy"}).result(60)
except Unavailable as error:
    print(error.code)
print(ended.wait(60))
owner.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
again = opened(sys.argv[1])
print(again.applied_lsn())
again.close()
"""

if sys.platform != "win32":

    def test_a_real_checkpoint_that_finds_no_room_ends_the_owner_and_loses_nothing(path):
        """The limit of a file's size stands for a full disk."""
        found = subprocess.run(
            [sys.executable, "-c", FULL, path],
            env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert found.stdout.split() == ["2999", "CATALOG_FAILED", "True", "2999"], found.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no modes, and symlinks for few")
def test_a_snapshot_is_for_its_owner_only_and_follows_no_symlink_that_waits_for_it(path, tmp_path):
    catalog = opened(path)
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    os.symlink(tmp_path / "precious", shared / "copy.duckdb.tmp")
    catalog.snapshot(str(shared / "copy.duckdb"))
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert stat.S_IMODE(os.stat(shared / "copy.duckdb").st_mode) == 0o600
    assert sorted(os.listdir(shared)) == ["copy.duckdb", "copy.duckdb.tmp"]
    catalog.close()
