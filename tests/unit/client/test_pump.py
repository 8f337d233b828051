"""The pump reads ahead, but not too far."""

import asyncio
import threading
import time

from staddle.client import stream as stream_module
from staddle.client.pump import RecordPump
from staddle.client.units import Record

from .streamkit import run


def test_the_pump_reads_ahead_so_far_and_no_further():
    produced = []

    def records():
        for number in range(100):
            produced.append(number)
            yield Record(b"", bytes(1000))

    async def work():
        ready = asyncio.Event()
        pump = RecordPump(records(), ready.set, ahead_bytes=5000)
        await ready.wait()
        await asyncio.sleep(0.1)
        assert len(produced) <= 6
        taken = 0
        while not pump.exhausted:
            taken += pump.take() is not None
            assert len(produced) - taken <= 6
            await asyncio.sleep(0)
        assert taken == 100
        assert pump.error is None
        assert pump.take() is None
        pump.close()

    run(work())


def test_a_record_larger_than_the_read_ahead_passes():
    async def work():
        pump = RecordPump(
            iter([Record(b"", bytes(100)), Record(b"", bytes(100))]), lambda: None, ahead_bytes=1
        )
        taken = 0
        while not pump.exhausted:
            taken += pump.take() is not None
            await asyncio.sleep(0.001)
        assert taken == 2
        pump.close()

    run(work())


def test_closing_a_pump_that_waits_for_room_ends_its_thread():
    def endless():
        while True:
            yield Record(b"", bytes(1000))

    async def work():
        before = threading.active_count()
        pump = RecordPump(endless(), lambda: None, ahead_bytes=2000)
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await asyncio.to_thread(pump.close)
        assert time.monotonic() - start < 5
        assert pump.take() is None
        assert threading.active_count() <= before + 1  # the executor's thread

    run(work())


def test_closing_a_pump_interrupts_records_that_wait_for_more():
    class Waiting:
        def __init__(self):
            self.stop = threading.Event()

        def __iter__(self):
            return self

        def __next__(self):
            self.stop.wait(600)
            raise StopIteration

        def interrupt(self):
            self.stop.set()

    async def work():
        pump = RecordPump(Waiting(), lambda: None)
        await asyncio.to_thread(pump.close)
        assert pump.exhausted

    run(work())


def test_what_ends_the_reading_is_told_after_the_records_before_it():
    def failing():
        yield Record(b"", b"one")
        raise ValueError("broken")

    async def work():
        ready = asyncio.Event()
        pump = RecordPump(failing(), ready.set)
        while not pump.exhausted:
            record = pump.take()
            if record is not None:
                assert bytes(record.payload) == b"one"
            await asyncio.sleep(0.001)
        assert isinstance(pump.error, ValueError)
        pump.close()

    run(work())


def test_the_driver_uses_the_monotonic_clock():
    before = time.monotonic_ns()
    assert before <= stream_module._now_ns() <= time.monotonic_ns()
