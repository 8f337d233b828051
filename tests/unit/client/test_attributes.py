"""What a row can't say of a file: taken from it, and set on another one."""

import contextlib
import errno
import os
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.client.attributes import apply_extra, apply_flags, capture, clamp_ns, rdev_of
from staddle.data.entries import EXTRA_BYTES_MAX
from staddle.data.plain import unmsgpack
from staddle.platform import fsattrs

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "torture"))

import strategies

import torture

ROOT = torture.ROOT


class File:
    """An open file, and what was said about it."""

    def __init__(self, path, content=b"x"):
        self.path = os.fsencode(path)
        with open(path, "wb") as file:
            file.write(content)
        self.fd = os.open(path, os.O_RDONLY)
        self.warnings = []

    def capture(self, **options):
        extra, same = capture(
            self.fd, self.path, os.fstat(self.fd), lambda path, why: self.warnings.append(why), **options
        )
        assert same
        return unmsgpack(msgspec.msgpack.encode(extra), dict)

    def apply(self, extra, *, privileged=ROOT):
        return apply_extra(self.path, self.fd, extra, privileged=privileged, is_symlink=False)


@pytest.fixture
def files(tmp_path):
    made = []

    def make(name):
        made.append(File(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        with contextlib.suppress(OSError):
            fsattrs.set_flags(each.fd, 0)
        os.close(each.fd)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two files that stay open over all examples."""
    where = tmp_path_factory.mktemp("pair")
    one, two = File(where / "one"), File(where / "two")
    yield one, two
    os.close(one.fd)
    os.close(two.fd)


@settings(max_examples=60)
@given(before=strategies.xattrs, inherited=strategies.xattrs)
def test_attributes_become_those_of_the_original(pair, before, inherited):
    one, two = pair
    for each, values in ((one, before), (two, inherited)):
        for name in fsattrs.list_xattrs(each.fd):
            fsattrs.remove_xattr(each.fd, name)
        for name, value in values.items():
            fsattrs.set_xattr(each.fd, name, value)
    extra = one.capture()
    assert extra.get("xattr", {}) == before
    assert two.apply(extra) == []
    assert {name: fsattrs.get_xattr(two.fd, name) for name in fsattrs.list_xattrs(two.fd)} == before
    assert one.warnings == []


def test_a_birth_is_told_where_the_file_system_knows_it(files):
    one = files("one")
    born = one.capture().get("btime_ns")
    assert born is None or abs(born - os.fstat(one.fd).st_mtime_ns) < 10**9


def test_an_acl_comes_back_and_an_inherited_one_goes(files):
    one, two, three = files("one"), files("two"), files("three")
    wanted = torture.acl([(1, 6, None), (2, 4, 1234), (4, 4, None), (16, 4, None), (32, 0, None)])
    fsattrs.set_xattr(one.fd, b"system.posix_acl_access", wanted)
    extra = one.capture()
    assert extra["xattr"] == {b"system.posix_acl_access": wanted}
    assert two.apply(extra) == []
    assert fsattrs.get_xattr(two.fd, b"system.posix_acl_access") == wanted
    assert two.apply(three.capture()) == []
    assert fsattrs.list_xattrs(two.fd) == []


def test_flags_come_back_last_and_leave_the_file_systems_own_alone(files):
    one, two = files("one"), files("two")
    own = fsattrs._raw_flags(two.fd)
    fsattrs.set_flags(one.fd, torture.NODUMP | torture.NOATIME)
    extra = one.capture()
    assert extra["fs_flags"] == torture.NODUMP | torture.NOATIME
    assert apply_flags(two.path, two.fd, extra) == []
    assert fsattrs._raw_flags(two.fd) == own | torture.NODUMP | torture.NOATIME


def test_one_flag_that_is_refused_keeps_no_other_away(files, monkeypatch):
    two = files("two")
    original = fsattrs.set_flags

    def refuse(fd, flags):
        if flags & torture.IMMUTABLE:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        original(fd, flags)

    monkeypatch.setattr(fsattrs, "set_flags", refuse)
    wanted, why = torture.IMMUTABLE | torture.NODUMP, "permission denied" if ROOT else "only root may"
    assert apply_flags(two.path, two.fd, {"fs_flags": wanted}) == [f"file flag 'immutable' not set: {why}"]
    assert fsattrs.get_flags(two.fd) == torture.NODUMP


def test_a_symlink_s_own_attributes_are_meant(tmp_path, files):
    one = files("one")
    fsattrs.set_xattr(one.fd, b"user.of-the-file", b"1")
    os.symlink("one", tmp_path / "link")
    link = os.fsencode(tmp_path / "link")
    extra, same = capture(link, link, os.lstat(link), lambda path, why: None)
    assert same
    assert "xattr" not in extra
    missing = apply_extra(link, None, {"xattr": {b"user.x": b"1"}}, privileged=ROOT, is_symlink=True)
    why = "permission denied" if ROOT else "only root may"  # no symlink takes one of a user
    assert missing == [f"extended attribute 'user.x' not set: {why}"]
    assert fsattrs.get_xattr(one.fd, b"user.x") is None


def test_the_largest_attributes_are_left_out_and_named(files, monkeypatch):
    one = files("one")
    values = {b"user.a": bytes(100), b"user.huge": bytes(EXTRA_BYTES_MAX), b"user.big": bytes(200_000)}
    monkeypatch.setattr(fsattrs, "list_xattrs", lambda place: list(values))
    monkeypatch.setattr(fsattrs, "get_xattr", lambda place, name: values[name])
    extra = one.capture()
    assert set(extra["xattr"]) == {b"user.a", b"user.big"}
    said = f"{EXTRA_BYTES_MAX} bytes, while all of one entry's may take 238 KiB together"
    assert one.warnings == [f"extended attribute 'user.huge' left out: {said}"]
    assert len(msgspec.msgpack.encode(extra)) <= EXTRA_BYTES_MAX
    one.warnings.clear()
    assert set(one.capture(limit_bytes=10_000)["xattr"]) == {b"user.a"}
    assert len(one.warnings) == 2


@pytest.mark.parametrize(
    ("code", "told"), [(errno.ENOTSUP, 0), (errno.ENODATA, 0), (errno.EACCES, 1), (errno.EIO, 1)]
)
def test_only_an_attribute_that_can_not_be_read_is_a_warning(files, monkeypatch, code, told):
    one = files("one")

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "listxattr", fail)
    assert "xattr" not in one.capture()
    assert len(one.warnings) == told
    monkeypatch.undo()
    fsattrs.set_xattr(one.fd, b"user.x", b"1")
    monkeypatch.setattr(os, "getxattr", fail)
    assert "xattr" not in one.capture()
    assert len(one.warnings) == 2 * told


def test_a_change_before_the_last_look_is_seen(files):
    one = files("one")
    status = os.fstat(one.fd)
    os.utime(one.path, ns=(0, 5))
    _, same = capture(one.fd, one.path, status, lambda path, why: None)
    assert not same


@given(st.integers(-(2**66), 2**66))
def test_a_time_that_no_column_holds_becomes_the_nearest(time_ns):
    clamped = clamp_ns(time_ns)
    assert -(2**63) <= clamped < 2**63
    assert clamped == time_ns or abs(clamped) >= 2**63 - 1


def test_a_time_beyond_64_bits_of_nanoseconds_comes_back(files):
    one, two = files("one"), files("two")
    far_ns = 10_413_792_000 * 10**9 + 123_456_789
    os.utime(one.path, ns=(0, far_ns))
    if os.stat(one.path).st_mtime_ns != far_ns:
        return  # this file system can't hold it
    extra = one.capture()
    assert extra["times"] == {"mtime": [10_413_792_000, 123_456_789]}
    assert apply_flags(two.path, two.fd, extra) == []
    assert os.stat(two.path).st_mtime_ns == far_ns


@pytest.mark.parametrize(
    "extra",
    [
        {"xattr": 5},
        {"xattr": {"text": b"1", b"user.x": 7, 5: b""}},
        {"times": {"mtime": [1]}, "fs_flags": "many"},
        {"times": 7, "bsd_flags": -1, "attributes": []},
        {"btime_ns": "then"},
    ],
)
def test_a_map_that_makes_no_sense_sets_nothing(files, extra):
    two = files("two")
    before = os.fstat(two.fd)
    assert two.apply(extra) == []
    assert apply_flags(two.path, two.fd, extra) == []
    assert os.fstat(two.fd).st_mtime_ns == before.st_mtime_ns


def test_an_impossible_name_is_told(files):
    two = files("two")
    assert two.apply({"xattr": {b"user.a\0b": b"1"}}) == [
        "an extended attribute with an impossible name was not set"
    ]
    [missing] = two.apply({"xattr": {b"nonsense": b"1"}})
    assert (
        missing
        == "extended attribute 'nonsense' not set: the file system of the target has none of this kind"
    )


def test_an_ordinary_user_removes_no_attributes_of_the_system(files, monkeypatch):
    two = files("two")
    removed = []
    monkeypatch.setattr(fsattrs, "list_xattrs", lambda place: [b"security.x", b"user.y", b"security.selinux"])
    monkeypatch.setattr(fsattrs, "remove_xattr", lambda place, name: removed.append(name))
    assert two.apply({}, privileged=False) == []
    assert removed == [b"user.y"]
    assert two.apply({}, privileged=True) == []
    assert removed == [b"user.y", b"user.y", b"security.x"], "what the system gives to each file stays"


def test_numbers_of_a_device_in_both_forms():
    assert rdev_of({"rdev": [259, 65536]}) == (259, 65536)
    assert rdev_of({"rdev": os.makedev(1, 3)}) == (1, 3)
    assert rdev_of({}) == rdev_of({"rdev": [1]}) == rdev_of({"rdev": "x"}) == (0, 0)


def test_without_statx_the_birth_is_all_that_is_missing(files, monkeypatch):
    one = files("one")
    with_it = fsattrs.look(one.fd)
    monkeypatch.setattr(fsattrs, "_statx", None)
    assert fsattrs.look(one.fd) == with_it._replace(birth_ns=None)
    assert fsattrs.look(one.path) == with_it._replace(birth_ns=None)
    monkeypatch.setattr(fsattrs, "_statx", lambda *words: -1)
    assert fsattrs.look(one.fd) == with_it._replace(birth_ns=None)
    with pytest.raises(OSError, match="No such file"):
        fsattrs.look(one.path + b"-gone")


def test_a_read_only_file_takes_the_attributes_of_an_ordinary_user_too(files, monkeypatch):
    """Attributes of users need the right to write. Root has it everywhere, so the rule is played here."""
    two = files("two")
    os.chmod(two.path, 0o2444)
    modes, original = [], fsattrs.set_xattr

    def as_the_kernel(place, name, value):
        modes.append((name, os.fstat(place).st_mode & 0o7777))
        if name.startswith(b"user.") and not modes[-1][1] & 0o200:
            raise PermissionError(errno.EACCES, "Permission denied")
        original(place, name, value)

    monkeypatch.setattr(fsattrs, "set_xattr", as_the_kernel)
    wanted = torture.acl([(1, 4, None), (2, 4, 1234), (4, 4, None), (16, 4, None), (32, 0, None)])
    extra = {"xattr": {b"system.posix_acl_access": wanted, b"user.x": b"1"}}
    assert two.apply(extra, privileged=False) == []
    assert modes == [(b"user.x", 0o2644), (b"system.posix_acl_access", 0o2444)]
    assert fsattrs.get_xattr(two.fd, b"user.x") == b"1"
    assert os.fstat(two.fd).st_mode & 0o7777 == 0o2440, "the ACL says what others may"
