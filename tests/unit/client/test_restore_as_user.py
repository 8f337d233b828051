"""A restore by an ordinary user, for real: this process gives root's rights up for its time."""

import contextlib
import os
import stat

import pytest

from staddle.client.policy import Overwrite
from staddle.data.entries import EntryRows, EntryType

from .kit import restored
from .restorekit import stored_rows

NOBODY = 65_534

pytestmark = pytest.mark.root


@contextlib.contextmanager
def as_nobody():
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def home(tmp_path):
    """A directory of that user, that it can reach."""
    path = tmp_path
    while stat.S_IMODE(path.stat().st_mode) & 0o011 != 0o011 and path.parent != path:
        path.chmod(0o755)
        path = path.parent
    rows = EntryRows()
    rows.add(b"/", b"d", EntryType.DIRECTORY, mode=0o755, extra={"xattr": {}})
    rows.users[0], rows.groups[0] = "root", "root"
    restored(stored_rows(rows), tmp_path / "warm")  # that user may not read the modules still missing
    mine = tmp_path / "mine"
    mine.mkdir()
    os.chown(mine, NOBODY, NOBODY)
    return mine


def test_everything_that_needs_no_privilege_comes_back_and_the_rest_is_told_once(home):
    rows = EntryRows()
    rows.users[0], rows.groups[0] = "root", "root"
    rows.add(b"/", b"d", EntryType.DIRECTORY, mode=0o1750, mtime_ns=3)
    for number in range(20):
        extra = {"xattr": {b"trusted.x": b"1", b"user.x": b"2"}}
        rows.add(b"/d", b"f%02d" % number, EntryType.FILE, mode=0o6755, mtime_ns=4, extra=extra)
    rows.add(b"/d", b"mine", EntryType.FILE, mode=0o4711, uid=NOBODY, gid=NOBODY, mtime_ns=5)
    rows.add(b"/d", b"disk", EntryType.BLOCK, mode=0o660, extra={"rdev": [8, 0]})
    rows.add(b"/d", b"link", EntryType.SYMLINK, mode=0o777, link=b"x", mtime_ns=6)
    rows.add(b"/d", b"pipe", EntryType.FIFO, mode=0o622, mtime_ns=7)
    with as_nobody():
        outcome = restored(stored_rows(rows), home / "to")
    found = home / "to/d"
    assert [path for path, _ in outcome.warnings] == [b"/d/disk"]
    assert "only root may" in outcome.warnings[0][1]
    notes = outcome.summary.notes
    assert len(notes) == 3
    assert any(note.startswith("owner not set: only root may: 23 entries") for note in notes)
    assert any(note.startswith("group not set: only root may: 23 entries") for note in notes)
    assert any("trusted.x" in note and "20 entries" in note for note in notes)
    assert stat.S_IMODE((found / "f00").stat().st_mode) == 0o755
    assert os.getxattr(found / "f00", "user.x") == b"2"
    assert stat.S_IMODE((found / "mine").stat().st_mode) == 0o4711
    assert stat.S_IMODE(found.stat().st_mode) == 0o1750
    times = {name: os.lstat(found / name).st_mtime_ns for name in os.listdir(found)}
    assert {times["f00"], times["mine"], times["link"], times["pipe"]} == {4, 5, 6, 7}
    assert stat.S_IMODE(os.stat(found / "pipe").st_mode) == 0o622


def test_a_directory_closed_to_its_owner_is_opened_for_the_time_of_the_restore(home):
    rows = EntryRows()
    rows.add(b"/", b"d", EntryType.DIRECTORY, mode=0o500, uid=NOBODY, gid=NOBODY, mtime_ns=3)
    rows.add(b"/d", b"e", EntryType.DIRECTORY, mode=0, uid=NOBODY, gid=NOBODY, mtime_ns=3)
    rows.add(b"/d/e", b"f", EntryType.FILE, mode=0, uid=NOBODY, gid=NOBODY, mtime_ns=3)
    for policy in (Overwrite.IF_CHANGED, Overwrite.ALWAYS, Overwrite.IF_CHANGED):
        with as_nobody():
            outcome = restored(stored_rows(rows), home / "to", overwrite=policy)
        assert outcome.warnings == []
        assert outcome.summary.notes == []
        modes = [stat.S_IMODE(os.stat(home / "to" / name).st_mode) for name in ("d", "d/e", "d/e/f")]
        assert modes == [0o500, 0, 0]


def test_a_target_of_somebody_else_is_one_message_for_each_entry(home):
    (home / "to").mkdir(mode=0o755)
    rows = EntryRows()
    rows.add(b"/", b"f", EntryType.FILE, mode=0o644)
    with as_nobody():
        outcome = restored(stored_rows(rows), home / "to")
    assert outcome.warnings == [(b"/f", "not restored: permission denied")]
    assert os.listdir(home / "to") == []
