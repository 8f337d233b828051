"""Whose a restored entry becomes: by name where this system knows the name, else by number, or as mapped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from staddle.errors import UsageError

NOBODY = 0xFFFFFFFF
"""To chown(2) this means *leave it*: an entry can't be given to it."""
LEAVE = -1
_ID_MAX = NOBODY - 1
_KNOWN_MAX = 65_536


@dataclass
class OwnerOptions:
    """What the user asked for. The maps are `FROM:TO`, names or numbers."""

    user_map: Sequence[str] = ()
    group_map: Sequence[str] = ()
    numeric: bool = False
    none: bool = False


class Owners:
    """Finds the owner of each entry; one instance for a restore. Looks each name up once."""

    def __init__(self, options: OwnerOptions) -> None:
        """Raises UsageError for a map that can't be read, or leads to a name that this system lacks."""
        self._none = options.none
        self._users = _Ids(options.user_map, "--owner-map", numeric=options.numeric, find=_find_user)
        self._groups = _Ids(options.group_map, "--group-map", numeric=options.numeric, find=_find_group)

    def of(
        self, uid: int, gid: int, users: Mapping[int, str], groups: Mapping[int, str]
    ) -> tuple[int, int, bool, bool]:
        """An owner here for an owner there.

        Args:
            uid: in the backup.
            gid: in the backup.
            users: names in the backup.
            groups: likewise.

        Returns:
            Numbers of user and group on this system (LEAVE: as it comes), and whether each is still the same
            person: to another one no file lends its owner's rights.
        """
        if self._none:
            return LEAVE, LEAVE, False, False
        user, same_user = self._users.find(uid, users.get(uid, ""))
        group, same_group = self._groups.find(gid, groups.get(gid, ""))
        return user, group, same_user, same_group


class _Ids:
    """One of the two tables."""

    def __init__(
        self, maps: Sequence[str], option: str, *, numeric: bool, find: Callable[[str], int | None]
    ) -> None:
        self._numeric = numeric
        self._find = find
        self._known: dict[tuple[int, str], tuple[int, bool]] = {}
        self._maps: dict[str, int] = {}
        for text in maps:
            source, separator, target = text.partition(":")
            if not (separator and source and target):
                raise UsageError(f"{option} {text!r} is no FROM:TO", hint=f"for example {option} alice:bob")
            number = self._local(target, f"{option} {text!r}")
            if self._maps.setdefault(source, number) != number:
                raise UsageError(
                    f"{option} {text!r}: {source!r} stands there twice", hint="leave one of them out"
                )

    def _local(self, target: str, what: str) -> int:
        found = self._find(target)
        if found is not None:
            return found
        if target.isascii() and target.isdecimal() and len(target) <= 10 and int(target) <= _ID_MAX:
            return int(target)
        raise UsageError(f"{what}: this system has no {target!r}", hint="create it first, or give its number")

    def find(self, number: int, name: str) -> tuple[int, bool]:
        """Number here, and whether it is the same one."""
        known = self._known.get((number, name))
        if known is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            known = self._known[number, name] = self._look(number, name)
        return known

    def _look(self, number: int, name: str) -> tuple[int, bool]:
        for key in (name, str(number)):
            if key and key in self._maps:
                return self._maps[key], False
        if number > _ID_MAX:
            return LEAVE, False
        if name and not self._numeric:
            found = self._find(name)
            if found is not None:
                return found, True
        return number, True


def _find_user(name: str) -> int | None:
    if sys.platform == "win32":
        return None
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError, UnicodeError):
        return None


def _find_group(name: str) -> int | None:
    if sys.platform == "win32":
        return None
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError, UnicodeError):
        return None
