"""Each layer round a driver does its one thing; `wrap` puts them in the right order."""

import json
import os
import threading
import time

import blake3
import pytest

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import Label
from staddle.config import MediumSettings
from staddle.media.memory import MemoryMedium, Store
from staddle.media.options import MemoryConfig
from staddle.wrap import wrap
from staddle.wrap.deadline import DeadlineLayer
from staddle.wrap.fault import FaultLayer
from staddle.wrap.layers import LIST_PAGE, Call, WrappedMedium
from staddle.wrap.metrics import MetricsLayer
from staddle.wrap.retry import RetryLayer
from staddle.wrap.throttle import ThrottleLayer

LABEL = Label(grid=b"g" * 16, medium="m", volume=b"v" * 16, created_ns=1)


def call(op="put", seconds=20.0, **more):
    return Call("m", op, Deadline(seconds), **more)


def fail_with(*outcomes):
    """A function that goes through `outcomes`: errors are raised, the rest is returned."""
    left = list(outcomes)

    def make():
        make.calls += 1
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    make.calls = 0
    return make


@pytest.fixture
def medium(request):
    medium = MemoryMedium(request.node.nodeid, MemoryConfig())
    medium.initialize(LABEL, (LABEL.grid.hex() + LABEL.volume.hex()).encode(), Deadline(20))
    yield medium
    Store.forget(request.node.nodeid)


def put(volume, name="c0/aa", data=b"data", seconds=20.0):
    return volume.put(name, [data], blake3.blake3(data).digest(), Deadline(seconds))


# -- retry


def test_retry_repeats_only_what_says_now():
    pauses = []
    layer = RetryLayer(sleep=pauses.append, jitter=lambda: 0.5)
    make = fail_with(errors.InDoubt("cut"), errors.InDoubt("cut"), "done")
    assert layer.around(call(), make) == "done"
    assert pauses == [0.05 * 0.75, 0.1 * 0.75]


@pytest.mark.parametrize("retry", ["after", "elsewhere", "operator", "never"])
def test_retry_leaves_every_other_word_to_the_engine(retry):
    make = fail_with(errors.StaddleError("no", retry=retry))
    with pytest.raises(errors.StaddleError):
        RetryLayer(sleep=lambda s: None).around(call(), make)
    assert make.calls == 1


def test_retry_ends_with_its_attempts_and_with_the_deadline():
    make = fail_with(*[errors.InDoubt("cut")] * 9)
    with pytest.raises(errors.InDoubt):
        RetryLayer(attempts_max=3, sleep=lambda s: None).around(call(), make)
    assert make.calls == 3
    make = fail_with(*[errors.InDoubt("cut")] * 9)
    with pytest.raises(errors.InDoubt):
        RetryLayer(sleep=lambda s: None).around(call(seconds=0.01), make)
    assert make.calls == 1


# -- throttle


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


def test_throttle_keeps_the_rate():
    clock = Clock()
    layer = ThrottleLayer(1000, clock=clock, sleep=clock.sleep)
    for _ in range(11):
        layer.around(call(write_bytes=1000), lambda: None)
    assert clock.now_s - 100.0 == pytest.approx(9.0)
    layer.around(call("stat"), lambda: None)
    assert clock.now_s - 100.0 == pytest.approx(9.0)


def test_throttle_refuses_at_once_what_cannot_pass_in_time():
    clock = Clock()
    layer = ThrottleLayer(1000, clock=clock, sleep=clock.sleep)
    layer.around(call(write_bytes=100_000), lambda: None)
    make = fail_with("never made")
    with pytest.raises(errors.Unavailable) as caught:
        layer.around(call(read_bytes=1), make)
    assert (caught.value.code, caught.value.retry, caught.value.outcome) == ("THROTTLED", "after", "not_done")
    assert make.calls == 0
    assert clock.now_s == 100.0


# -- metrics


def test_metrics_count_calls_bytes_errors_and_latency():
    clock = Clock()
    layer = MetricsLayer(clock)

    def slow():
        clock.sleep(0.03)
        return "done"

    assert layer.around(call(write_bytes=5), slow) == "done"
    with pytest.raises(errors.MediumFull):
        layer.around(call(write_bytes=7), fail_with(errors.MediumFull("full")))
    with pytest.raises(ZeroDivisionError):
        layer.around(call("get"), lambda: 1 / 0)
    seen = layer.snapshot()
    put_seen = seen["put"]
    assert (put_seen.calls, put_seen.in_flight, put_seen.write_bytes) == (2, 0, 5)
    assert put_seen.errors == {"MEDIUM_FULL": 1}
    assert put_seen.total_s == pytest.approx(0.03)
    assert sum(put_seen.buckets) == 2
    assert put_seen.buckets[5] == 1  # up to 50 ms
    assert seen["get"].errors == {"UNEXPECTED": 1}
    seen["put"].buckets[0] = 99
    assert layer.snapshot()["put"].buckets[0] == 1


