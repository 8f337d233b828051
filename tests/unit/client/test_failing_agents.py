"""Reading goes on over another agent; what is lost is named, and nothing else is."""

import asyncio
import os
import random

import numpy as np
import pytest

from staddle.client import reader
from staddle.client.reader import BackupReader
from staddle.data.entries import EntryRows, EntryType
from staddle.errors import Corrupt, Denied, MediumFailed, NotFound, PathLost
from staddle.wire.ops.data import READ_CHUNKS

from .kit import (
    FakeGrid,
    Stored,
    below,
    files_with,
    manifest_of,
    picture,
    restored,
    run,
    store,
)


def test_another_agent_goes_on_in_mid_file(tree, tmp_path):
    stored, _ = store(tree, records_per_segment=1)
    grid = FakeGrid(stored)
    calls = 0

    async def die_after_a_while(op, args):
        nonlocal calls
        calls += 1
        if calls > 5:
            await grid.running["a1"]._listening.close()
            for link in list(grid.running["a1"].links):
                link.abort(PathLost("killed"))

    outcome = restored(stored, tmp_path / "to", grid=grid, faults={"a1": die_after_a_while})
    assert outcome.warnings == outcome.lost == []
    assert picture(below(tmp_path / "to", tree)) == picture(tree)
    assert {name for name, _ in grid.asked} == {"a1", "a2"}


def test_an_agent_with_a_broken_medium_or_wrong_bytes_is_passed_over(tree, tmp_path):
    stored, _ = store(tree, records_per_segment=1)

    async def broken(op, args):
        raise MediumFailed("I/O error")

    outcome = restored(stored, tmp_path / "to", faults={"a1": broken})
    assert outcome.warnings == outcome.lost == []
    assert picture(below(tmp_path / "to", tree)) == picture(tree)


def test_an_agent_that_failed_rests_and_is_asked_again_when_nobody_else_is_left(monkeypatch):
    monkeypatch.setattr(reader, "_PAUSE_S", 0.05)
    stored = Stored()
    rows = EntryRows()
    rows.add(b"/", b"x", EntryType.DIRECTORY)
    stored.manifests = [(bytes(16), 0, 0, manifest_of(rows))]
    grid = FakeGrid(stored)
    failing = {"a1": 2, "a2": 1}

    def fault(name):
        async def unreachable(op, args):
            if failing[name]:
                failing[name] -= 1
                raise PathLost("gone for a moment")

        return unreachable

    async def work():
        async with grid as connection, await BackupReader.open(connection, 1) as opened:
            grid.faults = {name: fault(name) for name in grid.names}
            assert len((await opened.manifest(0)).entries) == 1
            first = [name for name, _ in grid.asked]
            assert first == ["a1", "a2", "a1", "a2"], "in turn, and again after a pause"
            await opened.manifest(0)
            assert grid.asked[-1][0] == "a2", "whoever answered last is asked first"

    run(work())


def test_an_agent_that_rests_is_asked_before_data_counts_as_lost(tree, tmp_path):
    stored, _ = store(tree, records_per_segment=1)
    stumbles = 1

    async def stumble_once(op, args):
        nonlocal stumbles
        if stumbles:
            stumbles -= 1
            raise PathLost("gone for a moment")

    async def without_the_medium(op, args):
        if op == READ_CHUNKS.name:
            raise NotFound("no copy that this agent reaches")

    outcome = restored(stored, tmp_path / "to", faults={"a1": stumble_once, "a2": without_the_medium})
    assert outcome.lost == outcome.warnings == []
    assert picture(below(tmp_path / "to", tree)) == picture(tree)


def test_a_ticket_that_has_run_out_is_renewed(tree, tmp_path):
    stored, _ = store(tree)
    grid = FakeGrid(stored)

    async def expired(op, args):
        if args.signed == b"ticket 1" and len(grid.asked) > 1:
            raise Denied("the ticket has run out")

    outcome = restored(stored, tmp_path / "to", grid=grid, faults={"a1": expired, "a2": expired})
    assert outcome.warnings == outcome.lost == []
    assert grid.opened == 2


