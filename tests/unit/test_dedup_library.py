"""The library as its users see it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.dedup.publication import Publication
from staddle.errors import Conflict, Locked, Unavailable
from staddle.platform.durable import Files

EVERYONE = OwnerMap.everyone()


def fingerprints(seed, count):
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def container(number):
    return number.to_bytes(16, "big")


def lengths(count):
    return np.arange(count, dtype=np.uint32) + 1000


@pytest.fixture
def library(tmp_path):
    with Library.open(str(tmp_path / "lib"), "a", EVERYONE, merge_floor_rows=500) as opened:
        yield opened


def test_what_is_published_is_found_with_its_place(library):
    fps = fingerprints(1, 300)
    library.publish(5, container(1), fps, lengths(300))
    hits = library.lookup(np.concatenate([fps, fingerprints(2, 100)]))
    assert hits.found.tolist() == [True] * 300 + [False] * 100
    assert not hits.unknown.any()
    assert (hits.containers[hits.container[:300]] == np.frombuffer(container(1), np.uint8)).all()
    assert hits.ordinal[:300].tolist() == list(range(300))
    assert hits.raw_length[:300].tolist() == lengths(300).tolist()
    assert library.applied_lsn == 5


def test_empty_batches_are_fine(library):
    assert len(library.lookup(fingerprints(1, 0)).found) == 0
    library.publish_many([])
    assert library.applied_lsn == 0
    library.publish_many([], upto_lsn=9)
    assert library.applied_lsn == 9


def test_replayed_lsns_change_nothing(library):
    library.publish(5, container(1), fingerprints(1, 10), lengths(10))
    library.publish(5, container(2), fingerprints(2, 10), lengths(10))
    library.publish(4, container(3), fingerprints(3, 10), lengths(10))
    assert library.lookup(fingerprints(1, 10)).found.all()
    assert not library.lookup(fingerprints(2, 10)).found.any()
    assert not library.lookup(fingerprints(3, 10)).found.any()
    assert library.stats().entries == 10


def test_several_containers_of_one_lsn_arrive_together(library):
    library.publish_many(
        [Publication(3, container(i), fingerprints(i, 10), lengths(10), lengths(10)) for i in (1, 2)]
    )
    for number in (1, 2):
        hits = library.lookup(fingerprints(number, 10))
        assert hits.found.all()
        assert hits.ordinal.tolist() == lengths(10).tolist()


@pytest.mark.parametrize("merge", [False, True])
def test_repacked_chunks_are_found_in_the_new_container_when_the_old_goes(library, merge):
    fps = fingerprints(1, 20)
    library.publish(1, container(1), fps, lengths(20))
    library.publish(2, container(2), fps[::-1], lengths(20))
    if merge:
        library.merge()
    assert set(library.lookup(fps).container.tolist()) == {int(library.lookup(fps).container[0])}
    assert library.lookup(fps).containers[library.lookup(fps).container[0]].tobytes() == container(1)
    library.remove_containers([container(1), container(99)], lsn=3)
    hits = library.lookup(fps)
    assert hits.found.all()
    assert hits.containers[hits.container[0]].tobytes() == container(2)
    assert hits.ordinal.tolist() == list(range(19, -1, -1))
    library.remove_containers([container(2)])
    assert not library.lookup(fps).found.any()
    library.merge()
    assert library.stats().entries == 0
    assert library.applied_lsn == 3


def test_earlier_answers_stay_right_when_an_index_is_used_again(library):
    library.publish(1, container(1), fingerprints(1, 5), lengths(5))
    old = library.lookup(fingerprints(1, 5))
    library.remove_containers([container(1)])
    library.merge()
    library.publish(2, container(2), fingerprints(2, 5), lengths(5))
    new = library.lookup(fingerprints(2, 5))
    assert new.container[0] == old.container[0], "the index is used again"
    assert old.containers[old.container[0]].tobytes() == container(1)
    assert new.containers[new.container[0]].tobytes() == container(2)


def test_many_merges_and_reopenings_keep_everything(tmp_path):
    everything, lsn = [], 0
    for opening in range(4):
        with Library.open(str(tmp_path), "a", EVERYONE, merge_floor_rows=400) as library:
            assert library.applied_lsn == lsn
            for _ in range(25):
                lsn += 1
                everything.append(fingerprints(lsn, 50))
                library.publish(lsn, container(lsn), everything[-1], lengths(50))
            assert library.stats().runs == 1, "merges happened"
            hits = library.lookup(np.concatenate(everything))
            assert hits.found.all(), opening
            owners = hits.containers[hits.container].reshape(-1, 50, 16)
            assert [int.from_bytes(row[0].tobytes(), "big") for row in owners] == list(range(1, lsn + 1))
            assert library.stats().entries == lsn * 50
            assert library.stats().delta_entries < 1100, "memory is bounded"


def test_partitions_elsewhere_are_unknown_and_not_stored(tmp_path):
    fps = fingerprints(1, 2000)
    mine = fps[:, 0] % 2 == 0
    owners = tuple("ab"[p % 2] for p in range(256))
    halves = OwnerMap(version=7, owners=owners, previous=(None,) * 256)
    with Library.open(str(tmp_path), "a", halves) as library:
        library.publish(1, container(1), fps, lengths(2000))
        hits = library.lookup(fps)
        assert (hits.found == mine).all()
        assert (hits.unknown == ~mine).all()
        assert hits.ordinal[mine].tolist() == np.flatnonzero(mine).tolist(), "ordinals are the container's"
        assert library.stats().partitions_held == 128


def test_a_moving_partition_is_answered_by_both_and_missed_only_by_the_old(tmp_path):
    fps = fingerprints(1, 500)
    fps[:, 0] = 4
    solid = OwnerMap(version=1, owners=("a",) * 256, previous=(None,) * 256)
    moving = solid.move(4, "b")
    with (
        Library.open(str(tmp_path / "a"), "a", solid) as old,
        Library.open(str(tmp_path / "b"), "b", solid) as new,
    ):
        old.publish(1, container(1), fps[:200], lengths(200))
        for library in (old, new):
            library.set_owner_map(moving)
            library.set_owner_map(solid)
            assert library.owner_map is moving, "an older map changes nothing"
            library.publish(2, container(2), fps[200:300], lengths(100))
        assert old.lookup(fps).found.tolist() == [True] * 200 + [False] * 300
        assert not old.lookup(fps).unknown.any()
        assert new.lookup(fps).found.tolist() == [False] * 200 + [True] * 100 + [False] * 200
        assert (new.lookup(fps).unknown == ~new.lookup(fps).found).all()
        for library in (old, new):
            library.set_owner_map(moving.settle(4))
        assert old.lookup(fps).unknown.all()
        assert not new.lookup(fps).unknown.any()
        old.merge()
        assert old.stats().entries == 0, "rows of a partition that left go at the merge"


def test_clear_forgets_everything_durably(tmp_path):
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        library.publish(3, container(1), fingerprints(1, 50), lengths(50))
        library.merge()
        library.publish(4, container(2), fingerprints(2, 50), lengths(50))
        library.clear()
        assert library.applied_lsn == 0
        library.publish(1, container(3), fingerprints(3, 50), lengths(50))
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        found = [bool(library.lookup(fingerprints(i, 50)).found.any()) for i in (1, 2, 3)]
        assert found == [False, False, True]
        assert library.applied_lsn == 1


def test_one_directory_is_open_once(tmp_path):
    with Library.open(str(tmp_path), "a", EVERYONE), pytest.raises(Locked, match="another process"):
        Library.open(str(tmp_path), "a", EVERYONE)
    Library.open(str(tmp_path), "a", EVERYONE).close()


def test_a_closed_library_says_so(tmp_path):
    library = Library.open(str(tmp_path), "a", EVERYONE)
    library.close()
    library.close()
    with pytest.raises(Unavailable, match="closed"):
        library.lookup(fingerprints(1, 1))
    with pytest.raises(Unavailable, match="closed"):
        library.publish(1, container(1), fingerprints(1, 1), lengths(1))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([Publication(0, container(1), fingerprints(1, 1), lengths(1))], "starts at 1"),
        ([Publication(i, container(1), fingerprints(1, 1), lengths(1)) for i in (2, 1)], "order"),
        ([Publication(1, b"short", fingerprints(1, 1), lengths(1))], "16 bytes"),
        ([Publication(1, bytes(16), fingerprints(1, 1), lengths(1))], "not all zero"),
        ([Publication(1, container(1), fingerprints(1, 2), lengths(1))], "raw_lengths"),
        ([Publication(1, container(1), fingerprints(1, 1), lengths(1) - 1.0)], "integers"),
        ([Publication(1, container(1), fingerprints(1, 1), np.array([1 << 32]))], "2\\*\\*32"),
        ([Publication(1, container(1), fingerprints(1, 1), np.array([-1]))], "2\\*\\*32"),
        ([Publication(1, container(1), fingerprints(1, 2), lengths(2), lengths(3))], "ordinals"),
    ],
)
def test_wrong_publications_are_refused_whole(library, batch, message):
    good = Publication(1, container(9), fingerprints(9, 5), lengths(5))
    with pytest.raises(ValueError, match=message):
        library.publish_many([good, *batch])
    assert not library.lookup(fingerprints(9, 5)).found.any()
    assert library.applied_lsn == 0


class FailingFiles(Files):
    """Refuses to write or sync what `fails` says."""

    def __init__(self):
        self.fails = lambda path: False
        self.paths = {}

    def create(self, path):
        if self.fails(path):
            raise OSError(28, "No space left on device")
        fd = super().create(path)
        self.paths[fd] = path
        return fd

    def datasync(self, fd):
        if self.fails(self.paths.get(fd, "")):
            raise OSError(5, "Input/output error")
        super().datasync(fd)


def test_after_a_failed_log_sync_nothing_is_accepted_until_reopened(tmp_path):
    files = FailingFiles()
    with Library.open(str(tmp_path), "a", EVERYONE, files=files) as library:
        library.publish(1, container(1), fingerprints(1, 10), lengths(10))
        files.fails = lambda path: "log." in path
        with pytest.raises(Unavailable) as first:
            library.publish(2, container(2), fingerprints(2, 10), lengths(10))
        assert first.value.outcome == "in_doubt"
        files.fails = lambda path: False
        with pytest.raises(Unavailable) as second:
            library.publish(3, container(3), fingerprints(3, 10), lengths(10))
        assert second.value.outcome == "not_done"
        assert library.lookup(fingerprints(1, 10)).found.all(), "look-ups go on"
        assert library.applied_lsn == 1
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        library.publish(2, container(2), fingerprints(2, 10), lengths(10))
        assert library.lookup(fingerprints(2, 10)).found.all()


@pytest.mark.parametrize("what", ["run.", "CURRENT", "log."])
def test_a_failing_merge_delays_publishing_only_when_memory_would_grow_without_bound(tmp_path, what):
    files = FailingFiles()
    lsn = 0
    with Library.open(str(tmp_path), "a", EVERYONE, merge_floor_rows=100, files=files) as library:
        active = {p for p in files.paths.values() if "log." in p}
        files.fails = lambda path: what in path and path not in active
        refused = ""
        while not refused and lsn < 100:
            try:
                library.publish(lsn + 1, container(lsn + 1), fingerprints(lsn + 1, 20), lengths(20))
                lsn += 1
            except Unavailable as error:
                refused = error.message
            active |= {p for p in files.paths.values() if "log." in p}
        assert "merging fails" in refused
        assert 15 < lsn < 60
        assert library.stats().merge_error
        files.fails = lambda path: False
        library.publish(lsn + 1, container(lsn + 1), fingerprints(lsn + 1, 20), lengths(20))
        lsn += 1
        assert not library.stats().merge_error
        library.merge()
        assert library.stats().delta_entries == 0
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert library.applied_lsn == lsn
        assert library.lookup(np.concatenate([fingerprints(i, 20) for i in range(1, lsn + 1)])).found.all()


def test_lookups_from_many_threads_while_one_publishes_are_never_wrong(tmp_path):
    with Library.open(str(tmp_path), "a", EVERYONE, merge_floor_rows=2000) as library:
        batches = [fingerprints(i, 200) for i in range(1, 81)]
        done, errors, rounds = threading.Event(), [], [0, 0, 0]

        def read(seed):
            rng = np.random.default_rng(seed)
            while not done.is_set() and not errors:
                published = library.applied_lsn
                number = int(rng.integers(0, len(batches)))
                hits = library.lookup(batches[number])
                rounds[seed] += 1
                id_bytes = hits.containers[hits.container[0]].tobytes()
                removed = number % 5 == 0 and number < published
                if hits.found.all() and (id_bytes != container(number + 1) or hits.ordinal[7] != 7):
                    errors.append(f"batch {number}: wrong hit {id_bytes.hex()}")
                if number < published and not removed and not hits.found.all():
                    errors.append(f"batch {number} of {published}: {hits.found.sum()} found")
                if hits.found.any() != hits.found.all():
                    errors.append(f"batch {number}: torn")

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        try:
            for at, batch in enumerate(batches):
                library.publish(at + 1, container(at + 1), batch, lengths(200))
                if at % 5 == 0:
                    library.remove_containers([container(at + 1)])
        finally:
            done.set()
            for thread in threads:
                thread.join(timeout=30)
        assert not errors
        assert min(rounds) > 5
        assert library.stats().runs == 1


def test_two_rebuilds_at_once_are_refused(library):
    def source():
        with pytest.raises(Conflict, match="a rebuild is running"):
            library.rebuild([1], [])
        yield Publication(0, container(1), fingerprints(1, 5), lengths(5))

    library.rebuild(range(256), source())
    assert library.lookup(fingerprints(1, 5)).found.all()
