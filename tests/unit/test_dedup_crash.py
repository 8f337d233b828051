"""Power loss at every single file operation: the order of writes, syncs and renames is recorded and cut."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.dedup.publication import Publication
from staddle.errors import StaddleError
from staddle.platform.durable import Files

EVERYONE = OwnerMap.everyone()
ROWS = 16
SEED = 20261122


class RecordingFiles(Files):
    """Does everything and writes it down; files are known by number, names point to them."""

    def __init__(self):
        self.journal = []
        self._number, self._next = {}, 0

    def create(self, path):
        fd = super().create(path)
        self._number[fd], self._next = self._next, self._next + 1
        self.journal.append(("create", os.path.basename(path), self._number[fd]))
        return fd

    def reopen(self, path):
        raise AssertionError("the recording starts with an empty directory")

    def write(self, fd, data):
        super().write(fd, data)
        self.journal.append(("write", self._number[fd], bytes(data)))

    def datasync(self, fd):
        super().datasync(fd)
        self.journal.append(("sync", self._number[fd]))

    def replace(self, source, target):
        super().replace(source, target)
        self.journal.append(("replace", os.path.basename(source), os.path.basename(target)))

    def remove(self, path):
        super().remove(path)
        self.journal.append(("remove", os.path.basename(path)))

    def sync_dir(self, path):
        super().sync_dir(path)
        self.journal.append(("sync_dir", os.path.basename(path)))

    def acknowledged(self, lsn):
        self.journal.append(("acknowledged", lsn))


class Disk:
    """What the journal's prefix leaves: names and bytes, as seen by processes and as surely on disk."""

    def __init__(self, directory):
        self.directory = directory
        self.names, self.sure_names = {}, {}
        self.data, self.sure_data = {}, {}
        self.acknowledged = 0

    def apply(self, op):
        match op:
            case ("create", name, number):
                self.names[name] = number
                self.data[number] = self.sure_data[number] = b""
            case ("write", number, data):
                self.data[number] += data
            case ("sync", number):
                self.sure_data[number] = self.data[number]
            case ("replace", source, target):
                self.names[target] = self.names.pop(source)
            case ("remove", name):
                del self.names[name]
            case ("sync_dir", self.directory):
                self.sure_names = dict(self.names)
            case ("acknowledged", lsn):
                self.acknowledged = lsn

    def images(self, rng):
        """Possible directories after a power loss now: name -> bytes."""
        yield "all", {name: self.data[n] for name, n in self.names.items()}
        yield "sure", {name: self.sure_data[n] for name, n in self.sure_names.items()}
        yield "names first", {name: self.sure_data[n] for name, n in self.names.items()}
        yield "bytes first", {name: self.data[n] for name, n in self.sure_names.items()}
        mixed = {}
        for name in sorted({*self.names, *self.sure_names}):
            number = rng.choice([self.names.get(name), self.sure_names.get(name)])
            if number is not None:
                sure, full = len(self.sure_data[number]), self.data[number]
                torn = bytearray(full[: rng.randint(sure, len(full))])
                if len(torn) > sure and rng.random() < 0.5:  # a block that never arrived
                    at = rng.randrange(sure, len(torn))
                    torn[at : at + 512] = bytes(len(torn[at : at + 512]))
                mixed[name] = bytes(torn)
        yield "mixed", mixed


def fingerprints(lsn):
    return np.random.default_rng(lsn).integers(0, 256, (ROWS, 32), dtype=np.uint8)


def container(number):
    return number.to_bytes(16, "big")


def step(library, lsn):
    """Do step `lsn` of the workload: mostly publishes; each seventh removes, each third is two containers."""
    if lsn % 7 == 0:
        library.remove_containers([container(lsn - 5), container(lsn - 1)], lsn=lsn)
        return
    half = ROWS // 2 if lsn % 3 == 0 else ROWS
    fps, lengths = fingerprints(lsn), np.arange(ROWS) + lsn
    parts = [(container(lsn), 0, half), (container(1000 + lsn), half, ROWS)]
    library.publish_many([Publication(lsn, c, fps[a:b], lengths[a:b]) for c, a, b in parts])


def expected_at(lsn_end):
    """Fingerprint -> (container, raw length) after the steps up to `lsn_end`."""
    state = {}
    for lsn in range(1, lsn_end + 1):
        if lsn % 7 == 0:
            gone = {container(lsn - 5), container(lsn - 1)}
            state = {k: v for k, v in state.items() if v[0] not in gone}
            continue
        half = ROWS // 2 if lsn % 3 == 0 else ROWS
        for i, fp in enumerate(fingerprints(lsn)):
            state[fp.tobytes()] = (container(lsn if i < half else 1000 + lsn), i + lsn)
    return state


