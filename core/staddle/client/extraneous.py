"""`--delete`: removes from the restored directories what the backup has not."""

from __future__ import annotations

import os
import stat

from staddle.client.ending import Folders
from staddle.client.policy import Action
from staddle.client.scan import join
from staddle.client.selection import Selection, is_inside
from staddle.client.tables import PathMarks
from staddle.client.target import fold
from staddle.client.temporary import is_temporary
from staddle.client.work import Work
from staddle.data.manifest import EntryBatch
from staddle.errors import StaddleError

MARKERS = frozenset({b"staddle-volume.txt", b"staddle.toml"})
"""A directory with one of these holds backups, or a grid: it is never deleted from."""


class Extraneous:
    """Knows all paths of a backup, 8 bytes each, and deletes what is none of them."""

    def __init__(self, work: Work, selection: Selection, protected: list[bytes]) -> None:
        """What is deleted.

        Args:
            work: of the restore.
            selection: nothing outside of it is deleted.
            protected: absolute paths that stay, with all below them.
        """
        self._work = work
        self._selection = selection
        root = work.target.root.rstrip(b"/")
        self._protected = [path[len(root) :] for path in protected if is_inside(path, root or b"/")]
        self._known = PathMarks()
        self._folded = PathMarks()

    def know(self, entries: EntryBatch) -> None:
        """These are in the backup, whether they are restored or not."""
        for path in entries.paths():
            self._known.add(path)
            self._folded.add(fold(path))

    def delete(self, folders: Folders) -> None:
        """Delete from each of the restored directories."""
        for at in range(len(folders)):
            path = folders.restored(at)
            if path is None:
                continue
            try:
                status = self._work.target.look(path)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    self._from(path, status.st_dev)
            except FileNotFoundError:
                continue
            except (OSError, StaddleError) as error:
                self._failed(path, error)

    def _from(self, path: bytes, device: int) -> None:
        names = [name for name in self._work.target.places.names(path) if self._is_extra(path, name)]
        if not names:
            return
        if any(self._work.target.places.status(join(path, marker)) is not None for marker in MARKERS):
            self._work.warn(path, "nothing is deleted from it: it holds a grid or a volume of backups")
            return
        for name in names:
            self._tree(join(path, name), device)

    def _is_extra(self, directory: bytes, name: bytes) -> bool:
        path = join(directory, name)
        if path in self._known or is_temporary(name, self._work.target.places.inode(directory)):
            return False
        if fold(path) in self._folded and self._folds(directory, name):
            return False
        return self._selection.deletes(directory, name)

    def _folds(self, directory: bytes, name: bytes) -> bool:
        """Is it the same name in other letters here."""
        places = self._work.target.places
        here, other = places.status(join(directory, name)), places.status(join(directory, name.swapcase()))
        # A name without letters is the same only after normalization: then it is kept.
        return name == name.swapcase() or (
            here is not None and other is not None and os.path.samestat(here, other)
        )

    def _tree(self, top: bytes, device: int) -> None:
        """A name and all below it, without recursion, and never into another file system."""
        pending, entered = [top], set[bytes]()
        while pending:
            path = pending[-1]
            try:
                if path in entered:
                    self._remove(path, directory=True)
                elif path != top or self._may_enter(path, device):
                    entered.add(path)
                    pending += self._clear(path, device)
                    continue
            except FileNotFoundError:
                pass
            except (OSError, StaddleError) as error:
                self._failed(path, error)
            pending.pop()

    def _may_enter(self, path: bytes, device: int) -> bool:
        """Is it a directory to be emptied; removes what is none. Raises StaddleError for one that stays."""
        places = self._work.target.places
        status = places.status(path)
        if status is None:
            return False
        if any(is_inside(path, top) for top in self._protected):
            raise StaddleError("it belongs to a grid of this system")
        if not stat.S_ISDIR(status.st_mode):
            self._remove(path, directory=False)
            return False
        if status.st_dev != device:
            raise StaddleError("another file system is mounted there")
        if any(places.status(join(path, marker)) is not None for marker in MARKERS):
            raise StaddleError("it holds a grid or a volume of backups")
        return True

    def _clear(self, path: bytes, device: int) -> list[bytes]:
        """Remove what is no directory; the directories in it."""
        found = []
        for name in list(self._work.target.places.names(path)):
            inner = join(path, name)
            try:
                if not self._selection.deletes(path, name):
                    continue
                if self._may_enter(inner, device):
                    found.append(inner)
            except FileNotFoundError:
                continue
            except (OSError, StaddleError) as error:
                self._failed(inner, error)
        return found

    def _remove(self, path: bytes, *, directory: bool) -> None:
        work = self._work
        if not work.dry_run:
            (work.target.places.remove_directory if directory else work.target.places.remove)(path)
        work.did(Action.DELETE, path, whole=False)

    def _failed(self, path: bytes, error: OSError | StaddleError) -> None:
        why = self._work.target.why(path, error) if isinstance(error, OSError) else error.message
        self._work.warn(path, f"not deleted: {why}")
