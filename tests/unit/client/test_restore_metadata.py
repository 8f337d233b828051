"""What a restore sets beside contents: owners, extended attributes, devices; and what it says if it can't."""

import os
import stat

import pytest

from staddle.client.owners import OwnerOptions
from staddle.client.policy import Overwrite
from staddle.data.entries import EntryRows, EntryType
from staddle.errors import StaddleError, UsageError

from .kit import Stored, below, manifest_of, restored, store
from .restorekit import stored_rows

# --- owners -----------------------------------------------------------------------------------------------


def owned(tmp_path, names=True, **options):
    rows = EntryRows()
    rows.add(b"/", b"f", EntryType.FILE, mode=0o6755, uid=54_321, gid=54_322)
    rows.add(b"/", b"d", EntryType.DIRECTORY, mode=0o755, uid=54_321, gid=54_322)
    rows.add(b"/", b"l", EntryType.SYMLINK, mode=0o777, uid=54_321, gid=54_322, link=b"x")
    rows.add(b"/", b"p", EntryType.FIFO, mode=0o644, uid=54_321, gid=54_322)
    if names:
        rows.users[54_321], rows.groups[54_322] = "daemon", "daemon"
    outcome = restored(stored_rows(rows), tmp_path / "to", owners=OwnerOptions(**options))
    assert outcome.warnings == []
    found = {(os.lstat(tmp_path / "to" / n).st_uid, os.lstat(tmp_path / "to" / n).st_gid) for n in "fdlp"}
    assert len(found) == 1
    return (*found.pop(), oct(stat.S_IMODE(os.stat(tmp_path / "to/f").st_mode)))


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "owner"),
    [
        ({}, (1, 1, "0o6755")),
        ({"names": False}, (54_321, 54_322, "0o6755")),
        ({"numeric": True}, (54_321, 54_322, "0o6755")),
        ({"none": True}, (0, 0, "0o755")),
        ({"user_map": ["daemon:7"], "group_map": ["54322:8"]}, (7, 8, "0o755")),
        ({"user_map": ["54321:root"], "numeric": True}, (0, 54_322, "0o2755")),
    ],
)
def test_owners_are_found_by_name_by_number_or_as_mapped(tmp_path, options, owner):
    assert owned(tmp_path, **options) == owner


@pytest.mark.root
def test_an_owner_that_chown_would_take_for_leave_it_lends_no_rights(tmp_path):
    rows = EntryRows()
    rows.add(b"/", b"f", EntryType.FILE, mode=0o6755, uid=0xFFFFFFFF, gid=0xFFFFFFFF)
    restored(stored_rows(rows), tmp_path / "to")
    assert stat.S_IMODE(os.stat(tmp_path / "to/f").st_mode) == 0o755


@pytest.mark.parametrize("text", ["x", ":", "a:", ":b", "daemon:no such user here"])
def test_an_owner_map_that_leads_nowhere_is_an_error_at_once(tmp_path, text):
    with pytest.raises(UsageError):
        restored(Stored(), tmp_path / "to", owners=OwnerOptions(user_map=[text]))
    assert not os.path.exists(tmp_path / "to")


def test_as_an_ordinary_user_owners_are_one_note_and_no_warning(tmp_path, monkeypatch):
    rows = EntryRows()
    for number in range(30):
        rows.add(b"/", b"%d" % number, EntryType.FILE, mode=0o644, uid=54_321, gid=os.getegid())
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real or 1000)
    outcome = restored(stored_rows(rows), tmp_path / "to")
    assert outcome.warnings == []
    assert outcome.summary.notes == ["owner not set: only root may: 30 entries, the first is /0"]


# --- extended attributes, flags, devices ----------------------------------------------------------------


def test_what_can_not_be_set_is_told_once_for_each_kind(tmp_path):
    rows = EntryRows()
    for number in range(30):
        extra = {"xattr": {b"nonsense.name": b"x"}, "n": number}
        rows.add(b"/", b"%d" % number, EntryType.FILE, mode=0o644, extra=extra)
    outcome = restored(stored_rows(rows), tmp_path / "to")
    assert outcome.summary.files == 30
    assert len(outcome.warnings) == 1
    assert "30 entries" in outcome.warnings[0][1]


def test_damaged_further_metadata_are_a_warning(tmp_path, monkeypatch):
    rows = EntryRows()
    rows.add(b"/", b"f", EntryType.FILE, mode=0o644, extra={"xattr": {b"user.x": b"1"}})
    batch = rows.build()
    batch.extras[0] = b"\xc1"
    monkeypatch.setattr(rows, "build", lambda: batch)
    outcome = restored(stored_rows(rows), tmp_path / "to")
    assert [why for _, why in outcome.warnings] == ["further metadata can't be read"]