def content(library, lsn_end):
    fps = np.concatenate([fingerprints(lsn) for lsn in range(1, lsn_end + 1)])
    hits = library.lookup(fps)
    assert not hits.unknown.any()
    return {
        fps[i].tobytes(): (hits.containers[hits.container[i]].tobytes(), int(hits.raw_length[i]))
        for i in np.flatnonzero(hits.found)
    }


STEPS = 24


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    directory = tmp_path_factory.mktemp("recorded")
    files = RecordingFiles()
    with Library.open(str(directory), "a", EVERYONE, merge_floor_rows=64, files=files) as library:
        for lsn in range(1, STEPS + 1):
            step(library, lsn)
            files.acknowledged(lsn)
        assert library.stats().runs == 1
    renames = sum(op[:1] == ("replace",) for op in files.journal)
    assert renames >= 4, "the recording spans merges"
    return directory.name, files.journal


def test_after_a_crash_at_any_operation_what_was_acknowledged_is_there_and_nothing_else(journal, tmp_path):
    name, operations = journal
    print(f"seed {SEED}, {len(operations)} operations")
    cut_everywhere(name, operations, tmp_path)


def cut_everywhere(name, operations, tmp_path):
    """Cut after each operation, open every image, compare; some images also finish the workload."""
    disk, rng = Disk(name), random.Random(SEED)
    seen = set()
    for at, operation in enumerate(operations):
        disk.apply(operation)
        for kind, image in disk.images(rng):
            key = (disk.acknowledged, tuple(sorted(image.items())))
            if key in seen:
                continue
            seen.add(key)
            directory = tmp_path / f"{at}-{kind}"
            directory.mkdir()
            for file, data in image.items():
                (directory / file).write_bytes(data)
            where = f"operation {at} {operation[:2]}, image {kind}"
            # The next step may be there too: it was under way.
            with Library.open(str(directory), "a", EVERYONE, merge_floor_rows=64) as library:
                assert disk.acknowledged <= library.applied_lsn <= disk.acknowledged + 1, where
                assert content(library, STEPS) == expected_at(library.applied_lsn), where
                assert library.damaged() == (), where
                if at % 5 == 0:
                    for lsn in range(library.applied_lsn + 1, STEPS + 1):
                        step(library, lsn)
                    library.merge()
                    assert content(library, STEPS) == expected_at(STEPS), where
            if at % 5 == 0:
                with Library.open(str(directory), "a", EVERYONE) as library:
                    assert content(library, STEPS) == expected_at(STEPS), where
                    names = sorted(os.listdir(directory))
                    assert [n.split(".")[0] for n in names] == ["CURRENT", "lock", "log", "run"], where


def test_a_second_crash_during_recovery_loses_nothing(tmp_path):
    """A torn log, and recovery cut off again: the rest of the record must not come back to life."""
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        for lsn in (1, 2, 3):
            step(library, lsn)
    log = next(p for p in tmp_path.iterdir() if p.name.startswith("log."))
    whole = log.read_bytes()
    log.write_bytes(whole[:-3])
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert library.applied_lsn == 2
        assert library.stats().torn_bytes > 0
        step(library, 3)
    assert log.read_bytes() == whole
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert library.stats().torn_bytes == 0
        assert content(library, 3) == expected_at(3)


def positions(operations, kind, of):
    """Where in the journal operations of a kind touch a file whose name begins with `of`."""
    names = {op[2]: op[1] for op in operations if op[0] == "create"}
    return [
        i for i, op in enumerate(operations) if op[0] == kind and str(names.get(op[1], op[1])).startswith(of)
    ]


@pytest.mark.parametrize(
    ("kind", "of"), [("sync", "log."), ("sync", "run."), ("sync", "CURRENT"), ("sync_dir", "")]
)
def test_the_check_notices_each_sync_that_is_left_out(journal, tmp_path, kind, of):
    name, operations = journal
    left_out = set(positions(operations, kind, of))
    assert left_out
    with pytest.raises((AssertionError, StaddleError)):
        cut_everywhere(name, [op for i, op in enumerate(operations) if i not in left_out], tmp_path)


def test_the_check_notices_old_files_removed_before_the_commit(journal, tmp_path):
    name, operations = journal
    removed = positions(operations, "remove", "log.")
    commits = [i for i in positions(operations, "replace", "CURRENT.tmp") if i < removed[0]]
    early = list(operations)
    early.insert(commits[-1], early.pop(removed[0]))
    with pytest.raises(AssertionError):
        cut_everywhere(name, early, tmp_path)
