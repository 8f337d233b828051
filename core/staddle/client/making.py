"""What a restore does with the rows of a manifest: decides, makes what has no content, collects the rest.

Directories' metadata and hard links wait for the end (`ending`), contents for their bytes (`writer`).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from staddle.client import acls
from staddle.client.attributes import rdev_of
from staddle.client.contents import FileRow
from staddle.client.ending import Folders, Links
from staddle.client.metadata import Meta
from staddle.client.owners import Owners
from staddle.client.policy import DEVICES, NODES, Action, Overwrite, decide, same_file, same_node
from staddle.client.told import ONLY_ROOT
from staddle.client.work import Aliases, Work
from staddle.data.manifest import EntryBatch, EntryFlag, EntryType
from staddle.errors import StaddleError

# Plain numbers: a comparison with a member of an enum takes ten times as long.
_DIRECTORY = int(EntryType.DIRECTORY)
_SYMLINK = int(EntryType.SYMLINK)
_HARDLINK = int(EntryType.HARDLINK)
_CONTENT = frozenset(map(int, (EntryType.FILE, EntryType.IMAGE, EntryType.STREAM)))
_PLACELESS = frozenset(map(int, (EntryType.IMAGE, EntryType.STREAM)))
_PART = int(EntryFlag.PART)
_LAST = int(EntryFlag.LAST)
_ERROR = int(EntryFlag.ERROR)
_SPARSE = int(EntryFlag.SPARSE)
_COLUMNS = ("type", "mode", "uid", "gid", "size", "mtime_ns", "nlink", "offset", "flags", "extra")


class Rows:
    """The rows of one batch out of lists: numbers of numpy are slow one by one."""

    def __init__(self, entries: EntryBatch, owners: Owners) -> None:
        columns = entries.columns
        (
            self.kinds,
            self._modes,
            self._uids,
            self._gids,
            self.sizes,
            self.mtimes_ns,
            self._nlinks,
            self.offsets,
            self.flags,
            self._extras,
        ) = (columns[name].tolist() for name in _COLUMNS)
        self.paths = entries.paths()
        self._entries = entries
        self._further = [acls.given(each, owners, entries.users, entries.groups) for each in entries.extras]
        self._owners = owners
        self._known: dict[tuple[int, int], tuple[int, int, int]] = {}

    def meta(self, row: int) -> Meta:
        """What is set on the row's entry; nothing lends the rights of somebody else."""
        key = self._uids[row], self._gids[row]
        uid, gid, allowed = self._known.get(key) or self._owner(key)
        at = self._extras[row]
        extra = self._further[at - 1] if at else b""
        return Meta(self._modes[row] & allowed, uid, gid, self.mtimes_ns[row], extra)

    def _owner(self, key: tuple[int, int]) -> tuple[int, int, int]:
        """Owner and group here, and which bits of a mode may be theirs."""
        uid, gid, same_user, same_group = self._owners.of(*key, self._entries.users, self._entries.groups)
        allowed = 0o7777
        if not same_user:
            allowed &= ~stat.S_ISUID
        if not same_group:
            allowed &= ~stat.S_ISGID
        self._known[key] = uid, gid, allowed
        return self._known[key]

    def linked(self, row: int) -> bool:
        """May the row's file have other names."""
        return bool(self._nlinks[row] > 1)

    def owns(self, row: int, there: os.stat_result) -> bool:
        """Has what is there no more names than the row's entry: what is set on it is set on all of them."""
        return bool(there.st_nlink <= max(1, self._nlinks[row]))

    def file(self, row: int, path: bytes, chunks: tuple[int, int], *, replaces: bool = False) -> FileRow:
        """A row with content.

        Args:
            row: of the batch.
            path: where it is restored.
            chunks: first chunk row, and how many.
            replaces: something has its name.
        """
        flags = self.flags[row]
        return FileRow(
            path=path,
            meta=self.meta(row),
            size_bytes=self.sizes[row],
            offset=self.offsets[row],
            last=not flags & _PART or bool(flags & _LAST),
            damaged=bool(flags & _ERROR),
            sparse=bool(flags & _SPARSE),
            linked=self._nlinks[row] > 1,
            replaces=replaces,
            chunk_first=chunks[0],
            chunk_count=chunks[1],
        )