def test_without_any_agent_the_restore_ends_with_that_error(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "PATIENCE_S", 0.2)
    monkeypatch.setattr(reader, "_PAUSE_S", 0.05)
    stored, _ = store(tree)

    async def unreachable(op, args):
        if op == READ_CHUNKS.name:
            raise PathLost("no way")

    with pytest.raises(PathLost) as caught:
        restored(stored, tmp_path / "to", faults={"a1": unreachable, "a2": unreachable})
    assert caught.value.exit_code == 5
    left = [name for _, _, files in os.walk(tmp_path / "to") for name in files]
    assert "big" not in left, "a restore that failed leaves no half of a file"


@pytest.mark.parametrize("error", [Corrupt("damaged"), NotFound("no copy is left")])
def test_a_file_whose_data_is_lost_is_named_and_all_others_are_restored(tree, tmp_path, seed, error):
    stored, _ = store(tree, records_per_segment=2, chunks_per_container=1)
    rng = random.Random(seed)
    gone = set(rng.sample(sorted(stored.chunks), 7))

    async def lost(op, args):
        if op == READ_CHUNKS.name:
            rows = np.frombuffer(args.rows, "<u4").tolist()
            if any((args.manifest, row) in gone for row in rows):
                raise error

    outcome = restored(stored, tmp_path / "to", faults={"a1": lost, "a2": lost})
    hit = files_with(stored, gone)
    # Paths linked to a lost file have lost it too: they are warnings.
    assert {path for path, _ in outcome.lost} == hit
    assert outcome.summary.lost_count == len(hit) == len(outcome.lost)
    got, whole = picture(below(tmp_path / "to", tree)), picture(tree)
    missing = {os.path.relpath(path, os.fsencode(tree)) for path in hit}
    missing |= {os.path.relpath(path, os.fsencode(tree)) for path, _ in outcome.warnings}
    assert set(whole) - set(got) == missing
    for path in got:
        assert got[path][:6] == whole[path][:6]


def test_a_lost_container_is_not_asked_for_again_and_again(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    for number in range(300):
        (root / f"f{number:03}").write_bytes(b"%d" % number * 10)
    stored, _ = store(root, chunks_per_container=1000)
    grid = FakeGrid(stored, ["a1"])

    async def lost(op, args):
        if op == READ_CHUNKS.name:
            raise NotFound("no copy is left")

    outcome = restored(stored, tmp_path / "to", grid=grid, faults={"a1": lost})
    assert outcome.summary.lost_count == 300
    assert len(grid.asked) < 60


def test_manifests_are_read_ahead_but_not_all_at_once(tmp_path):
    stored = Stored()
    for ordinal in range(12):
        rows = EntryRows()
        rows.add(b"/", b"d%d" % ordinal, EntryType.DIRECTORY)
        stored.manifests.append((bytes([ordinal]) * 16, 0, ordinal, manifest_of(rows, ordinal=ordinal)))
    grid = FakeGrid(stored, ["a1"])

    async def work():
        async with grid as connection, await BackupReader.open(connection, 1) as opened:
            manifests = opened.manifests()
            first = await anext(manifests)
            await asyncio.sleep(0.05)
            assert first.entries.paths() == [b"/d0"]
            assert len(grid.asked) == 1 + reader.READ_AHEAD
            rest = [each.head.ordinal async for each in manifests]
            assert rest == list(range(1, 12))

    run(work())


def test_a_manifest_in_the_wrong_place_is_refused():
    rows = EntryRows()
    rows.add(b"/", b"x", EntryType.DIRECTORY)
    stored = Stored()
    stored.manifests = [(bytes(16), 0, 3, manifest_of(rows, ordinal=2))]

    async def work():
        async with FakeGrid(stored) as connection, await BackupReader.open(connection, 1) as opened:
            with pytest.raises(Corrupt):
                await opened.manifest(0)

    run(work())


def test_no_backup_of_that_number(tmp_path):
    async def work():
        async with FakeGrid(Stored()) as connection:
            with pytest.raises(NotFound):
                await BackupReader.open(connection, 7)

    run(work())
