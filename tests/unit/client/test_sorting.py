"""Sorting more than belongs into memory: the right order, each once, whatever there is room for."""

import random
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client import sorting
from staddle.client.sorting import Sorter

MIB = 1 << 20
NAMES = st.binary(max_size=40).map(lambda name: name.replace(b"\0", b"\1"))


@pytest.fixture
def small(monkeypatch):
    """Runs, blocks and what is kept so small that a few thousand names fill them."""
    monkeypatch.setattr(sorting, "RUN_BYTES", 4096)
    monkeypatch.setattr(sorting, "BLOCK_BYTES", 256)
    monkeypatch.setattr(sorting, "KEPT_BYTES", 8192)


def many(seed, count):
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(1, 60)).replace(b"\0", b"\1") for _ in range(count)]


@given(st.lists(NAMES), st.integers(1, 400), st.integers(1, 60))
def test_the_order_is_that_of_bytes_and_each_comes_once(values, run_bytes, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "RUN_BYTES", run_bytes)
        patch.setattr(sorting, "BLOCK_BYTES", block_bytes)
        patch.setattr(sorting, "KEPT_BYTES", 64)
        sorter = Sorter(values)
        assert list(sorter) == sorted(set(values))
        assert list(sorter) == sorted(set(values)), "it can be iterated again"


def test_what_does_not_fit_goes_into_a_temporary_file(seed, small, monkeypatch):
    made = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **words: made.append(real(**words)) or made[-1])
    values = many(seed, 5000)
    sorter = Sorter(values)
    assert list(sorter) == sorted(set(values))
    assert len(made) == 1
    assert made[0].seek(0, 2) > 50_000
    del sorter
    assert made[0].closed, "the file goes with the sorter"


def test_without_room_for_a_file_it_stays_in_memory(seed, small, monkeypatch):
    class Full:
        def __init__(self, **_):
            self.room = 20_000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return len(data) // 2 or 1  # and it takes half of what it is given

        def __getattr__(self, name):
            return getattr(self.file, name)

    real = tempfile.TemporaryFile

    def full(**words):
        made, file = Full(), real(**words)
        made.file = file
        made.write = lambda data, write=made.write: file.write(data[: write(data)])
        return made

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    values = many(seed, 5000)
    assert list(Sorter(values)) == sorted(set(values))


def test_without_a_place_for_a_file_it_stays_in_memory(seed, small, monkeypatch):
    def nowhere(**_):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", nowhere)
    values = many(seed, 5000)
    assert list(Sorter(values)) == sorted(set(values))


def test_several_threads_read_it_at_once(seed, small):
    values = many(seed, 4000)
    sorter = Sorter(values)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: list(sorter), range(4)):
            assert got == sorted(set(values))


def test_memory_is_bounded_whatever_is_sorted(seed, monkeypatch):
    monkeypatch.setattr(sorting, "KEPT_BYTES", MIB)
    monkeypatch.setattr(sorting, "RUN_BYTES", MIB)
    rng = random.Random(seed)
    # 20 MB of names that can't be packed, for bytes of each are noise. As a list they take 27 MB.
    values = (
        b"%06x-" % rng.getrandbits(24) + rng.randbytes(200).replace(b"\0", b"\1") for _ in range(100_000)
    )
    tracemalloc.start()
    try:
        last, count = b"", 0
        for value in Sorter(values):
            assert last < value
            last, count = value, count + 1
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100_000
    assert peak_bytes < 8 * MIB, f"{peak_bytes / MIB:.1f} MiB"