@pytest.mark.root
@pytest.mark.parametrize("rdev", [[1, 3], os.makedev(1, 3)])
def test_device_nodes_and_hard_links_to_them(tmp_path, rdev):
    rows = EntryRows()
    rows.add(b"/", b"null", EntryType.CHAR, mode=0o624, nlink=2, mtime_ns=5, extra={"rdev": rdev})
    rows.add(b"/", b"zero", EntryType.HARDLINK, mode=0o624, link=b"/null", mtime_ns=5)
    rows.add(b"/", b"bad", EntryType.CHAR, mode=0o624, extra={"rdev": [1 << 40, 1]})
    stored = stored_rows(rows)
    for _ in range(2):
        outcome = restored(stored, tmp_path / "to")
        assert [path for path, _ in outcome.warnings] == [b"/bad"]
        status = os.lstat(tmp_path / "to/null")
        assert stat.S_ISCHR(status.st_mode)
        assert (status.st_rdev, stat.S_IMODE(status.st_mode)) == (os.makedev(1, 3), 0o624)
        assert (status.st_mtime_ns, status.st_nlink) == (5, 2)
        assert os.path.samestat(status, os.lstat(tmp_path / "to/zero"))
    assert outcome.summary.unchanged == 2


def test_hard_links_of_symlinks_and_pipes(tmp_path):
    rows = EntryRows()
    rows.add(b"/d", b"link", EntryType.SYMLINK, mode=0o777, nlink=2, link=b"/nowhere")
    rows.add(b"/d", b"pipe", EntryType.FIFO, mode=0o600, nlink=2)
    rows.add(b"/e", b"link", EntryType.HARDLINK, link=b"/d/link")
    rows.add(b"/e", b"pipe", EntryType.HARDLINK, link=b"/d/pipe")
    outcome = restored(stored_rows(rows), tmp_path / "to")
    assert outcome.warnings == []
    for name in ("link", "pipe"):
        assert os.path.samestat(os.lstat(tmp_path / "to/d" / name), os.lstat(tmp_path / "to/e" / name))
    partial = restored(stored_rows(rows), tmp_path / "part", paths=["/e"])
    assert partial.warnings == []
    assert os.readlink(tmp_path / "part/e/link") == "/nowhere"
    assert stat.S_ISFIFO(os.lstat(tmp_path / "part/e/pipe").st_mode)


def test_a_directory_closed_to_its_own_owner_is_restored_into_again(tmp_path, monkeypatch):
    rows = EntryRows()
    rows.add(b"/", b"d", EntryType.DIRECTORY, mode=0o500, uid=os.geteuid(), gid=os.getegid(), mtime_ns=3)
    rows.add(b"/d", b"f", EntryType.FILE, mode=0o400, uid=os.geteuid(), gid=os.getegid(), mtime_ns=3)
    for policy in (Overwrite.IF_CHANGED, Overwrite.ALWAYS):
        outcome = restored(stored_rows(rows), tmp_path / "to", overwrite=policy)
        assert outcome.warnings == []
        assert stat.S_IMODE(os.stat(tmp_path / "to/d").st_mode) == 0o500
    os.chmod(tmp_path / "to/d", 0o700)


def test_what_can_not_be_flushed_is_an_error(small, tmp_path, monkeypatch):
    from staddle.platform import flush

    def fails(self):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(flush.FlushList, "flush", fails)
    stored, _ = store(small)
    with pytest.raises(StaddleError, match="may not be on the disk: input/output error"):
        restored(stored, tmp_path / "to")


def test_a_manifest_may_have_more_rows_than_are_worked_on_at_once(tmp_path, monkeypatch):
    from staddle.client import restore

    monkeypatch.setattr(restore, "SLICE_ROWS", 7)
    rows = EntryRows()
    for number in range(100):
        rows.add(b"/d%d" % (number // 9), b"f%d" % number, EntryType.FILE, mode=0o600, mtime_ns=number)
        rows.add(b"/", b"link%d" % number, EntryType.SYMLINK, link=b"%d" % number)
    stored = Stored()
    stored.manifests = [(bytes(16), 0, 0, manifest_of(rows))]
    outcome = restored(stored, tmp_path / "to")
    assert outcome.warnings == []
    for number in range(100):
        assert os.stat(tmp_path / f"to/d{number // 9}/f{number}").st_mtime_ns == number
        assert os.readlink(tmp_path / f"to/link{number}") == str(number)


def test_a_file_that_shares_its_inode_with_another_one_becomes_a_file_of_its_own(tmp_path):
    root, outside = tmp_path / "from", tmp_path / "outside"
    root.mkdir()
    for name, mode in (("a", 0o600), ("b", 0o644), ("c", 0o640)):
        (root / name).write_bytes(b"same size")
        (root / name).chmod(mode)
        os.utime(root / name, ns=(0, 0))
    stored, _ = store(root)
    outcome = restored(stored, tmp_path / "to")
    place = below(tmp_path / "to", root)
    there = [os.path.join(place, name) for name in "abc"]
    os.unlink(there[1])
    os.link(there[0], there[1])
    os.rename(there[2], outside)
    outside.chmod(0o400)
    os.link(outside, there[2])
    outcome = restored(stored, tmp_path / "to")
    assert outcome.warnings == []
    assert [stat.S_IMODE(os.stat(name).st_mode) for name in there] == [0o600, 0o644, 0o640]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o400, "nothing is set on what lies elsewhere"
    again = restored(stored, tmp_path / "to")
    assert again.summary.unchanged == 3
