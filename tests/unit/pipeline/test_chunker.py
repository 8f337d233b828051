"""Cuts are a function of the file's bytes, and buffers never exceed their cap."""

import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.data.buffers import BufferPool
from staddle.data.chunker import ZERO, ZERO_BLOCK_BYTES, Chunker, FileCutter, Rows, zero_runs
from staddle.data.crypto import ChunkerSpec
from staddle.errors import Cancelled, NewerFormat, Unavailable

SPEC = ChunkerSpec(min_bytes=2048, average_bytes=8192, max_bytes=32768, seed=77)


def content(seed: int, pieces: list[int]) -> bytes:
    """Random bytes and runs of zeros in turn, of the given lengths."""
    generator = random.Random(seed)
    return b"".join(generator.randbytes(n) if i % 2 == 0 else bytes(n) for i, n in enumerate(pieces))


def cut(data: bytes, splits: list[int], offset: int = 0, *, fixed: bool = False) -> list[tuple[int, int]]:
    """(position or ZERO, length) of each chunk of a file that arrives in pieces of the given lengths."""
    cutter = FileCutter(Chunker(SPEC), offset, fixed=fixed)
    rows, tail, place, chunks = Rows(), b"", 0, []
    for length in [*splits, len(data)]:
        piece = data[place : place + length]
        place += len(piece)
        view = memoryview(tail + piece)
        base = place - len(view)
        done = cutter.data(view, base, place == len(data), rows)
        assert len(view) - done <= Chunker(SPEC).carry_bytes_max
        tail = bytes(view[done:])
        if place == len(data):
            break
    cutter.flush(rows)
    assert cutter.offset == offset + len(data)
    assert cutter.rows_made == len(rows)
    chunks.extend(zip(rows.starts, rows.lengths, strict=True))
    return chunks


PIECES = st.lists(st.integers(0, 200_000), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    pieces=PIECES,
    splits=st.lists(st.integers(1, 150_000), max_size=12),
    offset=st.sampled_from([0, 1, 65535, 65536, 1_000_003]),
)
def test_cuts_do_not_depend_on_how_the_bytes_arrive(seed, pieces, splits, offset):
    data = content(seed, pieces)
    whole = cut(data, [], offset)
    assert cut(data, splits, offset) == whole
    place = 0
    for start, length in whole:
        assert length > 0
        if start == ZERO:
            assert not any(data[place : place + length])
            assert length % ZERO_BLOCK_BYTES == 0
        else:
            assert start == place
            assert length <= SPEC.max_bytes
        place += length
    assert place == len(data)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    pieces=PIECES,
    splits=st.lists(st.integers(1, 150_000), max_size=12),
    offset=st.sampled_from([0, 65536, 8192, 1_000_003]),
)
def test_an_image_is_cut_at_multiples_of_one_length_however_it_arrives(seed, pieces, splits, offset):
    data = content(seed, pieces)
    whole = cut(data, [], offset, fixed=True)
    assert cut(data, splits, offset, fixed=True) == whole
    length_of_all = Chunker(SPEC).fixed_bytes
    assert length_of_all == 8192
    place = 0
    for start, length in whole:
        if start == ZERO:
            assert not any(data[place : place + length])
        else:
            at, end = offset + place, offset + place + length
            assert at // length_of_all == (end - 1) // length_of_all, "a chunk crosses a boundary"
            assert start == place
        place += length
    assert place == len(data)
    ends = {offset + sum(length for _, length in whole[: n + 1]) for n in range(len(whole))}
    assert all(end % length_of_all == 0 for end in ends if end != offset + len(data))


def test_a_changed_block_of_an_image_changes_its_chunk_alone():
    data = bytearray(content(3, [2_000_000]))
    old = cut(bytes(data), [], fixed=True)
    before = {bytes(data[start : start + length]) for start, length in old}
    data[1_000_000:1_000_004] = b"new!"
    new = cut(bytes(data), [], fixed=True)
    assert new == old
    assert sum(bytes(data[start : start + length]) not in before for start, length in new) == 1


def test_neighbouring_zero_runs_are_one_chunk_and_aligned_blocks_are_found():
    data = content(5, [100_000, 400_000, 50_000])
    first = -(-100_000 // ZERO_BLOCK_BYTES) * ZERO_BLOCK_BYTES
    end = 500_000 // ZERO_BLOCK_BYTES * ZERO_BLOCK_BYTES
    assert zero_runs(memoryview(data), 0) == [(first, end)]
    zeros = [length for start, length in cut(data, [3] * 10) if start == ZERO]
    assert zeros == [end - first]


@given(st.integers(0, ZERO_BLOCK_BYTES - 1))
def test_one_byte_anywhere_makes_a_block_no_zero_block(at):
    block = bytearray(ZERO_BLOCK_BYTES)
    assert zero_runs(memoryview(block), 0) == [(0, ZERO_BLOCK_BYTES)]
    block[at] = 1
    assert zero_runs(memoryview(block), 0) == []


def test_a_hole_ends_the_data_before_it_and_joins_the_zeros_around_it():
    cutter, rows = FileCutter(Chunker(SPEC)), Rows()
    cutter.data(memoryview(bytes(ZERO_BLOCK_BYTES)), 0, True, rows)
    cutter.zeros(10**12)
    cutter.data(memoryview(b"x" * 10), 0, True, rows)
    cutter.flush(rows)
    assert list(zip(rows.starts, rows.lengths, strict=True)) == [(ZERO, 10**12 + ZERO_BLOCK_BYTES), (0, 10)]


def test_insertion_changes_few_chunks():
    data = content(9, [3_000_000])
    edited = data[:1_000_000] + b"inserted" + data[1_000_000:]
    old = {data[start : start + length] for start, length in cut(data, [])}
    new = [edited[start : start + length] for start, length in cut(edited, [])]
    assert sum(len(chunk) for chunk in new if chunk not in old) < 3 * SPEC.max_bytes


def test_another_seed_cuts_elsewhere_and_an_unknown_chunker_is_refused():
    data = np.random.default_rng(1).bytes(500_000)
    other, rows = Chunker(ChunkerSpec(min_bytes=2048, average_bytes=8192, max_bytes=32768, seed=78)), Rows()
    other.cut_data(memoryview(data), 0, True, rows)
    assert rows.starts[:5] != [start for start, _ in cut(data, [])][:5]
    with pytest.raises(NewerFormat):
        Chunker(ChunkerSpec(id="gear-keyed-v9", seed=1))


def test_pool_never_exceeds_its_cap_and_reuses_the_warmest_buffer():
    pool = BufferPool(16, 2)
    a, b = pool.acquire(1), pool.acquire(1)
    start = time.monotonic()
    with pytest.raises(Unavailable):
        pool.acquire(0.05)
    assert time.monotonic() - start < 2
    pool.release(a)
    pool.release(b)
    assert pool.acquire(1) is b
    assert (pool.in_use, pool.in_use_max) == (1, 2)
    with pytest.raises(ValueError, match="twice"):
        pool.release(a)


def test_pool_wakes_a_waiter_on_release_and_all_on_close():
    pool, got = BufferPool(16, 1), []
    held = pool.acquire(1)

    def wait():
        try:
            got.append(pool.acquire(20))
        except Cancelled as error:
            got.append(error)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    pool.release(held)
    while not got:
        time.sleep(0.001)
    assert got == [held]
    pool.close()
    for thread in threads:
        thread.join(5)
    assert isinstance(got[1], Cancelled)
    pool.release(held)  # what is out comes back without complaint
