"""Walks the roots of a backup in a fixed order and gives what it finds, with one lstat each.

The order is the directory itself, then its entries by name as bytes, depth first: the same tree always gives
the same stream, and a base manifest can be read beside it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from staddle.client.exclude import Excludes
from staddle.errors import NotFound

Warn = Callable[[bytes, str], None]
"""Called with a path and what is wrong with it; the job then ends with warnings."""


class Found(NamedTuple):
    """One thing in a file system: `directory/name`, and its lstat."""

    directory: bytes
    name: bytes
    status: os.stat_result

    @property
    def path(self) -> bytes:
        """The whole path."""
        return join(self.directory, self.name)


def join(directory: bytes, name: bytes) -> bytes:
    """`directory/name`; the root directory has an empty name."""
    if not name:
        return directory
    return directory + name if directory.endswith(b"/") else directory + b"/" + name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Directory and name of an absolute path; (`/`, ``) for the root itself."""
    directory, _, name = path.rpartition(b"/")
    return directory or b"/", name


def absolute(path: str | bytes) -> bytes:
    """The absolute form of a root, `/`-separated, symlinks kept."""
    full = os.path.abspath(os.fsencode(path))
    return full.replace(os.sep.encode(), b"/")


def reduce_roots(paths: list[bytes]) -> list[bytes]:
    """Sorted roots without those that lie inside another one."""
    kept: list[bytes] = []
    for path in sorted(set(paths)):
        if not any(path == k or path.startswith(k.rstrip(b"/") + b"/") for k in kept):
            kept.append(path)
    return kept


def reason(error: OSError) -> str:
    """What an OSError says, in words."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "permission denied"
    return (error.strerror or str(error)).lower()


def check_root(root: bytes) -> os.stat_result:
    """The lstat of a root. Raises NotFound for one that is not there, or can't be seen."""
    try:
        return os.lstat(root)
    except OSError as error:
        raise NotFound(
            f"cannot back up {os.fsdecode(root)!r}: {reason(error)}", hint="name a path that exists"
        ) from error


def scan(roots: list[bytes], excludes: Excludes, warn: Warn) -> Iterator[Found]:
    """Everything below `roots`, in order. What can't be read is a warning, never an end.

    Raises NotFound when a root itself does not exist: that is a mistake, not a file that vanished.
    """
    for root in roots:
        status = check_root(root)
        directory, name = split(root)
        yield Found(directory, name, status)
        if stat.S_ISDIR(status.st_mode):
            yield from _below(root, excludes, warn)


def _below(top: bytes, excludes: Excludes, warn: Warn) -> Iterator[Found]:
    """Depth first without recursion: a path may be deeper than Python's stack."""
    pending: list[Iterator[Found]] = [_entries(top, excludes, warn)]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            continue
        yield found
        if stat.S_ISDIR(found.status.st_mode):
            pending.append(_entries(found.path, excludes, warn))


def _entries(directory: bytes, excludes: Excludes, warn: Warn) -> Iterator[Found]:
    try:
        with os.scandir(directory) as handle:
            entries = sorted(handle, key=lambda entry: entry.name)
    except OSError as error:
        warn(directory, f"directory not read: {reason(error)}")
        return
    for entry in entries:
        if excludes.match(directory, entry.name):
            continue
        try:
            # On Windows the directory entry's own status lacks inode and link count.
            status = os.lstat(entry.path) if os.name == "nt" else entry.stat(follow_symlinks=False)
        except OSError as error:
            warn(entry.path, f"not read: {reason(error)}")
            continue
        yield Found(directory, entry.name, status)
