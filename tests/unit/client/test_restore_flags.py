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


def locked_rows(**changed):
    """A directory, files and hard links that nothing may change."""
    rows, extra = EntryRows(), {"fs_flags": fsattrs.IMMUTABLE, "xattr": {b"user.a": b"1"}}
    own = {"uid": os.geteuid(), "gid": os.getegid(), "mode": 0o644, "mtime_ns": 4} | changed
    rows.add(b"/", b"d", EntryType.DIRECTORY, **own, extra={"fs_flags": fsattrs.IMMUTABLE})
    rows.add(b"/d", b"a", EntryType.FILE, **own, nlink=2, extra=extra)
    rows.add(b"/d", b"b", EntryType.HARDLINK, mtime_ns=4, link=b"/d/a")
    rows.add(b"/d", b"log", EntryType.FILE, **own, extra={"fs_flags": fsattrs.APPEND})
    rows.add(b"/", b"plain", EntryType.FILE, **own)
    return stored_rows(rows)


@pytest.mark.parametrize("policy", [Overwrite.IF_CHANGED, Overwrite.IF_NEWER])
def test_what_is_restored_and_immutable_already_is_no_warning(to, policy):
    assert restored(locked_rows(), to).warnings == []
    again = restored(locked_rows(), to, overwrite=policy)
    assert again.warnings == []
    assert again.summary.unchanged == 4
    assert flags_of(to / "d") == flags_of(to / "d/a") == fsattrs.IMMUTABLE


@pytest.mark.parametrize(
    "changed", [{"mode": 0o600}, {"uid": 12345}, {"gid": 12345}], ids=lambda changed: next(iter(changed))
)
def test_what_can_not_be_set_on_an_immutable_file_is_told_by_its_name(to, changed):
    restored(locked_rows(), to)
    outcome = restored(locked_rows(**changed), to)
    assert {path for path, _ in outcome.warnings} == {b"/d", b"/d/a", b"/d/log"}
    for path, why in outcome.warnings:
        assert why == (
            f"owner, mode, times and attributes are not set: {os.fsdecode(os.fsencode(to) + path)!r} "
            "is immutable or append-only (`chattr -ia` makes it writable)"
        )


@pytest.mark.parametrize("theirs", [{b"user.a": b"2"}, {}, {b"user.a": b"1", b"user.b": b""}], ids=str)
def test_other_attributes_of_an_immutable_file_are_told(to, theirs):
    restored(locked_rows(), to)
    place = to / "d/a"
    fd = os.open(place, os.O_RDONLY)
    fsattrs.set_flags(fd, 0)
    for name in fsattrs.list_xattrs(fd):
        fsattrs.remove_xattr(fd, name)
    for name, value in theirs.items():
        fsattrs.set_xattr(fd, name, value)
    fsattrs.set_flags(fd, fsattrs.IMMUTABLE)
    os.close(fd)
    assert [path for path, _ in restored(locked_rows(), to).warnings] == [b"/d/a"]


def test_a_flag_that_is_missing_is_set_again(to):
    restored(locked_rows(), to)
    for name in ("d", "d/a", "d/log"):
        fd = os.open(to / name, os.O_RDONLY)
        fsattrs.set_flags(fd, 0)
        os.close(fd)
    assert restored(locked_rows(), to).warnings == []
    assert [flags_of(to / name) for name in ("d", "d/a", "d/log")] == [
        fsattrs.IMMUTABLE,
        fsattrs.IMMUTABLE,
        fsattrs.APPEND,
    ]


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
