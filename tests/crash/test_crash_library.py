"""The fingerprint library (partition log, merges, runs, its manifest) and its publisher under power cuts."""

import os

import numpy as np
import pytest
from crashkit import Scenario, cut_everywhere, forgets, kill_everywhere, notices, syncs_late, tape_of

from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.dedup.publication import Publication

EVERYONE = OwnerMap.everyone()
ROWS = 16
STEPS = 24


def fingerprints(lsn):
    return np.random.default_rng(lsn).integers(0, 256, (ROWS, 32), dtype=np.uint8)


def container(number):
    return number.to_bytes(16, "big")


def publish(library, lsn):
    """Record `lsn` of the manager's log: each seventh drops two containers, each third has two new ones."""
    if lsn % 7 == 0:
        library.remove_containers([container(lsn - 5), container(lsn - 1)], lsn=lsn)
        return
    half = ROWS // 2 if lsn % 3 == 0 else ROWS
    prints, lengths = fingerprints(lsn), np.arange(ROWS) + lsn
    parts = [(container(lsn), 0, half), (container(1000 + lsn), half, ROWS)]
    library.publish_many([Publication(lsn, c, prints[a:b], lengths[a:b]) for c, a, b in parts])


def expected_at(lsn_end):
    """Fingerprint -> (container, raw length) after the records up to `lsn_end`."""
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


EXPECTED = {lsn: expected_at(lsn) for lsn in range(STEPS + 1)}
ALL = np.concatenate([fingerprints(lsn) for lsn in range(1, STEPS + 1)])


def content(library):
    hits = library.lookup(ALL)
    assert not hits.unknown.any()
    return {
        ALL[i].tobytes(): (hits.containers[hits.container[i]].tobytes(), int(hits.raw_length[i]))
        for i in np.flatnonzero(hits.found)
    }


def opened(root):
    return Library.open(os.path.join(root, "library"), "a", EVERYONE, merge_floor_rows=64)


class LibraryScenario(Scenario):
    """Publishing and removing over several merges, with a restart; the publisher's place is `applied_lsn`."""

    states = 300
    exhaustive = 4
    recovery_every = 120

    def __init__(self):
        self.looked = 0

    def work(self, root, tape):
        for first, last in ((1, STEPS // 2), (STEPS // 2 + 1, STEPS)):
            with opened(root) as library:
                assert library.applied_lsn == first - 1
                for lsn in range(first, last + 1):
                    publish(library, lsn)
                    tape.mark(lsn)
        with opened(root) as library:
            assert library.stats().runs == 1

    def again(self, root, tape):
        with opened(root) as library:
            lsn = min(library.applied_lsn + 1, STEPS)
            publish(library, lsn)
        tape.mark(lsn)

    def recover(self, root):
        opened(root).close()

    def check(self, root, marks):
        """What was acknowledged is there and nothing else; the publisher goes on where the library stands."""
        acknowledged = marks[-1] if marks else 0
        self.looked += 1
        with opened(root) as library:
            # The next step may be there too: it was under way.
            assert acknowledged <= library.applied_lsn <= acknowledged + 1
            assert content(library) == EXPECTED[library.applied_lsn]
            assert library.damaged() == ()
            if self.looked % 5:
                return
            for lsn in range(library.applied_lsn + 1, STEPS + 1):
                publish(library, lsn)
            library.merge()
            assert content(library) == EXPECTED[STEPS]
        with opened(root) as library:
            assert content(library) == EXPECTED[STEPS]
            names = sorted(os.listdir(os.path.join(root, "library")))
            assert [name.split(".")[0] for name in names] == ["CURRENT", "lock", "log", "run"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    scenario = LibraryScenario()
    tape = tape_of(scenario, tmp_path_factory.mktemp("library") / "recorded")
    merges = sum(op.kind == "rename" and op.target.endswith("CURRENT") for op in tape.ops)
    assert merges >= 4, "the recording spans merges"
    return scenario, tape


def test_what_was_acknowledged_is_there_and_nothing_else(recorded, tmp_path):
    scenario, tape = recorded
    states, nested = cut_everywhere(scenario, tape, tmp_path)
    print(f"seed {scenario.seed}: {len(tape.ops)} operations, {states} states, {nested} in recovery")
    assert states > scenario.states
    assert nested > 10


def test_a_kill_before_the_power_cut_loses_nothing(recorded, tmp_path):
    scenario, tape = recorded
    assert kill_everywhere(scenario, tape, tmp_path) > 20


def early_removal(tape):
    """Old files are removed before the commit that makes them needless."""
    return tape.delayed(
        lambda op: op.kind == "rename" and op.target.endswith("CURRENT"),
        lambda op: op.kind == "remove" and "/log." in op.path,
    )


MUTANTS = {
    "a log record is not synced": forgets("sync", "/log."),
    "a run is not synced": forgets("sync", "/run."),
    "the manifest is not synced": forgets("sync", "/CURRENT"),
    "the manifest gets its name first": syncs_late("/CURRENT", after="remove"),
    "a directory is not synced": forgets("sync_dir", "library"),
    "the library's own directory is not made sure": lambda tape: tape.without(
        lambda op: op.kind == "sync_dir" and not op.path
    ),
    "old files go before the commit": early_removal,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_notices(recorded, tmp_path, mutant):
    scenario, tape = recorded
    notices(scenario, MUTANTS[mutant](tape), tmp_path)


def test_a_second_crash_during_recovery_loses_nothing(tmp_path):
    """A torn log, and recovery cut off again: the rest of the record must not come back to life."""
    with opened(str(tmp_path)) as library:
        for lsn in (1, 2, 3):
            publish(library, lsn)
    log = next(path for path in (tmp_path / "library").iterdir() if path.name.startswith("log."))
    whole = log.read_bytes()
    log.write_bytes(whole[:-3])
    with opened(str(tmp_path)) as library:
        assert library.applied_lsn == 2
        assert library.stats().torn_bytes > 0
        publish(library, 3)
    assert log.read_bytes() == whole
    with opened(str(tmp_path)) as library:
        assert library.stats().torn_bytes == 0
        assert content(library) == EXPECTED[3]
