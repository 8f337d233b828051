"""`up` starts what is missing and nothing else, `down` stops what is there, `init` never harms a grid."""

import os

import pytest

from staddle.demo.grid import RealGrid

PARTS = ["manager", "agent-a1", "agent-a2"]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    made = RealGrid(str(tmp_path_factory.mktemp("home") / "grid"))
    made.init(2)
    with made:
        made.up()
        yield made


def pids(grid):
    return {part: grid.pids(part) for part in PARTS}


def test_up_on_a_grid_that_is_up_starts_nothing(grid):
    before = pids(grid)
    assert grid.json("up") == []
    assert pids(grid) == before


@pytest.mark.parametrize("part", PARTS)
def test_up_starts_only_what_was_killed(grid, part):
    before = pids(grid)
    grid.kill(part)
    assert [run["part"] for run in grid.json("up")] == [part]
    after = pids(grid)
    assert not set(after.pop(part)) & set(before.pop(part))
    assert after == before


def test_up_comes_to_the_same_from_any_subset(grid, seed):
    import random

    parts = random.Random(seed).sample(PARTS, 2)
    for part in parts:
        grid.kill(part)
    assert sorted(run["part"] for run in grid.json("up")) == sorted(parts)
    grid.wait(lambda: all(a["state"] == "up" for a in grid.json("status")["agents"]), "all agents are up")


def test_two_ups_at_once_start_each_part_once(grid):
    import subprocess
    import sys

    grid.down()
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "staddle", "up"], env=grid.environment, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    codes = [each.wait(60) for each in both]
    assert codes == [0, 0]
    before = pids(grid)
    assert grid.json("up") == []
    assert pids(grid) == before


def test_down_stops_everything_and_may_be_said_again(grid):
    before = [pid for each in pids(grid).values() for pid in each]
    assert sorted(grid.json("down")) == sorted(PARTS)
    assert grid.json("down") == []
    from staddle.platform import process

    assert not any(process.alive(pid) for pid in before)
    assert grid.run("status", "--json").returncode == 0
    assert grid.run("ls", check=False).returncode == 5
    grid.up()


def test_init_leaves_a_grid_alone(grid):
    path = os.path.join(grid.home, "staddle.toml")
    with open(path, "rb") as file:
        before = file.read()
    assert grid.run("init", "--home", grid.home, check=False).returncode == 11
    with open(path, "rb") as file:
        assert file.read() == before


def test_what_was_killed_is_started_again_and_the_rest_left_alone(grid):
    kept = grid.pids("agent-a2")
    gone = grid.pids("manager") + grid.pids("agent-a1")
    grid.kill("manager")
    grid.kill("agent-a1")
    grid.up()
    grid.wait(lambda: all(a["state"] == "up" for a in grid.json("status")["agents"]), "all agents are up")
    assert grid.pids("agent-a2") == kept
    assert not set(gone) & {*grid.pids("manager"), *grid.pids("agent-a1")}