# -- fault


@pytest.fixture
def control(tmp_path):
    path = tmp_path / "faults.json"

    def write(*rules):
        path.write_text(json.dumps(rules))
        # Two writes within one tick of the clock are told apart by their size, or by this.
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns + 1_000_000 * write.count))
        write.count += 1

    write.count = 1
    write.path = str(path)
    return write


def test_no_file_no_faults_and_a_file_is_seen_when_it_comes_changes_and_goes(control):
    layer = FaultLayer(control.path)
    assert layer.around(call(), lambda: 1) == 1
    control({"op": "put", "error": "io"})
    with pytest.raises(errors.MediumFailed):
        layer.around(call(), lambda: 1)
    assert layer.around(call("get"), lambda: 2) == 2
    control({"op": "*", "error": "full"})
    with pytest.raises(errors.MediumFull):
        layer.around(call("get"), lambda: 2)
    os.unlink(control.path)
    assert layer.around(call(), lambda: 3) == 3


@pytest.mark.parametrize(
    ("error", "kind", "made"),
    [
        ("io", errors.MediumFailed, 0),
        ("full", errors.MediumFull, 0),
        ("fenced", errors.Fenced, 0),
        ("corrupt", errors.Corrupt, 0),
        ("in_doubt", errors.InDoubt, 1),
    ],
)
def test_kinds_of_faults(control, error, kind, made):
    control({"error": error})
    make = fail_with("done")
    with pytest.raises(kind):
        FaultLayer(control.path).around(call(), make)
    assert make.calls == made


def test_after_calls_count_and_delay(control):
    control({"op": "put", "error": "io", "after_calls": 2, "count": 2, "delay_s": 0.5})
    pauses = []
    layer = FaultLayer(control.path, sleep=pauses.append)
    outcomes = []
    for _ in range(6):
        try:
            outcomes.append(layer.around(call(), lambda: "ok"))
        except errors.MediumFailed:
            outcomes.append("io")
        layer.around(call("stat"), lambda: "ok")
    assert outcomes == ["ok", "ok", "io", "io", "ok", "ok"]
    assert pauses == [0.5, 0.5]


def test_probability_is_replayable(control):
    control({"error": "io", "probability": 0.3, "seed": 5})

    def run():
        layer, outcomes = FaultLayer(control.path), []
        for _ in range(200):
            try:
                outcomes.append(layer.around(call(), lambda: True))
            except errors.MediumFailed:
                outcomes.append(False)
        return outcomes

    first = run()
    assert first == run()
    assert 100 < sum(first) < 180


def test_a_hang_ends_when_its_rule_goes(control):
    control({"error": "hang"})
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 4:
            control()

    with pytest.raises(errors.MediumFailed):
        FaultLayer(control.path, sleep=sleep).around(call(), lambda: "done")
    assert len(naps) == 4


def test_a_wrong_control_file_is_said_loudly(control):
    control({"op": "put", "eror": "io"})
    with pytest.raises(errors.ConfigError, match="eror"):
        FaultLayer(control.path, sleep=lambda s: None).around(call(), lambda: 1)


# -- deadline


def test_a_call_passes_its_result_and_its_error():
    layer = DeadlineLayer("m")
    assert layer.around(call(), lambda: 7) == 7
    with pytest.raises(errors.Conflict):
        layer.around(call(), fail_with(errors.Conflict("no")))
    layer.close()


def test_a_hung_call_is_in_doubt_and_too_many_make_the_medium_suspect():
    layer = DeadlineLayer("m", hung_max=2)
    release = threading.Event()
    for _ in range(2):
        with pytest.raises(errors.DeadlineExceeded) as caught:
            layer.around(call(seconds=1.0), lambda: release.wait(20))
        assert caught.value.outcome == "in_doubt"
    assert layer.hung == 2
    before = threading.active_count()
    with pytest.raises(errors.MediumFailed) as refused:
        layer.around(call(), lambda: 1)
    assert (refused.value.code, refused.value.outcome) == ("MEDIUM_SUSPECT", "not_done")
    assert threading.active_count() <= before  # those of other tests may end meanwhile
    release.set()
    until_s = time.monotonic() + 10
    while layer.hung and time.monotonic() < until_s:
        time.sleep(0.01)
    assert layer.around(call(), lambda: 1) == 1
    layer.close()


