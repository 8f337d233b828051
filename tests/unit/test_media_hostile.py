"""A directory medium to which others can write too: fifos, symlinks, another disk in its place."""

import os
import sys
import threading

import blake3
import pytest

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import Label, MediumState
from staddle.media import directory
from staddle.media.options import DirectoryConfig

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fifos, and symlinks for few")

LABEL = Label(grid=b"g" * 16, medium="m1", volume=b"v" * 16, created_ns=1)
TEXT = (LABEL.grid.hex() + "\n" + LABEL.volume.hex()).encode()
NAME = "c0/7f/" + "0" * 48


def soon():
    return Deadline(20.0)


def digest_of(data):
    return blake3.blake3(data).digest()


def make(path, **options):
    return directory.DirectoryMedium("m1", DirectoryConfig(path=str(path), **options))


@pytest.fixture
def medium(tmp_path):
    medium = make(tmp_path / "v")
    medium.initialize(LABEL, TEXT, soon())
    return medium


@pytest.fixture
def volume(medium):
    return medium.open(LABEL, "write", 1, soon())


def put(volume, data=b"data", name=NAME, deadline=None):
    return volume.put(name, [data], digest_of(data), deadline or soon())


def test_a_path_with_a_slash_at_its_end_is_the_same_place(tmp_path):
    medium = make(str(tmp_path / "v") + "/")
    medium.initialize(LABEL, TEXT, soon())
    volume = medium.open(LABEL, "write", 1, soon())
    put(volume)
    assert (tmp_path / "v" / NAME).read_bytes() == b"data"


def test_another_disk_whose_label_has_the_same_device_and_inode_is_not_written(volume, tmp_path):
    put(volume)
    label = tmp_path / "v" / "staddle-volume.txt"
    label.write_bytes(TEXT.replace(LABEL.volume.hex().encode(), b"77" * 16))
    os.utime(label, ns=(7, 7))
    with pytest.raises(errors.MediumFailed) as caught:
        put(volume, name="c0/7f/bb")
    assert caught.value.code == "WRONG_LABEL"


def within_s(call, *arguments, limit_s=20.0):
    """What a call raised, or gave; that it hangs fails the test."""
    found = []

    def run():
        try:
            found.append(call(*arguments))
        except errors.StaddleError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    assert found, f"{call} hangs"
    return found[0]


@pytest.fixture
def outside(tmp_path):
    """A directory of somebody else's, with an old file, and an object's name."""
    outside = tmp_path / "outside"
    (outside / "7f").mkdir(parents=True)
    for name in ("old", "7f/" + NAME[6:]):
        (outside / name).write_bytes(b"precious")
        os.utime(outside / name, (1, 1))
    return outside


def test_a_fifo_in_the_place_of_a_label_or_an_object_holds_nobody_up(medium, volume, tmp_path):
    put(volume)
    for path in (tmp_path / "v" / NAME, tmp_path / "v" / "staddle-volume.txt"):
        os.unlink(path)
        os.mkfifo(path)
        if path.name == os.path.basename(NAME):
            assert isinstance(within_s(volume.get, NAME, 0, 4, soon()), errors.NotFound)
            assert isinstance(within_s(volume.stat, NAME, soon()), errors.NotFound)
            assert isinstance(within_s(put, volume), errors.Conflict)
    assert isinstance(within_s(medium.read_label, soon()), errors.MediumFailed)
    assert within_s(volume.get, NAME, 0, 4, soon()).code == "LABEL_GONE"
    assert within_s(medium.health, soon()).state is MediumState.OFFLINE


def test_symlinks_in_the_place_of_a_label_or_an_object_are_not_followed(medium, volume, tmp_path):
    put(volume)
    os.unlink(tmp_path / "v" / NAME)
    (tmp_path / "secret").write_bytes(b"data")
    os.symlink(tmp_path / "secret", tmp_path / "v" / NAME)
    with pytest.raises(errors.NotFound):
        volume.get(NAME, 0, 4, soon())
    with pytest.raises(errors.NotFound):
        volume.stat(NAME, soon())
    with pytest.raises(errors.Conflict):
        put(volume)
    volume.delete(NAME, soon())
    assert (tmp_path / "secret").read_bytes() == b"data"
    label = tmp_path / "v" / "staddle-volume.txt"
    os.rename(label, tmp_path / "label")
    os.symlink(tmp_path / "label", label)
    with pytest.raises(errors.MediumFailed):
        medium.read_label(soon())
    with pytest.raises(errors.MediumFailed):
        volume.get(NAME, 0, 4, soon())


def test_nothing_is_read_written_or_deleted_behind_a_symlinked_directory(volume, tmp_path, outside):
    os.symlink(outside, tmp_path / "v" / "c0")
    with pytest.raises(errors.MediumFailed, match="symlink"):
        put(volume, name="c0/7f/aa")
    with pytest.raises(errors.NotFound):
        volume.get(NAME, 0, 4, soon())
    with pytest.raises(errors.NotFound):
        volume.stat(NAME, soon())
    volume.delete(NAME, soon())
    assert os.listdir(outside / "7f") == [NAME[6:]]


def test_a_symlinked_work_area_is_neither_swept_nor_written(medium, volume, tmp_path, outside):
    os.rmdir(tmp_path / "v" / "tmp")
    os.symlink(outside, tmp_path / "v" / "tmp")
    with pytest.raises(errors.MediumFailed, match="symlink"):
        medium.open(LABEL, "write", 1, soon())
    with pytest.raises(errors.MediumFailed, match="symlink"):
        put(volume)
    with pytest.raises(errors.MediumFailed, match="symlink"):
        medium.relabel(LABEL, b"other", TEXT, soon())
    assert sorted(os.listdir(outside)) == ["7f", "old"]