class Maker:
    """Goes through batches of rows, in the order of the backup."""

    def __init__(self, work: Work, folders: Folders, links: Links) -> None:
        self._work = work
        self._folders = folders
        self._links = links
        self._part_kept: tuple[bytes, Action] | None = None

    def make(
        self,
        entries: EntryBatch,
        rows: Iterable[int],
        way: frozenset[int],
        chunks: tuple[list[int], list[int]],
        aliases: Aliases,
    ) -> list[FileRow]:
        """Make all that has no content; the rest are the rows whose content is needed.

        Args:
            entries: a batch of some thousand rows.
            rows: those to be restored, ascending.
            way: of these the directories that only lead to others: they are not made for their own sake.
            chunks: first chunk row of each row, and how many.
            aliases: paths that are restored under another one.
        """
        known = Rows(entries, self._work.owners)
        files = []
        for row in rows:
            path = known.paths[row]
            if alias := aliases.get(path):
                self._links.met(alias)
                path = alias
            try:
                if known.kinds[row] == _DIRECTORY:
                    self._directory(known, row, path, on_the_way=row in way)
                elif known.kinds[row] in _CONTENT:
                    action = self._content(known, row, path)
                    if action is not None:
                        place = chunks[0][row], chunks[1][row]
                        files.append(known.file(row, path, place, replaces=action is Action.REPLACE))
                elif known.kinds[row] == _HARDLINK:
                    self._links.add(path, entries.link(row), known.mtimes_ns[row])
                else:
                    self._special(entries, known, row, path)
            except (OSError, StaddleError) as error:
                self._work.failed(path, error)
        return files

    # --- directories --------------------------------------------------------------------------------

    def _directory(self, known: Rows, row: int, path: bytes, *, on_the_way: bool) -> None:
        work = self._work
        if on_the_way:
            self._folders.add(path, known.meta(row), on_the_way=True)
            return
        if work.dry_run:
            there = work.target.look(path)
            made = there is None or not stat.S_ISDIR(there.st_mode)
        else:
            made = work.target.directory(path)
        if made:
            work.did(Action.NEW, path)
        if made or work.overwrite is not Overwrite.NEVER:
            self._folders.add(path, known.meta(row), on_the_way=False)
        else:
            self._folders.add(path, None, on_the_way=False)
        work.tally.add(dirs=1)

    # --- contents -----------------------------------------------------------------------------------

    def _content(self, known: Rows, row: int, path: bytes) -> Action | None:
        """What to do with a row's content; None: it is not fetched.

        What was decided at the first part of a file holds for all.
        """
        work, flags = self._work, known.flags[row]
        last = not flags & _PART or flags & _LAST
        if known.offsets[row] and self._part_kept is not None and self._part_kept[0] == path:
            if last and self._part_kept[1] is Action.SAME and not work.dry_run:
                self._keep_same(known, row, path)
            return None
        if known.offsets[row]:
            return None if work.dry_run else Action.NEW
        self._part_kept = None if last else (path, Action.KEEP)  # also if this part fails
        if work.in_place and known.kinds[row] in _PLACELESS:
            raise StaddleError("an image or a stream has no place to be restored in: use --onto, or --to")
        there = work.target.look(path)
        size_bytes, mtime_ns = known.sizes[row], known.mtimes_ns[row]
        same = there is not None and known.owns(row, there) and same_file(there, size_bytes, mtime_ns)
        action = decide(work.overwrite, there, mtime_ns, same=same)
        if action in {Action.NEW, Action.REPLACE} and not work.dry_run:
            self._part_kept = None
            return action
        work.did(action, path, size_bytes)
        if not last:
            self._part_kept = path, action
        if action is Action.SAME:
            work.tally.add(files=1, unchanged=size_bytes)
            if last and not work.dry_run:
                self._keep_same(known, row, path)
        elif action is not Action.KEEP:
            work.tally.add(files=1, read=size_bytes)
        return None

    def _keep_same(self, known: Rows, row: int, path: bytes) -> None:
        """The file is there already: only what is set on it may differ."""
        work, meta, places = self._work, known.meta(row), self._work.target.places
        try:
            fd = places.open_file(path)
        except PermissionError:  # its owner may set what he may not read
            places_meta = meta if sys.platform != "win32" else meta._replace(extra=b"")
            work.metadata.set_named(places, path, path, places_meta, symlink=False)
            return
        try:
            there = os.fstat(fd)
            if not (known.owns(row, there) and same_file(there, known.sizes[row], meta.mtime_ns)):
                work.warn(path, "changed while it was backed up, and the one that was there is kept")
                return
            work.set_again(fd, path, meta)
            if known.linked(row) and work.metadata.has_flags(path, meta):
                self._links.flags_later(path, meta)
            else:
                work.metadata.set_flags(fd, places, path, meta)
        finally:
            os.close(fd)

    # --- other kinds ----------------------------------------------------------------------------------

    def _special(self, entries: EntryBatch, known: Rows, row: int, path: bytes) -> None:
        work, kind, meta = self._work, known.kinds[row], known.meta(row)
        there = work.target.look(path)
        link, device = b"", 0
        if kind == _SYMLINK:
            link = entries.link(row)
            same = (
                there is not None
                and stat.S_ISLNK(there.st_mode)
                and work.target.places.read_link(path) == link
            )
        elif kind in NODES:
            device = _device(work, path, meta) if kind in DEVICES else 0
            same = there is not None and same_node(there, NODES[kind], device)
        else:
            work.warn(path, "an alternate data stream is not restored by this release")
            return
        same = same and there is not None and known.owns(row, there)
        action = decide(work.overwrite, there, meta.mtime_ns, same=same)
        if action is Action.KEEP:
            work.did(action, path)
            return
        if kind in DEVICES and action is not Action.SAME and not work.metadata.privileged:
            work.warn(path, f"a device is not restored: {ONLY_ROOT}")
            return
        if not work.dry_run:
            if action is Action.SAME:
                places = work.target.places
                work.metadata.set_named(places, path, path, meta, symlink=kind == _SYMLINK)
            elif kind == _SYMLINK:
                work.target.symlink(link, path, meta)
            else:
                work.target.node(path, NODES[kind], device, meta)
        work.did(action, path)
        work.tally.add(files=1)


def _device(work: Work, path: bytes, meta: Meta) -> int:
    if sys.platform == "win32":
        return 0
    try:
        return os.makedev(*rdev_of(work.metadata.further(path, meta)))
    except (OverflowError, ValueError) as error:
        raise StaddleError("the backup gives an impossible device number") from error


def slices(entries: EntryBatch, rows_max: int) -> Iterator[tuple[int, EntryBatch]]:
    """A batch in parts of at most `rows_max` rows that share its tables; with the first row of each."""
    names = np.frombuffer(entries.names, np.uint8)
    ends = np.append(np.flatnonzero(names == 0), len(names))
    for first in range(0, len(entries), rows_max):
        upto = min(first + rows_max, len(entries))
        begin = int(ends[first - 1]) + 1 if first else 0
        columns = {name: column[first:upto] for name, column in entries.columns.items()}
        used, columns["dir"] = np.unique(columns["dir"], return_inverse=True)
        yield (
            first,
            EntryBatch(
                names=entries.names[begin : int(ends[upto - 1])],
                dirs=[entries.dirs[at] for at in used.tolist()],
                columns=columns,
                links=entries.links,
                extras=entries.extras,
                users=entries.users,
                groups=entries.groups,
            ),
        )
