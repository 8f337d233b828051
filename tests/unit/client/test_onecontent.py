"""The content of one entry onto standard output, a file or a device."""

import errno
import hashlib
import io
import os
import random
import stat
import subprocess
import sys

import pytest

from staddle.client import onecontent
from staddle.client.owners import OwnerOptions
from staddle.client.policy import Overwrite
from staddle.data.entries import EntryRows, EntryType
from staddle.errors import Corrupt, NotFound, StaddleError, UsageError
from staddle.platform import blockdevice

from .kit import CHUNK, FakeGrid, restored, store
from .restorekit import stored_rows


@pytest.fixture
def big(tmp_path, seed):
    """A file with data, holes at all places, and an end in a hole; a hard link; a small file."""
    rng = random.Random(seed)
    root = tmp_path / "source"
    root.mkdir()
    data = bytes(CHUNK * 2) + rng.randbytes(2 << 20) + bytes(CHUNK * 30) + rng.randbytes(CHUNK) + bytes(CHUNK)
    (root / "image").write_bytes(data)
    os.link(root / "image", root / "second")
    (root / "small").write_bytes(b"small")
    (root / "empty").write_bytes(b"")
    os.symlink("image", root / "link")
    return root


class Output:
    def __init__(self):
        self.buffer = io.BytesIO()


def to_stdout(monkeypatch, stored, path, **more):
    output = Output()
    monkeypatch.setattr(sys, "stdout", output)
    try:
        outcome = restored(stored, "/", paths=[path], onto=b"-", **more)
    finally:
        monkeypatch.undo()
    return output.buffer.getvalue(), outcome


@pytest.mark.parametrize("name", ["image", "second", "small", "empty"])
@pytest.mark.parametrize("per_segment", [1000, 1])
def test_the_content_of_one_file_goes_to_standard_output(big, monkeypatch, name, per_segment):
    stored, _ = store(big, records_per_segment=per_segment)
    got, outcome = to_stdout(monkeypatch, stored, big / name)
    assert got == (big / name).read_bytes()
    assert (outcome.summary.files, outcome.summary.bytes_restored) == (1, len(got))


def test_a_backup_with_one_root_needs_no_path(big, monkeypatch):
    stored, _ = store(big / "small")
    stored.roots = [os.fsencode(big / "small")]
    output = Output()
    monkeypatch.setattr(sys, "stdout", output)
    restored(stored, "/", onto=b"-")
    assert output.buffer.getvalue() == b"small"


@pytest.mark.parametrize(
    ("paths", "error"),
    [(["nowhere"], NotFound), (["small", "image"], UsageError), (["."], UsageError), (["link"], UsageError)],
)
def test_what_is_not_one_file_is_an_error_and_nothing_is_written(big, tmp_path, paths, error):
    stored, _ = store(big)
    with pytest.raises(error):
        restored(
            stored,
            "/",
            paths=[os.path.normpath(big / each) for each in paths],
            onto=os.fsencode(tmp_path / "out"),
        )
    assert not os.path.exists(tmp_path / "out")


def test_a_content_that_can_not_be_had_is_an_error(big, tmp_path):
    stored, _ = store(big)

    async def breaks(op, args):
        if op == "read.chunks":
            raise Corrupt("damaged")

    with pytest.raises(Corrupt, match="can't be had"):
        restored(
            stored, "/", paths=[big / "image"], onto=os.fsencode(tmp_path / "out"),
            grid=FakeGrid(stored), faults={"a1": breaks, "a2": breaks},
        )  # fmt: skip


def test_an_existing_file_is_overwritten_where_it_stands_and_gets_the_right_length(big, tmp_path):
    stored, _ = store(big)
    out = tmp_path / "out"
    out.write_bytes(b"\xff" * (8 << 20))
    inode = out.stat().st_ino
    restored(stored, "/", paths=[big / "image"], onto=os.fsencode(out))
    assert (
        hashlib.blake2b(out.read_bytes()).digest() == hashlib.blake2b((big / "image").read_bytes()).digest()
    )
    assert out.stat().st_ino == inode
    assert out.stat().st_blocks * 512 < out.stat().st_size


@pytest.mark.parametrize("kind", ["directory", "pipe", "/dev/null"])
def test_neither_a_directory_nor_a_pipe_is_overwritten(big, tmp_path, kind):
    stored, _ = store(big)
    out = tmp_path / "out" if kind != "/dev/null" else kind
    if kind == "directory":
        os.mkdir(out)
    elif kind == "pipe":
        os.mkfifo(out)
    with pytest.raises(StaddleError, match="neither a file nor a block device"):
        restored(stored, "/", paths=[big / "image"], onto=os.fsencode(out))


