"""Users' SQL: nothing but reading gets through; docs/sql.md is true."""

import os
import re
import threading
import time

import pytest

from staddle.api.catalog import Record
from staddle.catalog.duck import DuckCatalog
from staddle.catalog.plugin import staddle_catalogs
from staddle.catalog.process import CatalogOwner
from staddle.errors import DeadlineExceeded, StaddleError, Unavailable, UsageError

DOCS = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "sql.md")


@pytest.fixture
def catalog(tmp_path):
    catalog = DuckCatalog(str(tmp_path / "catalog.duckdb"), None, query_s=5)
    catalog.apply([Record(1, 1, "client_set", {"name": "ann", "joined_ns": 10**18})])
    yield catalog
    catalog.close()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO clients VALUES ('x', 1)",
        "UPDATE clients SET client = 'x'",
        "DELETE FROM clients",
        "DROP TABLE clients",
        "CREATE TABLE t (a INTEGER)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "COPY clients TO '{tmp}/out.csv'",
        "COPY (SELECT 1) TO '{tmp}/out.parquet'",
        "EXPORT DATABASE '{tmp}/out'",
        "ATTACH '{tmp}/other.duckdb' AS o",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_size",
        "PRAGMA enable_profiling",
        "SET memory_limit = '1GB'",
        "SET enable_external_access = true",
        "CHECKPOINT",
        "BEGIN",
        "EXPLAIN ANALYZE INSERT INTO clients VALUES ('x', 1)",
        "SELECT 1; DELETE FROM clients",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT (SELECT count(*) FROM read_text('/etc/passwd'))",
        "WITH x AS (FROM read_blob('/etc/passwd')) FROM x",
        "SELECT * FROM query('DELETE FROM clients')",
        "SELECT * FROM query_table('clients')",
        "SELECT * FROM enable_logging()",
        "SELECT 1 WHERE EXISTS (FROM force_checkpoint())",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM no_such_view",
        "SELEKT 1",
        "",
        "SELECT '" + "x" * 70_000 + "'",
    ],
)
def test_whatever_is_not_one_plain_select_is_refused(catalog, tmp_path, sql):
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError) as caught:
        catalog.query(sql.replace("{tmp}", str(tmp_path)))
    assert caught.value.message.startswith("SQL: ")
    assert catalog.query("FROM v_clients").rows[0][0] == "ann"
    assert len(catalog._rows("FROM clients")) == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_the_databases_own_message_reaches_the_user(catalog):
    with pytest.raises(UsageError, match="no_such_column"):
        catalog.query("SELECT no_such_column FROM v_jobs")


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT client FROM v_clients WHERE client = ?", [["ann"]]),
        ("WITH x AS (SELECT ? AS a) SELECT a FROM x UNION ALL SELECT 'b' ORDER BY 1", [["ann"], ["b"]]),
        ("SELECT count(*), ? FROM range(5), generate_series(1, 2)", [[10, "ann"]]),
        ("VALUES (?, 2)", [["ann", 2]]),
        ("SELECT unnest([1, 2]) FROM v_clients WHERE client = ?", [[1], [2]]),
        (
            "SELECT sum(9223372036854775807::HUGEINT * i) FROM range(9) t(i) WHERE ? = 'ann'",
            [[str((2**63 - 1) * 36)]],
        ),
    ],
)
def test_a_plain_select_gets_its_rows(catalog, sql, rows):
    if "HUGEINT" in sql:
        assert [[str(value) for value in row] for row in catalog.query(sql, ["ann"]).rows] == rows
    else:
        assert catalog.query(sql, ["ann"]).rows == rows


def test_describe_and_show_are_selects(catalog):
    assert "path_raw" in {row[0] for row in catalog.query("DESCRIBE v_files").rows}
    assert ["v_jobs"] in catalog.query("SHOW TABLES").rows


def test_the_row_limit_cuts_and_says_so(catalog):
    assert catalog.query("FROM range(10)", limit=10).truncated is False
    cut = catalog.query("FROM range(10)", limit=3)
    assert (cut.rows, cut.truncated) == ([[0], [1], [2]], True)


def test_an_open_result_does_not_block_the_next_statement(catalog):
    for _ in range(3):
        catalog.query("FROM range(100000)", limit=1)
        catalog.apply([Record(1, catalog.applied_lsn() + 1, "client_set", {"name": "bob", "joined_ns": 1})])
    assert catalog.query("FROM v_clients").rows[1][0] == "bob"


