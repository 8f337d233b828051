"""Damaged files: never a crash, never a wrong hit; what may be lost is unknown until it is rebuilt."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest

from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.dedup.publication import Publication
from staddle.errors import NewerFormat

EVERYONE = OwnerMap.everyone()
COUNT = 2000
SEED = 4711


def fingerprints(seed, count=COUNT):
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def container(number):
    return number.to_bytes(16, "big")


def publication(number, lsn=1):
    return Publication(lsn, container(number), fingerprints(number), np.arange(COUNT) + number)


def check_no_wrong_hit(library, numbers=(1, 2)):
    """All found places are right; what is missing is unknown; returns how many are missing."""
    missing = 0
    for number in numbers:
        hits = library.lookup(fingerprints(number))
        found = np.flatnonzero(hits.found)
        assert (hits.ordinal[found] == found).all()
        assert (hits.raw_length[found] == found + number).all()
        assert (hits.containers[hits.container[found]] == np.frombuffer(container(number), np.uint8)).all()
        assert (hits.unknown == ~hits.found).all()
        missing += COUNT - len(found)
    return missing


def make(directory):
    """Container 1 in a run, container 2 in the log."""
    with Library.open(str(directory), "a", EVERYONE) as library:
        library.publish_many([publication(1, 1)])
        library.merge()
        library.publish_many([publication(2, 2)])


def file_of(directory, prefix):
    (path,) = (p for p in directory.iterdir() if p.name.startswith(prefix))
    return path


def rebuild_and_check(directory, library):
    library.rebuild(library.damaged(), [publication(1), publication(2)], upto_lsn=2)
    assert library.damaged() == ()
    assert check_no_wrong_hit(library) == 0
    assert not library.lookup(fingerprints(9)).unknown.any()
    assert library.stats().entries == 2 * COUNT, "nothing twice"
    library.close()
    with Library.open(str(directory), "a", EVERYONE, verify=True) as again:
        assert again.damaged() == ()
        assert check_no_wrong_hit(again) == 0
        assert again.applied_lsn == 2


def test_flipped_bits_in_rows_are_found_by_lookup_and_by_verify(tmp_path):
    make(tmp_path)
    path = file_of(tmp_path, "run.")
    data = bytearray(path.read_bytes())
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(50):
        data[rng.randrange(64, 64 + COUNT * 32)] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        hits = library.lookup(fingerprints(1))
        found = np.flatnonzero(hits.found)
        assert (hits.ordinal[found] == found).all()
        assert len(found) >= COUNT - 200
        noticed = library.damaged()
        assert noticed, "a hit on a damaged row reports its partition"
        assert set(noticed) <= set(library.verify())
        assert library.damaged() == library.verify()
        lost = check_no_wrong_hit(library)
        assert 0 < lost <= 200
        library.merge()
        assert check_no_wrong_hit(library) <= lost, "the merge keeps the sound rows"
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert set(library.damaged()) >= set(noticed), "the merge recorded what was lost"
        library.publish_many([publication(2, 3)])
        rows = library.stats().entries
        assert rows > COUNT
        library.clear()
        library.publish_many([publication(2, 2)])
        assert library.damaged() == ()


@pytest.mark.parametrize("how", ["cut", "longer", "gone", "empty", "other", "fences"])
def test_a_lost_run_makes_its_partitions_unknown_until_rebuilt(tmp_path, how):
    make(tmp_path)
    path = file_of(tmp_path, "run.")
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "cut": data[:-5],
                "longer": data + b"x",
                "empty": b"",
                "other": bytes(64) + data[64:],
                "fences": data[:-8] + b"\1" * 8,
            }[how]
        )
    library = Library.open(str(tmp_path), "a", EVERYONE)
    assert library.damaged() == tuple(range(256))
    assert library.stats().runs == 0
    assert check_no_wrong_hit(library) == COUNT, "the log's rows are there"
    assert library.lookup(fingerprints(9)).unknown.all()
    rebuild_and_check(tmp_path, library)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "empty", "garbage"])
def test_a_lost_manifest_makes_everything_unknown_until_rebuilt(tmp_path, how):
    make(tmp_path)
    path = tmp_path / "CURRENT"
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "flipped":
        data[-3] ^= 4
        path.write_bytes(data)
    else:
        path.write_bytes({"cut": bytes(data[:-1]), "empty": b"", "garbage": b"?" * 500}[how])
    library = Library.open(str(tmp_path), "a", EVERYONE)
    assert library.applied_lsn == 0
    assert library.damaged() == tuple(range(256))
    assert check_no_wrong_hit(library) == 2 * COUNT
    rebuild_and_check(tmp_path, library)


def test_any_flipped_byte_of_the_log_ends_it_there(tmp_path):
    make(tmp_path)
    path = file_of(tmp_path, "log.")
    data = path.read_bytes()
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    for at in [*range(0, 120, 3), *(rng.randrange(120, len(data)) for _ in range(20))]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with Library.open(str(tmp_path), "a", EVERYONE) as library:
            assert library.applied_lsn == 1, at
            assert library.stats().torn_bytes > 0, at
            assert not library.lookup(fingerprints(2)).found.any(), at
            assert library.lookup(fingerprints(1)).found.all(), at
            library.publish_many([publication(2, 2)])
            assert library.lookup(fingerprints(2)).found.all(), at


def test_a_log_after_a_lost_one_does_not_count(tmp_path):
    """Else `applied_lsn` would claim what was in the lost one."""
    with Library.open(str(tmp_path), "a", EVERYONE, merge_floor_rows=COUNT) as library:
        library.publish_many([publication(1, 1)])  # freezes: its log stays until the round ends
        library.publish(2, container(2), fingerprints(2, 5), np.arange(5))
        assert library.stats().runs == 0
    logs = sorted(p for p in tmp_path.iterdir() if p.name.startswith("log."))
    assert len(logs) == 2
    for lost in (True, False):
        kept = [p.read_bytes() for p in logs]
        if lost:
            logs[0].unlink()
        else:
            logs[0].write_bytes(kept[0][:-1])
        with Library.open(str(tmp_path), "a", EVERYONE) as library:
            assert library.applied_lsn == 0
            assert not library.lookup(fingerprints(2, 5)).found.any()
            assert library.stats().torn_bytes > 0
        for path, data in zip(logs, kept, strict=True):
            path.write_bytes(data)


def test_containers_removed_while_a_rebuild_runs_do_not_come_back(tmp_path):
    make(tmp_path)
    file_of(tmp_path, "run.").unlink()
    with Library.open(str(tmp_path), "a", EVERYONE) as library:

        def source():
            yield publication(1)
            library.remove_containers([container(1), container(2)], lsn=3)
            yield publication(2)

        library.rebuild(library.damaged(), source())
        for number in (1, 2):
            assert not library.lookup(fingerprints(number)).found.any()
        assert library.applied_lsn == 3


@pytest.mark.parametrize("prefix", ["CURRENT", "run.", "log."])
def test_files_of_a_newer_release_are_refused_and_left_alone(tmp_path, prefix):
    make(tmp_path)
    path = file_of(tmp_path, prefix)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 32, 2)
    struct.pack_into("<I", data, 60, zlib.crc32(data[:60]))
    path.write_bytes(data)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(NewerFormat, match="version 2"):
        Library.open(str(tmp_path), "a", EVERYONE)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
