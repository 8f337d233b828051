"""Power loss at every file operation of the op-log: cut, torn, reordered as far as no sync forbids."""

import os
import random

from staddle.api.catalog import Record
from staddle.catalog.oplog import OpLog
from staddle.platform.durable import Files

GRID = b"g" * 16
SEED = 20261122


class Recorder(Files):
    """Does everything and writes it down, with the place of every write."""

    def __init__(self):
        self.journal = []
        self._number, self._paths, self._next = {}, {}, 0

    def create(self, path):
        fd = super().create(path)
        self._next += 1
        self._number[fd] = self._paths[path] = self._next
        self.journal.append(("create", os.path.basename(path), self._number[fd]))
        return fd

    def reopen(self, path):
        fd = super().reopen(path)
        self._number[fd] = self._paths[path]
        return fd

    def write(self, fd, data):
        self.journal.append(("write", self._number[fd], os.lseek(fd, 0, os.SEEK_CUR), bytes(data)))
        super().write(fd, data)

    def datasync(self, fd):
        super().datasync(fd)
        self.journal.append(("sync", self._number[fd]))

    def replace(self, source, target):
        super().replace(source, target)
        self._paths[target] = self._paths.pop(source)
        self.journal.append(("replace", os.path.basename(source), os.path.basename(target)))

    def remove(self, path):
        super().remove(path)
        self.journal.append(("remove", os.path.basename(path)))

    def sync_dir(self, path):
        super().sync_dir(path)
        self.journal.append(("sync_dir", os.path.basename(path)))


class Disk:
    """Names and bytes as processes see them, and what is surely on disk."""

    def __init__(self):
        self.names, self.sure_names = {}, {}
        self.data, self.sure = {}, {}
        self.acknowledged = 0

    def apply(self, op):
        match op:
            case ("create", name, number):
                self.names[name] = number
                self.data[number], self.sure[number] = bytearray(), bytearray()
            case ("write", number, at, data):
                kept = self.data[number]
                kept.extend(bytes(max(0, at + len(data) - len(kept))))
                kept[at : at + len(data)] = data
            case ("sync", number):
                self.sure[number] = bytearray(self.data[number])
            case ("replace", source, target):
                self.names[target] = self.names.pop(source)
            case ("remove", name):
                del self.names[name]
            case ("sync_dir", "oplog"):
                self.sure_names = dict(self.names)
            case ("acknowledged", lsn):
                self.acknowledged = lsn

    def image(self, rng, kind):
        """One directory that a power loss may leave: name -> bytes."""
        if kind == "all":
            return {name: bytes(self.data[n]) for name, n in self.names.items()}
        if kind == "sure":
            return {name: bytes(self.sure[n]) for name, n in self.sure_names.items()}
        return {name: self.torn(rng, number) for name, number in self.names.items()}

    def torn(self, rng, number):
        """Of the bytes since the last sync, any 64-byte block may have arrived."""
        sure, data = self.sure[number], self.data[number]
        if sure == data:
            return bytes(sure)
        out = bytearray(sure) + bytes(rng.choice([0, len(data) - len(sure)]))
        for at in range(0, len(out), 64):
            if out[at : at + 64] != data[at : at + 64] and rng.random() < 0.5:
                out[at : at + 64] = data[at : at + 64][: len(out) - at]
        return bytes(out)


def workload(directory, monkeypatch):
    monkeypatch.setattr("staddle.catalog.oplog.ROOM_BYTES", 512)
    files, lsn = Recorder(), 0
    for epoch in (1, 2, 3):
        log = OpLog(directory, GRID, epoch, segment_bytes=900, files=files)
        for count in (1, 3, 2, 1, 4):
            records = [
                Record(epoch, lsn + n, "op", {"data": bytes([lsn + n]) * 60}) for n in range(1, count + 1)
            ]
            lsn = log.append(records).result(10)
            files.journal.append(("acknowledged", lsn))
        log.write_snapshot(lsn - 3, b"state %d" % (lsn - 3))
        log.truncate([lsn])
        log.close()
    return files.journal, lsn


def test_whatever_was_acknowledged_survives_a_power_loss_at_any_operation(tmp_path, monkeypatch):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    journal, last = workload(str(tmp_path / "oplog"), monkeypatch)
    disk, checked = Disk(), 0
    for step, op in enumerate(journal):
        disk.apply(op)
        for kind in ("all", "sure", "torn", "torn"):
            image = disk.image(rng, kind)
            directory = tmp_path / f"{step}-{checked}" / "oplog"
            directory.mkdir(parents=True)
            for name, data in image.items():
                (directory / name).write_bytes(data)
            check(str(directory), disk.acknowledged, last, f"step {step} {op[:2]} {kind}")
            checked += 1
    assert disk.acknowledged == last
    assert checked > 300


def check(directory, acknowledged, last, what):
    """It opens, holds every acknowledged record, invents none, and goes on from there."""
    log = OpLog(directory, GRID, 9)
    try:
        assert acknowledged <= log.durable_lsn <= last, what
        snapshot = log.newest_snapshot()
        after = snapshot.lsn if snapshot else 0
        assert not snapshot or snapshot.state == b"state %d" % after, what
        records = list(log.replay(after))
        assert [record.lsn for record in records] == list(range(after + 1, log.durable_lsn + 1)), what
        assert all(record.args["data"] == bytes([record.lsn]) * 60 for record in records), what
        following = Record(9, log.last_lsn + 1, "op", {"data": bytes([log.last_lsn + 1]) * 60})
        assert log.append([following]).result(10) == following.lsn, what
    finally:
        log.close()