def test_a_query_ends_at_its_time_limit(tmp_path):
    catalog = DuckCatalog(str(tmp_path / "c.duckdb"), None, query_s=0.3)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        catalog.query("SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range = 7")
    assert time.monotonic() - begin < 10
    assert catalog.query("SELECT 1").rows == [[1]]
    catalog.close()


def documented():
    """{view: [columns]} and [queries] of docs/sql.md."""
    with open(DOCS, encoding="utf-8") as file:
        text = file.read()
    views = {}
    for section in text.split("\n### ")[1:]:
        view = section.split("\n", 1)[0].strip()
        cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        views[view] = [column for cell in cells for column in re.findall(r"`(\w+)`", cell)]
    return views, re.findall(r"^```sql\n(.+?)^```", text, re.MULTILINE | re.DOTALL)


def test_every_view_is_documented_with_exactly_its_columns(catalog):
    views, _ = documented()
    real = catalog._rows("SELECT view_name FROM duckdb_views() WHERE NOT internal")
    assert set(views) == {row[0] for row in real}
    for view, columns in views.items():
        assert sorted(columns) == sorted(row[0] for row in catalog.query(f"DESCRIBE {view}").rows), view


def test_every_documented_query_runs(catalog):
    views, queries = documented()
    assert len(queries) >= len(views)
    for sql in queries:
        assert catalog.query(sql).columns
    for view in views:
        assert any(re.search(rf"\b{view}\b", sql) for sql in queries), f"{view} has no example"


def test_the_plugin_loads_lazily_and_opens_a_catalog(tmp_path):
    (kind,) = staddle_catalogs()
    assert kind.name == "duckdb"
    catalog = kind.load()(str(tmp_path / "c.duckdb"), None)
    assert catalog.applied_lsn() == 0
    catalog.close()
    catalog.close()


class Slow:
    """A catalog that waits until it may go on."""

    def __init__(self):
        self.go, self.batches, self.closed, self.fail = threading.Event(), [], False, None

    def apply(self, records):
        assert self.go.wait(10)
        if self.fail:
            raise self.fail
        self.batches.append([record.lsn for record in records])

    def applied_lsn(self):
        return self.batches[-1][-1]

    def verify(self):
        return ["fine"]

    def close(self):
        self.closed = True


def record(lsn):
    return Record(1, lsn, "client_set", {"name": f"c{lsn}", "joined_ns": 1})


def test_the_owner_joins_applies_that_wait_and_keeps_the_order():
    slow = Slow()
    owner = CatalogOwner(lambda: slow)
    futures = [owner.apply([record(lsn)]) for lsn in range(1, 6)]
    asked = owner.call("verify", {})
    futures.append(owner.apply([record(6)]))
    slow.go.set()
    assert [future.result(10) for future in futures][-2:] == [5, 6]
    assert asked.result(10) == ["fine"]
    assert len(slow.batches) <= 3
    assert [lsn for batch in slow.batches for lsn in batch] == [1, 2, 3, 4, 5, 6]
    owner.close()
    owner.close()
    assert slow.closed
    with pytest.raises(Unavailable):
        owner.apply([record(7)])


def test_the_owners_queue_is_bounded():
    slow = Slow()
    owner = CatalogOwner(lambda: slow, queue_max=3)
    taken = []
    with pytest.raises(Unavailable) as caught:
        taken.extend(owner.apply([record(lsn)]) for lsn in range(1, 10))
    assert 3 <= len(taken) <= 4
    assert caught.value.code == "CATALOG_BUSY"
    slow.go.set()
    owner.close()


def test_the_owner_survives_errors_and_knows_only_its_methods(tmp_path):
    owner = CatalogOwner(lambda: DuckCatalog(str(tmp_path / "c.duckdb"), None))
    with pytest.raises(StaddleError, match="follows 0"):
        owner.apply([record(5)]).result(10)
    assert owner.apply([record(1), record(2)]).result(10) == 2
    assert len(owner.call("query", {"sql": "FROM v_clients"}).result(10).rows) == 2
    with pytest.raises(UsageError, match="no method"):
        owner.call("close", {})
    with pytest.raises(StaddleError, match="nonsense"):
        owner.call("query", {"nonsense": 1}).result(10)
    owner.close()


def test_the_owner_raises_what_opening_raises(tmp_path):
    (tmp_path / "c.duckdb").write_text("no database " * 5000)
    with pytest.raises(StaddleError, match="remove the file"):
        CatalogOwner(lambda: DuckCatalog(str(tmp_path / "c.duckdb"), None))
