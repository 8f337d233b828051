"""An administrator replaces a medium, word by word as docs/operations.md says, and nothing is lost."""

import os
import random
import shutil

import pytest
from unusual import only_in_soak

from staddle.config import home_paths
from staddle.demo.compare import differences
from staddle.demo.grid import RealGrid

FILES, FILE_BYTES = 6, 500_000
EMPTIED_LIMIT_S = 300.0
"""A manager looks for copies that are owed once a minute, and when a pool was changed."""


class Home:
    """Two media with two copies of everything, a third one to be put in a place of theirs, one small tree."""

    def __init__(self, where, seed):
        self.where, self.rng = str(where), random.Random(seed)
        self.source = os.path.join(self.where, "documents")
        os.mkdir(self.source)
        self.write("first")
        self.grid = RealGrid(os.path.join(self.where, "grid"))
        self.grid.init(2)
        self.targets = 0

    def __enter__(self):
        self.grid.__enter__()
        self.grid.up()
        return self

    def __exit__(self, *error):
        self.grid.close()

    def write(self, name):
        for number in range(FILES):
            with open(os.path.join(self.source, f"{name}-{number}"), "wb") as file:
                file.write(self.rng.randbytes(FILE_BYTES))

    def edit(self, change):
        path = home_paths(self.grid.home).config_file
        with open(path, encoding="utf-8") as file:
            text = change(file.read())
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def backup(self):
        running = self.grid.backup(self.source, "--name", "documents")
        assert running.wait(120.0) == 0, (running.lines, running.errors)
        return running.summary

    def status(self):
        return {each["name"]: each for each in self.grid.json("status")["media"]}

    def put_new_one_in_place(self):
        """Step 1."""
        new = os.path.join(self.where, "new-disk")
        os.mkdir(new)
        table = f'\n[medium.m3]\nplugin = "directory"\npath = "{new}"\n'
        self.edit(lambda text: text.replace('media = ["m1", "m2"]', 'media = ["m3", "m2"]') + table)
        self.restart()

    def await_emptied(self):
        """Step 2."""
        self.grid.wait(
            lambda: "table may be taken out" in self.status()["m1"]["message"],
            "nothing needs the old medium any more",
            EMPTIED_LIMIT_S,
        )

    def take_table_out(self):
        """Step 3."""
        table = '[medium.m1]\nplugin = "directory"\npath = "media/m1"\n'

        def without(text):
            assert table in text
            return text.replace(table, "")

        self.edit(without)
        self.restart()
        assert set(self.status()) == {"m2", "m3"}

    def restart(self):
        self.grid.down()
        assert self.grid.run("up", check=False).returncode == 0

    def check(self, backup, codes=(0,)):
        """Everything is there twice, and comes back."""
        done = self.grid.run("verify", "--read-data", check=False)
        assert done.returncode in codes, done.stdout + done.stderr
        assert self.grid.run("catalog", "verify", check=False).returncode == 0
        self.targets += 1
        target = os.path.join(self.where, f"out-{self.targets}")
        self.grid.run("restore", str(backup), "--to", target)
        wrong = list(differences(os.fsencode(self.source), os.fsencode(target + self.source)))
        assert not wrong, wrong


@pytest.fixture
def home(tmp_path, seed):
    with Home(tmp_path, seed) as made:
        yield made


@only_in_soak
@pytest.mark.timeout(600)
def test_a_medium_that_can_be_read_is_emptied_and_wiped(home):
    first = home.backup()
    path = home.grid.medium_path("m1")
    home.put_new_one_in_place()
    home.await_emptied()
    home.check(first["backup"])
    home.take_table_out()
    shutil.rmtree(path)
    home.check(first["backup"])
    home.write("second")
    second = home.backup()
    assert second["bytes_stored"] <= FILES * FILE_BYTES * 1.05, "what was copied is not stored again"
    home.check(second["backup"])
    home.grid.run("prune", str(first["backup"]), "--yes")
    assert {row["backup"] for row in home.grid.json("ls")} == {second["backup"]}


@only_in_soak
@pytest.mark.timeout(600)
def test_a_medium_that_is_broken_is_replaced_from_the_other_copies(home):
    first = home.backup()
    shutil.rmtree(home.grid.medium_path("m1"))
    home.put_new_one_in_place()
    home.await_emptied()
    home.take_table_out()
    home.check(first["backup"])
    home.restart()
    home.check(first["backup"])
