"""Requests for contents, and the choice of entries."""

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staddle.client import contents, pipe, reader
from staddle.client.metadata import Meta
from staddle.client.selection import Selection
from staddle.data.entries import EntryRows, EntryType
from staddle.data.manifest import ZERO_REGION, decode

from .kit import (
    manifest_of,
)

files_strategy = st.lists(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=12), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files_strategy)
def test_a_plan_covers_every_byte_once_in_order_within_its_limits(layout):
    lengths = [length for file in layout for _, length in file]
    stored = [kept for file in layout for kept, _ in file]
    chunks = msgspec.structs.replace(
        decode(manifest_of(EntryRows())).chunks,
        container=np.array([0 if kept else ZERO_REGION for kept in stored], np.uint32),
        lengths=np.array(lengths, np.uint64),
        containers=[bytes(16)],
    )
    rows, at = [], 0
    for number, file in enumerate(layout):
        size = sum(length for _, length in file)
        path = b"/%d" % number
        rows.append(
            contents.FileRow(
                path,
                Meta(0, 0, 0, 0),
                size,
                0,
                last=True,
                damaged=False,
                sparse=False,
                linked=False,
                replaces=False,
                chunk_first=at,
                chunk_count=len(file),
            )
        )
        at += len(file)
    before = contents.BATCH_BYTES, contents.BATCH_ROWS, contents.BATCH_PIECES
    contents.BATCH_BYTES, contents.BATCH_ROWS, contents.BATCH_PIECES = 16, 5, 4
    try:
        batches = list(contents.plan(0, chunks, rows))
    finally:
        contents.BATCH_BYTES, contents.BATCH_ROWS, contents.BATCH_PIECES = before
    assert [row for batch in batches for row in batch.rows().tolist()] == [
        n for n, kept in enumerate(stored) if kept
    ]
    ends = {}
    for batch in batches:
        assert batch.size_bytes <= 16
        assert len(batch.rows()) <= 5
        assert len(batch.pieces) <= 4 + 1
        assert batch.size_bytes == sum(length for piece in batch.pieces for _, length in piece.runs)
        for piece in batch.pieces:
            assert piece.opens == (piece.file.path not in ends)
            assert piece.begin == ends.get(piece.file.path, 0)
            ends[piece.file.path] = piece.end
            if piece.closes:
                assert piece.end == piece.file.size_bytes
    assert list(ends) == [row.path for row in rows]


@pytest.mark.parametrize(
    ("paths", "found", "missing"),
    [
        ([b"/a"], [b"/", b"/a", b"/a/b", b"/a/b/c"], []),
        ([b"/a/b/c"], [b"/", b"/a", b"/a/b", b"/a/b/c"], []),
        ([b"/ab"], [b"/", b"/ab"], []),
        ([b"/"], [b"/", b"/a", b"/a/b", b"/a/b/c", b"/ab"], []),
        ([b"/a/x", b"/ab"], [b"/", b"/a", b"/ab"], [b"/a/x"]),
        ([], [b"/", b"/a", b"/a/b", b"/a/b/c", b"/ab"], []),
    ],
)
def test_a_selection_takes_subtrees_and_the_directories_above(paths, found, missing):
    rows = EntryRows()
    rows.add(b"/", b"", EntryType.DIRECTORY)
    rows.add(b"/", b"a", EntryType.DIRECTORY)
    rows.add(b"/a", b"b", EntryType.DIRECTORY)
    rows.add(b"/a/b", b"c", EntryType.FILE)
    rows.add(b"/", b"ab", EntryType.FILE)
    entries = rows.build()
    selection = Selection(paths)
    names = entries.paths()
    assert [names[row] for row in selection.rows(entries)[0]] == found
    assert selection.missing() == missing


def test_what_a_restore_holds_is_bounded_and_fits_a_call():
    assert pipe.IN_FLIGHT * contents.BATCH_BYTES <= 64 << 20
    assert contents.BATCH_BYTES <= reader.CHUNKS_BYTES_MAX
    assert contents.BATCH_ROWS <= reader.CHUNKS_ROWS_MAX
