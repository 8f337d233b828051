"""The op-log's files: torn tails, damage, versions, epochs, group commit, failing disks."""

import os
import threading

import pytest

from staddle.api.catalog import Record
from staddle.catalog import snapshots
from staddle.catalog.latency import CommitLatency
from staddle.catalog.logformat import HEADER_BYTES, file_name
from staddle.catalog.logrecovery import log_names, read_records, scan_log
from staddle.catalog.oplog import OpLog, highest_epoch
from staddle.errors import ConfigError, Corrupt, Fenced, NewerFormat, StaddleError, Unavailable, UsageError
from staddle.platform.durable import Files

GRID = bytes(range(16))


def records_of(epoch, first, count, size=10):
    return [
        Record(epoch, lsn, "op", {"data": bytes([lsn % 256]) * size}) for lsn in range(first, first + count)
    ]


def filled(directory, frames=5, epoch=1):
    """A closed log of single-record frames; the path of its file and the offsets at which the frames end."""
    log = OpLog(directory, GRID, epoch)
    ends = []
    for record in records_of(epoch, log.last_lsn + 1, frames):
        log.append([record]).result(10)
        ends.append(log._logs[-1].end)
    log.close()
    return os.path.join(directory, log_names(directory)[-1][2]), ends


def read_all(directory):
    scan = scan_log(directory, GRID)
    return list(read_records(scan.files, 0, scan.next_lsn - 1))


class Counting(Files):
    """Counts syncs; a write waits at the gate; a sync fails on demand."""

    def __init__(self):
        self.syncs = 0
        self.fail = False
        self.gate = threading.Event()
        self.gate.set()

    def write(self, fd, data):
        assert self.gate.wait(10)
        super().write(fd, data)

    def datasync(self, fd):
        if self.fail:
            raise OSError(5, "I/O error")
        self.syncs += 1
        super().datasync(fd)


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "oplog")


def test_a_log_cut_at_any_byte_keeps_exactly_the_whole_frames(directory):
    path, ends = filled(directory)
    with open(path, "rb") as file:
        whole = file.read(ends[-1])
    for cut in range(HEADER_BYTES, len(whole) + 1):
        for rest in (b"", bytes(64)):
            with open(path, "wb") as file:
                file.write(whole[:cut] + rest)
            assert len(read_all(directory)) == sum(end <= cut for end in ends), cut


def test_a_flipped_byte_never_gives_other_records(directory):
    path, ends = filled(directory, frames=3)
    expected = read_all(directory)
    with open(path, "rb") as file:
        whole = file.read(ends[-1])
    for at in range(len(whole)):
        with open(path, "wb") as file:
            file.write(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :] + bytes(32))
        if at >= ends[-2]:  # of the last frame nothing proves that it was ever acknowledged
            assert read_all(directory) == expected[:2]
        else:
            with pytest.raises((Corrupt, NewerFormat, ConfigError)) as caught:
                read_all(directory)
            assert path in caught.value.message


def test_damage_names_file_and_offset(directory):
    path, ends = filled(directory)
    with open(path, "r+b") as file:
        file.seek(ends[1] + 20)
        file.write(b"\xff\xff")
    with pytest.raises(Corrupt, match=f"{path}.*offset {ends[1]}"):
        OpLog(directory, GRID, 2)


def test_a_torn_tail_is_cut_before_the_next_epoch_writes(directory):
    path, ends = filled(directory)
    with open(path, "r+b") as file:
        file.seek(ends[-1])
        file.write(b"\xf5SLF torn")
    log = OpLog(directory, GRID, 2)
    assert os.path.getsize(path) == ends[-1]
    log.append(records_of(2, 6, 1)).result(10)
    log.close()
    assert [record.lsn for record in read_all(directory)] == [1, 2, 3, 4, 5, 6]


def test_a_torn_tail_of_an_earlier_file_is_damage(directory):
    path, ends = filled(directory)
    filled(directory, epoch=2)
    with open(path, "r+b") as file:
        file.truncate(ends[-1] - 3)
    with pytest.raises(Corrupt, match=f"{path}.*offset {ends[-2]}"):
        scan_log(directory, GRID)


def test_a_missing_file_is_damage(directory):
    filled(directory)
    path, _ = filled(directory, epoch=2)
    filled(directory, epoch=3)
    os.remove(path)
    with pytest.raises(Corrupt, match="record 11, where 6 belongs"):
        OpLog(directory, GRID, 4)


