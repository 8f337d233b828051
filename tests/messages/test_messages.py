"""Every ordinary mistake gives one line that says what, where and what to do; and changes nothing."""

import os
import shutil
import tempfile

import pytest

from staddle.cli import grid

from . import page
from .catalogue import MISTAKES
from .lab import IS_ROOT, Lab

HERE = [mistake for mistake in MISTAKES if IS_ROOT or not mistake.root]
UP_WAIT_S = 3.0
"""A medium of these grids that is not up by then will never be."""


@pytest.fixture(scope="module")
def lab():
    # Not below pytest's own directory: that is closed to the other user whom some mistakes need.
    where = tempfile.mkdtemp(prefix="staddle-messages-")
    os.chmod(where, 0o755)
    made = Lab(where)
    waited, grid.UP_WAIT_S = grid.UP_WAIT_S, UP_WAIT_S
    try:
        made.build()
        yield made
    finally:
        grid.UP_WAIT_S = waited
        made.close()
        shutil.rmtree(where)


@pytest.mark.parametrize("mistake", HERE, ids=lambda mistake: mistake.id)
def test_a_mistake_is_told_in_one_line(lab, mistake):
    if mistake.prepare is not None:
        mistake.prepare(lab)
    before = lab.fingerprint()
    said = mistake.provoke(lab)
    stream = said.out if mistake.stdout else said.err
    assert (lab.plain(stream), said.code) == (mistake.line + "\n", mistake.exit_code)
    assert "Traceback" not in said.err + said.out
    if said.document is not None:
        assert said.json_code == mistake.exit_code
        assert {**said.document, "message": lab.plain(said.document["message"])} == {
            "message_type": "exit_error",
            "code": mistake.code,
            "message": mistake.what,
            "hint": said.document["hint"],
            "exit_code": mistake.exit_code,
        }
        assert lab.plain(said.document["hint"]) == mistake.todo
    assert lab.fingerprint() == before, "a mistake has changed something"


def test_there_are_enough_mistakes_and_each_has_a_name_of_its_own():
    assert len(MISTAKES) >= 60
    assert len({mistake.id for mistake in MISTAKES}) == len(MISTAKES)
    assert len({mistake.situation for mistake in MISTAKES}) == len(MISTAKES)


def test_the_errors_page_lists_every_mistake():
    with open(page.PAGE, encoding="utf-8") as file:
        _, listed, _ = page.parts_of(file.read())
    assert listed == page.rendered(MISTAKES), "run `python tests/messages/page.py`"


def test_after_all_mistakes_the_grid_is_as_it_was(lab):
    assert lab.must("ls", "--home", lab.home).out.count("\n") == 1
    assert lab.must("catalog", "verify", "--home", lab.home).out == "all is well\n"
    target = lab.path("restored")
    lab.must("restore", "1", "--to", target, "--home", lab.home)
    letter = os.path.join("letters", "letter-0")
    with (
        open(os.path.join(lab.source, letter), "rb") as old,
        open(os.path.join(target, lab.source.lstrip("/"), letter), "rb") as new,
    ):
        assert old.read() == new.read()
