"""The documents that programs read have the shape that was promised: exactly these keys, of these types."""

import os

import pytest

from staddle.demo.grid import RealGrid
from staddle.platform import process


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    made = RealGrid(str(tmp_path_factory.mktemp("home") / "grid"))
    made.init(2)
    with made:
        made.up()
        yield made


def settled(grid):
    grid.wait(lambda: all(m["state"] == "up" for m in grid.json("status")["media"]), "all media are up")
    return grid.json("status")


def shape(document):
    return {key: type(value).__name__ for key, value in document.items()}


PART = {"pid": "int", "pids": "list", "url": "str", "state": "str"}
AGENT = {"name": "str"} | PART
MEDIUM = {
    "name": "str",
    "plugin": "str",
    "state": "str",
    "path": "str",
    "free_bytes": "int",
    "message": "str",
    "bad_copies": "int",
}
ASKED_FOR = {
    "message_type": "str",
    "job": "int",
    "backup": "int",
    "files": "int",
    "dirs": "int",
    "bytes_read": "int",
    "bytes_stored": "int",
    "bytes_resent": "int",
    "failovers": "list",
    "warnings": "int",
    "duration_s": "float",
}
MORE = {
    "state": "str",
    "message": "str",
    "bytes_unchanged": "int",
    "notes": "list",
    "lost": "list",
    "lost_count": "int",
    "left_out": "list",
}


def check_status(status):
    assert list(status) == ["manager", "agents", "media", "damage"]
    assert shape(status["manager"]) == PART
    assert [shape(agent) for agent in status["agents"]] == [AGENT, AGENT]
    assert [shape(medium) for medium in status["media"]] == [MEDIUM, MEDIUM]
    assert [agent["name"] for agent in status["agents"]] == ["a1", "a2"]
    assert [medium["name"] for medium in status["media"]] == ["m1", "m2"]


def test_status_of_a_grid_that_is_up(grid):
    status = settled(grid)
    check_status(status)
    parts = [status["manager"], *status["agents"]]
    assert {part["state"] for part in parts} == {"up"}
    everybody = [pid for part in parts for pid in part["pids"]]
    assert len(set(everybody)) == len(everybody) == 6
    assert all(process.alive(pid) for pid in everybody)
    assert all(part["pid"] in part["pids"] and part["url"].startswith("tcp://127.0.0.1:") for part in parts)
    for medium in status["media"]:
        assert (medium["plugin"], medium["state"], medium["message"]) == ("directory", "up", "")
        assert medium["path"] == os.path.join(grid.home, "media", medium["name"])
        assert medium["free_bytes"] > 0


def test_status_of_a_grid_with_an_agent_down_and_a_medium_gone(grid):
    settled(grid)
    grid.kill("agent-a1")
    grid.take_away("m2")
    grid.wait(lambda: grid.json("status")["media"][1]["state"] == "offline", "m2 is offline")
    status = grid.json("status")
    check_status(status)
    gone, there = status["agents"]
    assert (gone["state"], gone["pid"], gone["pids"]) == ("down", 0, [])
    assert there["state"] == "up"
    assert status["media"][1]["message"]
    grid.bring_back("m2")
    grid.up()
    settled(grid)


def test_status_while_the_manager_is_down(grid):
    grid.kill("manager")
    status = grid.json("status")
    check_status(status)
    assert (status["manager"]["state"], status["manager"]["pids"]) == ("down", [])
    assert {medium["state"] for medium in status["media"]} == {"unknown"}
    grid.up()
    settled(grid)


def test_the_summary_of_a_backup(grid, tmp_path):
    settled(grid)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"x" * 100_000)
    running = grid.backup(str(tmp_path / "tree"), "--name", "one")
    assert running.wait(60) == 0
    last = running.lines[-1]
    assert last["message_type"] == "summary"
    assert shape(last) == ASKED_FOR | MORE
    assert (last["job"], last["backup"], last["files"], last["dirs"]) == (1, 1, 1, 1)
    assert last["bytes_read"] == 100_000
    assert {line["message_type"] for line in running.lines[:-1]} <= {"status"}


def test_an_error_is_one_json_line_with_its_exit_code(grid):
    import json

    done = grid.run("restore", "77", "--to", "/nowhere/at/all", "--json", check=False)
    assert done.returncode == 4
    error = json.loads(done.stderr.splitlines()[-1])
    assert (error["message_type"], error["exit_code"]) == ("exit_error", 4)
    assert set(error) == {"message_type", "code", "message", "hint", "exit_code"}