def test_a_missing_beginning_is_damage_unless_a_snapshot_covers_it(directory):
    path, _ = filled(directory)
    log = OpLog(directory, GRID, 2)
    log.write_snapshot(5, b"state")
    log.append(records_of(2, 6, 1)).result(10)
    log.close()
    os.remove(path)
    log = OpLog(directory, GRID, 3)
    assert log.first_lsn == 6
    assert [record.lsn for record in log.replay(5)] == [6]
    with pytest.raises(Corrupt, match="missing"):
        list(log.replay(4))
    log.close()
    os.remove(os.path.join(directory, "snapshot-0000000000000005.snap"))
    with pytest.raises(Corrupt, match="no snapshot verifies"):
        OpLog(directory, GRID, 4)


def test_an_epoch_that_is_not_higher_is_fenced(directory):
    filled(directory, epoch=7)
    assert highest_epoch(directory) == 7
    for epoch in (6, 7):
        with pytest.raises(Fenced):
            OpLog(directory, GRID, epoch)


def test_what_a_zombie_of_an_earlier_epoch_appends_does_not_count(directory):
    zombie = OpLog(directory, GRID, 1)
    zombie.append(records_of(1, 1, 3)).result(10)
    log = OpLog(directory, GRID, 2)
    zombie.append(records_of(1, 4, 2)).result(10)
    log.append(records_of(2, 4, 1)).result(10)
    zombie.append(records_of(1, 6, 1)).result(10)
    zombie.close()
    log.close()
    assert [(record.epoch, record.lsn) for record in read_all(directory)] == [(1, 1), (1, 2), (1, 3), (2, 4)]


def test_an_append_is_there_whole_or_not_at_all(directory):
    log = OpLog(directory, GRID, 1)
    log.append(records_of(1, 1, 3)).result(10)
    end = log._logs[-1].end
    log.close()
    path = os.path.join(directory, file_name(1, 1))
    with open(path, "r+b") as file:
        file.truncate(end - 1)
    assert read_all(directory) == []


def test_a_newer_version_and_another_grid_are_refused(directory):
    path, _ = filled(directory)
    with pytest.raises(ConfigError, match="belongs to grid"):
        OpLog(directory, b"x" * 16, 2)
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(b"\x02")
    with pytest.raises(NewerFormat):
        OpLog(directory, GRID, 2)


def test_appends_that_wait_together_share_one_write_and_one_sync(directory):
    files = Counting()
    log = OpLog(directory, GRID, 1, files=files)
    before = files.syncs
    files.gate.clear()
    futures = [log.append(records_of(1, lsn, 1)) for lsn in range(1, 101)]
    assert not futures[0].done()
    files.gate.set()
    assert [future.result(10) for future in futures] == list(range(1, 101))
    log.close()
    # the writer had taken between one and all of them when the gate closed
    assert files.syncs - before <= 2
    assert len(read_all(directory)) == 100


def test_nothing_is_acknowledged_before_its_sync(directory):
    files = Counting()
    log = OpLog(directory, GRID, 1, files=files)
    files.gate.clear()
    future = log.append(records_of(1, 1, 1))
    with pytest.raises(TimeoutError):
        future.result(0.05)
    assert log.durable_lsn == 0
    assert list(log.replay()) == []
    files.gate.set()
    assert future.result(10) == log.durable_lsn == 1
    log.close()


def test_after_a_failed_sync_nothing_is_accepted(directory):
    files = Counting()
    log = OpLog(directory, GRID, 1, files=files)
    log.append(records_of(1, 1, 1)).result(10)
    files.fail = True
    files.gate.clear()
    futures = [log.append(records_of(1, lsn, 1)) for lsn in (2, 3, 4)]
    files.gate.set()
    for future in futures:
        with pytest.raises(StaddleError, match="I/O error") as caught:
            future.result(10)
        assert (caught.value.code, caught.value.outcome) == ("LOG_FAILED", "in_doubt")
    files.fail = False
    with pytest.raises(StaddleError, match="I/O error"):
        log.append(records_of(1, 5, 1))
    log.close()
    assert log.durable_lsn == 1
    assert read_all(directory)[0].lsn == 1


