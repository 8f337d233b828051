"""Tier 2: manifests go in once, whole, and come out by directory, name, container."""

import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.api.catalog import ManifestRows, Record
from staddle.catalog.duck import DuckCatalog
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.manifest import ZERO_REGION, ManifestBuilder, ManifestHead, decode
from staddle.engine import ops
from staddle.engine.messages import CopyOf, StoredObject
from staddle.engine.state import GridState
from staddle.errors import Corrupt, NotFound

FILE, DIRECTORY = EntryType.FILE, EntryType.DIRECTORY
PARTS = EntryFlag.PART, EntryFlag.PART | EntryFlag.LAST
chunk_lists = st.lists(st.tuples(st.sampled_from([None, 1, 2, 3]), st.integers(0, 9)), max_size=6)
names = st.binary(min_size=1, max_size=8).filter(lambda n: not {47, 0} & set(n) and n not in {b".", b".."})


def an_id(number):
    return number.to_bytes(16, "big")


class Grid:
    """A catalog and what goes into it, segment by segment."""

    def __init__(self, path):
        self.catalog = DuckCatalog(str(path), decode, threads=1)
        self.state, self.ids, self.backup, self.ordinal = GridState(), 0, 0, 0
        self.media = ["disk"]
        self.add(ops.EpochBegun(epoch=1, at_ns=1))
        for name in ("disk", "shelf"):
            self.add(ops.MediumSet(name=name, plugin="memory", volume=bytes(16), failure_domain=name))

    def add(self, op):
        record = Record(1, self.state.lsn + 1, ops.op_name(type(op)), ops.to_args(op))
        self.state.apply(record)
        self.catalog.apply([record])

    def new_id(self):
        self.ids += 1
        return an_id(self.ids)

    def begin(self, roots=(b"/home",)):
        self.backup += 1
        self.ordinal = 0
        self.add(
            ops.JobBegun(
                job=self.backup,
                kind="backup",
                client="c",
                name="n",
                roots=list(roots),
                pool="p",
                domain="d",
                streams=1,
                backup=self.backup,
                base_backup=0,
                request=self.new_id(),
                session=b"",
                at_ns=1,
            )
        )

    def manifest(self, rows):
        """Plain bytes of a manifest; rows are (dir, name, type, flags, [(container, ordinal), …])."""
        head = ManifestHead(
            grid=bytes(16), domain=bytes(16), client="c", name="n", job=self.backup, backup=self.backup,
            stream=0, epoch=1, ordinal=self.ordinal, first=self.ordinal,
        )  # fmt: skip
        builder, entries = ManifestBuilder(head), EntryRows()
        first, count = [], []
        for directory, name, kind, flags, chunks in rows:
            link = directory + b"/first" if kind is EntryType.HARDLINK else b""
            entries.add(
                directory, name, kind, mode=0o640, uid=1, gid=2, size=7, mtime_ns=-5, flags=flags, link=link
            )
            first.append(builder.chunk_rows)
            count.append(len(chunks))
            index = [ZERO_REGION if c is None else builder.container_index(an_id(c)) for c, _ in chunks]
            ordinals = [ordinal for _, ordinal in chunks]
            builder.add_chunks(np.zeros((len(chunks), 32)), index, ordinals, [1] * len(chunks))
        builder.add_entries(entries.build(), np.array(first), np.array(count))
        return builder.build(self.ordinal + 1), sorted(builder.containers)

    def commit(self, rows):
        """Commit a segment with these rows; what is to be ingested."""
        plain, containers = self.manifest(rows)
        known = {row[0] for row in self.catalog._rows("SELECT object FROM objects")}
        manifest = self.stored(b"m" + self.new_id()[1:])
        self.add(
            ops.SegmentCommitted(
                job=self.backup, backup=self.backup, stream=0, epoch=1, ordinal=self.ordinal,
                first=self.ordinal, next=self.ordinal + 1, manifest=manifest, refs=b"".join(containers),
                containers=[self.stored(each) for each in containers if each.hex() not in known],
                revived=[], domain="d", want=1, files=1, dirs=0, bytes_read=1, bytes_stored=1, at_ns=1,
            )
        )  # fmt: skip
        self.ordinal += 1
        return ManifestRows(backup=self.backup, manifest=manifest.id, plain=plain)

    def stored(self, item):
        copies = [CopyOf(medium, item.hex()) for medium in self.media]
        return StoredObject(id=item, size_bytes=9, digest=item, copies=copies)

    def paths(self, directory, **more):
        return [entry.path for entry in self.catalog.list_directory(self.backup, directory, **more)]


