"""No failure leaves a thread, a buffer or a reference to lost data behind."""

import random
import threading
import time

import pytest

from staddle.data.known import KnownChunks
from staddle.data.pipeline import Pipeline, Settings
from staddle.data.segment import SegmentBuilder
from staddle.errors import (
    Cancelled,
    DeadlineExceeded,
    MediumFailed,
    MediumFull,
    ProtocolError,
    StaddleError,
    Unavailable,
)

from .kit import (
    SMALL,
    Ids,
    Medium,
    build,
    contents,
    file_record,
    head,
    part_records,
    plan_of,
)


def feed(segment, total):
    """Random files of 100 kB."""
    rng = random.Random(1)
    for number in range(total // 100_000):
        segment.add(*file_record({b"/%d" % number: rng.randbytes(100_000)}))


def stream_until_error(shared, plan, total=20_000_000):
    """Feed one segment until it fails."""
    with SegmentBuilder(shared, plan, head()) as segment:
        feed(segment, total)
        segment.finish(1)
    raise AssertionError("the segment came to its end")


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (MediumFull("no room"), MediumFull),
        (MediumFailed("I/O error"), MediumFailed),
        (OSError(5, "x"), StaddleError),
    ],
)
def test_a_store_that_fails_in_the_middle_ends_the_segment_and_frees_everything(shared, error, seen):
    medium, count = Medium(), []

    def store(sealed):
        count.append(sealed)
        if len(count) == 3:
            raise error
        return medium.put(sealed)

    plan = plan_of(medium, store=store)
    with pytest.raises(seen) as caught:
        stream_until_error(shared, plan)
    assert caught.value.retry == "elsewhere"
    assert shared.batches.in_use == shared.containers.in_use == 0
    assert len(plan.known.own) == 0  # what a failed segment stored is not referred to
    assert contents([build(shared, plan_of(medium), [file_record({b"/a": b"1"})])], medium) == {b"/a": b"1"}


def test_a_lookup_that_fails_ends_the_segment(shared):
    def lookup(prints):
        raise Unavailable("the library is closed")

    with pytest.raises(Unavailable):
        stream_until_error(shared, plan_of(Medium(), known=KnownChunks(lookup, set)))
    assert shared.batches.in_use == shared.containers.in_use == 0


def test_slow_media_bound_the_memory_and_hold_the_sender_back(shared):
    medium, most = Medium(), []

    def store(sealed):
        most.append(shared.batches.in_use + shared.containers.in_use)
        time.sleep(0.03)
        return medium.put(sealed)

    rng, sent = random.Random(2), {}
    with SegmentBuilder(shared, plan_of(medium, store=store), head()) as segment:
        for number in range(160):
            sent[b"/%d" % number] = rng.randbytes(100_000)
            segment.add(*file_record({b"/%d" % number: sent[b"/%d" % number]}))
            done = sum(map(len, medium.objects.values()))
            ahead = segment.bytes_read - done
            assert ahead <= ((SMALL.batches_max + 1) * SMALL.batch_bytes) + (
                SMALL.containers_max * SMALL.container_bytes
            )
        result = segment.finish(1)
    assert max(most) <= SMALL.batches_max + SMALL.containers_max
    assert contents([result], medium) == sent


def test_a_stream_with_a_stuck_medium_leaves_threads_and_buffers_to_the_others():
    settings = {field: getattr(SMALL, field) for field in SMALL.__struct_fields__}
    settings.update(container_bytes=1 << 20, containers_max=6, batches_max=8)
    pipeline, release, medium = Pipeline(Settings(**settings)), threading.Event(), Medium()

    def store(sealed):
        release.wait(30)
        return medium.put(sealed)

    stuck = SegmentBuilder(pipeline, plan_of(medium, store=store), head())
    thread = threading.Thread(target=lambda: feed(stuck, 15_000_000))
    thread.start()
    try:
        before = -1
        while before != stuck.bytes_read:  # until it is held back
            before = stuck.bytes_read
            time.sleep(0.2)
        assert before < 15_000_000
        content, start = random.Random(3).randbytes(4_000_000), time.monotonic()
        other = build(pipeline, plan_of(medium, ids=Ids(4)), part_records(b"/b", content, []))
        assert time.monotonic() - start < 10
        assert other.bytes_stored > len(content)
    finally:
        release.set()
        thread.join(20)
        stuck.abort()
        pipeline.close()


def test_a_hanging_store_is_a_deadline_and_cancel_wakes_who_waits(shared):
    release = threading.Event()
    medium = Medium()

    def store(sealed):
        release.wait(20)
        return medium.put(sealed)

    pipeline = Pipeline(
        Settings(**{**{f: getattr(SMALL, f) for f in SMALL.__struct_fields__}, "wait_s": 0.3})
    )
    try:
        plan = plan_of(medium, store=store)
        with pytest.raises(DeadlineExceeded):
            stream_until_error(pipeline, plan)
    finally:
        release.set()
        pipeline.close()
    assert pipeline.batches.in_use == pipeline.containers.in_use == 0
    assert len(plan.known.own) == 0  # the store that ended late made nothing known

    release.clear()
    segment = SegmentBuilder(shared, plan_of(Medium(), store=store), head())
    threading.Timer(0.2, segment.cancel).start()
    with pytest.raises(Cancelled):
        feed(segment, 30_000_000)
    release.set()
    segment.abort()
    segment.abort()
    assert shared.batches.in_use == shared.containers.in_use == 0


def test_too_many_segments_are_refused_and_records_must_fit_together(shared):
    plan = plan_of(Medium())
    with SegmentBuilder(shared, plan, head()) as one, SegmentBuilder(shared, plan, head()):
        with pytest.raises(Unavailable):
            SegmentBuilder(shared, plan, head())
        first, second = part_records(b"/a", bytes(10) + b"x" * 10, [10])[:2]
        one.add(*first)
        with pytest.raises(ProtocolError):
            one.add(*file_record({b"/b": b"1"}))
        with pytest.raises(ProtocolError):
            one.add(*first)
        one.add(*second)
    SegmentBuilder(shared, plan, head()).abort()
