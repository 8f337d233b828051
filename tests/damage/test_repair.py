"""A bad copy is made again from a good one, and goes afterwards; without a good one nothing goes."""

import asyncio
import pathlib
import random

import pytest
from agentkit import check, restore, until
from damagekit import flip_middle, rewrite
from repairkit import mended, one, path_of

from staddle.api.types import Kind
from staddle.engine import repair
from staddle.engine.commit import unusable
from staddle.engine.gc import decide_copy_lost
from staddle.engine.messages import CopyOf
from staddle.engine.tables import MediumStatus
from staddle.errors import Corrupt, MediumFull
from staddle.wire.ops.repair import REPAIR_OBJECT, BadPlacement, RepairObject


def files_of(grid, item):
    return {
        (path.parts[-4], "/".join(path.parts[-3:]))
        for path in pathlib.Path(grid.home, "media").rglob(f"{item.id.hex()}*")
    }


def placed(copies):
    return {(copy.medium, copy.name) for copy in copies}


@pytest.mark.parametrize("kind", ["container", "manifest", "seal"])
@pytest.mark.parametrize(
    "how", [flip_middle, lambda _: None, lambda data: data[:-1], lambda data: data + b"x"]
)
def test_a_bad_copy_is_made_again_under_a_new_name_and_then_removed(tmp_path, kind, how):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, kind)
            bad = next(copy for copy in item.copies if copy.medium == "m1")
            good = next(copy for copy in item.copies if copy.medium == "m2")
            rewrite(path_of(grid, bad), how)
            await grid.manager.change(decide_copy_lost, item.id, bad, "corrupt")
            grid.ops.clear()
            done = await grid.repairer.repair(item.id)
            assert (done.state, done.message) == ("whole", "")
            assert item.bad == []
            assert good in item.copies
            [made] = [copy for copy in item.copies if copy != good]
            assert made.medium == "m1"
            assert made.name != bad.name, "a name is used once"
            assert path_of(grid, made).read_bytes() == path_of(grid, good).read_bytes()
            assert files_of(grid, item) == placed(item.copies)
            # In this order, and each durable before the next: never fewer good copies than before.
            assert grid.ops == [
                "copy_planned",
                "copy_added",
                "copy_dropped",
                "orphans_doomed",
                "orphans_removed",
            ]
            assert grid.manager.state.damaged == {}
            check(await restore(grid, grid.backup), grid.want)

    asyncio.run(main())


def test_without_a_good_copy_nothing_is_removed_and_nothing_is_made(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "container")
            copies = list(item.copies)
            for copy in copies:
                rewrite(path_of(grid, copy), flip_middle)
                await grid.manager.change(decide_copy_lost, item.id, copy, "corrupt")
            before = files_of(grid, item)
            grid.ops.clear()
            done = await grid.repairer.repair(item.id)
            assert done.state == "lost"
            assert "chunk" in done.message, "it says what is wrong"
            assert (item.copies, set(item.bad)) == ([], set(copies))
            assert files_of(grid, item) == before
            assert grid.ops == []
            assert unusable(grid.manager.state, [item.id], grid.manager.state.pools["default"]) == [item.id]
            assert repair.lost_for_good(grid.manager.state) == [item.id]

    asyncio.run(main())


def test_a_copy_that_is_whole_after_all_counts_again(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "container")
            copies = list(item.copies)
            for copy in copies:
                await grid.manager.change(decide_copy_lost, item.id, copy, "corrupt")
            assert item.copies == []
            done = await grid.repairer.repair(item.id)
            assert done.state == "whole"
            assert placed(item.copies) == placed(copies) == files_of(grid, item)
            assert grid.manager.state.damaged == {}

    asyncio.run(main())


def test_a_source_that_is_damaged_too_is_found_out_and_never_copied(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "container")
            bad = next(copy for copy in item.copies if copy.medium == "m1")
            other = next(copy for copy in item.copies if copy.medium == "m2")
            rewrite(path_of(grid, bad), lambda _: None)
            rewrite(path_of(grid, other), flip_middle)
            await grid.manager.change(decide_copy_lost, item.id, bad, "not_found")
            done = await grid.repairer.repair(item.id)
            assert done.state == "lost"
            assert set(item.bad) == {bad, other}
            assert files_of(grid, item) == placed([other])
            assert not any(grid.manager.state.planned.values()), "nothing is left of what was planned"

    asyncio.run(main())