@pytest.fixture
def grid(tmp_path):
    grid = Grid(tmp_path / "catalog.duckdb")
    grid.begin()
    yield grid
    grid.catalog.close()


@settings(max_examples=12)
@given(
    files=st.lists(
        st.tuples(names, names, chunk_lists),
        max_size=12,
        unique_by=lambda row: row[:2],
    )
)
def test_any_names_and_chunks_come_out_as_they_went_in(tmp_path_factory, files):
    grid = Grid(tmp_path_factory.mktemp("any") / "catalog.duckdb")
    try:
        grid.begin()
        rows = [(b"/home/" + directory, name, FILE, 0, chunks) for directory, name, chunks in files]
        grid.catalog.ingest([grid.commit(rows)])
        for directory in {row[0] for row in rows}:
            assert grid.paths(directory) == sorted(d + b"/" + n for d, n, *_ in rows if d == directory)
        for lost in (1, 2, 3):
            hit = sorted(d + b"/" + n for d, n, _, _, chunks in rows if lost in {c for c, _ in chunks})
            assert grid.catalog.files_hit(1, [an_id(lost)]) == hit
        shown = grid.catalog.query("SELECT path_raw, path FROM v_files").rows
        assert sorted(row[0] for row in shown) == sorted(d + b"/" + n for d, n, *_ in rows)
        assert all(text == raw.decode(errors="replace") for raw, text in shown)
        chunks = grid.catalog.query("SELECT coalesce(sum(chunks), 0)::BIGINT FROM v_file_containers").rows
        assert chunks == [[sum(c is not None for row in rows for c, _ in row[4])]]
        assert grid.catalog.verify() == []
    finally:
        grid.catalog.close()


def test_chunks_in_a_row_become_one_run(grid):
    chunks = [(5, 3), (5, 4), (None, 0), (5, 5), (6, 0), (5, 9), (5, 8)]
    grid.catalog.ingest(
        [grid.commit([(b"/home", b"f", FILE, 0, chunks), (b"/home", b"g", FILE, 0, [(5, 6)])])]
    )
    sql = "SELECT path, container, first_chunk, chunks FROM v_file_containers ORDER BY ALL"
    five, six = an_id(5).hex(), an_id(6).hex()
    assert grid.catalog.query(sql).rows == [
        ["/home/f", five, 3, 3],
        ["/home/f", five, 8, 1],
        ["/home/f", five, 9, 1],
        ["/home/f", six, 0, 1],
        ["/home/g", five, 6, 1],
    ]


def test_hard_links_are_hit_with_the_file_that_they_are_links_to(grid):
    rows = [
        (b"/home", b"first", FILE, 0, [(5, 0)]),
        (b"/home", b"second", EntryType.HARDLINK, 0, []),
        (b"/home", b"safe", FILE, 0, [(6, 0)]),
    ]
    grid.catalog.ingest([grid.commit(rows)])
    assert grid.catalog.files_hit(1, [an_id(5)]) == [b"/home/first", b"/home/second"]
    assert grid.catalog.files_hit(1, [an_id(6)]) == [b"/home/safe"]


def test_the_same_manifest_again_changes_nothing(grid):
    rows = grid.commit([(b"/home", b"f", FILE, 0, [(5, 0)])])
    for _ in range(3):
        grid.catalog.ingest([rows, rows])
    assert grid.catalog.ingested(1) == [rows.manifest]
    assert grid.paths(b"/home") == [b"/home/f"]
    assert grid.catalog.verify() == []


