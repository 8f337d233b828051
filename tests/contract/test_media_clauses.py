"""The clauses M1-M10 of the media contract, written once, tried on every medium that is at hand.

The seed of the conformance kit: a test's name begins with the clause that it checks.
"""

import functools
import json
import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_cases import (
    FENCING,
    LABEL,
    ON_DISK,
    OTHER,
    digest_of,
    names,
    new_name,
    put,
    soon,
    text_of,
    whole,
)

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import Cap, Durability, Kind, MediumState, ObjectInfo, object_name


def test_what_is_left_out_is_what_is_not_claimed(blank):
    on_disk, fencing = (blank.kind in mark.args[1] for mark in (ON_DISK, FENCING))
    assert on_disk == (blank.type.durability == Durability.POWER_LOSS)
    assert fencing == (Cap.FENCE in blank.type.capabilities)
    assert Cap.MULTI_WRITER in blank.type.capabilities


# -- M1 whole or not at all


def test_m1_nothing_of_a_put_that_fails_is_visible(volume):
    name = new_name()
    with pytest.raises(errors.Corrupt):
        volume.put(name, [b"abc"], digest_of(b"other"), soon())
    with pytest.raises(errors.NotFound):
        volume.stat(name, soon())
    assert names(volume) == []
    assert put(volume, name, b"abc").size_bytes == 3


@ON_DISK
def test_m1_no_torn_object_after_kill_in_mid_put(case, seed):
    rng = random.Random(seed)
    for _ in range(4):
        writer = case.spawn("write_forever", str(rng.randrange(1 << 30)))
        try:
            acknowledged = [writer.stdout.readline().split() for _ in range(rng.randrange(2, 6))]
            time.sleep(rng.uniform(0, 0.05))
        finally:
            writer.kill()
            rest, _ = writer.communicate(timeout=20)
        acknowledged += [line.split() for line in rest.splitlines() if line.count(" ") == 1]
        volume = case.open()
        for name, digest in acknowledged:
            assert digest_of(whole(volume, name)).hex() == digest
        for name in names(volume):
            # The writer puts each object's digest into its first bytes.
            data = whole(volume, name)
            assert data[:32] == digest_of(data[32:]), f"torn object {name}"


# -- M2, M3 receipts


def test_m2_receipt_says_what_was_stored(case, volume):
    name = new_name()
    receipt = put(volume, name, b"ab", bytearray(b"cd"), memoryview(b"ef"))
    assert receipt.name == name
    assert receipt.size_bytes == 6
    assert receipt.digest == digest_of(b"abcdef")
    assert receipt.volume == LABEL.volume
    assert receipt.durability == case.type.durability
    assert receipt.durable


def test_m3_another_opener_sees_it_at_once(case, volume):
    other = case.open("read")
    assert names(other) == []
    name = new_name()
    put(volume, name, b"hello")
    assert names(other) == [name]
    assert other.stat(name, soon()) == ObjectInfo(name, 5)
    assert whole(other, name) == b"hello"


@ON_DISK
def test_m3_another_process_sees_it_at_once(case):
    name = new_name()
    put(case.open(), name, b"hello")
    reader = case.spawn("read", name)
    out, _ = reader.communicate(timeout=30)
    assert bytes.fromhex(out.strip()) == b"hello"


# -- M4 names are used once


def test_m4_same_bytes_again_is_the_same_receipt(volume):
    name = new_name()
    first = put(volume, name, b"x" * 1000, b"y")
    assert put(volume, name, b"x" * 999, b"xy") == first
    assert names(volume) == [name]


@pytest.mark.parametrize("others", [b"abd", b"ab", b"abcd", b""])
def test_m4_other_bytes_conflict_and_the_old_ones_stay(volume, others):
    name = new_name()
    put(volume, name, b"abc")
    with pytest.raises(errors.Conflict):
        put(volume, name, others)
    assert whole(volume, name) == b"abc"


