"""What a restore never may do to the system that it writes to."""

import errno
import os
import random
import socket
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client import places_posix
from staddle.client.metadata import Meta
from staddle.client.places_windows import windows_part
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
from .restorekit import leftovers, put, stored_rows, target_at, unfinished

ROOT = os.geteuid() == 0
META = Meta(0o644, os.geteuid(), os.getegid(), 1)


def write(target, path, data=b"new", meta=META):
    fresh = target.create_file(path)
    os.write(fresh.fd, data)
    target._metadata.set_open(fresh.fd, target.places, fresh.place, path, meta)
    target.publish(fresh)
    fresh.close()


# --- nothing outside ------------------------------------------------------------------------------


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


def test_a_symlink_of_the_backup_is_not_written_through_either(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_bytes(b"root")
    before = picture(outside)
    rows = EntryRows()
    rows.add(b"/", b"a", EntryType.SYMLINK, mode=0o777, link=os.fsencode(outside))
    rows.add(b"/a", b"passwd", EntryType.FILE, mode=0o666)
    rows.add(b"/a", b"pipe", EntryType.FIFO, mode=0o666)
    rows.add(b"/a", b"link", EntryType.SYMLINK, mode=0o777, link=b"x")
    rows.add(b"/a", b"sub", EntryType.DIRECTORY, mode=0o777)
    outcome = restored(stored_rows(rows), tmp_path / "to", overwrite="always")
    assert picture(outside) == before
    assert sorted(path for path, _ in outcome.warnings) == [b"/a/link", b"/a/passwd", b"/a/pipe", b"/a/sub"]


@pytest.mark.parametrize(
    "path", [b"/..", b"/a/../../x", b"/a/./x", b"/a//x", b"/a\0b", b"relative", b"/a/\0/x"]
)
def test_a_path_that_would_lead_outside_is_refused_by_every_call(tmp_path, path):
    with target_at(tmp_path / "to") as (target, _):
        places = target.places
        for call in (
            lambda: target.directory(path),
            lambda: target.create_file(path),
            lambda: target.symlink(b"x", path, META),
            lambda: target.node(path, stat.S_IFIFO, 0, META),
            lambda: target.hard_link(b"/x", path),
            lambda: places.rename(path, path),
            lambda: places.remove(path),
            lambda: places.remove_directory(path),
            lambda: places.open_file(path),
            lambda: places.open_directory(path),
            lambda: places.change_mode(path, 0o777),
        ):
            with pytest.raises(StaddleError, match="leads outside"):
                call()
    assert os.listdir(tmp_path) == ["to"]


def test_a_hard_link_is_made_to_nothing_but_what_was_restored(tmp_path):
    victim = tmp_path / "to/victim"
    victim.parent.mkdir()
    victim.write_bytes(b"somebody else's")
    rows = EntryRows()
    rows.add(b"/", b"grab", EntryType.HARDLINK, mode=0o777, link=b"/victim")
    outcome = restored(stored_rows(rows), tmp_path / "to")
    assert os.listdir(tmp_path / "to") == ["victim"]
    assert victim.stat().st_nlink == 1
    assert [path for path, _ in outcome.warnings] == [b"/grab"]


def test_content_never_goes_into_a_pipe_or_device_that_has_the_name(tmp_path):
    os.makedirs(tmp_path / "to")
    os.mkfifo(tmp_path / "to/file")
    with target_at(tmp_path / "to") as (target, _):
        write(target, b"/file")
    assert (tmp_path / "to/file").read_bytes() == b"new"


def test_whoever_swaps_a_directory_for_a_symlink_while_files_are_written_gains_nothing(tmp_path, seed):
    outside, root, aside = tmp_path / "outside", tmp_path / "to", tmp_path / "aside"
    for each in (outside, root, aside):
        each.mkdir()
    rng, stop = random.Random(seed), threading.Event()
    swaps = done = refused = 0

    def swap():
        nonlocal swaps
        while not stop.wait(0.0005):
            name = root / rng.choice(["a", "a/b", "a/b/c"])
            try:
                if os.path.islink(name):
                    os.unlink(name)
                else:
                    os.rename(name, aside / f"{swaps}")
                    os.symlink(outside, name)
                    swaps += 1
            except OSError:
                continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(800):
            if swaps >= 30 and done >= 30 and refused >= 5:
                break
            with target_at(root) as (target, _):  # a new one, so that directories are not just kept open
                for name in (b"/a/f", b"/a/b/f", b"/a/b/c/f", b"/a/b/c/d/f"):
                    try:
                        target.directory(os.path.dirname(name))
                        write(target, name)
                        target.symlink(b"x", name + b"-link", META)
                        target.hard_link(name, name + b"-hard")
                        done += 1
                    except (OSError, StaddleError):
                        refused += 1
    finally:
        stop.set()
        thread.join(30)
    print(f"{done} written, {refused} refused, {swaps} swaps")
    assert done
    assert swaps
    assert os.listdir(outside) == []


def test_metadata_of_a_name_that_has_become_a_symlink_is_not_set_behind_it(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    victim.chmod(0o600)
    meta = Meta(0o777, 12345, 12345, 1)
    with target_at(tmp_path / "to") as (target, _):
        fresh = target.create_file(b"/f")
        place = os.path.join(os.fsencode(tmp_path / "to"), fresh.place[1:])
        os.unlink(place)
        os.symlink(victim, place)
        target._metadata.set_open(fresh.fd, target.places, fresh.place, b"/f", meta)
        for symlink in (False, True):
            target._metadata.set_named(target.places, fresh.place, b"/f", meta, symlink=symlink)
        with pytest.raises(NotADirectoryError):
            target.places.open_directory(fresh.place)
        fresh.close()
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


def test_names_that_a_file_system_takes_for_one_do_not_overwrite_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(places_posix, "_folds", lambda fd: True)
    with target_at(tmp_path / "to") as (target, _):
        write(target, b"/d/README", b"first")
        for same in (b"/d/readme", b"/D/README", "/d/RE\u0041DME".lower().encode()):
            with pytest.raises(StaddleError, match="same name"):
                write(target, same, b"second")
        write(target, b"/d/README", b"again")
        write(target, b"/d/other")
    assert (tmp_path / "to/d/README").read_bytes() == b"again"


def test_it_is_tried_out_whether_a_directory_tells_letters_apart(tmp_path):
    with target_at(tmp_path / "to") as (target, _):
        assert target.places.folds(b"/new/er") is False
    assert not leftovers(tmp_path)


# --- nothing half-done ------------------------------------------------------------------------------


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    os.makedirs(tmp_path / "to")
    (tmp_path / "to/f").write_bytes(b"old")
    with target_at(tmp_path / "to") as (target, _):
        fresh = target.create_file(b"/f")
        os.write(fresh.fd, b"new, half")
        assert (tmp_path / "to/f").read_bytes() == b"old"
        target.discard(fresh)
        assert (tmp_path / "to/f").read_bytes() == b"old"
        write(target, b"/f", b"new, whole")
    assert os.listdir(tmp_path / "to") == ["f"]
    assert (tmp_path / "to/f").read_bytes() == b"new, whole"


def test_what_a_killed_restore_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    to = tmp_path / "to"
    os.makedirs(to / "d")
    for place in (to, to / "d"):
        put(unfinished(place), b"half")
        (place / ".staddle-user's own").write_bytes(b"kept")
        os.symlink("x", unfinished(place, b"00000000000000aa"))
        os.mkfifo(unfinished(place, b"00000000000000ab"))
        put(unfinished(place) + b"-a", b"")
    with target_at(to) as (other, _):
        living = other.create_file(b"/d/f")
        put(unfinished(to / "d"), b"half")
        with target_at(to) as (target, _):
            write(target, b"/d/g")
        assert sorted(os.listdir(to)) == [".staddle-user's own", "d"]
        name = os.path.basename(os.fsdecode(living.place))
        assert sorted(os.listdir(to / "d")) == sorted([".staddle-user's own", "g", name])
        os.write(living.fd, b"whole")
        other.publish(living)
        living.close()
    assert (to / "d/f").read_bytes() == b"whole"


def test_a_file_makes_room_for_a_directory_and_an_empty_directory_for_a_file(tmp_path):
    os.makedirs(tmp_path / "to/empty")
    os.makedirs(tmp_path / "to/full/x")
    (tmp_path / "to/file").write_bytes(b"")
    with target_at(tmp_path / "to") as (target, _):
        assert target.directory(b"/file") is True
        write(target, b"/empty")
        target.symlink(b"x", b"/file/link", META)
        with pytest.raises(StaddleError, match="not empty"):
            write(target, b"/full")
    assert (tmp_path / "to/empty").read_bytes() == b"new"
    assert os.path.isdir(tmp_path / "to/full/x")


def test_a_full_target_ends_the_restore_instead_of_warning_for_every_file(tree, tmp_path, monkeypatch):
    stored, _ = store(tree)

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StaddleError, match="no space left"):
        restored(stored, tmp_path / "to")
    assert not leftovers(tmp_path / "to")


def test_a_name_too_long_for_the_target_is_one_warning(tmp_path):
    rows = EntryRows()
    rows.add(b"/", b"x" * 300, EntryType.DIRECTORY, mode=0o755)
    rows.add(b"/", b"y" * 255, EntryType.FILE, mode=0o600)
    outcome = restored(stored_rows(rows), tmp_path / "to")
    assert [why for _, why in outcome.warnings] == ["not restored: file name too long"]
    assert os.listdir(tmp_path / "to") == ["y" * 255]


# --- long paths, few descriptors --------------------------------------------------------------------


def test_a_tree_may_be_deeper_than_a_path_may_be_long(tmp_path):
    deep = b"/" + b"/".join([b"%03d" % n + b"x" * 97 for n in range(60)])
    assert len(deep) > 5000
    rows = EntryRows()
    rows.add(deep, b"bottom", EntryType.DIRECTORY, mode=0o751, mtime_ns=5, uid=os.geteuid(), gid=os.getegid())
    rows.add(deep + b"/bottom", b"file", EntryType.FILE, mode=0o640, mtime_ns=6)
    rows.add(deep + b"/bottom", b"link", EntryType.SYMLINK, link=b"to", mtime_ns=7)
    rows.add(deep + b"/bottom", b"pipe", EntryType.FIFO, mode=0o604, mtime_ns=8)
    rows.add(deep + b"/bottom", b"hard", EntryType.HARDLINK, link=deep + b"/bottom/file")
    outcome = restored(stored_rows(rows), tmp_path / "to")
    assert outcome.warnings == []
    fd = os.open(tmp_path / "to", os.O_RDONLY)
    for name in [*deep[1:].split(b"/"), b"bottom"]:
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    try:
        facts = {}
        for name in os.listdir(fd):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            facts[name] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink)
        assert facts.pop("link")[1] == 7
        assert facts == {"file": (0o640, 6, 2), "hard": (0o640, 6, 2), "pipe": (0o604, 8, 1)}
        assert (stat.S_IMODE(os.fstat(fd).st_mode), os.fstat(fd).st_mtime_ns) == (0o751, 5)
    finally:
        os.close(fd)