def test_options_that_mean_a_tree_do_not_go_with_one_content(tmp_path):
    for more in ({"dry_run": True}, {"delete": True}, {"in_place": True}, {"include": ["x"]}):
        with pytest.raises(UsageError):
            restored(stored_rows(EntryRows()), "/", onto=b"-", **more)


@pytest.mark.parametrize("onto", ["-", "file"])
@pytest.mark.parametrize(
    "more",
    [
        {"overwrite": Overwrite.NEVER},
        {"overwrite": Overwrite.IF_NEWER},
        {"owners": OwnerOptions(user_map=["0:0"])},
        {"owners": OwnerOptions(numeric=True)},
        {"exclude": ["x"]},
    ],
    ids=str,
)
def test_an_option_that_would_be_ignored_is_refused_and_the_file_stays(big, tmp_path, onto, more):
    stored, _ = store(big)
    out = tmp_path / "file"
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="do not fit"):
        restored(stored, "/", paths=[big / "small"], onto=onto if onto == "-" else os.fsencode(out), **more)
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("way", ["straight", "by a symlink", "by a symlink to the file"])
def test_a_file_of_a_grid_is_not_overwritten(big, tmp_path, way):
    stored, _ = store(big)
    (tmp_path / "grid/media").mkdir(parents=True)
    label = tmp_path / "grid/media/staddle-volume.txt"
    label.write_bytes(b"label")
    os.symlink("grid/media", tmp_path / "way")
    os.symlink(label, tmp_path / "link")
    names = {"straight": label, "by a symlink": tmp_path / "way" / label.name}
    with pytest.raises(UsageError, match="inside a grid's own directory"):
        restored(
            stored, "/", paths=[big / "small"], onto=os.fsencode(names.get(way, tmp_path / "link")),
            protected=[os.fsencode(tmp_path / "grid")],
        )  # fmt: skip
    assert label.read_bytes() == b"label"


class Full:
    """A disk that takes some bytes, and then no more."""

    def __init__(self, room):
        self.room = room

    def write(self, data):
        if self.room < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return len(data)

    def flush(self):
        pass


def test_a_full_disk_is_told_of_the_place_that_is_written_to(big, tmp_path, monkeypatch):
    stored, _ = store(big)
    full = Output()
    full.buffer = Full(1 << 20)
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(StaddleError) as told:
        restored(stored, "/", paths=[big / "image"], onto=b"-")
    assert told.value.message == "cannot write to standard output: no space left on device"
    monkeypatch.undo()
    monkeypatch.setattr(os, "write", lambda fd, data: Full(0).write(data))
    out = tmp_path / "out"
    with pytest.raises(StaddleError) as told:
        restored(stored, "/", paths=[big / "image"], onto=os.fsencode(out))
    assert told.value.message == f"cannot write to {str(out)!r}: no space left on device"
    assert "do not use it" in told.value.hint


def test_zeros_are_written_also_where_the_device_has_no_call_for_it(tmp_path, seed):
    rng = random.Random(seed)
    place = tmp_path / "f"
    for _ in range(20):
        offset, length = rng.randrange(4000), rng.randrange(3 << 20)
        data = bytearray(b"\xff" * (4 << 20))
        place.write_bytes(data)
        fd = os.open(place, os.O_RDWR)
        try:
            blockdevice.zero(fd, offset, length)
        finally:
            os.close(fd)
        data[offset : offset + length] = bytes(length)
        assert place.read_bytes() == data


def test_a_device_that_is_too_small_is_left_as_it_is(tmp_path, monkeypatch):
    place = tmp_path / "device"
    place.write_bytes(b"\xee" * 1000)
    sink = onecontent.Onto(os.fsencode(place))
    sink._is_device = True
    with pytest.raises(StaddleError, match="1000 bytes, and 1001 are needed"):
        sink.begin(1001)
    sink.begin(1000)
    sink.close()
    assert place.read_bytes() == b"\xee" * 1000


@pytest.mark.loop
def test_a_real_block_device_gets_the_image_and_keeps_what_is_behind_it(big, tmp_path):
    stored, _ = store(big)
    size = (big / "image").stat().st_size
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xff" * (size + 8192))
    made = subprocess.run(["losetup", "-f", "--show", backing], capture_output=True, text=True, check=True)
    device = made.stdout.strip()
    try:
        restored(stored, "/", paths=[big / "image"], onto=os.fsencode(device))
        assert stat.S_ISBLK(os.stat(device).st_mode)
        with open(device, "rb") as file:
            assert file.read(size) == (big / "image").read_bytes()
            assert file.read() == b"\xff" * 8192
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_an_image_entry_below_a_directory_is_a_file(tmp_path):
    rows = EntryRows()
    rows.add(b"/dev", b"sdx", EntryType.IMAGE, size=0, mode=0o600)
    outcome = restored(stored_rows(rows), tmp_path / "to")
    assert outcome.warnings == []
    assert (tmp_path / "to/dev/sdx").read_bytes() == b""
