"""Entries, manifests, records, seals, journal, label."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.api.types import Label
from staddle.data import label, manifest, seal
from staddle.data.entries import COLUMNS, EntriesError, EntryFlag, EntryRows, EntryType, unpack_entries
from staddle.data.manifest import ZERO_REGION, ManifestBuilder, ManifestHead
from staddle.data.records import NO_BASE, PartRecord, decode_record, encode_files, encode_part
from staddle.errors import Corrupt, NewerFormat, ProtocolError, StaddleError

HEAD = ManifestHead(
    grid=b"g" * 16,
    domain=b"d" * 16,
    client="c",
    name="n",
    job=1,
    backup=2,
    stream=0,
    epoch=1,
    ordinal=3,
    first=10,
    previous_id=b"p" * 16,
    previous_digest=b"q" * 32,
)
NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: not set(b"/\0") & set(name) and name.strip(b".")
)
LINKS = st.binary(min_size=1, max_size=20).filter(lambda link: 0 not in link)
U32, U64, I64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)
ROW = st.fixed_dictionaries(
    {
        "type": st.sampled_from([each for each in EntryType if each != EntryType.HARDLINK]),
        "mode": st.integers(0, 0o7777),
        "uid": U32,
        "gid": U32,
        "size": U64,
        "mtime_ns": I64,
        "ctime_ns": I64,
        "inode": U64,
        "device": U64,
        "nlink": U32,
        "offset": U64,
        "flags": st.integers(0, 63),
        "link": st.just(b"") | LINKS,
        "extra": st.just({})
        | st.fixed_dictionaries({"xattr": st.dictionaries(NAMES, st.binary(), max_size=2)}),
    }
)
BATCH = st.lists(st.tuples(st.lists(NAMES, max_size=3), NAMES, ROW), max_size=8)


def build(rows):
    collected = EntryRows()
    for parts, name, row in rows:
        collected.add(b"/" + b"/".join(parts), name, **row)
    return collected.build()


def as_rows(batch):
    """Every value of every row, in plain Python."""
    values = {name: batch.columns[name].tolist() for name in COLUMNS if name not in {"dir", "link", "extra"}}
    return [
        (path, batch.link(row), batch.extra(row), {name: column[row] for name, column in values.items()})
        for row, path in enumerate(batch.paths())
    ]


@settings(max_examples=60)
@given(st.lists(BATCH, max_size=4))
def test_manifest_of_many_batches_gives_every_value_back(batches):
    builder, expected = ManifestBuilder(HEAD), []
    for rows in batches:
        batch = build(rows)
        chunk_count = np.ones(len(batch), "<u4")
        at = builder.add_chunks(
            np.full((len(batch), 32), 7, np.uint8),
            np.full(len(batch), builder.container_index(b"c" * 16)),
            np.arange(len(batch)),
            np.full(len(batch), 1 << 40),
        )
        assert builder.add_entries(batch, at + np.arange(len(batch)), chunk_count) == len(expected)
        for (parts, name, row), found in zip(rows, as_rows(batch), strict=True):
            assert found[0] == b"/" + b"/".join([*parts, name])
            assert (found[1], found[2]) == (row["link"], row["extra"])
            assert all(found[3][column] == row[column] for column in found[3])
        expected += as_rows(batch)
    decoded = manifest.decode(builder.build(next=20))
    assert as_rows(decoded.entries) == expected
    assert decoded.head == msgspec.structs.replace(HEAD, next=20)
    assert decoded.chunk_first.tolist() == list(range(len(expected)))
    assert len(decoded.chunks) == len(expected)
    assert set(decoded.chunks.lengths.tolist()) <= {1 << 40}
    assert manifest.encode(decoded) == manifest.encode(manifest.decode(manifest.encode(decoded)))


def test_tables_of_batches_are_merged_not_repeated():
    row = {"type": EntryType.FILE, "extra": {"xattr": {b"security.label": b"same"}}}
    builder = ManifestBuilder(HEAD)
    for _ in range(3):
        batch = build([([b"home"], b"x", row)])
        builder.add_entries(batch, np.zeros(1), np.zeros(1))
    merged = builder.manifest(next=11).entries
    assert (merged.dirs, len(merged.extras), len(merged)) == ([b"/home"], 1, 3)


def test_thirty_thousand_rows_encode_in_bulk():
    rows = EntryRows()
    for n in range(30_000):
        rows.add(b"/usr/lib/%d" % (n // 50), b"name%d" % n, EntryType.FILE, size=n, mtime_ns=n)
    builder = ManifestBuilder(HEAD)
    builder.add_entries(rows.build(), np.zeros(30_000), np.zeros(30_000))
    plain = builder.build(next=11)
    assert len(plain) < 120 * 30_000
    assert manifest.decode(plain).entries.paths()[-1] == b"/usr/lib/599/name29999"


def test_a_root_directory_is_an_entry_of_its_own():
    rows = EntryRows()
    rows.add(b"/", b"", EntryType.DIRECTORY)
    rows.add(b"/", b"etc", EntryType.DIRECTORY)
    rows.add(b"/etc", b"passwd", EntryType.FILE)
    found = unpack_entries(rows.build().pack())
    assert found.paths() == [b"/", b"/etc", b"/etc/passwd"]


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (b"relative", b"x"),
        (b"", b"x"),
        (b"/a/../b", b"x"),
        (b"/a/./b", b"x"),
        (b"/a//b", b"x"),
        (b"/a/", b"x"),
        (b"/a", b".."),
        (b"/a", b"."),
        (b"/a", b"x/y"),
        (b"/a", b"x\0y"),
        (b"/a\0/b", b"x"),
        (b"/a", b""),
        (b"/" + b"d" * 70_000, b"x"),
    ],
)
def test_paths_that_could_climb_or_lie_are_refused(directory, name):
    rows = EntryRows()
    rows.add(directory, name, EntryType.FILE)
    with pytest.raises(EntriesError):
        unpack_entries(rows.build().pack())
    if b"\0" not in directory + name:
        with pytest.raises(ProtocolError):
            decode_record(encode_files(rows.build(), [0]), 0)


@pytest.mark.parametrize("target", [b"", b"relative", b"/a/../../etc/shadow", b"/a/"])
def test_hard_links_lead_to_absolute_paths_only(target):
    rows = EntryRows()
    rows.add(b"/a", b"x", EntryType.HARDLINK, link=target)
    with pytest.raises(EntriesError):
        unpack_entries(rows.build().pack())


def broken(**changes):
    """A packed batch of two rows with something wrong."""
    rows = EntryRows()
    rows.add(b"/a", b"x", EntryType.SYMLINK, link=b"y")
    rows.add(b"/a", b"z", EntryType.FILE, extra={"btime_ns": 3})
    packed = rows.build().pack()
    columns = {**packed.columns, **{k: v for k, v in changes.items() if k in COLUMNS}}
    return msgspec.structs.replace(
        packed, columns=columns, **{k: v for k, v in changes.items() if k not in COLUMNS}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 3},
        {"rows": -1},
        {"rows": 1 << 40},
        {"names": b"x"},
        {"names": b"x\0y\0z"},
        {"dirs": b""},
        {"links": b""},
        {"links": b"a\0\0b"},
        {"extras": []},
        {"extras": [b"x" * 300_000]},
        {"dir": b"\1\0\0\0\0\0\0\0"},
        {"link": b"\2\0\0\0\0\0\0\0"},
        {"extra": b"\2\0\0\0\0\0\0\0"},
        {"type": b"\0\1"},
        {"type": b"\1\x63"},
        {"size": b"\1"},
    ],
)
def test_columns_that_contradict_each_other_are_refused(changes):
    with pytest.raises(EntriesError):
        unpack_entries(broken(**changes))


def test_a_manifest_that_points_outside_its_tables_is_corrupt():
    def variant(container=0, count=1, first=0):
        builder = ManifestBuilder(HEAD)
        builder.container_index(b"c" * 16)
        builder.add_chunks(np.zeros((1, 32), np.uint8), np.array([container]), np.zeros(1), np.ones(1))
        builder.add_entries(
            build([([], b"x", {"type": EntryType.FILE})]), np.array([first]), np.array([count])
        )
        return builder.build(next=11)

    assert manifest.decode(variant()).chunks.containers == [b"c" * 16]
    assert len(manifest.decode(variant(container=ZERO_REGION)).chunks) == 1
    for bad in [{"container": 1}, {"count": 2}, {"first": 1}, {"first": 2**32 - 1}]:
        with pytest.raises(Corrupt, match="manifest 5"):
            manifest.decode(variant(**bad), what="manifest 5")


def test_a_manifest_whose_rows_share_chunks_cannot_make_its_readers_take_memory_without_bound(monkeypatch):
    monkeypatch.setattr(manifest, "CHUNKS_MAX", 100)
    rows, chunks = [([], b"%d" % at, {"type": EntryType.FILE}) for at in range(9)], 12
    builder = ManifestBuilder(HEAD)
    builder.container_index(b"c" * 16)
    builder.add_chunks(np.zeros((chunks, 32), np.uint8), np.zeros(chunks), np.arange(chunks), np.ones(chunks))
    builder.add_entries(build(rows), np.zeros(9), np.full(9, chunks))
    with pytest.raises(Corrupt, match="more than 100 chunks in all"):
        manifest.decode(builder.build(next=11))


def test_a_newer_manifest_is_refused_as_newer_even_if_it_looks_different():
    later = msgspec.msgpack.encode({"head": {"version": 2}, "tables": []})
    with pytest.raises(NewerFormat, match="format 2"):
        manifest.decode(later)
    for newer in [seal.decode_seal, seal.decode_journal]:
        with pytest.raises(NewerFormat):
            newer(msgspec.msgpack.encode({"version": 2}))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoders(data):
    for decode in [manifest.decode, seal.decode_seal, seal.decode_journal, label.decode]:
        with pytest.raises(StaddleError):
            decode(data)
    with pytest.raises(ProtocolError):
        decode_record(data, 0)


def test_deep_nesting_is_refused():
    deep = b"\x91" * 100_000
    with pytest.raises(ProtocolError):
        decode_record(b"\x81\xa1x" + deep, 0)
    with pytest.raises(Corrupt):
        manifest.decode(b"\x81\xa1x" + deep)


@given(st.data())
def test_a_damaged_record_is_refused_or_harmless(data):
    meta = bytearray(encode_files(build([([b"a"], b"x", {"type": EntryType.FILE, "size": 5})]), [5]))
    meta[data.draw(st.integers(0, len(meta) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decode_record(meta, 5)
    except ProtocolError:
        return
    assert not isinstance(found, PartRecord)
    assert len(found.batch) == 1
    found.batch.paths()


def files(lengths, payload, types=(EntryType.FILE, EntryType.DIRECTORY), flags=(0, 0), base=None):
    rows = [([b"a"], b"%d" % n, {"type": type_, "flags": flags[n]}) for n, type_ in enumerate(types)]
    manifests, base_rows = base or (None, None)
    return decode_record(encode_files(build(rows), lengths, manifests, base_rows), payload)


def test_files_record_round_trip():
    found = files([9, 0], 9)
    assert found.content_lengths.tolist() == [9, 0]
    assert found.base_manifests.tolist() == [NO_BASE, NO_BASE]
    found = files([0, 0], 0, flags=(EntryFlag.UNCHANGED, 0), base=([4, NO_BASE], [77, 0]))
    assert (found.base_manifests.tolist(), found.base_rows.tolist()) == ([4, NO_BASE], [77, 0])


@pytest.mark.parametrize(
    "bad",
    [
        {"lengths": [9, 0], "payload": 8},
        {"lengths": [2**32 - 1, 0], "payload": 9},
        {"lengths": [8, 1], "payload": 9},
        {"lengths": [9], "payload": 9},
        {"lengths": [0, 0], "payload": 0, "flags": (EntryFlag.UNCHANGED, 0)},
        {"lengths": [0, 0], "payload": 0, "base": ([1, NO_BASE], [0, 0])},
        {"lengths": [0, 0], "payload": 0, "base": ([NO_BASE, 1], [0, 0]), "flags": (0, EntryFlag.UNCHANGED)},
        {"lengths": [5, 0], "payload": 5, "base": ([1, NO_BASE], [0, 0]), "flags": (EntryFlag.UNCHANGED, 0)},
        {"lengths": [], "payload": 0, "types": ()},
        {"lengths": [2 << 20, 0], "payload": 2 << 20},
    ],
)
def test_files_records_that_contradict_themselves_are_refused(bad):
    with pytest.raises(ProtocolError):
        files(**bad)


def part(payload=0, *, kind=EntryType.FILE, offset=0, rows=1, **options):
    batch = build([([b"a"], b"x", {"type": kind})] * rows)
    return decode_record(encode_part(batch, offset, **options), payload)


def test_part_record_round_trip():
    found = part(offset=1 << 50, zero_bytes=1 << 45, last=True)
    assert (found.offset, found.zero_bytes, found.last, len(found.batch)) == (1 << 50, 1 << 45, True, 1)
    assert part(payload=1 << 20).offset == 0
    assert part(last=True).last, "an empty last part carries the final metadata"


@pytest.mark.parametrize(
    "bad",
    [
        {"payload": 1, "rows": 2},
        {"payload": 1, "kind": EntryType.DIRECTORY},
        {"payload": 1, "zero_bytes": 1},
        {},
        {"payload": 1, "offset": -1},
        {"payload": 1, "offset": 1 << 62},
        {"zero_bytes": (1 << 62) + 1},
        {"payload": (1 << 20) + 1},
    ],
)
def test_part_records_that_contradict_themselves_are_refused(bad):
    with pytest.raises(ProtocolError):
        part(**bad)


def test_meta_beyond_its_bound_is_refused_unread():
    with pytest.raises(ProtocolError, match="too long"):
        decode_record(bytes(300_000), 0)


LABEL = Label(
    grid=b"g" * 16, medium="nas-ö 1", volume=b"v" * 16, created_ns=1_790_000_000 * 10**9, manager_epoch=4
)


def test_label_is_text_that_explains_the_volume():
    text = label.encode(LABEL)
    assert label.decode(text) == LABEL
    assert len(text) <= label.LABEL_BYTES_MAX
    assert text.startswith(b"STADDLE VOLUME 1\n")
    assert b"recovery key" in text
    assert b"2026-09-21" in text
    for padding in (b"\0", b"\n", b" "):
        assert label.decode(text.ljust(label.LABEL_BYTES_MAX, padding)) == LABEL


def test_every_damaged_byte_and_truncation_of_a_label_is_noticed():
    text = label.encode(LABEL)
    for at in range(len(text)):
        with pytest.raises(Corrupt):
            label.decode(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        with pytest.raises(Corrupt):
            label.decode(text[:at])


def test_a_newer_label_is_refused_as_newer():
    with pytest.raises(NewerFormat):
        label.decode(label.encode(msgspec.structs.replace(LABEL, version=2)))


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 300])
def test_a_medium_name_that_would_break_the_label_is_refused(name):
    with pytest.raises(ValueError, match="medium name"):
        label.encode(msgspec.structs.replace(LABEL, medium=name))
