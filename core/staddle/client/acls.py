"""POSIX ACLs as Linux keeps them in extended attributes: whom their entries name, and who that is elsewhere.

The value is a version, then entries of a tag, rights and an id, little-endian (Linux, include/uapi/linux/
posix_acl_xattr.h; the tags are those of IEEE 1003.1e draft 17, clause 23).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from staddle.client.owners import LEAVE, Owners
from staddle.data.plain import unmsgpack

_PREFIX: Final = b"system.posix_acl_"
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_VERSION: Final = 2
_USER: Final = 0x02
_GROUP: Final = 0x08


_NAMED_MAX: Final = 64


def named_in(extra: bytes | Mapping[str, Any]) -> tuple[set[int], set[int]]:
    """Users and groups that the ACLs of a map name, by number; none if there are hundreds.

    Their names must fit into one record with the map, which may nearly fill it: such a crowd stays numbers.
    """
    users: set[int] = set()
    groups: set[int] = set()
    for _, value in _acls(extra):
        for tag, _rights, number in _entries(value):
            if tag in {_USER, _GROUP}:
                (users if tag == _USER else groups).add(number)
    return (users, groups) if len(users) + len(groups) <= _NAMED_MAX else (set(), set())


def given(packed: bytes, owners: Owners, users: Mapping[int, str], groups: Mapping[int, str]) -> bytes:
    """A packed map whose ACLs name the users and groups of this system.

    Args:
        packed: further metadata of a backup.
        owners: whose what becomes.
        users: names in the backup.
        groups: likewise.
    """
    changed = {}
    for name, value in _acls(packed):
        mapped = _mapped(
            value,
            lambda uid: owners.of(uid, 0, users, groups)[0],
            lambda gid: owners.of(0, gid, users, groups)[1],
        )
        if mapped != value:
            changed[name] = mapped
    if not changed:
        return packed
    extra = unmsgpack(packed, dict[str, Any])
    return msgspec.msgpack.encode({**extra, "xattr": {**extra["xattr"], **changed}})


def _acls(extra: bytes | Mapping[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of the ACLs in a map; of one that can't be read there are none."""
    if isinstance(extra, bytes):
        if _PREFIX not in extra:  # as in nearly all of millions
            return
        try:
            extra = unmsgpack(extra, dict[str, Any])
        except ValueError:
            return
    found = extra.get("xattr")
    if not isinstance(found, dict):
        return
    for name, value in found.items():
        if (
            isinstance(name, bytes)
            and isinstance(value, bytes)
            and name.startswith(_PREFIX)
            and _entries(value)
        ):
            yield name, value


def _entries(value: bytes) -> list[tuple[int, int, int]]:
    """Tags, rights and ids; nothing of another version or a torn one."""
    size = len(value) - _HEAD.size
    if size < 0 or size % _ENTRY.size or _HEAD.unpack_from(value)[0] != _VERSION:
        return []
    return list(_ENTRY.iter_unpack(value[_HEAD.size :]))


def _mapped(value: bytes, user: Callable[[int], int], group: Callable[[int], int]) -> bytes:
    rights: dict[tuple[int, int], int] = {}
    for tag, allowed, number in _entries(value):
        here = user(number) if tag == _USER else group(number) if tag == _GROUP else number
        key = tag, number if here == LEAVE else here
        # Two of there may be one here, who then has what both had.
        rights[key] = rights.get(key, allowed) & allowed
    return _HEAD.pack(_VERSION) + b"".join(
        _ENTRY.pack(tag, allowed, number) for (tag, number), allowed in rights.items()
    )
