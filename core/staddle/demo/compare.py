"""Are two trees the same: every byte, every link, every piece of metadata."""

from __future__ import annotations

import filecmp
import os
import stat
from collections.abc import Callable, Iterator

Leave = Callable[[bytes], bool]
"""Says of a path below the first tree that it is left out."""


def differences(source: bytes, restored: bytes, leave: Leave = lambda _: False) -> Iterator[str]:
    """What differs, in words; nothing if the trees are the same.

    Compared are kind, mode, owner (as root), times of modification in nanoseconds, contents, link targets and
    which names are links to one file. Sizes of directories are the file system's business.
    """
    links: dict[tuple[int, int], bytes] = {}
    if not os.path.lexists(restored):
        yield f"{os.fsdecode(restored)}: nothing was restored"
        return
    yield from _one(source, restored, b".", links)
    pending = [b""]
    while pending:
        below = pending.pop()
        left, right = os.path.join(source, below), os.path.join(restored, below)
        names = sorted(name for name in os.listdir(left) if not leave(os.path.join(left, name)))
        found = sorted(os.listdir(right)) if os.path.isdir(right) else []
        for name in sorted(set(names) ^ set(found)):
            where = "restored" if name in names else "source"
            yield f"{os.fsdecode(os.path.join(below, name))}: not in the {where}"
        for name in names:
            if name not in found:
                continue
            path = os.path.join(below, name)
            yield from _one(os.path.join(source, path), os.path.join(restored, path), path, links)
            if stat.S_ISDIR(os.lstat(os.path.join(source, path)).st_mode):
                pending.append(path)


def _one(left: bytes, right: bytes, path: bytes, links: dict[tuple[int, int], bytes]) -> Iterator[str]:
    a, b = os.lstat(left), os.lstat(right)
    shown = os.fsdecode(path)
    if a.st_mode != b.st_mode:
        yield f"{shown}: mode {a.st_mode:o} became {b.st_mode:o}"
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        return
    if hasattr(os, "geteuid") and os.geteuid() == 0 and (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        yield f"{shown}: owner {a.st_uid}:{a.st_gid} became {b.st_uid}:{b.st_gid}"
    if a.st_mtime_ns != b.st_mtime_ns:
        yield f"{shown}: time {a.st_mtime_ns} became {b.st_mtime_ns}"
    if stat.S_ISLNK(a.st_mode):
        if os.readlink(left) != os.readlink(right):
            yield f"{shown}: the link leads elsewhere"
    elif stat.S_ISREG(a.st_mode):
        if a.st_size != b.st_size or not filecmp.cmp(left, right, shallow=False):
            yield f"{shown}: other contents"
        if a.st_nlink > 1:
            yield from _hard_link(a, b, right, shown, links)


def _hard_link(
    a: os.stat_result, b: os.stat_result, right: bytes, shown: str, links: dict[tuple[int, int], bytes]
) -> Iterator[str]:
    first = links.setdefault((a.st_dev, a.st_ino), right)
    if first != right and not os.path.samestat(os.lstat(first), b):
        yield f"{shown}: no longer a link to {os.fsdecode(first)}"
