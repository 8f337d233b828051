"""What lies in a home and on agents: every byte of it spoilt is noticed, or costs nothing but a cache."""

import itertools
import os
import random

import msgspec
import numpy as np
import pytest
from damagekit import FULL, cuts, flips, other_shapes, refused

from staddle.api.catalog import Record
from staddle.catalog import snapshots
from staddle.catalog.logrecovery import log_names, read_records, scan_log
from staddle.catalog.oplog import OpLog
from staddle.catalog.snapshots import Snapshot
from staddle.daemon import runfiles
from staddle.daemon.runfiles import RunFile
from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.dedup.publication import Publication
from staddle.engine import ops
from staddle.engine.state import GridState
from staddle.errors import StaddleError
from staddle.platform.durable import Files

GRID = bytes(range(16))
SPOILS = 40  # of each kind, unless STADDLE_DAMAGE_FULL says all


def some(ways, rng, count=SPOILS):
    ways = list(ways)
    return ways if FULL else rng.sample(ways, min(count, len(ways)))


def spoils(data, rng, count=SPOILS):
    yield from some(flips(data, rng), rng, count)
    yield from some(cuts(data, rng), rng, count // 2)
    yield from other_shapes(data, rng)


# --- the op-log ---------------------------------------------------------------------------------------


def records():
    made = [ops.GridCreated(grid=GRID), ops.EpochBegun(epoch=1, at_ns=5)]
    made += [ops.AgentSet(name=f"agent-{number}", urls=[f"mem://{number}"]) for number in range(12)]
    return [Record(1, lsn, ops.NAMES[type(op)], ops.to_args(op)) for lsn, op in enumerate(made, 1)]


@pytest.fixture
def oplog(tmp_path):
    """A closed log, one frame for each record: (directory, path, its bytes, its records)."""
    directory = str(tmp_path / "oplog")
    os.makedirs(directory)
    log = OpLog(directory, GRID, 1)
    for record in records():
        log.append([record]).result(10)
    log.close()
    path = os.path.join(directory, log_names(directory)[-1][2])
    with open(path, "rb") as file:
        return directory, path, file.read(), records()


def read_log(directory):
    scan = scan_log(directory, GRID)
    return list(read_records(scan.files, 0, scan.next_lsn - 1))


def plain(found):
    return [msgspec.msgpack.encode(record) for record in found]


def test_a_spoilt_op_log_is_refused_by_name_and_never_says_anything_else(oplog, seed):
    rng = random.Random(seed)
    directory, path, data, want = oplog
    used = len(data.rstrip(b"\0"))
    shorter = 0
    for what, spoilt in itertools.chain(flips(data[:used], rng, 300), cuts(data[:used], rng, 60)):
        whole = spoilt + data[used:] if "flipped" in what else spoilt
        with open(path, "wb") as file:
            file.write(whole)
        try:
            got = read_log(directory)
        except StaddleError as error:
            named = path in error.message
            assert named, what
            continue
        # A write that a crash has torn looks like damage of the last frame: never other records, never a gap.
        assert plain(got) == plain(want[: len(got)]), what
        shorter += len(got) < len(want)
        if "flipped" in what:
            assert len(got) >= len(want) - 1, f"{what}: only the last frame can be taken for a torn one"
    assert shorter, "the test meets torn tails too"


def test_a_log_of_an_earlier_day_or_another_grid_is_told_apart(oplog, tmp_path):
    directory, _, _, want = oplog
    with pytest.raises(StaddleError, match="belongs to grid"):
        scan_log(directory, bytes(16))
    # Two files in each other's place.
    log = OpLog(directory, GRID, 2)
    log.append([Record(2, len(want) + 1, "epoch_begun", {"epoch": 2, "at_ns": 6})]).result(10)
    log.close()
    first, second = (os.path.join(directory, name) for _, _, name in log_names(directory))
    os.rename(first, first + ".x")
    os.rename(second, first)
    os.rename(first + ".x", second)
    with pytest.raises(StaddleError, match="another file"):
        scan_log(directory, GRID)


def test_a_spoilt_snapshot_is_passed_over_for_the_older_one(tmp_path, seed):
    rng = random.Random(seed)
    state = GridState()
    for record in records():
        state.apply(record)
    directory = str(tmp_path)
    older = Snapshot(1, 3, b"older")
    newer = Snapshot(1, state.lsn, state.dump())
    for each in (older, newer):
        snapshots.write_snapshot(directory, GRID, each, Files())
    path = tmp_path / f"snapshot-{state.lsn:016x}.snap"
    data = path.read_bytes()
    assert next(snapshots.verified(directory, GRID)) == newer
    for what, spoilt in spoils(data, rng, 200):
        path.write_bytes(spoilt)
        try:
            assert next(snapshots.verified(directory, GRID)) == older, what
        except StaddleError as error:
            named = str(path) in error.message
        else:
            continue
        assert named, what


# --- run files ----------------------------------------------------------------------------------------


def test_a_spoilt_run_file_sends_nobody_to_another_process(tmp_path, seed):
    rng = random.Random(seed)
    home = str(tmp_path)
    run = RunFile(part="manager", pid=123456, pids=[123456, 123457], urls=["unix:///run/m.sock"])
    lock = runfiles.claim(home, "manager")
    try:
        runfiles.publish(home, run)
        path = tmp_path / "run" / "manager.json"
        data = path.read_bytes()
        assert runfiles.running(home, "manager") == run
        for what, spoilt in itertools.chain(flips(data, rng), cuts(data, rng), other_shapes(data, rng)):
            path.write_bytes(spoilt)
            try:
                right = runfiles.running(home, "manager") == run
            except StaddleError as error:
                right = error.code == "CORRUPT" and str(path) in error.message
            assert right, what
    finally:
        lock.release()


# --- the fingerprint library ---------------------------------------------------------------------------


def test_a_spoilt_fingerprint_library_gives_no_wrong_hit(tmp_path, seed):
    """It is a cache: what can't be read is unknown, and stored again."""
    rng = random.Random(seed)
    prints = np.random.default_rng(7).integers(0, 256, (60, 32), dtype=np.uint8)
    never = np.random.default_rng(8).integers(0, 256, (60, 32), dtype=np.uint8)
    whole = tmp_path / "whole"
    with Library.open(str(whole), "a", OwnerMap.everyone()) as library:
        library.publish_many([Publication(1, bytes(15) + b"\1", prints[:40], np.arange(40) + 1)])
        library.merge()
        library.publish_many([Publication(2, bytes(15) + b"\2", prints[40:], np.arange(20) + 1)])
    files = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    tried = 0
    for name, data in sorted(files.items()):
        if not data:
            continue
        for what, spoilt in [*spoils(data, rng, 12), ("gone", None)]:
            where = tmp_path / "spoilt"
            where.mkdir(exist_ok=True)
            for old in where.iterdir():
                old.unlink()
            for other, content in files.items():
                (where / other).write_bytes(content)
            if spoilt is None:
                (where / name).unlink()
            else:
                (where / name).write_bytes(spoilt)
            try:
                library = Library.open(str(where), "a", OwnerMap.everyone())
            except StaddleError as error:
                named = str(where) in error.message
                assert named, f"{name}: {what}"
                continue
            with library:
                hits = library.lookup(prints)
                for row in np.flatnonzero(hits.found).tolist():
                    container = hits.containers[hits.container[row]].tobytes()
                    place = (row, 1) if row < 40 else (row - 40, 2)
                    assert (int(hits.ordinal[row]), container[-1]) == place, f"{name}: {what}"
                assert not library.lookup(never).found.any(), f"{name}: {what}"
            tried += 1
    assert tried > 30
    print(f"{len(files)} files, {tried} ways")


def test_refused_is_none_for_what_is_right():
    assert refused(lambda data: data, b"x") is None
