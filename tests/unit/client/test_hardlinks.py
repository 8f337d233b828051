"""The first path of each inode, for any number of them, with and without room for a table."""

import random
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from staddle.client import hardlinks
from staddle.client.hardlinks import HardLinks
from staddle.client.scan import Found


def found(path, inode, device=7):
    directory, _, name = path.rpartition(b"/")
    return Found(directory, name, SimpleNamespace(st_dev=device, st_ino=inode))


def quiet(message):
    raise AssertionError(f"unexpected: {message}")


@pytest.fixture(params=[3, 10_000], ids=["in a table", "in memory"])
def links(request, monkeypatch):
    monkeypatch.setattr(hardlinks, "IN_MEMORY_MAX", request.param)
    return HardLinks(quiet)


def test_the_first_path_of_an_inode_has_its_content(links, seed):
    rng = random.Random(seed)
    expected = {}
    for number in range(5000):
        inode, device, path = rng.randrange(1 << 11), rng.randrange(2), b"/d/%d" % number
        first = expected.setdefault((device, inode), path)
        assert links.first(found(path, inode, device)) == first
        assert links.first(found(path, inode, device)) == first, "asked again, it says the same"


def test_a_path_that_could_not_be_read_gives_way_to_the_next(links):
    for inode in range(10):
        links.first(found(b"/a/%d" % inode, inode))
    links.forget(found(b"/b/5", 5))
    assert links.first(found(b"/c/5", 5)) == b"/a/5", "another path can't take it away"
    links.forget(found(b"/a/5", 5))
    assert links.first(found(b"/c/5", 5)) == b"/c/5"
    assert links.first(found(b"/d/5", 5)) == b"/c/5"


@pytest.mark.parametrize("inode", [0, (1 << 63) + 1, (1 << 64) - 1, (1 << 128) - 1])
def test_any_inode_number_is_known_again(links, inode):
    for number in range(10):
        links.first(found(b"/n/%d" % number, number + 1000))
    assert links.first(found(b"/a", inode)) == b"/a"
    assert links.first(found(b"/b", inode)) == b"/a"


class Broken:
    """A table on a disk that gets full."""

    def __init__(self, table, good):
        self._table, self._good = table, good

    def execute(self, *words):
        self._good -= 1
        if self._good < 0:
            raise sqlite3.OperationalError("database or disk is full")
        return self._table.execute(*words)

    def executemany(self, *words):
        return self._table.executemany(*words)

    def close(self):
        self._table.close()


@pytest.mark.parametrize("good", [0, 1, 2, 25])
def test_a_full_disk_costs_links_and_no_more(monkeypatch, good):
    monkeypatch.setattr(hardlinks, "IN_MEMORY_MAX", 8)
    new_table = hardlinks._new_table
    monkeypatch.setattr(hardlinks, "_new_table", lambda: Broken(new_table(), good))
    warnings = []
    links = HardLinks(warnings.append)
    for inode in range(100):
        assert links.first(found(b"/a/%d" % inode, inode)) == b"/a/%d" % inode
        assert links.first(found(b"/b/%d" % inode, inode)) in {b"/a/%d" % inode, b"/b/%d" % inode}
    assert len(links._few) <= 8
    assert len(warnings) == 1
    assert "disk is full" in warnings[0]


def test_without_a_place_for_a_table_links_are_lost_and_memory_is_bounded(monkeypatch):
    def nowhere():
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(hardlinks, "_new_table", nowhere)
    monkeypatch.setattr(hardlinks, "IN_MEMORY_MAX", 8)
    warnings = []
    links = HardLinks(warnings.append)
    for inode in range(100):
        assert links.first(found(b"/a/%d" % inode, inode)) == b"/a/%d" % inode
        assert links.first(found(b"/b/%d" % inode, inode)) == b"/a/%d" % inode, (
            "names that are near stay known"
        )
        assert len(links._few) <= 8
    assert len(warnings) == 1


GROWTH = """
import resource, sys
from types import SimpleNamespace
from staddle.client.hardlinks import HardLinks
from staddle.client.scan import Found
links = HardLinks(print)
def ask(numbers):
    for n in numbers:
        status = SimpleNamespace(st_dev=1, st_ino=n)
        links.first(Found(b"/a/directory/that/has/a/rather/long/name", b"name-%d" % n, status))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = ask(range(30_000))
print(ask(range(30_000, 180_000)) - begin)
"""


def test_memory_does_not_grow_with_the_inodes():
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, timeout=120
    )
    grown_kib = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    # 150,000 inodes are 45 MB in a dictionary, and 25 MB in the table.
    assert grown_kib < hardlinks.CACHE_KIB + 4096
