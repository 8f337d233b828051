"""What a restore does last: hard links, flags that would forbid them, and directories from the deepest up."""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_left

import numpy as np

from staddle.client.metadata import Meta
from staddle.client.policy import Action, decide
from staddle.client.tables import ByteTable, PathMarks
from staddle.client.work import Work
from staddle.errors import StaddleError
from staddle.platform.flush import FlushList

_NUMBERS = np.dtype([("mode", "<u4"), ("uid", "<i8"), ("gid", "<i8"), ("mtime_ns", "<i8")])
_PAGE = 4096


class _MetaTable:
    """Many Metas, at 28 bytes each and what their further metadata take."""

    def __init__(self) -> None:
        self._pages: list[np.ndarray[tuple[int], np.dtype[np.void]]] = []
        self._count = 0
        self._extras = ByteTable()

    def add(self, meta: Meta) -> None:
        if self._count % _PAGE == 0:
            self._pages.append(np.empty(_PAGE, _NUMBERS))
        self._pages[-1][self._count % _PAGE] = meta[:4]
        self._extras.add(meta.extra)
        self._count += 1

    def __getitem__(self, at: int) -> Meta:
        mode, uid, gid, mtime_ns = self._pages[at // _PAGE][at % _PAGE].tolist()
        return Meta(mode, uid, gid, mtime_ns, self._extras[at])


_NOTHING = Meta(0, 0, 0, 0)


class Folders:
    """The restored directories, with what is set on them at the end."""

    def __init__(self) -> None:
        self._paths = ByteTable()
        self._metas = _MetaTable()
        self._depths = array("H")
        self._kinds = (
            bytearray()
        )  # 0: nothing is set on it; 1: its metadata are; 2: if it was made on the way

    def add(self, path: bytes, meta: Meta | None, *, on_the_way: bool) -> None:
        """A directory.

        Args:
            path: in the backup.
            meta: what is set at the end; None: it keeps what it has.
            on_the_way: it only leads to others, and counts only if it had to be made for them.
        """
        self._paths.add(path)
        self._metas.add(meta or _NOTHING)
        self._depths.append(min(path.count(b"/"), 0xFFFF))
        self._kinds.append(2 if on_the_way else 1 if meta else 0)

    def __len__(self) -> int:
        return len(self._paths)

    def restored(self, at: int) -> bytes | None:
        """The path of one of them; None if it only led to others."""
        return None if self._kinds[at] == 2 else self._paths[at]

    def finish(self, work: Work, flush: FlushList) -> None:
        """Set the metadata, deepest first: what is set on a directory may forbid to enter it."""
        order = np.argsort(-np.frombuffer(self._depths, np.uint16).astype(np.int32), kind="stable")
        for at in order.tolist():
            kind, path = self._kinds[at], self._paths[at]
            if path == b"/" and not work.in_place:
                continue  # the target itself keeps the metadata that its owner gave it
            if kind == 1 or (kind == 2 and work.target.was_made(path)):
                try:
                    _set_directory(work, path, self._metas[at], flush)
                except (OSError, StaddleError) as error:
                    why = work.target.why(path, error) if isinstance(error, OSError) else error.message
                    work.told.missing(path, f"metadata of a directory not set: {why}")


def _set_directory(work: Work, path: bytes, meta: Meta, flush: FlushList) -> None:
    places = work.target.places
    if sys.platform == "win32":
        work.metadata.set_named(places, path, path, meta, symlink=False)
        return
    fd = places.open_directory(path)
    try:
        flush.add(fd)
        work.set_again(fd, path, meta)
        work.metadata.set_flags(fd, places, path, meta)
    finally:
        os.close(fd)


class Links:
    """Hard links, and files that become immutable only once all their names are made."""

    def __init__(self) -> None:
        self._paths = ByteTable()
        self._contents = ByteTable()
        self._mtimes_ns = array("q")
        self._flagged = ByteTable()
        self._flagged_metas = _MetaTable()
        self._aliases = LinkAliases(array("q"), array("Q"), self._paths)
        self._met = PathMarks()

    def add(self, path: bytes, content: bytes, mtime_ns: int) -> None:
        """Another name of the entry at `content`, of the same backup."""
        self._paths.add(path)
        self._contents.add(content)
        self._mtimes_ns.append(mtime_ns)

    def met(self, path: bytes) -> None:
        """This link stands for its content, which the backup has."""
        self._met.add(path)

    def flags_later(self, path: bytes, meta: Meta) -> None:
        """This file's flags are set when its links are made."""
        self._flagged.add(path)
        self._flagged_metas.add(meta)

    def aliases(self, work: Work) -> LinkAliases:
        """Contents that were not restored under their own name: the first link to each gets the content.

        So of a selection, of a file that was kept, and of one that could not be written; not of a lost one.
        """
        hashes, numbers = array("q"), array("Q")
        for at in range(len(self._contents)):
            content = self._contents[at]
            if content not in work.restored and content not in work.lost:
                hashes.append(hash(content))
                numbers.append(at)
        self._aliases = LinkAliases(hashes, numbers, self._paths)
        return self._aliases

    def finish(self, work: Work) -> None:
        """Make them."""
        for at in range(len(self._paths)):
            path, content = self._paths[at], self._contents[at]
            alias = self._aliases.get(content)
            if alias == path and path in self._met:
                continue  # it has the content, or was told to lack it
            try:
                self._link(work, path, alias or content, self._mtimes_ns[at])
            except FileNotFoundError:
                work.warn(path, "hard link not restored: the file that it is another name of is missing")
            except (OSError, StaddleError) as error:
                work.failed(path, error)
        if not work.dry_run:
            self._set_flags(work)

    @staticmethod
    def _link(work: Work, path: bytes, existing: bytes, mtime_ns: int) -> None:
        if existing not in work.restored:
            # Nothing else in the target is linked to: a backup could name any file there.
            raise FileNotFoundError
        there = work.target.look(path)
        first = work.target.places.status(existing)
        same = there is not None and first is not None and os.path.samestat(there, first)
        same = same and existing not in work.renewed
        action = Action.SAME if same else decide(work.overwrite, there, mtime_ns, same=False)
        if action in {Action.NEW, Action.REPLACE} and not work.dry_run:
            work.target.hard_link(existing, path)
        work.did(action, path, whole=False)
        if action is not Action.KEEP:
            work.tally.add(files=1)

    def _set_flags(self, work: Work) -> None:
        places = work.target.places
        for at in range(len(self._flagged)):
            path = self._flagged[at]
            try:
                fd = places.open_file(path)
            except (OSError, StaddleError):
                work.told.missing(path, "file flags not set")
                continue
            try:
                work.metadata.set_flags(fd, places, path, self._flagged_metas[at])
            finally:
                os.close(fd)


class LinkAliases:
    """Content -> the link that is restored in its place, by hashes."""

    def __init__(self, hashes: array[int], links: array[int], paths: ByteTable) -> None:
        """Args: hashes: of contents' paths. links: the numbers of links to them. The first of each counts."""
        found, first = np.unique(np.frombuffer(hashes, np.int64), return_index=True)
        self._hashes = array("q", found.tobytes())
        self._links = array("Q", np.frombuffer(links, np.uint64)[first].tobytes())
        self._paths = paths

    def __len__(self) -> int:
        return len(self._hashes)

    def get(self, path: bytes) -> bytes | None:
        """The path that a content is restored under; None for its own."""
        if not self._hashes:
            return None
        wanted = hash(path)
        at = bisect_left(self._hashes, wanted)
        if at < len(self._hashes) and self._hashes[at] == wanted:
            return self._paths[self._links[at]]
        return None
