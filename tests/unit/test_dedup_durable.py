"""The primitives of durable writing."""

from __future__ import annotations

import os

import pytest

from staddle.platform.durable import Files, fsync_dir, publish_no_replace, try_lock, write_file_durable


def test_write_file_durable_replaces_whole_and_leaves_nothing_beside(tmp_path):
    path = str(tmp_path / "file")
    write_file_durable(path, b"one")
    (tmp_path / "file.tmp").write_bytes(b"rest of a crash")
    write_file_durable(path, [b"two", memoryview(b" parts"), bytearray(b"!")])
    assert (tmp_path / "file").read_bytes() == b"two parts!"
    assert os.listdir(tmp_path) == ["file"]


def test_bytes_are_synced_before_the_name_and_the_name_before_the_return(tmp_path):
    order = []

    class Watched(Files):
        def datasync(self, fd):
            order.append("datasync")
            super().datasync(fd)

        def replace(self, source, target):
            order.append("replace")
            super().replace(source, target)

        def sync_dir(self, path):
            order.append(f"sync_dir {path}")
            super().sync_dir(path)

    write_file_durable(str(tmp_path / "file"), b"x", Watched())
    assert order == ["datasync", "replace", f"sync_dir {tmp_path}"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    class Full(Files):
        def write(self, fd, data):
            raise OSError(28, "No space left on device")

    path = str(tmp_path / "file")
    write_file_durable(path, b"old")
    with pytest.raises(OSError, match="No space"):
        write_file_durable(path, b"new", Full())
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("kind", [str, os.fsencode])
def test_publish_no_replace_gives_the_name_once(tmp_path, kind):
    first, second, final = (tmp_path / name for name in ("first", "second", "final"))
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    publish_no_replace(kind(str(first)), kind(str(final)))
    with pytest.raises(FileExistsError):
        publish_no_replace(kind(str(second)), kind(str(final)))
    assert final.read_bytes() == b"1"
    assert not first.exists()
    assert second.read_bytes() == b"2"
    fsync_dir(kind(str(tmp_path)))


def test_a_lock_lasts_until_its_file_is_closed(tmp_path):
    path = tmp_path / "lock"
    first = os.open(path, os.O_RDWR | os.O_CREAT)
    second = os.open(path, os.O_RDWR)
    try:
        assert try_lock(first)
        assert not try_lock(second)
        os.close(first)
        first = -1
        assert try_lock(second)
    finally:
        os.close(second)
        if first >= 0:
            os.close(first)


def test_create_refuses_an_existing_file_and_reopen_stands_at_the_end(tmp_path):
    files, path = Files(), str(tmp_path / "file")
    fd = files.create(path)
    files.write(fd, b"abc")
    files.close(fd)
    with pytest.raises(FileExistsError):
        files.create(path)
    fd = files.reopen(path)
    files.write(fd, b"def")
    files.truncate(fd, 4)
    files.write(fd, b"!")
    files.close(fd)
    assert (tmp_path / "file").read_bytes() == b"abcd!"
