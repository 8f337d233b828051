"""Packed entries are the same entries."""

import os

import pytest

from staddle.client.exclude import Excludes
from staddle.client.kept import KeptFounds
from staddle.client.scan import scan


@pytest.fixture
def founds(tmp_path):
    for name in (b"a", b"\xff", b"d/x", b"d/y"):
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    os.utime(tmp_path / "a", ns=(-1, -(10**18)))
    return list(scan([os.fsencode(tmp_path)], Excludes([]), print))


def test_packed_entries_are_the_same_entries(founds):
    kept = KeptFounds(founds)
    assert len(kept) == len(founds)
    for before, after in zip(founds, kept, strict=True):
        assert after.path == before.path
        for field in (*("mode", "uid", "gid", "size", "mtime_ns", "ctime_ns", "ino", "dev", "nlink"),):
            assert getattr(after.status, f"st_{field}") == getattr(before.status, f"st_{field}")
    assert [each.path for each in kept[1:]] == [each.path for each in founds[1:]]
    assert kept[-1] == KeptFounds(founds[-1:])[0]
    assert kept[0] != kept[1]
    assert not KeptFounds([])


def test_an_entry_takes_little_room(founds):
    kept = KeptFounds(founds * 1000)
    assert len(kept._packed) < 160 * len(kept)
