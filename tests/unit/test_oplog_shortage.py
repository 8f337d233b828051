"""The op-log short of descriptors, on a disk that forgets what it failed to sync, beside bad blocks."""

import errno
import os
import sys

import pytest
from test_oplog_files import GRID, read_all, records_of

from staddle.catalog import oplog, snapshots
from staddle.catalog.logrecovery import log_names
from staddle.catalog.oplog import OpLog, highest_epoch
from staddle.errors import StaddleError
from staddle.platform import descriptors
from staddle.platform.durable import Files


class Short(Files):
    """No descriptor is free for the next few calls of a kind."""

    def __init__(self):
        self.short = {}

    def _need(self, kind, number=errno.EMFILE):
        if self.short.get(kind, 0) > 0:
            self.short[kind] -= 1
            raise OSError(number, os.strerror(number))

    def create(self, path):
        self._need("create")
        return super().create(path)

    def reopen(self, path):
        self._need("reopen", errno.ENFILE)
        return super().reopen(path)

    def sync_dir(self, path):
        self._need("sync_dir")
        super().sync_dir(path)


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "oplog")


def append(log, lsn):
    return log.append(records_of(log.epoch, lsn, 1, size=100)).result(30)


def test_without_a_free_descriptor_the_full_file_takes_more(directory):
    files = Short()
    log = OpLog(directory, GRID, 1, segment_bytes=200, files=files)
    append(log, 1)
    append(log, 2)
    begun = len(log_names(directory))
    files.short["create"] = 3
    for lsn in range(3, 8):
        assert append(log, lsn) == lsn
        assert files.short["create"] or len(log_names(directory)) >= begun
    assert files.short["create"] == 0
    assert len(log_names(directory)) > begun, "a new file was begun when one was free"
    log.close()
    assert [record.lsn for record in read_all(directory)] == list(range(1, 8))
    OpLog(directory, GRID, 2).close()


@pytest.mark.parametrize("kind", ["sync_dir", "reopen"])
def test_a_new_file_that_has_its_name_is_waited_for(directory, kind):
    files = Short()
    log = OpLog(directory, GRID, 1, segment_bytes=200, files=files)
    append(log, 1)
    files.short[kind] = 3
    for lsn in range(2, 8):
        assert append(log, lsn) == lsn
    assert files.short[kind] == 0
    log.close()
    assert [record.lsn for record in read_all(directory)] == list(range(1, 8))


@pytest.mark.parametrize("kind", ["sync_dir", "reopen"])
def test_a_new_file_that_can_never_be_opened_ends_the_log(directory, kind, monkeypatch):
    monkeypatch.setattr(oplog, "DESCRIPTOR_WAIT_S", 0.0)
    files = Short()
    log = OpLog(directory, GRID, 1, segment_bytes=100, files=files)
    append(log, 1)
    files.short[kind] = 1000
    with pytest.raises(StaddleError) as caught:
        append(log, 2)
    assert caught.value.code == "LOG_FAILED"
    log.close()
    assert [record.lsn for record in read_all(directory)] == [1]


def test_the_first_file_of_a_term_needs_its_descriptor(directory):
    files = Short()
    files.short["create"] = 1
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        OpLog(directory, GRID, 1, files=files)


class Forgetful(Files):
    """As Linux does it: a failed sync is told of once, and its pages pass for written from then on.

    Attributes:
        disk: the bytes of each file that are really there.
    """

    def __init__(self):
        self.disk, self.dirty, self.paths, self.failing = {}, {}, {}, False

    def _opened(self, fd, path):
        self.paths[fd] = path
        self.disk.setdefault(path, bytearray())
        self.dirty.setdefault(path, [])
        return fd

    def create(self, path):
        return self._opened(super().create(path), path)

    def reopen(self, path):
        return self._opened(super().reopen(path), path)

    def write(self, fd, data):
        self.dirty[self.paths[fd]].append((os.lseek(fd, 0, os.SEEK_CUR), bytes(data)))
        super().write(fd, data)

    def truncate(self, fd, size_bytes):
        super().truncate(fd, size_bytes)
        del self.disk[self.paths[fd]][size_bytes:]

    def datasync(self, fd):
        path = self.paths[fd]
        writes, self.dirty[path] = self.dirty[path], []
        if self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        for start, data in writes:
            there = self.disk[path]
            there.extend(bytes(max(0, start + len(data) - len(there))))
            there[start : start + len(data)] = data

    def replace(self, source, target):
        super().replace(source, target)
        self.disk[target] = self.disk.pop(source)
        self.dirty[target] = self.dirty.pop(source)

    def power_cut(self, directory):
        """A directory with what is really there."""
        os.mkdir(directory)
        for path, data in self.disk.items():
            with open(os.path.join(directory, os.path.basename(path)), "wb") as file:
                file.write(data)
        return directory


