"""A damaged or lost label is told from a volume that is not there, and written again on proof only."""

import asyncio
import contextlib
import os
import pathlib
import shutil
from types import SimpleNamespace

import pytest
from agentkit import back_up, check, make_tree, restore, running, until

from staddle.daemon.manager import labels
from staddle.daemon.manager.labels import LabelDesk
from staddle.errors import MediumFailed

LABEL = "staddle-volume.txt"
CALL = SimpleNamespace(args=None)


@contextlib.asynccontextmanager
async def labelled(home, **options):
    """A grid with one backup on two media, and the desk for their labels, which does nothing by itself."""
    async with running(home, **options) as grid:
        grid.want = make_tree(home.parent / "src", 1, files=4, big=2 << 20)
        opened, *_ = await back_up(grid, os.fsencode(home.parent / "src"))
        grid.backup = opened.created.backup
        grid.desk = LabelDesk(grid.manager, grid.adoption, grid.presence)
        grid.m1 = pathlib.Path(grid.home, "media", "m1")
        grid.text = (grid.m1 / LABEL).read_bytes()
        yield grid


async def restarted(grid):
    """The agent once more: it finds the media as they are now."""
    await grid.agent.stop()
    await grid.start_agent()
    await until(lambda: grid.presence.serving("m1"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def spoilt(how, path):
    if how == "flipped":
        flip(path)
    elif how == "garbage":
        path.write_bytes(b"\0" * 3000)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "garbage", "deleted"])
@pytest.mark.parametrize("anew", [False, True])
def test_a_bad_label_is_written_again_where_the_objects_are(tmp_path, how, anew):
    async def main():
        async with labelled(tmp_path / "home") as grid:
            spoilt(how, grid.m1 / LABEL)
            state = "missing" if how == "deleted" else "damaged"
            if anew:
                await restarted(grid)
                await until(lambda: grid.adoption.problem("m1"))
                await grid.desk.look()
                assert grid.desk.said("m1").startswith(f"its label is {state}, but its objects are there (")
                assert "`staddle verify --repair`" in grid.desk.said("m1")
                assert grid.desk.said("m2") == ""
            answer = await grid.desk._asked(CALL)
            assert [(each.medium, each.found, each.problem) for each in answer.labels] == [("m1", state, "")]
            assert (grid.m1 / LABEL).read_bytes() == grid.text
            assert grid.adoption.problem("m1") == "", "it is of use again when the answer is there"
            assert (await grid.desk._asked(CALL)).labels == [], "there is nothing more to do"
            shutil.rmtree(grid.m1.parent / "m2")
            check(await restore(grid, grid.backup), grid.want)

    asyncio.run(main())


def test_an_empty_place_gets_no_label_and_is_not_called_a_damaged_one(tmp_path):
    async def main():
        async with labelled(tmp_path / "home") as grid:
            os.rename(grid.m1, tmp_path / "away")
            os.mkdir(grid.m1)
            await restarted(grid)
            await until(lambda: grid.adoption.problem("m1"))
            await grid.desk.look()
            assert grid.desk.said("m1") == ""
            assert "has no label here" in grid.adoption.problem("m1")
            assert (await grid.desk._asked(CALL)).labels == []
            assert os.listdir(grid.m1) == []

    asyncio.run(main())


def test_another_volume_with_a_sound_label_keeps_it(tmp_path):
    async def main():
        async with labelled(tmp_path / "home") as grid:
            other = (grid.m1.parent / "m2" / LABEL).read_bytes()
            (grid.m1 / LABEL).write_bytes(other)
            await restarted(grid)
            await until(lambda: grid.adoption.problem("m1"))
            await grid.desk.look()
            assert grid.desk.said("m1") == ""
            assert (await grid.desk._asked(CALL)).labels == []
            assert (grid.m1 / LABEL).read_bytes() == other

    asyncio.run(main())


@pytest.mark.parametrize("left", ["nothing", "other bytes", "another medium's"])
def test_a_damaged_label_stays_where_no_object_proves_the_place(tmp_path, left):
    async def main():
        async with labelled(tmp_path / "home") as grid:
            if left == "other bytes":
                for path in grid.m1.rglob("??/??/*"):
                    path.chmod(0o600)
                    path.write_bytes(bytes(path.stat().st_size))
            else:
                shutil.rmtree(grid.m1)
                if left == "nothing":
                    grid.m1.mkdir()
                else:
                    shutil.copytree(grid.m1.parent / "m2", grid.m1)
            (grid.m1 / LABEL).write_bytes(b"damaged")
            await restarted(grid)
            await until(lambda: grid.adoption.problem("m1"))
            await grid.desk.look()
            assert grid.desk.said("m1").startswith("its label is damaged")
            [answer] = (await grid.desk._asked(CALL)).labels
            assert (answer.medium, answer.found) == ("m1", "damaged")
            assert "whole" in answer.problem if left == "other bytes" else "is there" in answer.problem
            assert (grid.m1 / LABEL).read_bytes() == b"damaged"

    asyncio.run(main())


class Unable:
    """A medium whose plugin can't write a label again."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def open_unlabelled(self, *_):
        raise MediumFailed("its plugin can't write a label again", hint="replace it")


def test_a_medium_that_can_not_do_it_says_so(tmp_path):
    async def main():
        async with labelled(tmp_path / "home", spoil=lambda _, medium: Unable(medium)) as grid:
            flip(grid.m1 / LABEL)
            await restarted(grid)
            await until(lambda: grid.adoption.problem("m1"))
            await grid.desk.look()
            assert grid.desk.said("m1").startswith("its label is damaged: its plugin can't write")
            [answer] = (await grid.desk._asked(CALL)).labels
            assert "its plugin can't write" in answer.problem

    asyncio.run(main())


def test_the_sample_has_old_and_new_objects_each_once(tmp_path, monkeypatch):
    async def main():
        async with labelled(tmp_path / "home") as grid:
            known = [
                copy.name
                for item in grid.manager.state.objects.values()
                for copy in item.copies
                if copy.medium == "m1"
            ]
            assert sorted(item.name for item in grid.desk._sample("m1")) == sorted(known)
            monkeypatch.setattr(labels, "SAMPLE_EACH_END", 1)
            assert [item.name for item in grid.desk._sample("m1")] == [known[0], known[-1]]

    asyncio.run(main())
