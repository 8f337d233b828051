"""Copies that are damaged in different places are whole together: joined, and never to anything else."""

import asyncio
import random
from types import SimpleNamespace

import pytest
from agentkit import check, restore
from damagekit import rewrite
from test_repair import files_of, mended, one, path_of, placed

from staddle.api.types import Kind
from staddle.daemon.manager.salvage import Salvager
from staddle.data.envelope import FOOTER_BYTES, HEAD_BYTES
from staddle.data.joining import join_copies
from staddle.data.sealed import logged_digest
from staddle.engine.gc import decide_copy_lost
from staddle.errors import Corrupt
from staddle.wire.ops.repair import CHECK_TOGETHER, BadPlacement, CheckTogether


def flipped(data, *places):
    changed = bytearray(data)
    for at in places:
        changed[at] ^= 0x10
    return bytes(changed)


@pytest.fixture(params=["container", "manifest", "seal"])
def stored(request, tmp_path):
    """(keys, kind, id, bytes) of a real object, as an agent has stored it."""

    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, request.param)
            data = path_of(grid, item.copies[0]).read_bytes()
            assert logged_digest(Kind[request.param.upper()], data) == item.digest
            return grid.keys, Kind[request.param.upper()], item.id, data, item.digest

    return asyncio.run(main())


def test_two_copies_with_damage_in_different_places_make_a_whole_one(stored, seed):
    keys, kind, item, data, digest = stored
    rng = random.Random(seed)
    for _ in range(20):
        # far enough apart that no sector, and no chunk of such a small object, has both
        one, other = rng.randrange(HEAD_BYTES), rng.randrange(len(data) - FOOTER_BYTES, len(data))
        whole = join_copies(keys, kind, item, [flipped(data, one), flipped(data, other)], digest)
        assert whole == data
    whole = join_copies(keys, kind, item, [bytes(len(data)), flipped(data), flipped(data, 3)], digest)
    assert whole == data, "one may be of no use at all"


def test_a_place_that_is_damaged_in_all_copies_is_refused(stored, seed):
    keys, kind, item, data, digest = stored
    rng = random.Random(seed)
    for _ in range(40):
        at = rng.randrange(len(data))
        copies = [flipped(data, at), flipped(data, at, rng.randrange(len(data))) if at else bytes(len(data))]
        if data in copies:
            continue
        with pytest.raises(Corrupt):
            join_copies(keys, kind, item, copies, digest)


def test_what_was_not_logged_is_refused(stored):
    keys, kind, item, data, digest = stored
    with pytest.raises(Corrupt):
        join_copies(keys, kind, item, [data, data], bytes(32))
    with pytest.raises(Corrupt):
        join_copies(keys, kind, bytes(16), [data, data], digest)
    with pytest.raises(Corrupt):
        join_copies(keys, kind, item, [b"", b""], digest)


async def asked_of(grid, item, bad):
    desk = Salvager(grid.manager, grid.adoption, grid.presence, {"default": grid.keys})
    return await desk._asked(SimpleNamespace(args=CheckTogether(id=item.id, bad=bad)))


def chunk_places(grid, item):
    """Where two chunks of a container lie, one far behind the other."""
    from staddle.data.container import read_directory

    data = path_of(grid, item.copies[0]).read_bytes()
    directory = read_directory(grid.keys, lambda at, length: data[at : at + length], len(data), item.id)
    assert len(directory) >= 4
    middles = (directory.offsets + directory.stored_lengths // 2).tolist()
    return middles[0], middles[-1]


def test_chunks_damaged_in_different_copies_are_joined_by_repair(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "container")
            first, last = chunk_places(grid, item)
            data = path_of(grid, item.copies[0]).read_bytes()
            before = list(item.copies)
            rewrite(path_of(grid, before[0]), lambda _: flipped(data, first))
            rewrite(path_of(grid, before[1]), lambda _: flipped(data, last))
            bad = [BadPlacement(copy.medium, copy.name, "CORRUPT") for copy in before]
            asked = await asked_of(grid, item, bad)
            assert (asked.whole, asked.message) == (True, "")
            assert CHECK_TOGETHER.roles == frozenset({"admin"})
            assert (item.copies, item.bad) == (before, []), "asking changes nothing"
            for copy in before:
                await grid.manager.change(decide_copy_lost, item.id, copy, "corrupt")
            done = await grid.repairer.repair(item.id)
            assert (done.state, done.message) == ("whole", "")
            assert len(item.copies) == 2
            assert not set(item.copies) & set(before)
            assert all(path_of(grid, copy).read_bytes() == data for copy in item.copies)
            assert files_of(grid, item) == placed(item.copies)
            check(await restore(grid, grid.backup), grid.want)

    asyncio.run(main())


def test_the_same_chunk_damaged_in_both_copies_stays_lost_and_nothing_is_removed(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "container")
            first, last = chunk_places(grid, item)
            data = path_of(grid, item.copies[0]).read_bytes()
            before = list(item.copies)
            rewrite(path_of(grid, before[0]), lambda _: flipped(data, first))
            rewrite(path_of(grid, before[1]), lambda _: flipped(data, first, last))
            bad = [BadPlacement(copy.medium, copy.name, "CORRUPT") for copy in before]
            asked = await asked_of(grid, item, bad)
            assert not asked.whole
            assert "chunk 0" in asked.message
            for copy in before:
                await grid.manager.change(decide_copy_lost, item.id, copy, "corrupt")
            done = await grid.repairer.repair(item.id)
            assert done.state == "lost"
            assert "chunk 0" in done.message
            assert files_of(grid, item) == placed(before)

    asyncio.run(main())


def test_a_copy_that_is_cut_off_completes_one_that_is_damaged_before(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "manifest")
            before = list(item.copies)
            data = path_of(grid, before[0]).read_bytes()
            rewrite(path_of(grid, before[0]), lambda _: flipped(data, 5))
            rewrite(path_of(grid, before[1]), lambda _: data[:-30])
            for copy in before:
                await grid.manager.change(decide_copy_lost, item.id, copy, "corrupt")
            assert (await grid.repairer.repair(item.id)).state == "whole"
            assert all(path_of(grid, copy).read_bytes() == data for copy in item.copies)

    asyncio.run(main())