def test_m4_one_of_many_threads_wins_and_all_others_are_told(volume):
    name = new_name()
    start, outcomes = threading.Barrier(4), []

    def write(number):
        start.wait(timeout=20)
        try:
            outcomes.append(put(volume, name, b"%d" % number * 5000).digest)
        except errors.Conflict:
            outcomes.append(None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(outcomes) == 4
    assert outcomes.count(None) == 3
    assert digest_of(whole(volume, name)) in outcomes


@ON_DISK
def test_m4_two_processes_at_once(case):
    writers = [case.spawn("race", str(number)) for number in (1, 2)]
    won = []
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        won.append(json.loads(out))
    volume = case.open()
    listed = names(volume)
    assert len(listed) == 20
    for name in listed:
        winners = [number for number, names_won in enumerate(won, 1) if name in names_won]
        assert len(winners) == 1
        assert whole(volume, name) == b"%d" % winners[0] * 3000


# -- M5 fences and late deletes


def test_m5_a_late_delete_hits_only_its_own_placement(volume):
    container, first, second = random.randbytes(16), random.randbytes(8), random.randbytes(8)
    old, new = (object_name(Kind.CONTAINER, container, placement) for placement in (first, second))
    put(volume, old, b"same")
    put(volume, new, b"same")
    volume.delete(old, soon())
    volume.delete(old, soon())
    assert names(volume) == [new]
    assert whole(volume, new) == b"same"


@FENCING
def test_m5_a_fenced_holder_changes_nothing(case):
    name = new_name()
    old = case.open(epoch=3)
    put(old, name, b"kept")
    case.open(epoch=4)
    with pytest.raises(errors.Fenced):
        put(old, new_name(), b"late")
    with pytest.raises(errors.Fenced):
        old.delete(name, soon())
    with pytest.raises(errors.Fenced):
        case.open(epoch=3)
    assert names(case.open(epoch=4)) == [name]


# -- M6 lists


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_m6_list_is_complete_ordered_and_after_and_prefix_hold(case, data):
    segment = st.text("0a9f", min_size=1, max_size=3)
    wanted = data.draw(
        st.lists(st.lists(segment, min_size=1, max_size=3).map("/".join), unique=True, max_size=12)
    )
    # No object is the beginning of another's path: Staddle's names all have three segments.
    stored = [name for name in wanted if not any(other.startswith(name + "/") for other in wanted)]
    volume = case.fresh()
    for name in stored:
        put(volume, name, name.encode())
    after = data.draw(st.sampled_from(["", *wanted]) | segment)
    prefix = data.draw(st.sampled_from(["", "0", "a/", *[name[:3] for name in wanted]]))
    expected = sorted(name for name in stored if name > after and name.startswith(prefix))
    assert names(volume, after, prefix) == expected
    assert all(info.size_bytes == len(info.name) for info in volume.list("", soon()))


def test_m6_list_under_a_writer_misses_nothing_that_was_there_before(volume):
    before = sorted(new_name() for _ in range(60))
    for name in before:
        put(volume, name, b"x")
    stop = threading.Event()

    def write():
        for _ in range(200):
            if stop.is_set():
                return
            put(volume, new_name(), b"y")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        listed = names(volume)
    finally:
        stop.set()
        thread.join(timeout=30)
    assert listed == sorted(set(listed))
    assert set(before) <= set(listed)


# -- M7 reads are checked


def test_m7_ranges_are_exact(volume):
    name, data = new_name(), random.randbytes(100_000)
    put(volume, name, data[:30_000], data[30_000:])
    for offset, length in [(0, 0), (0, 1), (0, 100_000), (29_999, 2), (99_999, 1), (100_000, 0), (5, 70_000)]:
        piece = volume.get(name, offset, length, soon())
        assert piece == data[offset : offset + length]
        assert isinstance(piece, bytes)


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (10, 1), (11, 0), (1 << 40, 1), (0, 1 << 62)])
def test_m7_a_range_beyond_the_end_is_corrupt(volume, offset, length):
    name = new_name()
    put(volume, name, b"0123456789")
    with pytest.raises(errors.Corrupt):
        volume.get(name, offset, length, soon())


def test_m7_what_is_not_there_is_not_found(volume):
    for call in (volume.stat, functools.partial(volume.get, offset=0, length=1)):
        with pytest.raises(errors.NotFound):
            call(new_name(), deadline=soon())


def test_m7_an_empty_object_is_an_object(volume):
    name = new_name()
    assert put(volume, name).size_bytes == 0
    assert whole(volume, name) == b""
    assert names(volume) == [name]


