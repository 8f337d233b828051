"""A seal with no whole copy is made anew: the log knows all that it says."""

import asyncio

import pytest
from agentkit import check, restore
from damagekit import flip_middle, rewrite
from repairkit import mended, one, path_of

from staddle.api.types import Kind
from staddle.data.seal import decode_seal
from staddle.data.sealed import open_object
from staddle.engine import repair
from staddle.engine.gc import decide_copy_lost
from staddle.engine.state import GridState
from staddle.engine.tables import ObjectState, Stream, StreamState


@pytest.mark.parametrize("how", [flip_middle, lambda _: None])
def test_a_seal_with_no_whole_copy_is_made_anew_from_the_log(tmp_path, how):
    async def main():
        async with mended(tmp_path / "home") as grid:
            state = grid.manager.state
            old = one(grid, "seal")
            said = seal_of(grid, old)
            for copy in list(old.copies):
                rewrite(path_of(grid, copy), how)
                await grid.manager.change(decide_copy_lost, old.id, copy, "corrupt")
            done = await grid.repairer.repair(old.id)
            assert (done.state, done.message) == ("whole", "")
            backup = state.backups[grid.backup]
            assert backup.seal != old.id
            assert state.objects[backup.seal].copies, "the new one lies on media"
            assert seal_of(grid, state.objects[backup.seal]) == said, "it says what the old one said"
            assert state.objects[old.id].state is ObjectState.DELETING, "the bad one goes"
            assert repair.lost_for_good(state) == []
            assert (await grid.repairer.repair(old.id)).state == "gone", "once is enough"
            reference = GridState.load(state.dump())
            assert reference.backups[grid.backup].seal == backup.seal
            check(await restore(grid, grid.backup), grid.want)

    asyncio.run(main())


def test_the_new_seal_of_a_backup_that_a_rebuild_has_brought_names_its_last_manifests(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            state = grid.manager.state
            old = one(grid, "seal")
            said = seal_of(grid, old)
            job = state.jobs[state.backups[grid.backup].job]
            job.streams = [Stream(stream=each.stream, state=StreamState.ENDED) for each in job.streams]
            for copy in list(old.copies):
                rewrite(path_of(grid, copy), flip_middle)
                await grid.manager.change(decide_copy_lost, old.id, copy, "corrupt")
            assert (await grid.repairer.repair(old.id)).state == "whole"
            assert seal_of(grid, state.objects[state.backups[grid.backup].seal]).streams == said.streams

    asyncio.run(main())


def seal_of(grid, item):
    blob = path_of(grid, item.copies[0]).read_bytes()
    return decode_seal(open_object(grid.keys, Kind.SEAL, item.id, blob))
