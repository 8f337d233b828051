"""What a restore never may do to the system that it writes to."""

import errno
import os
import socket
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client.target import Meta, Target, windows_part
from staddle.data.entries import EntryRows, EntryType
from staddle.errors import StaddleError

from .kit import (
    Stored,
    below,
    manifest_of,
    picture,
    restored,
    store,
)


def test_a_restore_writes_nothing_through_a_symlink(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "secret").write_bytes(b"secret")
    (outside / "secret").chmod(0o600)
    before = picture(outside)
    rows = EntryRows()
    rows.add(b"/", b"top", EntryType.DIRECTORY, mode=0o755)
    rows.add(b"/top", b"way", EntryType.SYMLINK, mode=0o777, link=os.fsencode(outside))
    rows.add(b"/top/way", b"new", EntryType.FILE, mode=0o666)
    rows.add(b"/top/way", b"sub", EntryType.DIRECTORY, mode=0o777)
    rows.add(b"/top", b"way", EntryType.DIRECTORY, mode=0o777)
    rows.add(b"/top", b"stolen", EntryType.HARDLINK, mode=0o777, link=b"/top/way/secret")
    stored = Stored()
    stored.manifests = [(bytes(16), 0, 0, manifest_of(rows))]
    os.makedirs(tmp_path / "to/top")
    os.symlink(outside, tmp_path / "to/top/way")
    outcome = restored(stored, tmp_path / "to")
    assert picture(outside) == before
    assert not os.path.exists(tmp_path / "to/top/stolen")
    assert {path for path, _ in outcome.warnings} >= {b"/top/way/new", b"/top/way/sub", b"/top/stolen"}


def test_metadata_of_a_name_that_has_become_a_symlink_is_not_set_behind_it(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    victim.chmod(0o600)
    target = Target(os.fsencode(tmp_path / "to"), lambda path, why: None)
    place = os.fsencode(tmp_path / "to/f")
    fd = target.create_file(place)
    os.unlink(place)
    os.symlink(victim, place)
    meta = Meta(0o777, 12345, 12345, 1)
    target.set_file_metadata(fd, place, meta)
    os.close(fd)
    target.set_directory_metadata(place, meta)
    target.set_metadata(place, meta)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert victim.stat().st_uid == os.geteuid()
    assert victim.stat().st_mtime_ns != 1


@given(st.binary(min_size=1, max_size=20).filter(lambda part: part not in {b".", b".."} and b"/" not in part))
def test_a_part_of_a_path_means_nothing_special_to_windows(part):
    safe = windows_part(part)
    assert safe
    assert not set(safe) & set(b'\\:*?"<>|\0')
    assert safe.rstrip(b". ") == safe
    assert safe.split(b".")[0].upper() not in {b"CON", b"NUL", b"AUX", b"PRN", b"COM1", b"LPT1"}


def test_set_id_bits_come_back_only_with_their_owner(tmp_path, monkeypatch):
    target = Target(os.fsencode(tmp_path), lambda path, why: None)
    monkeypatch.setattr(target, "privileged", False)
    place = os.fsencode(tmp_path / "f")
    fd = target.create_file(place)
    target.set_file_metadata(fd, place, Meta(0o4755, os.geteuid() + 1, 0, 0))
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o755
    target.set_file_metadata(fd, place, Meta(0o4755, os.geteuid(), 0, 0))
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o4755
    os.close(fd)


def test_a_full_target_ends_the_restore_instead_of_warning_for_every_file(tree, tmp_path, monkeypatch):
    stored, _ = store(tree)

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StaddleError, match="no space left"):
        restored(stored, tmp_path / "to")


def test_devices_and_sockets(tmp_path, monkeypatch):
    root = tmp_path / "source"
    root.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
    stored, _ = store(root)
    rows = EntryRows()
    rows.add(b"/dev", b"null", EntryType.CHAR, mode=0o666, extra={"rdev": os.makedev(1, 3)})
    stored.manifests.append(
        (b"\1" * 16, 0, len(stored.manifests), manifest_of(rows, ordinal=len(stored.manifests)))
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    outcome = restored(stored, tmp_path / "to")
    assert stat.S_ISSOCK(os.lstat(below(tmp_path / "to", root / "socket")).st_mode)
    assert [path for path, _ in outcome.warnings if path.startswith(b"/dev")] == [b"/dev/null"]
