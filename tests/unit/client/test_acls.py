"""Whom POSIX ACLs name: found for a backup, translated by a restore."""

import os
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client import acls
from staddle.client.owners import OwnerOptions, Owners
from staddle.data import manifest as manifests
from staddle.data.entries import EntryRows, EntryType
from staddle.platform import fsattrs

from .kit import restored, store
from .restorekit import stored_rows

grp, pwd = pytest.importorskip("grp"), pytest.importorskip("pwd")
ACCESS = b"system.posix_acl_access"
NAMED = (0x02, 0x08)
OWNER, USER, OWN_GROUP, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def packed(value, **more):
    return msgspec.msgpack.encode({"btime_ns": 5, "xattr": {ACCESS: value, b"user.x": b"y"}, **more})


FILE_ACL = acl(
    (OWNER, 6, NOBODY),
    (USER, 6, 1001),
    (USER, 4, 1002),
    (OWN_GROUP, 4, NOBODY),
    (GROUP, 5, 1001),
    (MASK, 7, NOBODY),
    (OTHER, 0, NOBODY),
)


def test_who_is_named():
    assert acls.named_in(packed(FILE_ACL)) == ({1001, 1002}, {1001})
    assert acls.named_in({"xattr": {ACCESS: FILE_ACL}}) == ({1001, 1002}, {1001})
    crowd = acl(*((USER, 4, uid) for uid in range(1000)))
    assert acls.named_in(packed(crowd)) == (set(), set())


def test_entries_become_whom_the_maps_and_names_say():
    owners = Owners(OwnerOptions(user_map=["1002:2002", "ann:2001"], group_map=["1001:3001"]))
    there = acls.given(packed(FILE_ACL), owners, {1001: "ann"}, {})
    extra = msgspec.msgpack.decode(there)
    assert extra["btime_ns"] == 5
    assert extra["xattr"][b"user.x"] == b"y"
    assert extra["xattr"][ACCESS] == acl(
        (OWNER, 6, NOBODY),
        (USER, 6, 2001),
        (USER, 4, 2002),
        (OWN_GROUP, 4, NOBODY),
        (GROUP, 5, 3001),
        (MASK, 7, NOBODY),
        (OTHER, 0, NOBODY),
    )


def test_two_who_become_one_have_what_both_had():
    owners = Owners(OwnerOptions(user_map=["1001:7", "1002:7"]))
    extra = msgspec.msgpack.decode(acls.given(packed(FILE_ACL), owners, {}, {}))
    assert struct.pack("<HHI", USER, 4, 7) in extra["xattr"][ACCESS]
    assert len(extra["xattr"][ACCESS]) == len(FILE_ACL) - 8


def test_without_owners_numbers_stay():
    whole = packed(FILE_ACL)
    assert acls.given(whole, Owners(OwnerOptions(none=True)), {}, {}) == whole


@given(st.binary(max_size=60), st.booleans())
def test_what_is_no_acl_stays_as_it_is(junk, whole):
    value = junk if whole else FILE_ACL[:-1] + junk[:3]
    extra = packed(value)
    owners = Owners(OwnerOptions(user_map=["1001:7"]))
    if len(value) % 8 != 4 or value[:4] != acl():
        assert acls.given(extra, owners, {}, {}) == extra
        assert acls.named_in(extra) == (set(), set())
    assert acls.given(ACCESS + junk, owners, {}, {}) == ACCESS + junk


@pytest.mark.root
def test_a_restore_gives_rights_to_those_who_are_meant(tmp_path):
    rows = EntryRows()
    rows.add(b"/", b"f", EntryType.FILE, mode=0o670, uid=0, gid=0, extra={"xattr": {ACCESS: FILE_ACL}})
    rows.users[1001] = "daemon"
    for to, options, named in (
        ("named", OwnerOptions(), {1, 1002}),
        ("numbers", OwnerOptions(numeric=True), {1001, 1002}),
        ("mapped", OwnerOptions(user_map=["1002:54321"]), {1, 54_321}),
    ):
        outcome = restored(stored_rows(rows), tmp_path / to, owners=options)
        assert outcome.warnings == []
        value = fsattrs.get_xattr(os.fsencode(tmp_path / to / "f"), ACCESS)
        assert acls.named_in({"xattr": {ACCESS: value}})[0] == named
        again = restored(stored_rows(rows), tmp_path / to, owners=options)
        assert again.summary.unchanged == 1


@pytest.mark.root
def test_a_backup_keeps_the_names_of_those_who_are_named(tmp_path):
    where = tmp_path / "from"
    where.mkdir()
    (where / "f").write_bytes(b"content")
    (where / "big").write_bytes(b"content" * 100_000)
    for name, number in (("f", 1), ("big", 2)):
        given_to = ((OWNER, 6, NOBODY), (USER, 4, number), (OWN_GROUP, 4, NOBODY), (GROUP, 4, number))
        value = acl(*given_to, (MASK, 4, NOBODY), (OTHER, 0, NOBODY))
        fsattrs.set_xattr(os.fsencode(where / name), ACCESS, value)
    stored, _ = store(where)
    batches = [manifests.decode(plain, "test").entries for *_, plain in stored.manifests]
    for names, find in (("users", pwd.getpwuid), ("groups", grp.getgrgid)):
        kept = {name for batch in batches for name in getattr(batch, names).values()}
        assert {find(1)[0], find(2)[0]} <= kept