def test_the_target_itself_may_be_that_deep(tmp_path):
    deep = os.fsencode(tmp_path) + b"".join([b"/%03d" % n + b"x" * 97 for n in range(50)])
    rows = EntryRows()
    rows.add(b"/d", b"f", EntryType.FILE, mode=0o640)
    outcome = restored(stored_rows(rows), deep)
    assert outcome.warnings == []
    assert outcome.summary.files == 1


def test_only_some_directories_are_open_at_once(tmp_path):
    rows = EntryRows()
    for number in range(300):
        rows.add(b"/d%d" % number, b"f", EntryType.FILE, mode=0o640)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with target_at(tmp_path / "to") as (target, _):
        for number in range(300):
            write(target, b"/d%d/f" % number)
        assert len(target.places._open) <= places_posix.FOLDERS_MAX
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


# --- metadata -----------------------------------------------------------------------------------------


def test_set_id_bits_come_back_only_with_their_owner(tmp_path):
    with target_at(tmp_path / "to", privileged=False) as (target, missing):
        gid = os.getegid()
        write(target, b"/other", meta=Meta(0o4755, os.geteuid() + 1, gid, 0))
        write(target, b"/own", meta=Meta(0o4755, os.geteuid(), gid, 0))
        write(target, b"/group", meta=Meta(0o2755, os.geteuid(), 99_999, 0))
    modes = {
        name: stat.S_IMODE(os.stat(tmp_path / "to" / name).st_mode) for name in ("other", "own", "group")
    }
    assert modes == {"other": 0o755, "own": 0o4755, "group": 0o755}
    assert missing == [
        (b"/other", "owner not set: only root may"),
        (b"/group", "group not set: only root may"),
    ]


def test_set_id_bits_are_dropped_where_an_owner_could_not_be_set(tmp_path, monkeypatch):
    def refused(fd, uid, gid):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    with target_at(tmp_path / "to", privileged=True) as (target, missing):
        write(target, b"/f", meta=Meta(0o6755, os.geteuid() + 1, os.getegid() + 1, 0))
    assert stat.S_IMODE(os.stat(tmp_path / "to/f").st_mode) == 0o755
    assert missing == [(b"/f", "owner not set: permission denied")]


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
