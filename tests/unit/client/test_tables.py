"""What a restore keeps to its end."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from staddle.client import tables
from staddle.client.selection import Selection
from staddle.client.tables import ByteTable, PathMarks
from staddle.client.told import KINDS_MAX, Told
from staddle.data.entries import EntryRows, EntryType


@given(st.lists(st.binary(max_size=40)), st.integers(1, 200), st.randoms())
def test_a_table_gives_back_what_was_added_in_any_order(values, block, rng):
    before = tables._BLOCK_BYTES, tables._BLOCKS_KEPT
    tables._BLOCK_BYTES, tables._BLOCKS_KEPT = block, 2
    try:
        table = ByteTable()
        for value in values:
            table.add(value)
            assert table[len(table) - 1] == value
        order = list(range(len(values)))
        rng.shuffle(order)
        assert [table[at] for at in order] == [values[at] for at in order]
        assert len(table) == len(values)
    finally:
        tables._BLOCK_BYTES, tables._BLOCKS_KEPT = before


def test_a_table_of_paths_takes_a_fraction_of_their_bytes():
    paths = [b"/a/directory/with/files/%d/name-%07d" % (number // 100, number) for number in range(30_000)]
    tracemalloc.start()
    try:
        table = ByteTable()
        for path in paths:
            table.add(path)
        taken_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken_bytes < 30_000 * 8 + sum(map(len, paths)) / 4


@given(st.lists(st.tuples(st.binary(max_size=3), st.booleans())))
def test_marks_are_a_set(steps):
    marks, model = PathMarks(), set()
    for path, adds in steps:
        if adds:
            marks.add(path)
            model.add(path)
        assert (path in marks) == (path in model)


def test_a_million_paths_take_eight_bytes_each():
    marks = PathMarks()
    for number in range(1000):
        marks.add(b"%d" % number)
    assert len(marks._hashes) * marks._hashes.itemsize == 8000


def test_kinds_of_what_is_missing_are_bounded():
    warned = []
    told = Told(lambda path, why: warned.append((path, why)), privileged=False)
    for number in range(KINDS_MAX + 50):
        told.missing(b"/f", f"number {number}")
    told.missing(b"/g", "owner not set: only root may")
    assert told.tell() == []
    assert len(warned) == KINDS_MAX + 1
    assert warned[-1] == (b"", "other metadata not set: 51 entries, the first is /f")
    assert told.tell() == []
    assert len(warned) == KINDS_MAX + 1


def _chosen(selection, entries):
    rows, way = selection.rows(entries)
    names = entries.paths()
    return [names[row] for row in rows], [names[row] for row in rows if row in way]


def test_patterns_hold_for_what_is_below_a_match():
    rows = EntryRows()
    for directory, name, kind in (
        (b"/", b"a", EntryType.DIRECTORY),
        (b"/a", b"b", EntryType.DIRECTORY),
        (b"/a/b", b"c", EntryType.DIRECTORY),
        (b"/a/b/c", b"f.o", EntryType.FILE),
        (b"/a/b/c", b"f.c", EntryType.FILE),
        (b"/a", b"g", EntryType.FILE),
    ):
        rows.add(directory, name, kind)
    entries = rows.build()
    everything = entries.paths()
    assert _chosen(Selection([], exclude=["/a/b"]), entries) == ([b"/a", b"/a/g"], [])
    assert _chosen(Selection([], include=["b"]), entries) == (everything[:5], [b"/a"])
    chosen, way = _chosen(Selection([], include=["b"], exclude=["*.o"]), entries)
    assert (chosen, way) == ([path for path in everything[:5] if path != b"/a/b/c/f.o"], [b"/a"])
    chosen, way = _chosen(Selection([b"/a/b"], exclude=["*.c"]), entries)
    assert (chosen, way) == ([b"/a", b"/a/b", b"/a/b/c", b"/a/b/c/f.o"], [b"/a"])


def test_only_what_patterns_choose_is_deleted():
    selection = Selection([], include=["logs"], exclude=["*.keep"])
    assert selection.deletes(b"/x/logs", b"f")
    assert selection.deletes(b"/x", b"logs")
    assert not selection.deletes(b"/x/logs", b"f.keep")
    assert not selection.deletes(b"/x", b"other")