def test_numbers_go_on_after_reopening(grid, tmp_path):
    first = grid.commit([(b"/home", b"f", FILE, 0, [(5, 0)])])
    second = grid.commit([(b"/home", b"g", FILE, 0, [(5, 1), (6, 0)])])
    grid.catalog.ingest([first])
    grid.catalog.close()
    grid.catalog = DuckCatalog(str(tmp_path / "catalog.duckdb"), decode)
    assert [each.ingested for each in grid.catalog.manifests_of(1)] == [True, False]
    grid.catalog.ingest([second])
    assert grid.paths(b"/home") == [b"/home/f", b"/home/g"]
    assert grid.catalog.files_hit(1, [an_id(5)]) == [b"/home/f", b"/home/g"]
    assert grid.catalog.files_hit(1, [an_id(6)]) == [b"/home/g"]
    assert grid.catalog.verify() == []


def test_an_uncommitted_manifest_is_refused_and_leaves_nothing(grid):
    plain, _ = grid.manifest([(b"/home", b"f", FILE, 0, [])])
    committed = grid.commit([(b"/home", b"g", FILE, 0, [])])
    with pytest.raises(NotFound, match="in no segment"):
        grid.catalog.ingest([committed, ManifestRows(backup=1, manifest=an_id(999), plain=plain)])
    assert grid.catalog.ingested(1) == []


def test_a_broken_manifest_is_corrupt_and_leaves_nothing(grid):
    rows = grid.commit([(b"/home", b"f", FILE, 0, [])])
    with pytest.raises(Corrupt):
        grid.catalog.ingest([ManifestRows(backup=1, manifest=rows.manifest, plain=rows.plain[:-9])])
    assert grid.catalog.ingested(1) == []
    grid.catalog.ingest([rows])
    assert grid.paths(b"/home") == [b"/home/f"]


def test_pruning_takes_the_files_and_keeps_the_backups_row(grid):
    rows = grid.commit([(b"/home", b"f", FILE, 0, [(5, 0)])])
    late = grid.commit([(b"/home", b"late", FILE, 0, [(5, 1)])])
    grid.catalog.ingest([rows])
    grid.begin()
    grid.catalog.ingest([grid.commit([(b"/home", b"kept", FILE, 0, [(5, 2)])])])
    grid.add(ops.BackupsPruned(backups=[1], at_ns=1))
    grid.catalog.ingest([late])
    counts = grid.catalog.query("SELECT backup, count(*) FROM v_files GROUP BY backup").rows
    assert counts == [[2, 1]]
    assert grid.catalog.query("SELECT state FROM v_backups ORDER BY backup").rows == [["pruned"], ["running"]]
    assert grid.catalog._rows("SELECT DISTINCT backup FROM dirs") == [(2,)]
    assert grid.catalog.verify() == []


def test_loading_a_snapshot_of_the_state_keeps_the_files_that_still_count(grid):
    grid.catalog.ingest([grid.commit([(b"/home", b"gone", FILE, 0, [(5, 0)])])])
    grid.begin()
    grid.catalog.ingest([grid.commit([(b"/home", b"kept", FILE, 0, [(5, 1)])])])
    pruned = Record(1, grid.state.lsn + 1, "backups_pruned", {"backups": [1], "at_ns": 1})
    grid.state.apply(pruned)
    assert grid.catalog.load_state(grid.state.dump()) == pruned.lsn
    assert grid.paths(b"/home") == [b"/home/kept"]
    assert grid.catalog.query("SELECT path FROM v_files").rows == [["/home/kept"]]
    assert grid.catalog.files_hit(2, [an_id(5)]) == [b"/home/kept"]
    assert grid.catalog.verify() == []


def test_a_file_in_several_parts_is_one_entry_with_its_last_metadata(grid):
    for part, flags in enumerate((PARTS[0], PARTS[0], PARTS[1])):
        grid.catalog.ingest([grid.commit([(b"/home", b"big", FILE, flags, [(5 + part, 0)])])])
    (entry,) = grid.catalog.list_directory(1, b"/home")
    assert (entry.path, entry.flags, entry.size_bytes, entry.mtime_ns) == (b"/home/big", 3, 7, -5)
    assert entry.manifest == grid.catalog.manifests_of(1)[2].manifest
    assert grid.catalog.files_hit(1, [an_id(5)]) == [b"/home/big"]


