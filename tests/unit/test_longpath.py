"""staddle.platform.longpath: any depth, and the plain call's meaning."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from staddle.platform import longpath

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="depths are built by directory descriptors")


def dig(top: bytes, name: bytes, levels: int) -> bytes:
    """Directories in one another, deeper than a path may be; the path of the innermost."""
    fd = os.open(top, os.O_RDONLY)
    path = top
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd, path = inner, path + b"/" + name
    with os.fdopen(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as file:
        file.write(b"deep")
    os.symlink(b"file", b"link", dir_fd=fd)
    os.close(fd)
    return path


@pytest.fixture
def deep(tmp_path: Path):
    """9,000 to 60,000 bytes of directories."""

    def make(name: bytes, levels: int) -> bytes:
        return dig(os.fsencode(tmp_path), name, levels)

    yield make
    subprocess.run(["rm", "-rf", tmp_path], check=True)  # of any depth, as shutil.rmtree is not


@pytest.mark.parametrize(
    ("name", "levels"), [(b"d", 4500), (b"n" * 255, 40), (b"\xff\x80 " * 30, 300), (b"x", 10)]
)
def test_a_path_of_any_length_is_opened_listed_and_looked_at(deep, name, levels):
    path = deep(name, levels)
    assert sorted(longpath.listdir(path)) == [b"file", b"link"]
    fd = longpath.open(path + b"/file", os.O_RDONLY)
    assert os.read(fd, 10) == b"deep"
    os.close(fd)
    assert longpath.lstat(path + b"/file").st_size == 4
    assert longpath.readlink(path + b"/link") == b"file"
    assert os.path.samestat(longpath.lstat(path + b"/"), longpath.lstat(path))


def test_what_is_missing_below_a_long_path_is_told_as_the_plain_call_tells_it(deep):
    path = deep(b"a" * 200, 30)
    with pytest.raises(FileNotFoundError):
        longpath.lstat(path + b"/none")
    with pytest.raises(FileNotFoundError):
        longpath.open(path + b"/none/below", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        longpath.listdir(path + b"/file")
    with pytest.raises(OSError, match="too long") as caught:
        longpath.lstat(b"/" + b"z" * 5000)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_long_path_is_created_for_writing(deep):
    path = deep(b"b" * 100, 60) + b"/new"
    fd = longpath.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
    os.write(fd, b"12")
    os.close(fd)
    assert longpath.lstat(path).st_size == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc gives a short path to a long one")
def test_a_long_path_is_reachable_by_a_short_one(deep):
    path = deep(b"c" * 100, 60) + b"/link"
    with longpath.reachable(path) as short:
        assert len(short) < 100
        assert os.path.samestat(os.lstat(short), longpath.lstat(path))
    assert not os.path.lexists(short)


def test_names_of_an_open_directory_are_bytes_as_they_are(tmp_path):
    names = {b"plain", b"\xff\xfe", "ü".encode(), b" new\nline"}
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    assert set(longpath.listdir(fd)) == names
    os.close(fd)


def test_no_descriptor_is_left_open(deep):
    path = deep(b"e" * 100, 60)
    before = len(os.listdir("/dev/fd"))
    longpath.lstat(path)
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            longpath.open(path + b"/none", os.O_RDONLY)
    assert len(os.listdir("/dev/fd")) == before
