"""Blocks of a real disk that can't be read: one object is lost, or the medium, and that is told apart."""

import hashlib
import os
import subprocess

import blake3
import pytest

from staddle.api.media import Deadline
from staddle.api.types import Label
from staddle.errors import Corrupt, MediumFailed
from staddle.media import directory
from staddle.media.options import DirectoryConfig

LABEL = Label(grid=b"g" * 16, medium="m1", volume=b"v" * 16, created_ns=1)
TEXT = (LABEL.grid.hex() + "\n" + LABEL.volume.hex()).encode()
FIRST, SECOND = "c0/7f/" + "0" * 48, "c0/7f/" + "1" * 48
SIZE_BYTES = 1 << 20


def soon():
    return Deadline(20.0)


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


@pytest.fixture
def disk(tmp_path):
    """(mount point, the file that is the disk): ext4 in a loop device."""
    image, where = tmp_path / "disk", tmp_path / "mounted"
    where.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-O", "^has_journal", image)
    run("mount", "-o", "loop", image, where)
    try:
        yield where, image
    finally:
        run("umount", "--lazy", where)


def place_of(image, data):
    """Where the disk has these bytes."""
    with open(image, "rb") as file:
        found = file.read().find(data[:4096])
    assert found > 0
    return found


@pytest.mark.mounts
@pytest.mark.loop
def test_an_object_on_a_bad_block_is_damaged_and_a_dead_disk_is_a_failed_medium(disk):
    where, image = disk
    medium = directory.DirectoryMedium("m1", DirectoryConfig(path=str(where / "v")))
    os.mkdir(where / "v")
    medium.initialize(LABEL, TEXT, soon())
    volume = medium.open(LABEL, "write", 1, soon())
    stored = {name: hashlib.shake_256(name.encode()).digest(SIZE_BYTES) for name in (FIRST, SECOND)}
    for name, data in stored.items():
        volume.put(name, [data], blake3.blake3(data).digest(), soon())
    run("mount", "-o", "remount,ro", where)
    run("sync", image)
    lost, kept = sorted(stored, key=lambda name: place_of(image, stored[name]), reverse=True)
    os.truncate(image, place_of(image, stored[lost]))
    for name in stored:
        forget(where, name)
    with pytest.raises(Corrupt, match=r"read object c0/7f/.*Input/output error"):
        volume.get(lost, 0, SIZE_BYTES, soon())
    assert volume.get(kept, 0, SIZE_BYTES, soon()) == stored[kept]
    os.truncate(image, 0)
    forget(where, kept)
    for name in stored:
        with pytest.raises(MediumFailed, match="Input/output error"):
            volume.get(name, 0, SIZE_BYTES, soon())
    medium.close()


def forget(where, name):
    """What memory has of an object."""
    with open(where / "v" / name, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
