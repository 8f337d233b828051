"""What a full segment of small files takes in memory, new or unchanged, and what its manifest takes.

Reckoned from half of one: everything here grows with the rows.
"""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

from staddle.daemon.agent.segments import SEGMENT_ROWS_MAX
from staddle.data import manifest as manifests
from staddle.data.base import BaseRows
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.pipeline import Pipeline, Settings
from staddle.data.records import NO_BASE, decode_record, encode_files
from staddle.data.segment import SegmentBuilder

from .kit import Medium, head, plan_of

MIB = 1 << 20
ROWS = 2048
PART = 2
SETTINGS = Settings(workers=2, segments_max=2, batches_max=4, containers_max=4, wait_s=60)
BUFFERS_BYTES = 2 * SETTINGS.batch_bytes + 2 * SETTINGS.container_bytes
"""Of one segment: what is filled, and what is on its way."""


def record(first, *, base):
    """ROWS files, each with other contents and other further metadata, as birth times are."""
    rows, payload = EntryRows(), []
    for number in range(first, first + ROWS):
        rows.add(
            b"/some/directory/%03d" % (number // 100),
            b"file-%07d.txt" % number,
            EntryType.FILE,
            size=7,
            flags=EntryFlag.UNCHANGED if base else 0,
            extra={"btime_ns": number},
        )
        payload.append(b"%07d" % number)
    count = np.zeros if base else np.ones
    lengths = (count(ROWS) * 7).astype(int).tolist()
    numbers = np.arange(first, first + ROWS, dtype=np.uint32) if base else np.zeros(ROWS, np.uint32)
    from_base = np.zeros(ROWS, np.uint32) if base else np.full(ROWS, NO_BASE, np.uint32)
    meta = encode_files(rows.build(), lengths, from_base, numbers)
    return meta, b"" if base else b"".join(payload)


def segment(shared, plan, *, base):
    with SegmentBuilder(shared, plan, head()) as builder:
        for first in range(0, SEGMENT_ROWS_MAX // PART, ROWS):
            meta, payload = record(first, base=base)
            builder.add(decode_record(meta, len(payload)), payload)
        return builder.finish(1)


@pytest.fixture(scope="module")
def full():
    """(plain bytes of the manifest, peak of a new segment, peak of an unchanged one)."""
    shared, medium = Pipeline(SETTINGS), Medium()
    try:
        peaks = []
        tracemalloc.start()
        new = segment(shared, plan_of(medium), base=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        base = BaseRows(lambda index: manifests.decode(new.manifest))
        tracemalloc.start()
        segment(shared, plan_of(medium, base=base, usable=set), base=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        return new.manifest, *peaks
    finally:
        tracemalloc.stop()
        shared.close()


def test_a_full_segment_of_new_files_fits_several_times_into_an_agent(full):
    _, peak_bytes, _ = full
    whole_bytes = PART * (peak_bytes - BUFFERS_BYTES)
    assert whole_bytes < 48 * MIB, f"{whole_bytes / MIB:.0f} MiB"


def test_a_full_segment_of_unchanged_files_too(full):
    _, _, peak_bytes = full
    assert PART * peak_bytes < 48 * MIB, f"{PART * peak_bytes / MIB:.0f} MiB"


def test_a_full_manifest_is_small(full):
    plain, _, _ = full
    assert PART * len(plain) < 6 * MIB
    tracemalloc.start()
    try:
        manifest = manifests.decode(plain)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert PART * len(manifest.entries) == SEGMENT_ROWS_MAX
    assert PART * peak_bytes < 16 * MIB, f"{PART * peak_bytes / MIB:.0f} MiB"


@pytest.mark.parametrize("ends", ["finished", "given up"])
def test_a_segment_that_has_ended_waits_for_no_collection_of_garbage(ends):
    shared = Pipeline(SETTINGS)
    gc.collect()
    gc.disable()
    try:
        with SegmentBuilder(shared, plan_of(Medium()), head()) as builder:
            meta, payload = record(0, base=False)
            builder.add(decode_record(meta, len(payload)), payload)
            left = [weakref.ref(builder), weakref.ref(builder._runner), weakref.ref(builder._collector)]
            if ends == "finished":
                builder.finish(1)
        del builder
        assert [each() for each in left] == [None, None, None]
    finally:
        gc.enable()
        shared.close()
