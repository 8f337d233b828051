"""A library whose disk refused opens its files again by itself, once the disk takes writes."""

from __future__ import annotations

import os

import numpy as np
import pytest

from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.errors import Locked, Unavailable
from staddle.platform.durable import Files

EVERYONE = OwnerMap.everyone()


class Disk(Files):
    """A disk that fills up: writes tear, new files can't be made."""

    def __init__(self):
        self.full = False

    def create(self, path):
        if self.full:
            raise OSError(28, "No space left on device", path)
        return super().create(path)

    def write(self, fd, data):
        if self.full:
            super().write(fd, memoryview(data).cast("B")[:7])
            raise OSError(28, "No space left on device")
        super().write(fd, data)


def fingerprints(seed, count=20):
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def publish(library, number):
    lengths = np.arange(20, dtype=np.uint32) + 1000
    library.publish(number, number.to_bytes(16, "big"), fingerprints(number), lengths)


def found(library, *numbers):
    return [bool(library.lookup(fingerprints(number)).found.all()) for number in numbers]


@pytest.mark.parametrize("merged", [False, True])
def test_after_a_full_disk_it_is_opened_again_and_goes_on(tmp_path, merged):
    disk = Disk()
    with Library.open(str(tmp_path), "a", EVERYONE, merge_floor_rows=30, files=disk) as library:
        for number in range(1, 5):
            publish(library, number)
        if merged:
            library.merge()
        assert not library.refused
        disk.full = True
        with pytest.raises(Unavailable, match="No space left") as refused:
            publish(library, 5)
        assert refused.value.outcome == "in_doubt"
        assert library.refused
        disk.full = False
        with pytest.raises(Unavailable):  # only opened again it knows what its files hold
            publish(library, 5)
        library.reopen()
        assert not library.refused
        assert library.applied_lsn == 4
        assert found(library, 1, 2, 3, 4, 5) == [True, True, True, True, False]
        publish(library, 5)
        assert found(library, 5) == [True]
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert (library.applied_lsn, found(library, 1, 5)) == (5, [True, True])


def test_while_it_can_not_be_opened_again_look_ups_go_on_and_it_stays_refused(tmp_path, monkeypatch):
    disk = Disk()
    with Library.open(str(tmp_path), "a", EVERYONE, files=disk) as library:
        publish(library, 1)
        disk.full = True
        with pytest.raises(Unavailable):
            publish(library, 2)

        def refuse(_path):
            raise OSError(5, "Input/output error")

        disk.full = False
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync_dir", refuse)
            for _ in range(2):
                with pytest.raises(OSError, match="Input/output"):
                    library.reopen()
                assert library.refused
                assert found(library, 1) == [True]
                with pytest.raises(Unavailable):
                    publish(library, 2)
        library.reopen()
        publish(library, 2)
        assert found(library, 1, 2) == [True, True]


def test_opening_again_keeps_the_newer_owner_map_and_others_out(tmp_path):
    disk = Disk()
    newer = OwnerMap(version=EVERYONE.version + 1, owners=("b",) * 256, previous=(None,) * 256)
    with Library.open(str(tmp_path), "a", EVERYONE, files=disk) as library:
        publish(library, 1)
        library.set_owner_map(newer)
        disk.full = True
        with pytest.raises(Unavailable):
            publish(library, 2)
        disk.full = False
        library.reopen()
        assert library.owner_map is newer
        assert library.stats().partitions_held == 0
        with pytest.raises(Locked):
            Library.open(str(tmp_path), "a", EVERYONE)


def test_a_closed_library_stays_closed_and_leaves_no_open_file(tmp_path):
    disk = Disk()
    library = Library.open(str(tmp_path), "a", EVERYONE, files=disk)
    publish(library, 1)
    disk.full = True
    with pytest.raises(Unavailable):
        publish(library, 2)
    disk.full = False
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    library.reopen()
    library.reopen()
    assert not before or len(os.listdir("/proc/self/fd")) == before
    library.close()
    with pytest.raises(Unavailable, match="closed"):
        library.reopen()


def test_what_the_manifest_on_disk_may_name_stays_until_one_is_known_to_be_there(tmp_path, monkeypatch):
    disk = Disk()
    with Library.open(str(tmp_path), "a", EVERYONE, merge_floor_rows=1 << 20, files=disk) as library:
        for number in range(1, 5):
            publish(library, number)
        library.merge()
        publish(library, 5)
        replace, sync_dir, named = disk.replace, disk.sync_dir, []

        def replace_and_fail(source, target):
            replace(source, target)
            named.append(target)

        def refuse(path):
            if named:  # the new manifest has its name; whether that lasts nobody says
                raise OSError(5, "Input/output error")
            sync_dir(path)

        with monkeypatch.context() as patch:
            patch.setattr(disk, "replace", replace_and_fail)
            patch.setattr(disk, "sync_dir", refuse)
            with pytest.raises(OSError, match="Input/output"):
                library.merge()
        disk.full = True
        with pytest.raises(Unavailable):
            publish(library, 6)
        disk.full = False
        library.reopen()
        assert found(library, 1, 2, 3, 4, 5) == [True] * 5
        assert library.stats().damaged == ()
        publish(library, 6)
        assert found(library, 6) == [True]