def test_what_the_next_term_reads_is_on_the_disk_whatever_became_of_a_failed_sync(directory, tmp_path):
    files = Forgetful()
    log = OpLog(directory, GRID, 1, files=files)
    append(log, 1)
    files.failing = True
    with pytest.raises(StaddleError, match=os.strerror(errno.EIO)):
        append(log, 2)
    log.close()
    files.failing = False
    assert [record.lsn for record in read_all(files.power_cut(str(tmp_path / "before")))] == [1]

    log = OpLog(directory, GRID, 2, files=files)
    assert log.durable_lsn == 2, "the page cache gives it to the next term, which tells of it"
    log.close()
    assert [record.lsn for record in read_all(files.power_cut(str(tmp_path / "after")))] == [1, 2]


def failing_open(monkeypatch, path, number):
    def opened(name, *args, **more):
        if name == path:
            raise OSError(number, os.strerror(number), name)
        return open(name, *args, **more)

    monkeypatch.setattr(snapshots, "open", opened, raising=False)


def test_a_bad_block_in_the_newest_snapshot_leaves_the_older_one(directory, monkeypatch):
    log = OpLog(directory, GRID, 1)
    for lsn in range(1, 7):
        append(log, lsn)
    log.write_snapshot(2, b"older")
    log.write_snapshot(4, b"newer")
    log.close()
    newest = os.path.join(directory, "snapshot-0000000000000004.snap")
    failing_open(monkeypatch, newest, errno.EIO)
    assert highest_epoch(directory) == 1
    log = OpLog(directory, GRID, 2)
    assert log.newest_snapshot().state == b"older"
    assert [record.lsn for record in log.replay(2)] == [3, 4, 5, 6]
    log.write_snapshot(6, b"newest")
    assert log.newest_snapshot().state == b"newest"
    assert snapshots.read_snapshot(directory, GRID, 2).state == b"older", "one that can't be read counts not"
    log.close()


def test_a_shortage_is_no_damage_of_a_snapshot(directory, monkeypatch):
    log = OpLog(directory, GRID, 1)
    append(log, 1)
    log.write_snapshot(1, b"state")
    log.close()
    failing_open(monkeypatch, os.path.join(directory, "snapshot-0000000000000001.snap"), errno.EMFILE)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        highest_epoch(directory)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        snapshots.read_snapshot(directory, GRID, 1)


if sys.platform != "win32":
    import resource

    @pytest.fixture
    def limit():
        """The limit of descriptors can be changed here, and is what it was afterwards."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield before[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def test_a_daemon_takes_the_descriptors_that_it_may_have(limit):
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, limit))
        descriptors.raise_limit()
        wanted = descriptors.WANTED if limit == resource.RLIM_INFINITY else min(limit, descriptors.WANTED)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, limit)
        descriptors.raise_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, limit)

    def test_a_limit_that_is_higher_stays_and_one_that_is_refused_leaves_the_lower(limit, monkeypatch):
        found, asked = (80000, 90000), []
        monkeypatch.setattr(resource, "getrlimit", lambda _: found)
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
        descriptors.raise_limit()
        assert asked == []

        def refuse(_, limits):
            asked.append(limits)
            if limits[0] > 20000:
                raise ValueError("not allowed to exceed maximum limit")

        found = (256, resource.RLIM_INFINITY)
        monkeypatch.setattr(resource, "setrlimit", refuse)
        descriptors.raise_limit()
        assert [count for count, _ in asked] == [descriptors.WANTED, 10240]
