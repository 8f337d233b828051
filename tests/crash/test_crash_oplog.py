"""The op-log and its snapshots under power cuts."""

import os

import pytest
from crashkit import Scenario, cut_everywhere, forgets, kill_everywhere, notices, syncs_late, tape_of

from staddle.api.catalog import Record
from staddle.catalog.oplog import OpLog

GRID = b"g" * 16


def records(epoch, after, count):
    return [
        Record(epoch, after + n, "op", {"data": bytes([(after + n) % 256]) * 60}) for n in range(1, count + 1)
    ]


class OpLogScenario(Scenario):
    """Three terms of a manager: appends of several sizes, group commits, new files, snapshots, truncation."""

    states = 300
    exhaustive = 4
    recovery_every = 150

    def work(self, root, tape):
        lsn = 0
        for epoch in (1, 2, 3):
            log = OpLog(os.path.join(root, "oplog"), GRID, epoch, segment_bytes=900)
            tape.mark(("epoch", epoch))
            for counts in ((1,), (3, 2), (1,), (4, 1, 1)):
                # What queues up while the writer writes is one group.
                waiting = [log.append(records(epoch, log.last_lsn, count)) for count in counts]
                lsn = waiting[-1].result(30)
                tape.mark(("lsn", lsn))
            log.write_snapshot(lsn - 3, b"state %d" % (lsn - 3))
            tape.mark(("snapshot", lsn - 3))
            log.truncate([lsn])
            log.close()
        self.last = lsn

    def again(self, root, tape):
        log = OpLog(os.path.join(root, "oplog"), GRID, 8)
        tape.mark(("lsn", log.append(records(8, log.last_lsn, 2)).result(30)))
        log.close()

    def recover(self, root):
        OpLog(os.path.join(root, "oplog"), GRID, 8).close()

    def check(self, root, marks):
        """It opens, holds every acknowledged record, invents none, and goes on from there."""
        seen = dict(marks)  # the last of each kind
        directory = os.path.join(root, "oplog")
        log = OpLog(directory, GRID, 9)
        try:
            assert seen.get("lsn", 0) <= log.durable_lsn <= max(self.last, seen.get("lsn", 0))
            snapshot = log.newest_snapshot()
            after = snapshot.lsn if snapshot else 0
            assert after >= seen.get("snapshot", 0)
            assert not snapshot or snapshot.state == b"state %d" % after
            found = list(log.replay(after))
            assert [record.lsn for record in found] == list(range(after + 1, log.durable_lsn + 1))
            assert all(record.args["data"] == bytes([record.lsn]) * 60 for record in found)
            following = records(9, log.last_lsn, 2)
            assert log.append(following).result(30) == following[-1].lsn
            log.write_snapshot(log.last_lsn, b"state %d" % log.last_lsn)
            assert log.newest_snapshot().lsn == log.last_lsn
            assert not [name for name in os.listdir(directory) if name.endswith(".tmp")]
        finally:
            log.close()
        again = OpLog(directory, GRID, 10)
        try:
            assert again.last_lsn == following[-1].lsn
        finally:
            again.close()


@pytest.fixture(scope="module")
def small_room():
    patch = pytest.MonkeyPatch()
    patch.setattr("staddle.catalog.oplog.ROOM_BYTES", 512)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def recorded(small_room, tmp_path_factory):
    scenario = OpLogScenario()
    return scenario, tape_of(scenario, tmp_path_factory.mktemp("oplog") / "recorded")


def test_whatever_was_acknowledged_survives_a_power_cut_at_any_operation(recorded, tmp_path):
    scenario, tape = recorded
    states, nested = cut_everywhere(scenario, tape, tmp_path)
    print(f"seed {scenario.seed}: {len(tape.ops)} operations, {states} states, {nested} in recovery")
    assert states > scenario.states
    assert nested > 10


def test_a_kill_before_the_power_cut_loses_nothing(recorded, tmp_path):
    scenario, tape = recorded
    assert kill_everywhere(scenario, tape, tmp_path) > 20


MUTANTS = {
    "a frame is not synced": forgets("sync", ".log"),
    "a new file is not synced": forgets("sync", ".log.tmp"),
    "a snapshot is not synced": forgets("sync", ".snap"),
    "a directory is not synced": forgets("sync_dir", "oplog"),
    "the log's own directory is not made sure": lambda tape: tape.without(
        lambda op: op.kind == "sync_dir" and not op.path
    ),
    "a new file gets its name first": syncs_late(".log.tmp"),
    "a snapshot is synced only when log files are gone": syncs_late(".snap", after="remove"),
    "a file is removed before the snapshot is there": lambda tape: tape.without(
        lambda op: op.kind == "rename" and ".snap" in op.path
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_notices(recorded, tmp_path, mutant):
    scenario, tape = recorded
    notices(scenario, MUTANTS[mutant](tape), tmp_path)
