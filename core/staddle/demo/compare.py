"""Are two trees the same: every byte, every link, every piece of metadata."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterator

from staddle.client.reading import allocated_bytes, is_sparse
from staddle.platform import fsattrs, longpath

Leave = Callable[[bytes], bool]
"""Says of a path below the first tree that it is left out."""

HOLES_SLACK_BYTES = 256 * 1024
"""A restored sparse file may take so much more room: holes begin and end at blocks."""
_READ_BYTES = 1 << 20
_OPENED = frozenset({stat.S_IFREG, stat.S_IFDIR})
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def differences(source: bytes, restored: bytes, leave: Leave = lambda _: False) -> Iterator[str]:
    """What differs, in words; nothing if the trees are the same.

    Compared are kind, mode, owner (as root), times of modification in nanoseconds, contents, link targets,
    which names are links to one file, extended attributes with ACLs and capabilities, file flags, numbers of
    devices, and that a sparse file is still sparse. Sizes of directories are the file system's business, and
    times of birth can't be set on every system.
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
        names = sorted(name for name in longpath.listdir(left) if not leave(os.path.join(left, name)))
        is_dir = stat.S_ISDIR(longpath.lstat(right).st_mode)
        found = set(longpath.listdir(right)) if is_dir else set()
        for name in sorted(set(names) ^ found):
            where = "source" if name in found else "restored"
            yield f"{os.fsdecode(os.path.join(below, name))}: not in the {where}"
        for name in names:
            if name not in found:
                continue
            path = os.path.join(below, name)
            yield from _one(os.path.join(source, path), os.path.join(restored, path), path, links)
            if stat.S_ISDIR(longpath.lstat(os.path.join(source, path)).st_mode):
                pending.append(path)


def _one(left: bytes, right: bytes, path: bytes, links: dict[tuple[int, int], bytes]) -> Iterator[str]:
    a, b = longpath.lstat(left), longpath.lstat(right)
    shown = os.fsdecode(path)
    if a.st_mode != b.st_mode:
        yield f"{shown}: mode {a.st_mode:o} became {b.st_mode:o}"
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        return
    if hasattr(os, "geteuid") and os.geteuid() == 0 and (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        yield f"{shown}: owner {a.st_uid}:{a.st_gid} became {b.st_uid}:{b.st_gid}"
    if a.st_mtime_ns != b.st_mtime_ns:
        yield f"{shown}: time {a.st_mtime_ns} became {b.st_mtime_ns}"
    if fsattrs.device_numbers(a) != fsattrs.device_numbers(b):
        yield f"{shown}: device {fsattrs.device_numbers(a)} became {fsattrs.device_numbers(b)}"
    if stat.S_ISLNK(a.st_mode) and longpath.readlink(left) != longpath.readlink(right):
        yield f"{shown}: the link leads elsewhere"
    if stat.S_ISREG(a.st_mode):
        yield from _contents(left, right, a, b, shown)
    if a.st_nlink > 1 and not stat.S_ISDIR(a.st_mode):
        yield from _hard_link(a, b, right, shown, links)
    yield from _attributes(left, right, a, shown)


def _contents(left: bytes, right: bytes, a: os.stat_result, b: os.stat_result, shown: str) -> Iterator[str]:
    if a.st_size != b.st_size or not _same_bytes(left, right, a.st_size):
        yield f"{shown}: other contents"
    was, became = allocated_bytes(a), allocated_bytes(b)
    if is_sparse(a) and became > was + HOLES_SLACK_BYTES:
        yield f"{shown}: {was} bytes on disk became {became}"


def _same_bytes(left: bytes, right: bytes, size_bytes: int) -> bool:
    with (
        io.FileIO(longpath.open(left, _FLAGS)) as a,
        io.FileIO(longpath.open(right, _FLAGS)) as b,
    ):
        at = 0
        while at < size_bytes:
            # What is a hole in both is not looked at: a file may be larger than any disk.
            at = min(_next_data(a, at, size_bytes), _next_data(b, at, size_bytes))
            a.seek(at)
            b.seek(at)
            ours = a.read(_READ_BYTES)
            theirs = b.read(len(ours)) if ours else b""
            if ours[: len(theirs)] != theirs or bool(ours) != bool(theirs):
                return False
            at += len(theirs)
            if not ours:
                return at >= size_bytes
    return True


def _next_data(file: io.FileIO, at: int, size_bytes: int) -> int:
    if sys.platform == "win32":
        return at
    try:
        return file.seek(at, os.SEEK_DATA)
    except OSError:  # a hole up to the end, or a file system that tells nothing
        return size_bytes if is_sparse(os.fstat(file.fileno())) else at


def _attributes(left: bytes, right: bytes, status: os.stat_result, shown: str) -> Iterator[str]:
    if sys.platform == "win32":
        return
    with longpath.reachable(left) as a, longpath.reachable(right) as b:
        ours, theirs = _xattrs(a), _xattrs(b)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            value, became = ours.get(name), theirs.get(name)
            yield f"{shown}: extended attribute {os.fsdecode(name)}: {value!r} became {became!r}"
    if stat.S_IFMT(status.st_mode) in _OPENED and _flags(left) != _flags(right):
        yield f"{shown}: file flags {_flags(left):#x} became {_flags(right):#x}"


def _xattrs(path: bytes) -> dict[bytes, bytes | None]:
    return {name: fsattrs.get_xattr(path, name) for name in fsattrs.list_xattrs(path)}


def _flags(path: bytes) -> int:
    """Flags of a file or directory; 0 where it may not be opened."""
    try:
        fd = longpath.open(path, _FLAGS)
    except PermissionError:
        return 0
    try:
        return fsattrs.get_flags(fd)
    finally:
        os.close(fd)


def _hard_link(
    a: os.stat_result, b: os.stat_result, right: bytes, shown: str, links: dict[tuple[int, int], bytes]
) -> Iterator[str]:
    first = links.setdefault((a.st_dev, a.st_ino), right)
    if first != right and not os.path.samestat(longpath.lstat(first), b):
        yield f"{shown}: no longer a link to {os.fsdecode(first)}"
