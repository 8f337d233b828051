"""Pieces for tests of restores: targets without a grid, trees of other users, other privileges."""

import contextlib
import os
import stat

from staddle.client.metadata import Metadata
from staddle.client.target import Target
from staddle.client.temporary import temporary_name
from staddle.client.told import Told
from staddle.data.manifest import EntryFlag

from .kit import Stored, manifest_of


@contextlib.contextmanager
def target_at(root, *, privileged=None, **options):
    """A target, and the list of what could not be set on its entries."""
    missing = []
    told = Told(lambda path, why: None, privileged=True)
    told.missing = lambda path, what: missing.append((path, what))
    if privileged is None:
        privileged = os.geteuid() == 0
    target = Target(os.fsencode(root), Metadata(told, privileged=privileged), **options)
    try:
        yield target, missing
    finally:
        target.close()


def stored_rows(rows, chunk_first=None, chunk_count=None):
    """A backup of one manifest with these rows, and no content."""
    stored = Stored()
    stored.manifests = [(bytes(16), 0, 0, manifest_of(rows, chunk_first, chunk_count))]
    return stored


def whole_tree(root):
    """Every name below a directory, with kind, inode and content."""
    seen = {}
    root = os.fsencode(root)
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            facts = (
                stat.S_IFMT(status.st_mode),
                status.st_ino,
                status.st_mtime_ns,
                status.st_ctime_ns,
                content,
            )
            seen[os.path.relpath(path, root)] = facts
    return seen


def leftovers(root):
    """Unfinished files below a directory."""
    return [
        os.path.join(directory, name)
        for directory, _, names in os.walk(os.fsencode(root))
        for name in names
        if name.startswith(b".staddle-")
    ]


def put(path, content):
    """Make a file."""
    with open(path, "wb") as file:
        file.write(content)


def unfinished(directory, own=b"0123456789abcdef"):
    """The path that a restore which was killed would have left in a directory."""
    return os.path.join(os.fsencode(directory), temporary_name(own, os.stat(directory).st_ino))


PART_LAST = int(EntryFlag.PART | EntryFlag.LAST)
