"""What becomes of a name that exists in the target already: the four answers, and nothing that does I/O."""

from __future__ import annotations

import os
import stat
from enum import StrEnum
from typing import NamedTuple

from staddle.data.manifest import EntryType


class Overwrite(StrEnum):
    """When a restore replaces what has an entry's name (docs/restore.md)."""

    ALWAYS = "always"
    IF_CHANGED = "if-changed"
    IF_NEWER = "if-newer"
    NEVER = "never"


class Action(StrEnum):
    """What is done with one entry, or one name in the target."""

    NEW = "new"
    REPLACE = "replace"
    SAME = "same"  # it is there already: at most its metadata are set
    KEEP = "keep"  # something else is there, and stays as it is
    DELETE = "delete"


class Item(NamedTuple):
    """One line of what a restore does, or would do. `path`: in the backup; of a deletion, in the target."""

    action: Action
    path: bytes
    size_bytes: int = 0


def decide(overwrite: Overwrite, there: os.stat_result | None, mtime_ns: int, *, same: bool) -> Action:
    """What to do with an entry that is no directory.

    Args:
        overwrite: the user's policy.
        there: what has its name now; None if nothing has.
        mtime_ns: of the entry.
        same: `there` is the entry already, as far as its status tells.
    """
    if there is None:
        return Action.NEW
    if overwrite is Overwrite.ALWAYS:
        return Action.REPLACE
    if overwrite is Overwrite.NEVER:
        return Action.KEEP
    if same:
        return Action.SAME
    if overwrite is Overwrite.IF_NEWER and mtime_ns <= there.st_mtime_ns:
        return Action.KEEP
    return Action.REPLACE


def same_file(there: os.stat_result, size_bytes: int, mtime_ns: int) -> bool:
    """Is this the file, by kind, length and time: its time is set only when its content is whole."""
    return stat.S_ISREG(there.st_mode) and there.st_size == size_bytes and there.st_mtime_ns == mtime_ns


NODES: dict[int, int] = {
    int(EntryType.FIFO): stat.S_IFIFO,
    int(EntryType.SOCKET): stat.S_IFSOCK,
    int(EntryType.BLOCK): stat.S_IFBLK,
    int(EntryType.CHAR): stat.S_IFCHR,
}
"""Entries that are made by one call, and the kind of file that they are."""
DEVICES = frozenset(map(int, (EntryType.BLOCK, EntryType.CHAR)))


def same_node(there: os.stat_result, kind: int, device: int) -> bool:
    """Is this the pipe, socket or device (`stat.S_IFIFO`, …)."""
    if stat.S_IFMT(there.st_mode) != kind:
        return False
    return kind not in {stat.S_IFBLK, stat.S_IFCHR} or getattr(there, "st_rdev", 0) == device