def test_a_directory_lists_by_name_in_pages_and_across_segments(grid):
    every = [b"n%03d" % number for number in range(50)]
    for share in (every[::2], every[1::2]):
        grid.catalog.ingest([grid.commit([(b"/home/d", name, FILE, 0, []) for name in share])])
    pages, after = [], b""
    while page := grid.paths(b"/home/d", after=after, limit=7):
        pages += page
        after = page[-1].rpartition(b"/")[2]
    assert pages == [b"/home/d/" + name for name in every]


def test_what_lies_above_the_roots_can_be_walked(grid):
    grid.begin(roots=[b"/srv/a/b", b"/srv/c", b"/etc"])
    entries = [
        (b"/srv/a", b"b", DIRECTORY, 0, []),
        (b"/srv/a/b", b"f", FILE, 0, []),
        (b"/srv/a/b", b"e", DIRECTORY, 0, []),
    ]
    grid.catalog.ingest([grid.commit(entries)])
    assert grid.paths(b"/") == [b"/etc", b"/srv"]
    assert grid.paths(b"/srv") == [b"/srv/a", b"/srv/c"]
    assert grid.paths(b"/srv/a") == [b"/srv/a/b"]
    assert grid.paths(b"/srv/a/b") == [b"/srv/a/b/e", b"/srv/a/b/f"]
    assert grid.paths(b"/srv/a/b/e") == []
    for path in (b"/srv/a/b/x", b"/nowhere", b"/srv/a/b/f"):
        with pytest.raises(NotFound, match="no directory"):
            grid.paths(path)
    with pytest.raises(NotFound, match="no backup 77"):
        grid.catalog.list_directory(77, b"/")


def test_find_by_part_of_the_name_by_path_and_by_glob(grid):
    rows = [(b"/home/a", b"report.txt", FILE, 0, []), (b"/home/b", b"Report.pdf", FILE, 0, []),
            (b"/home/report", b"x%_y", FILE, 0, [])]  # fmt: skip
    grid.catalog.ingest([grid.commit(rows)])

    def found(pattern, **more):
        return [entry.path for entry in grid.catalog.find(pattern, **more)]

    assert found("report") == [b"/home/a/report.txt"]
    assert found("%_") == [b"/home/report/x%_y"]
    assert found("a/rep") == [b"/home/a/report.txt"]
    assert found("*.p?f") == [b"/home/b/Report.pdf"]
    assert found("/home/*/[rR]eport*") == [b"/home/a/report.txt", b"/home/b/Report.pdf"]
    assert found("report", backups=[2]) == found("report", backups=[]) == []
    assert found("o", backups=[1, 2], limit=9) == found("o")
    assert len(found("o", limit=1)) == 1


def documented(title):
    """The query below a bold title of docs/sql.md."""
    with open(
        os.path.join(os.path.dirname(__file__), "..", "..", "docs", "sql.md"), encoding="utf-8"
    ) as file:
        return re.search(r"```sql\n(.+?)```", file.read().split(title)[1], re.DOTALL)[1]


def test_the_documented_queries_tell_what_survives_and_what_is_lost(grid):
    grid.catalog.ingest([grid.commit([(b"/home", b"one", FILE, 0, [(5, 0)])])])
    grid.media = ["disk", "shelf"]
    grid.begin()
    grid.catalog.ingest([grid.commit([(b"/home", b"two", FILE, 0, [(5, 1), (6, 0)])])])
    grid.begin()
    grid.catalog.ingest([grid.commit([(b"/home", b"three", FILE, 0, [(6, 1), (7, 0)])])])
    survives = documented("**Which backups survive if a medium is lost?**")
    assert grid.catalog.query(survives).rows == [[1, 2, False], [2, 1, False], [3, 0, True]]
    assert grid.catalog.query(survives.replace("disk", "shelf")).rows == [
        [1, 0, True],
        [2, 0, True],
        [3, 0, True],
    ]
    in_five = documented("**Which files are in a container?**")
    assert grid.catalog.query(in_five).rows == [[1, "/home/one"], [2, "/home/two"]]
    grid.add(ops.MediumChanged(name="disk", state="lost", message="", at_ns=1))
    short = grid.catalog.query("SELECT container FROM v_containers WHERE copies_present = 0").rows
    assert short == [[an_id(5).hex()]]