# -- M8 deadlines


def test_m8_a_passed_deadline_does_nothing(volume):
    name = new_name()
    with pytest.raises(errors.StaddleError) as caught:
        put(volume, name, b"late", deadline=Deadline(0.0))
    assert caught.value.outcome == "not_done" or caught.value.code == "MEDIUM_FAILED"
    with pytest.raises(errors.NotFound):
        volume.stat(name, soon())


# -- M9 room


def test_m9_capacity_is_plausible(case, volume):
    before = volume.capacity()
    assert 0 <= before.free_bytes <= before.total_bytes


# -- M10 the label


def test_m10_label_comes_back_and_the_same_again_is_fine(case):
    medium = case.medium()
    assert medium.read_label(soon()) == text_of(LABEL)
    medium.initialize(LABEL, text_of(LABEL), soon())
    assert medium.health(soon()).state == MediumState.UP


def test_m10_no_second_label(case):
    put(case.open(), new_name(), b"data")
    with pytest.raises(errors.Conflict):
        case.medium().initialize(OTHER, text_of(OTHER), soon())
    assert case.medium().read_label(soon()) == text_of(LABEL)


def test_m10_another_volume_is_not_opened(case):
    with pytest.raises(errors.MediumFailed):
        case.medium().open(OTHER, "write", 1, soon())


def test_m10_no_label_no_volume(blank):
    with pytest.raises(errors.NotFound):
        blank.medium().read_label(soon())
    with pytest.raises(errors.MediumFailed):
        blank.open()


@ON_DISK
def test_m10_a_directory_of_somebody_else_is_refused(blank):
    Path(blank.where).mkdir()
    (Path(blank.where) / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.Conflict):
        blank.medium().initialize(LABEL, text_of(LABEL), soon())
    assert os.listdir(blank.where) == ["thesis.txt"]


# -- names


@pytest.mark.parametrize("name", ["0", "f" * 64, "/".join(["a" * 53] * 2), "c0/7f/" + "0" * 48])
def test_names_at_their_limits(volume, name):
    put(volume, name, b"1")
    assert names(volume) == [name]
    assert whole(volume, name) == b"1"
    volume.delete(name, soon())
    assert names(volume) == []


@pytest.mark.parametrize(
    "name", ["", "A", "g", "../x", "a//b", "/a", "a/", "f" * 65, "a/.", "a" * 161, "a\n"]
)
def test_other_names_are_refused_and_nothing_is_touched(case, volume, name):
    calls = [
        lambda: put(volume, name, b"x"),
        lambda: volume.get(name, 0, 0, soon()),
        lambda: volume.stat(name, soon()),
        lambda: volume.delete(name, soon()),
    ]
    for call in calls:
        with pytest.raises(errors.StaddleError) as caught:
            call()
        assert caught.value.retry == "never"
    assert names(volume) == []


def test_probe_disproves_nothing_that_is_declared_and_leaves_nothing(case):
    before = sorted(os.listdir(case.where)) if os.path.isdir(case.where) else []
    findings = case.medium().probe(soon())
    assert all(finding.holds for finding in findings)
    after = sorted(os.listdir(case.where)) if os.path.isdir(case.where) else []
    assert after == before


@ON_DISK
def test_a_vanished_volume_is_a_failed_medium_and_nothing_is_made_in_its_place(case):
    volume = case.open()
    name = new_name()
    put(volume, name, b"x")
    moved = case.where + " moved"
    os.rename(case.where, moved)
    os.mkdir(case.where)
    calls = [
        lambda: put(volume, new_name(), b"y"),
        lambda: volume.get(name, 0, 1, soon()),
        lambda: volume.stat(name, soon()),
        lambda: names(volume),
        lambda: volume.delete(name, soon()),
    ]
    for call in calls:
        with pytest.raises(errors.MediumFailed) as caught:
            call()
        assert caught.value.retry == "elsewhere"
    assert case.medium().health(soon()).state == MediumState.OFFLINE
    assert os.listdir(case.where) == []
    shutil.rmtree(case.where)
    os.rename(moved, case.where)
    assert whole(volume, name) == b"x"