class Full:
    """A medium that takes nothing once it is told to."""

    def __init__(self, inner, state):
        self.inner, self.state = inner, state

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def open(self, *args):
        return FullVolume(self.inner.open(*args), self.state)


class FullVolume:
    def __init__(self, inner, state):
        self.inner, self.state = inner, state

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def put(self, name, *args):
        if self.state["full"]:
            raise MediumFull("no room")
        return self.inner.put(name, *args)


def test_while_no_copy_can_be_made_the_bad_one_stays_and_no_plan_is_left(tmp_path):
    async def main():
        state = {"full": False}
        async with mended(tmp_path / "home", spoil=lambda _, medium: Full(medium, state)) as grid:
            item = one(grid, "container")
            bad = next(copy for copy in item.copies if copy.medium == "m1")
            rewrite(path_of(grid, bad), flip_middle)
            await grid.manager.change(decide_copy_lost, item.id, bad, "corrupt")
            state["full"] = True
            for _ in range(3):
                done = await grid.repairer.repair(item.id)
                assert (done.state, "no room" in done.message) == ("waiting", True)
            assert item.bad == [bad]
            assert path_of(grid, bad).exists()
            assert not any(grid.manager.state.planned.values())
            state["full"] = False
            assert (await grid.repairer.repair(item.id)).state == "whole"
            assert not path_of(grid, bad).exists()

    asyncio.run(main())


def test_nothing_bad_goes_while_a_good_copy_is_on_a_medium_that_is_away(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "container")
            bad = next(copy for copy in item.copies if copy.medium == "m1")
            rewrite(path_of(grid, bad), flip_middle)
            await grid.manager.change(decide_copy_lost, item.id, bad, "corrupt")
            grid.manager.state.media["m2"].state = MediumStatus.OFFLINE
            done = await grid.repairer.repair(item.id)
            assert done.state == "waiting"
            assert item.bad == [bad]
            assert files_of(grid, item) == placed(item.placements())
            grid.manager.state.media["m2"].state = MediumStatus.UP
            assert (await grid.repairer.repair(item.id)).state == "whole"

    asyncio.run(main())


def test_a_copy_that_is_owed_is_made_without_any_damage(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "manifest")
            owed = next(copy for copy in item.copies if copy.medium == "m2")
            item.copies.remove(owed)
            path_of(grid, owed).unlink()
            assert repair.in_debt(grid.manager.state) == [item.id]
            grid.repairer._debt_at_ns = 0
            await grid.repairer.step()
            assert {copy.medium for copy in item.copies} == {"m1", "m2"}
            assert files_of(grid, item) == placed(item.copies)

    asyncio.run(main())


def test_a_copy_that_is_owed_and_could_not_be_made_is_tried_again_before_the_next_look_at_all(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("staddle.daemon.manager.repairing.PAUSE_MIN_NS", 0)

    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "manifest")
            owed = next(copy for copy in item.copies if copy.medium == "m2")
            item.copies.remove(owed)
            path_of(grid, owed).unlink()
            medium = grid.manager.state.media["m2"]
            medium.state = MediumStatus.OFFLINE
            grid.repairer._debt_at_ns = 0
            await grid.repairer.step()
            assert {copy.medium for copy in item.copies} == {"m1"}
            medium.state = MediumStatus.UP
            await grid.repairer.step()
            assert {copy.medium for copy in item.copies} == {"m1", "m2"}

    asyncio.run(main())


def test_what_a_restore_meets_is_repaired_by_itself(tmp_path, seed):
    async def main():
        rng = random.Random(seed)
        async with mended(tmp_path / "home") as grid:
            containers = [o for o in grid.manager.state.objects.values() if o.kind == "container"]
            spoilt = [rng.choice(item.copies) for item in containers]
            for copy in spoilt:
                rewrite(path_of(grid, copy), flip_middle)
            task = asyncio.create_task(grid.repairer.run())
            try:
                for _ in range(8):  # a read takes one copy: it need not be the bad one
                    check(await restore(grid, grid.backup), grid.want)
                    await until(lambda: not grid.manager.state.damaged)
                    for item in containers:
                        # The next round meets the other copy first.
                        item.copies.reverse()
                    grid.agent.locator._places.clear()
                    grid.agent.reads._readers.clear()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert not any(path_of(grid, copy).exists() for copy in spoilt)
            for item in containers:
                assert len({path_of(grid, copy).read_bytes() for copy in item.copies}) == 1
                assert {copy.medium for copy in item.copies} == {"m1", "m2"}

    asyncio.run(main())


