"""Files that nothing may change, as source and in the way."""

import contextlib
import os

import pytest

from staddle.client.policy import Overwrite
from staddle.data.entries import EntryRows, EntryType
from staddle.platform import fsattrs

from .kit import restored
from .restorekit import stored_rows

pytestmark = pytest.mark.root


@contextlib.contextmanager
def flag(path, flags):
    fd = os.open(path, os.O_RDONLY)
    try:
        fsattrs.set_flags(fd, flags)
        yield
    finally:
        fsattrs.set_flags(fd, 0)
        os.close(fd)


def flags_of(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return fsattrs.get_flags(fd)
    finally:
        os.close(fd)


@pytest.fixture
def to(tmp_path):
    where = tmp_path / "to"
    yield where
    for directory, _, names in os.walk(where):
        for name in [".", *names]:
            fd = os.open(os.path.join(directory, name), os.O_RDONLY)
            with contextlib.suppress(OSError):
                fsattrs.set_flags(fd, 0)
            os.close(fd)


def test_immutable_files_directories_and_hard_links_come_back(to):
    rows, extra = EntryRows(), {"fs_flags": fsattrs.IMMUTABLE | fsattrs.NODUMP}
    rows.add(b"/", b"d", EntryType.DIRECTORY, mode=0o755, mtime_ns=3, extra=extra)
    rows.add(b"/d", b"a", EntryType.FILE, mode=0o644, mtime_ns=4, nlink=2, extra=extra)
    rows.add(b"/d", b"b", EntryType.HARDLINK, mtime_ns=4, link=b"/d/a")
    rows.add(b"/d", b"log", EntryType.FILE, mode=0o644, mtime_ns=5, extra={"fs_flags": fsattrs.APPEND})
    outcome = restored(stored_rows(rows), to)
    assert outcome.warnings == []
    assert flags_of(to / "d") == flags_of(to / "d/a") == fsattrs.IMMUTABLE | fsattrs.NODUMP
    assert flags_of(to / "d/log") == fsattrs.APPEND
    assert os.path.samefile(to / "d/a", to / "d/b")
    assert (os.stat(to / "d").st_mtime_ns, os.stat(to / "d/a").st_mtime_ns) == (3, 4)


def test_an_immutable_file_in_the_way_is_named_and_left(to):
    to.mkdir()
    (to / "f").write_bytes(b"old")
    (to / "d").mkdir()
    rows = EntryRows()
    rows.add(b"/", b"f", EntryType.FILE, mode=0o644)
    rows.add(b"/d", b"g", EntryType.FILE, mode=0o644)
    rows.add(b"/d", b"link", EntryType.SYMLINK, mode=0o777, link=b"x")
    with flag(to / "f", fsattrs.IMMUTABLE), flag(to / "d", fsattrs.IMMUTABLE):
        outcome = restored(stored_rows(rows), to, overwrite=Overwrite.ALWAYS)
    assert (to / "f").read_bytes() == b"old"
    assert sorted(os.listdir(to)) == ["d", "f"]
    assert {path for path, _ in outcome.warnings} == {b"/f", b"/d/g", b"/d/link"}
    assert all("is immutable or append-only" in why for _, why in outcome.warnings)