def test_the_queue_is_bounded_and_takes_the_same_records_later(directory, monkeypatch):
    monkeypatch.setattr("staddle.catalog.oplog.QUEUE_BYTES_MAX", 1000)
    files = Counting()
    log = OpLog(directory, GRID, 1, files=files)
    files.gate.clear()
    taken = []
    with pytest.raises(Unavailable) as caught:
        taken.extend(log.append(records_of(1, lsn, 1, size=300)) for lsn in range(1, 20))
    assert caught.value.code == "LOG_BUSY"
    assert 1 < log.last_lsn < 10
    files.gate.set()
    assert taken[-1].result(10) == log.last_lsn
    assert log.append(records_of(1, log.last_lsn + 1, 1, size=300)).result(10) == log.last_lsn
    log.close()


@pytest.mark.parametrize(
    "records",
    [[], records_of(1, 2, 1), records_of(2, 1, 1), [records_of(1, 1, 1)[0], records_of(1, 3, 1)[0]]],
)
def test_only_the_next_records_of_this_epoch_are_taken(directory, records):
    log = OpLog(directory, GRID, 1)
    with pytest.raises(UsageError):
        log.append(records)
    assert log.last_lsn == 0
    log.close()


def test_a_closed_log_refuses_and_close_writes_what_waits(directory):
    log = OpLog(directory, GRID, 1)
    futures = [log.append(records_of(1, lsn, 1)) for lsn in range(1, 50)]
    log.close()
    log.close()
    assert all(future.done() for future in futures)
    with pytest.raises(Unavailable):
        log.append(records_of(1, 50, 1))


def test_a_file_without_its_name_is_swept_away(directory):
    filled(directory)
    leftover = os.path.join(directory, file_name(2, 6) + ".tmp")
    with open(leftover, "wb") as file:
        file.write(b"half")
    OpLog(directory, GRID, 2).close()
    assert not os.path.exists(leftover)


def test_a_large_record_gets_the_room_it_needs(directory):
    log = OpLog(directory, GRID, 1)
    log.append(records_of(1, 1, 1, size=3 << 20)).result(10)
    log.append(records_of(1, 2, 1)).result(10)
    log.close()
    assert [len(record.args["data"]) for record in read_all(directory)] == [3 << 20, 10]


def test_the_two_newest_snapshots_that_verify_are_kept(directory):
    log = OpLog(directory, GRID, 1)
    log.append(records_of(1, 1, 9)).result(10)
    for lsn in (2, 4):
        log.write_snapshot(lsn, b"state %d" % lsn)
    with open(os.path.join(directory, "snapshot-0000000000000004.snap"), "r+b") as file:
        file.seek(90)
        file.write(b"\xff")
    assert log.newest_snapshot() == snapshots.Snapshot(1, 2, b"state 2")
    log.write_snapshot(6, b"state 6")
    assert log.newest_snapshot().state == b"state 6"
    assert snapshots.read_snapshot(directory, GRID, 2).state == b"state 2"
    for lsn in (6, 10):
        with pytest.raises(UsageError):
            log.write_snapshot(lsn, b"")
    log.close()


def test_files_are_dropped_only_below_two_snapshots_and_every_floor(directory):
    log = OpLog(directory, GRID, 1, segment_bytes=200)
    for lsn in range(1, 31):
        log.append(records_of(1, lsn, 1, size=100)).result(10)
    assert len(log_names(directory)) > 5
    log.write_snapshot(20, b"a")
    assert log.truncate([30]) == []
    log.write_snapshot(25, b"b")
    assert log.truncate([]) == []
    log.truncate([10])
    assert 5 < log.first_lsn <= 11
    assert len(log.truncate([30, 30])) > 0
    assert 11 < log.first_lsn <= 21
    assert [record.lsn for record in log.replay(20)] == list(range(21, 31))
    log.close()
    log = OpLog(directory, GRID, 2)
    assert [record.lsn for record in log.replay(20)] == list(range(21, 31))
    log.close()


def test_latency_has_bands():
    latency = CommitLatency()
    assert latency.band == "good"
    for seconds, band in ((0.0005, "good"), (0.003, "acceptable"), (0.05, "degraded")):
        for _ in range(300):
            latency.observe(seconds)
        assert latency.band == band
    assert latency.count == sum(latency.counts) == 900
    assert latency.sum_s == pytest.approx(300 * 0.0535)
