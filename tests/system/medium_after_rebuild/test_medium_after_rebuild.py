"""A medium comes back after the log was made again without it: what it holds is read in."""

import os
import random
import shutil

import pytest

from staddle.demo.compare import differences
from staddle.demo.grid import RealGrid

FILE_BYTES = 400_000


class Grid:
    """Two media, one copy of everything: which backup lies where is the test's choice."""

    def __init__(self, where, seed):
        self.where, self.rng = str(where), random.Random(seed)
        self.grid = RealGrid(os.path.join(self.where, "grid"))
        self.grid.init(2, one_copy)
        self.trees = {}

    def __enter__(self):
        self.grid.__enter__()
        self.grid.up()
        return self

    def __exit__(self, *error):
        self.grid.close()

    def backup(self, name, *shared):
        """A new tree, with these files of another one in it; the number of its backup."""
        top = os.path.join(self.where, name)
        os.mkdir(top)
        for number in range(4):
            with open(os.path.join(top, f"{name}-{number}"), "wb") as file:
                file.write(self.rng.randbytes(FILE_BYTES))
        for path in shared:
            shutil.copy(path, top)
        running = self.grid.backup(top, "--name", name)
        assert running.wait(120.0) == 0, (running.lines, running.errors)
        number = running.summary["backup"]
        self.trees[number] = top
        return number

    def only(self, medium):
        """Nothing is stored elsewhere from now on."""
        for name in ("m1", "m2"):
            self.grid.fault(name, *([] if name == medium else [{"op": "put", "error": "full"}]))

    def everywhere(self):
        for name in ("m1", "m2"):
            self.grid.fault(name)

    def media_of(self, backup):
        """Where its objects lie, by kind."""
        rows = self.grid.json(
            "sql",
            "SELECT DISTINCT kind, medium FROM v_backup_objects JOIN v_copies USING (kind, object) "
            f"WHERE backup = {backup} ORDER BY ALL",
        )["rows"]
        return [tuple(row) for row in rows]

    def messages(self):
        return {each["name"]: each["message"] for each in self.grid.json("status")["media"]}

    def states(self):
        return {each["backup"]: each["state"] for each in self.grid.json("ls")}

    def check(self, backup):
        top = self.trees[backup]
        target = os.path.join(self.where, f"out-{backup}-{self.rng.getrandbits(32)}")
        self.grid.run("restore", str(backup), "--to", target)
        found = target + top
        wrong = list(differences(os.fsencode(top), os.fsencode(found)))
        assert not wrong, wrong


def one_copy(text):
    lines = []
    for line in text.splitlines():
        known = line.split(" =")[0] in {"copies", "min_copies"}
        lines.append(f"{line.split(' =')[0]} = 1" if known else line)
        if line.startswith("[medium."):
            lines.append(f'fault_file = "{line[len("[medium.") : -1]}.faults"')
    return "\n".join(lines) + "\n"


@pytest.fixture
def scene(tmp_path, seed):
    with Grid(tmp_path, seed) as made:
        yield made


def test_what_a_medium_holds_comes_back_with_it(scene):
    grid = scene.grid
    scene.only("m1")
    first = scene.backup("first")
    scene.only("m2")
    second = scene.backup("second", os.path.join(scene.trees[first], "first-0"))
    scene.only("m1")
    third = scene.backup("third")
    assert scene.states() == dict.fromkeys((first, second, third), "complete")
    kinds = ("container", "manifest", "seal")
    assert scene.media_of(first) == [(kind, "m1") for kind in kinds]
    assert scene.media_of(third) == [(kind, "m1") for kind in kinds]
    assert scene.media_of(second) == [
        ("container", "m1"),
        *((kind, "m2") for kind in kinds),
    ], "it shares a container with the first one"
    scene.everywhere()

    grid.down()
    shutil.rmtree(os.path.join(grid.home, "manager"))
    grid.take_away("m2")
    done = grid.run("up", check=False)
    assert done.returncode == 0, "what was to be started runs"
    assert f"warning: medium m2 at {grid.medium_path('m2')} is " in done.stderr
    done = grid.run("catalog", "rebuild", check=False)
    assert done.returncode == 3
    assert "medium m2: no agent has shown it" in done.stderr
    assert scene.states() == {first: "complete", third: "complete"}
    done = grid.run("catalog", "rebuild", check=False)
    assert done.returncode == 5, "nothing has come back yet"
    assert "m2" in done.stderr
    # An empty place is not taken for the medium.
    os.mkdir(grid.medium_path("m2"))
    grid.wait(lambda: "was there before" in scene.messages()["m2"], "the empty place is refused")
    os.rmdir(grid.medium_path("m2"))
    later = scene.backup("later")
    assert later > 1000, "numbers of what was not there are not given away"
    grid.run("prune", str(first), "--yes")

    grid.bring_back("m2")
    grid.wait(lambda: "catalog rebuild" in scene.messages()["m2"], "it is said what to do")
    assert scene.media_of(first) == [], "pruned"
    grid.run("catalog", "rebuild")
    assert scene.states() == dict.fromkeys((second, third, later), "complete")
    assert scene.messages()["m2"] == ""
    for backup in (second, third, later):
        scene.check(backup)
    assert grid.run("verify", "--read-data", check=False).returncode == 0
    assert grid.run("catalog", "verify", check=False).returncode == 0
    done = grid.run("catalog", "rebuild", check=False)
    assert done.returncode == 11, "all was read: the log is not made again"
    assert scene.backup("last") == later + 1
