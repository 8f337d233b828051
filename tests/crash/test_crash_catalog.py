"""The DuckDB catalog under power cuts: it may fall back, or be made anew, but never says what is not so."""

import os
import random
import sys

import catalog_work
import pytest
from catalog_work import contents, feed, opened, records, reference
from crashkit import FULL, Scenario, fresh, told

from staddle.catalog.renewal import ASIDE, open_or_renew
from staddle.errors import Corrupt
from staddle.testing.crashfs import crash_states, no_syncs

WAL_STATES = 400 if FULL else 10


class CatalogScenario(Scenario):
    def __init__(self, place):
        self.reference = reference(os.path.join(place, "reference.duckdb"))
        self.log = records()
        self.renewed = 0

    def check(self, root, marks):
        """It stands at a record of the log, says just what it said then, and takes the rest of the log."""
        path = os.path.join(root, "catalog.duckdb")
        catalog = open_or_renew(path, lambda: opened(path))
        self.renewed += os.path.exists(path + ASIDE)
        try:
            lsn = catalog.applied_lsn()
            assert lsn in self.reference
            assert contents(catalog) == self.reference[lsn]
            catalog.apply(self.log[lsn:])
            assert contents(catalog) == self.reference[len(self.log)]
            assert catalog.verify() == []
        finally:
            catalog.close()


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    return CatalogScenario(tmp_path_factory.mktemp("catalog"))


def test_a_write_ahead_log_cut_anywhere_gives_an_earlier_state(scenario, tmp_path):
    images = []

    def mark(lsn):
        found = []
        for suffix in ("", ".wal"):
            with open(f"{tmp_path}/catalog.duckdb{suffix}", "rb") as file:
                found.append(file.read())
        images.append((lsn, *found))

    feed(str(tmp_path / "catalog.duckdb"), mark)
    rng = random.Random(scenario.seed)
    print(f"seed {scenario.seed}, {WAL_STATES} states")
    for _ in range(WAL_STATES):
        lsn, main, wal = rng.choice(images)
        length = rng.choice([len(wal), rng.randrange(len(wal)), rng.randrange(len(wal)) // 512 * 512])
        torn = wal[:length] + bytes(rng.choice([0, len(wal) - length]))
        directory = fresh(tmp_path)
        for suffix, data in (("", main), (".wal", torn)):
            with open(os.path.join(directory, f"catalog.duckdb{suffix}"), "wb") as file:
                file.write(data)
        with no_syncs(), told(f"record {lsn}, write-ahead log of {len(wal)} bytes cut to {length}"):
            scenario.check(directory, (lsn,))


@pytest.mark.parametrize("content", [b"", b"half" * 2000])
def test_a_catalog_that_was_cut_while_it_was_made_is_made_again(scenario, tmp_path, content):
    for suffix in ("", ".wal"):
        (tmp_path / f"catalog.duckdb{suffix}").write_bytes(content)
    before = scenario.renewed
    scenario.check(str(tmp_path), ())
    assert scenario.renewed == before + 1
    assert (tmp_path / f"catalog.duckdb{ASIDE}").read_bytes() == content


def test_a_damaged_header_is_damage_and_no_lock(scenario, tmp_path):
    path = tmp_path / "catalog.duckdb"
    opened(str(path)).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    with pytest.raises(Corrupt, match="checksum"):
        opened(str(path))
    scenario.check(str(tmp_path), ())


if FULL and sys.platform == "linux":

    @pytest.mark.timeout(7200)
    def test_every_cut_of_what_the_database_itself_writes(scenario, tmp_path):
        """Its own writes, checkpoints included, as strace sees them."""
        from traced import traced

        directory = tmp_path / "recorded"
        directory.mkdir()
        tape = traced([sys.executable, catalog_work.__file__, str(directory)], str(directory))
        whole = tape.everything_after(len(tape.ops))
        for name, data in whole.files.items():
            assert (directory / name).read_bytes() == data, "the trace is not complete"
        states = 0
        for state in crash_states(tape, seed=scenario.seed, exhaustive_units=0, samples=1):
            place = fresh(tmp_path)
            state.write(place)
            with no_syncs(), told(state.where):
                scenario.check(place, state.marks)
            states += 1
        print(
            f"seed {scenario.seed}: {len(tape.ops)} operations, {states} states, {scenario.renewed} renewed"
        )
        assert len([op for op in tape.ops if op.kind == "mark"]) == len(scenario.reference) - 1
        assert states > 300
