"""Packed rows, sorted tables and their search, against the obvious slow way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.dedup import rows as r

few = st.integers(0, 3)
keys = st.lists(st.tuples(st.sampled_from([0, 1, 2**56 - 1, 2**56, 2**63, 2**64 - 1]), few, few), max_size=40)


def packed(entries):
    hi, lo, container = (np.array([e[i] for e in entries], np.uint64) for i in range(3))
    ordinal = np.arange(len(entries), dtype=np.uint32)
    return r.pack(hi, lo, container.astype(np.uint32), ordinal, ordinal + np.uint32(7))


@settings(max_examples=200, deadline=None)
@given(keys, st.sets(few), st.integers(8, 12))
def test_probe_finds_the_first_live_row_of_each_key(entries, dead_containers, prefix_bits):
    rows = r.sort_rows(packed(entries))
    table = r.Table(rows, r.fences_of(rows, prefix_bits), prefix_bits)
    dead = np.array([i in dead_containers for i in range(4)])
    asked = sorted({(hi, lo) for hi, lo, _ in entries} | {(5, 0), (2**64 - 1, 9), (0, 9)})
    hit, found, bad = table.probe(
        np.array([a[0] for a in asked], np.uint64), np.array([a[1] for a in asked], np.uint64), dead
    )
    expected = {}
    for ordinal, (hi, lo, container) in enumerate(entries):
        if container not in dead_containers:
            expected.setdefault((hi, lo), ordinal)
    got = {asked[i]: int(o) for i, o in zip(hit, r.ordinal_of(found), strict=True)}
    assert got == expected
    assert not len(bad)


@settings(max_examples=100, deadline=None)
@given(keys, keys)
def test_merging_keeps_order_and_puts_the_older_first_among_equals(a, b):
    older, newer = r.sort_rows(packed(a)), r.sort_rows(packed(b))
    merged = r.merge_sorted(older, newer)
    assert merged.tolist() == sorted([*older.tolist(), *newer.tolist()], key=lambda row: row[0])


def test_large_uniform_table_answers_like_a_dictionary():
    rng = np.random.default_rng(7)
    hi, lo = rng.integers(0, 2**64, (2, 50_000), dtype=np.uint64)
    number = np.arange(50_000, dtype=np.uint32)
    table = r.Table.of(r.sort_rows(r.pack(hi, lo, number % 100, number, number)))
    hit, found, _ = table.probe(hi[::7], lo[::7], np.zeros(100, bool))
    assert sorted(hit.tolist()) == list(range(len(hi[::7])))
    assert (r.ordinal_of(found) == number[::7][hit]).all()
    assert not len(table.probe(hi, lo ^ np.uint64(1), np.zeros(100, bool))[0])
    sections = [table.partition(p) for p in range(256)]
    assert sum(map(len, sections)) == 50_000
    assert all((r.partition_of(s[:, 0]) == p).all() for p, s in enumerate(sections))


def test_any_single_flipped_bit_breaks_the_check():
    row = packed([(0x0123456789ABCDEF, 0xFEDCBA9876543210, 3)])
    assert r.sound(row).all()
    for word in range(4):
        for bit in range(64):
            flipped = row.copy()
            flipped[0, word] ^= np.uint64(1 << bit)
            assert not r.sound(flipped).any(), (word, bit)
    assert not r.sound(np.zeros((1, 4), np.uint64)).any()


def test_damaged_row_is_named_and_not_a_hit():
    rows = packed([(1, 1, 0), (2, 2, 0)])
    rows[1, 2] ^= np.uint64(1)
    hit, _, bad = r.Table.of(rows).probe(
        np.array([1, 2], np.uint64), np.array([1, 2], np.uint64), np.zeros(1, bool)
    )
    assert hit.tolist() == [0]
    assert bad.tolist() == [1]


def test_repeats_of_key_and_container_go_other_containers_stay():
    kept = r.without_repeats(packed([(1, 1, 0), (1, 1, 0), (1, 1, 2), (1, 2, 2)]))
    assert r.ordinal_of(kept).tolist() == [0, 2, 3]


def test_key_order_is_byte_order():
    fps = np.frombuffer(np.random.default_rng(3).bytes(32 * 500), np.uint8).reshape(-1, 32)
    hi, lo = r.keys_of(fps)
    by_key = sorted(range(500), key=lambda i: (int(hi[i]), int(lo[i])))
    assert by_key == sorted(range(500), key=lambda i: fps[i, :16].tobytes())
    assert (r.partition_of(hi) == fps[:, 0]).all()


@pytest.mark.parametrize("wrong", [np.zeros((3, 16), np.uint8), np.zeros(32, np.uint8), np.zeros((2, 32))])
def test_fingerprints_of_another_shape_are_refused(wrong):
    with pytest.raises(ValueError, match=r"shape \(n, 32\)"):
        r.keys_of(wrong)
