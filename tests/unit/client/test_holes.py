"""Runs of zeros become holes, wherever they begin."""

import os

from hypothesis import given
from hypothesis import strategies as st

from staddle.client import holes
from staddle.data.entries import EntryFlag, EntryRows, EntryType

from .kit import CHUNK, Stored, manifest_of, restored


@given(st.integers(0, 40), st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=20))
def test_what_is_not_written_is_whole_blocks_of_zeros(start, parts):
    data = b"".join((b"x" if kept else b"\0") * length for kept, length in parts)
    before, holes.BLOCK_BYTES = holes.BLOCK_BYTES, 8
    try:
        runs = list(holes.stored_runs(start, memoryview(data)))
    finally:
        holes.BLOCK_BYTES = before
    rebuilt, end = bytearray(len(data)), -1
    for at, length in runs:
        assert length > 0
        assert at > end, "runs are apart, and in order"
        rebuilt[at : at + length] = data[at : at + length]
        end = at + length
    assert rebuilt == data
    written = {at for begin, length in runs for at in range(begin, begin + length)}
    for block in range(0, start + len(data), 8):
        inside = [at for at in range(block - start, block - start + 8) if 0 <= at < len(data)]
        if inside and not any(data[at] for at in inside):
            assert not written & set(inside), "a block of zeros was written"


def test_a_small_sparse_file_is_sparse_again_and_others_are_written_as_they_are(tmp_path):
    content = (b"x" + bytes(CHUNK // 2 - 1) + b"y" + bytes(CHUNK // 2 - 1))[:CHUNK]
    rows = EntryRows()
    for name, flags in ((b"sparse", EntryFlag.SPARSE), (b"plain", 0)):
        rows.add(b"/", name, EntryType.FILE, mode=0o644, size=CHUNK, flags=int(flags))
    stored = Stored()
    stored.add_stream(0, [])
    from staddle.data.manifest import ManifestBuilder, decode

    head = decode(manifest_of(EntryRows())).head
    builder = ManifestBuilder(head)
    manifest = bytes(16)
    for _ in range(2):
        stored._cut(builder, manifest, content)
    builder.add_entries(rows.build(), [0, 1], [1, 1])
    stored.manifests = [(manifest, 0, 0, builder.build(0))]
    outcome = restored(stored, tmp_path / "to")
    assert outcome.warnings == []
    for name in ("sparse", "plain"):
        assert (tmp_path / "to" / name).read_bytes() == content
    assert os.stat(tmp_path / "to/sparse").st_blocks < os.stat(tmp_path / "to/plain").st_blocks
