"""New files and directories that are whole or not there, and places that one process makes at a time."""

import os
import stat
import sys

import pytest

from staddle.errors import Locked
from staddle.platform.construction import marker_of, under_construction
from staddle.platform.durable import make_directories, write_new_durable


def test_a_new_file_is_private_and_replaces_the_rest_of_a_cut_off_attempt(tmp_path):
    path = tmp_path / "key"
    (tmp_path / "key.tmp").write_bytes(b"half")
    write_new_durable(str(path), b"whole")
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["key"]
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_file_is_never_touched(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"first")
    with pytest.raises(FileExistsError):
        write_new_durable(str(path), b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]


def test_directories_are_made_at_any_depth_and_may_exist(tmp_path):
    for _ in range(2):
        make_directories(str(tmp_path / "a" / "b" / "c"))
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        make_directories(str(tmp_path / "file" / "d"))


class Place:
    """A place with one more file than its last one."""

    def __init__(self, directory):
        self.directory, self.final = directory, str(directory / "final")
        self.cleared = 0

    def check(self):
        if os.path.exists(self.final):
            raise Locked("taken")

    def clear(self):
        self.cleared += 1
        (self.directory / "other").unlink(missing_ok=True)

    def fail(self, *, before):
        with self.construction() as finish:
            (self.directory / "other").write_bytes(b"")
            if not before:
                finish(b"text")
            raise ZeroDivisionError

    def construction(self):
        return under_construction(self.final, self.check, self.clear)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "place")


def test_a_place_is_finished_by_its_last_file_and_nothing_stays_beside_it(place):
    with place.construction() as finish:
        assert os.path.exists(marker_of(place.final))
        finish(b"text")
    assert os.listdir(place.directory) == ["final"]
    assert place.cleared == 0
    with pytest.raises(Locked, match="taken"), place.construction():
        pytest.fail("it was given away")


def test_what_fails_is_cleared_away(place):
    with pytest.raises(ZeroDivisionError):
        place.fail(before=True)
    assert os.listdir(place.directory) == []


def test_what_was_cut_off_is_cleared_away_before_the_next_attempt(place):
    place.directory.mkdir()
    for name in ("other", "final.new"):
        (place.directory / name).write_bytes(b"")
    with place.construction() as finish:
        assert not (place.directory / "other").exists()
        finish(b"text")
    assert place.cleared == 1


def test_an_error_after_the_last_step_takes_nothing_back(place):
    with pytest.raises(ZeroDivisionError):
        place.fail(before=False)
    assert sorted(os.listdir(place.directory)) == ["final", "other"]
    assert place.cleared == 0


def test_two_processes_do_not_make_one_place(place):
    with place.construction() as finish:
        with pytest.raises(Locked, match="another process"), place.construction():
            pytest.fail("both are at it")
        finish(b"text")
    assert os.listdir(place.directory) == ["final"]
