"""Reading files that others may have put there."""

import os
import socket
import sys

import pytest

from staddle.platform.plainfile import NotOrdinary, open_plain, read_plain

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fifos, and symlinks for few")


def test_an_ordinary_file_is_read_up_to_the_bound(tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    assert read_plain(str(tmp_path / "f"), 4) == b"0123"
    with open_plain(str(tmp_path / "f")) as file:
        assert file.read() == b"0123456789"


@pytest.mark.parametrize("follow", [True, False])
def test_whatever_is_no_file_is_refused_at_once(tmp_path, follow):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
    for name, kind in (
        ("fifo", NotOrdinary),
        ("socket", NotOrdinary),
        ("directory", IsADirectoryError),
        ("missing", FileNotFoundError),
    ):
        with pytest.raises(kind):
            read_plain(str(tmp_path / name), 10, follow=follow)
    with pytest.raises(NotOrdinary):
        read_plain("/dev/null", 10, follow=follow)


def test_a_symlink_is_followed_only_when_that_is_wanted(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    os.symlink("f", tmp_path / "link")
    os.symlink("nothing", tmp_path / "dangling")
    assert read_plain(str(tmp_path / "link"), 10) == b"x"
    with pytest.raises(NotOrdinary):
        read_plain(str(tmp_path / "link"), 10, follow=False)
    with pytest.raises(FileNotFoundError):
        read_plain(str(tmp_path / "dangling"), 10)
    with pytest.raises(NotOrdinary):
        read_plain(str(tmp_path / "dangling"), 10, follow=False)