def test_a_call_that_no_worker_began_is_not_done():
    layer = DeadlineLayer("m", workers_max=1)
    release, begun = threading.Event(), threading.Event()

    def hold():
        begun.set()
        return release.wait(20)

    holder = threading.Thread(target=layer.around, args=(call(), hold))
    holder.start()
    assert begun.wait(20)
    make = fail_with("never made")
    with pytest.raises(errors.DeadlineExceeded) as caught:
        layer.around(call(seconds=0.05), make)
    assert caught.value.outcome == "not_done"
    release.set()
    holder.join(20)
    assert layer.around(call(), lambda: 2) == 2
    assert make.calls == 0
    layer.close()


def test_a_passed_deadline_makes_no_call():
    make = fail_with("never")
    with pytest.raises(errors.DeadlineExceeded) as caught:
        DeadlineLayer("m").around(call(seconds=0.0), make)
    assert caught.value.outcome == "not_done"
    assert make.calls == 0


def test_workers_are_bounded_reused_and_end():
    layer = DeadlineLayer("bounded", workers_max=3)

    def mine():
        return [thread for thread in threading.enumerate() if thread.name == "medium-bounded"]

    threads = [
        threading.Thread(target=layer.around, args=(call(), lambda: time.sleep(0.005))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert 1 <= len(mine()) <= 3
    layer.close()
    for thread in mine():
        thread.join(20)
    assert mine() == []
    with pytest.raises(errors.MediumFailed):
        layer.around(call(), lambda: 1)


# -- the wrapper


def test_what_is_no_staddle_error_is_a_failed_medium_in_doubt(medium):
    wrapped = WrappedMedium(medium, "m", [])
    volume = wrapped.open(LABEL, "write", 1, Deadline(20))
    volume.inner.put = lambda *arguments: 1 / 0
    with pytest.raises(errors.MediumFailed) as caught:
        put(volume)
    assert (caught.value.retry, caught.value.outcome) == ("elsewhere", "in_doubt")
    assert "ZeroDivisionError" in caught.value.message


def test_a_listing_goes_on_after_a_page_that_failed_once(medium):
    layers = [RetryLayer(sleep=lambda s: None)]
    volume = WrappedMedium(medium, "m", layers).open(LABEL, "write", 1, Deadline(20))
    names = [f"c0/{number:08x}" for number in range(LIST_PAGE * 2 + 5)]
    medium._store.names = names
    medium._store.objects = dict.fromkeys(names, b"")
    inner, calls = volume.inner.list, []

    def flaky(after, deadline, prefix=""):
        calls.append(after)
        for number, info in enumerate(inner(after, deadline, prefix)):
            if len(calls) == 2 and number == 100:
                raise errors.InDoubt("cut")
            yield info

    volume.inner.list = flaky
    assert [info.name for info in volume.list("", Deadline(20))] == names
    assert len(calls) == 4


def test_all_layers_together(medium, control):
    settings = MediumSettings(
        name="m", plugin="memory", deadline_s=5.0, fault_file=control.path, throttle_bytes_per_s=1 << 30
    )
    control({"op": "put", "error": "hang", "count": 1})
    wrapped = wrap(medium, settings, metrics=(metrics := MetricsLayer()), sleep=lambda s: None)
    volume = wrapped.open(LABEL, "write", 1, Deadline(20))
    begun_s = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        put(volume, seconds=0.2)
    assert time.monotonic() - begun_s < 5
    assert put(volume).size_bytes == 4
    assert volume.get("c0/aa", 1, 2, Deadline(20)) == b"at"
    assert volume.stat("c0/aa", Deadline(20)).size_bytes == 4
    assert [info.name for info in volume.list("", Deadline(20))] == ["c0/aa"]
    volume.delete("c0/aa", Deadline(20))
    assert volume.capacity().free_bytes > 0
    assert wrapped.health(Deadline(20)).state == "up"
    assert wrapped.read_label(Deadline(20))
    assert wrapped.probe(Deadline(20))
    seen = metrics.snapshot()
    assert (seen["put"].calls, seen["put"].errors) == (2, {"DEADLINE": 1})
    assert seen["get"].read_bytes == 2
    control()
    volume.close()
    wrapped.close()
    wrapped.close()