def test_an_administrator_has_one_object_repaired(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            from staddle.wire.handlers import Call

            item = one(grid, "seal")
            bad = item.copies[0]
            rewrite(path_of(grid, bad), flip_middle)
            request = RepairObject(id=item.id, bad=[BadPlacement(bad.medium, bad.name, "CORRUPT")])
            call = object.__new__(Call)
            object.__setattr__(call, "args", request)
            done = await grid.repairer._asked(call)
            assert done.state == "whole"
            assert bad not in item.placements()
            object.__setattr__(call, "args", RepairObject(id=bytes(16), bad=[]))
            assert (await grid.repairer._asked(call)).state == "gone"
            assert REPAIR_OBJECT.roles == frozenset({"admin"})

    asyncio.run(main())


def test_a_copy_goes_through_the_manager_where_no_agent_reaches_both_media(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "container")
            bad = next(copy for copy in item.copies if copy.medium == "m1")
            rewrite(path_of(grid, bad), flip_middle)
            await grid.manager.change(decide_copy_lost, item.id, bad, "corrupt")
            reach, asked = grid.manager.settings.media_of, []

            class Apart:
                """Settings by which whoever is asked about a copy reaches one medium only."""

                def __getattr__(self, name):
                    return getattr(grid.settings, name)

                def media_of(self, agent):
                    asked.append(agent)
                    return ["m2"]

            grid.manager.settings = Apart()
            grid.repairer._presence.serving = lambda _="": list(grid.presence.sessions.values())
            try:
                done = await grid.repairer.repair(item.id)
            finally:
                grid.manager.settings = grid.settings
            assert done.state == "whole", done
            assert asked
            assert reach("a1")
            [made] = [copy for copy in item.copies if copy.medium == "m1"]
            data = {path_of(grid, copy).read_bytes() for copy in item.copies}
            assert len(data) == 1
            assert made != bad

    asyncio.run(main())


def test_a_damaged_copy_and_a_missing_one_make_an_object_that_is_damaged_not_a_medium_that_failed(tmp_path):
    async def main():
        async with mended(tmp_path / "home") as grid:
            item = one(grid, "container")
            rewrite(path_of(grid, item.copies[0]), flip_middle)
            rewrite(path_of(grid, item.copies[1]), lambda _: None)
            for _ in range(2):  # the second time both are known to be bad
                with pytest.raises(Corrupt) as caught:
                    await restore(grid, grid.backup)
                assert "is damaged in every copy" in caught.value.message
                assert item.id.hex() in caught.value.message
                for copy in (*item.copies, *item.bad):
                    assert f"on medium {copy.medium}: " in caught.value.message
                await until(lambda: len(item.bad) == 2)

    asyncio.run(main())


def test_a_scan_for_a_rebuild_sees_through_a_whole_object_in_the_place_of_another(tmp_path):
    """What lies there is undamaged, but another object: it must not hide the good copy on the next medium."""

    async def main():
        async with mended(tmp_path / "home") as grid:
            seal = one(grid, "seal")
            manifest = one(grid, "manifest")
            there = next(copy for copy in seal.copies if copy.medium == "m1")
            other = next(copy for copy in manifest.copies if copy.medium == "m1")
            rewrite(path_of(grid, there), lambda _: path_of(grid, other).read_bytes())
            from staddle.wire.ops.data import SCAN_MEDIUM, ScanMedium

            link = grid.presence.sessions["a1"].data_link()
            request = ScanMedium(medium="m1", kind=Kind.SEAL.value)
            [found] = SCAN_MEDIUM.decode(await link.request(SCAN_MEDIUM.name, request)).objects
            assert (found.name, "CORRUPT" in found.problem) == (there.name, True)
            assert CopyOf("m1", found.name) == there

    asyncio.run(main())
