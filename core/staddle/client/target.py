"""What a restore does to the names below its root: nothing half-done ever has an entry's name.

Whatever is made gets a name of its own beside the final one (`temporary`) and is renamed when it is
whole; where nothing has the final name, what one call makes whole is made there at once. A restore that
is killed leaves at most one such file, and the next one that enters the directory removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from staddle.client.metadata import Meta, Metadata
from staddle.client.places import Places
from staddle.client.scan import join, reason, split
from staddle.client.temporary import TEMPORARY, is_temporary
from staddle.errors import StaddleError
from staddle.platform import fsattrs
from staddle.platform.durable import try_lock
from staddle.platform.flush import FlushList

_HOPELESS: Final = frozenset({errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)})
_OWNER_ALL: Final = 0o700
_SWEPT_MAX: Final = 100_000
_LIKELY_FOLDS: Final = sys.platform in {"darwin", "win32"}
_BLOCKED: Final = frozenset({errno.EPERM, errno.EACCES})


@dataclass(slots=True)
class Fresh:
    """A file that is being written. `place`: its name until it is whole."""

    path: bytes
    place: bytes
    fd: int

    def close(self) -> None:
        """Close its descriptor. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Target:
    """The names below a root, as a restore uses them. For one thread at a time."""

    def __init__(
        self,
        root: bytes,
        metadata: Metadata,
        *,
        make: bool = True,
        replace: bool = True,
        follow: frozenset[bytes] = frozenset(),
    ) -> None:
        """Open it.

        Args:
            root: absolute; made if it is missing.
            metadata: sets what is set on entries.
            make: False for a dry run, which changes nothing.
            replace: may what is there be replaced at all.
            follow: directories above the backup's roots, when it is restored in place.

        Raises:
            StaddleError: it can't be made or opened.
        """
        self.root = root
        self.places = Places(root, make=make, replace=replace, follow=follow)
        self.places.on_enter = self._entered
        self._make_allowed = make
        self._made: set[int] = set()
        self._metadata = metadata
        self._swept: set[int] = set()
        self._folded: dict[int, int] = {}
        if make:
            self._entered(b"/", False)

    def close(self) -> None:
        """Close all directories. Idempotent."""
        self.places.close()

    def _entered(self, path: bytes, made: bool) -> None:
        if made:
            self._made.add(hash(path))
        elif self._make_allowed and hash(path) not in self._swept:
            if len(self._swept) >= _SWEPT_MAX:
                self._swept.clear()
            self._swept.add(hash(path))
            self._sweep(path)

    def _sweep(self, path: bytes) -> None:
        """Remove what a killed restore has left in a directory; a living one holds a lock on its file."""
        with contextlib.suppress(OSError):
            for name in self.places.names(path):
                if name.startswith(TEMPORARY) and is_temporary(name, self.places.inode(path)):
                    with contextlib.suppress(OSError):
                        self._remove_leftover(join(path, name))

    def _remove_leftover(self, path: bytes) -> None:
        status = self.places.status(path)
        if status is None or stat.S_ISDIR(status.st_mode):
            return
        if stat.S_ISREG(status.st_mode) and sys.platform != "win32":
            fd = self.places.open_file(path)
            try:
                if not try_lock(fd):
                    return
            finally:
                os.close(fd)
        self.places.remove(path)

    # --- directories --------------------------------------------------------------------------------

    def directory(self, path: bytes) -> bool:
        """Make a directory that is an entry of the backup; whether this restore has made it.

        What has its name and is no directory is replaced. One that is there, and is closed to its own owner,
        is opened for the time of the restore: its metadata are set last.
        """
        if self.places.make_directory(path):
            return True
        status = self.places.status(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            self.places.is_fresh(path, make=True)
        if self.was_made(path):
            return True
        if status is not None and not self._metadata.privileged and sys.platform != "win32":
            mode = stat.S_IMODE(status.st_mode)
            if mode & _OWNER_ALL != _OWNER_ALL and status.st_uid == os.geteuid() and path != b"/":
                self.places.change_mode(path, mode | _OWNER_ALL)
        return False

    def was_made(self, path: bytes) -> bool:
        """Was a directory made only because something below it is restored. Says so once."""
        known = hash(path) in self._made
        self._made.discard(hash(path))
        return known

    def hold(self, flush: FlushList) -> None:
        """Name the file system of the root as one that was written to."""
        if sys.platform != "win32":
            fd = self.places.open_directory(b"/")
            try:
                flush.add(fd)
            finally:
                os.close(fd)

    # --- files --------------------------------------------------------------------------------------

    def look(self, path: bytes) -> os.stat_result | None:
        """The lstat of what has an entry's name; None if nothing has. Raises StaddleError, OSError."""
        try:
            if self.places.is_fresh(split(path)[0], make=False):
                return None  # whoever gets in the way here is no user of ours, and a rename deals with it
            there = self.places.status(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if _LIKELY_FOLDS and self._make_allowed and there is not None and not stat.S_ISDIR(there.st_mode):
            self._check_folding(path)  # it may be another entry that has just been restored
        return there

    def create_file(self, path: bytes) -> Fresh:
        """A new empty file for the content of `path`, open for writing."""
        self._check_folding(path)
        fd, place = self.places.create(path)
        if sys.platform != "win32":
            try_lock(fd)
        return Fresh(path, place, fd)

    def publish(self, fresh: Fresh) -> None:
        """The file is whole: it gets its name. Its descriptor stays open."""
        self._put(fresh.place, fresh.path)

    def discard(self, fresh: Fresh) -> None:
        """Close it, and leave nothing of it."""
        fresh.close()
        with contextlib.suppress(OSError):
            self.places.remove(fresh.place)

    def _put(self, place: bytes, path: bytes) -> None:
        try:
            self.places.rename(place, path)
        except (IsADirectoryError, FileExistsError, PermissionError):
            if not self._clear_directory(path):
                raise
            self.places.rename(place, path)

    def _clear_directory(self, path: bytes) -> bool:
        """An empty directory makes room for another kind of entry. Raises StaddleError for a full one."""
        status = self.places.status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return False
        try:
            self.places.remove_directory(path)
        except OSError as error:
            raise StaddleError(f"a directory that is not empty is in the way: {reason(error)}") from error
        return True

    # --- other kinds ----------------------------------------------------------------------------------

    def symlink(self, target: bytes, path: bytes, meta: Meta) -> None:
        """A symlink that says `target`, whatever that is."""
        self._make(path, meta, lambda place: self.places.symlink(target, place), symlink=True)

    def node(self, path: bytes, kind: int, device: int, meta: Meta) -> None:
        """A named pipe, socket or device (`stat.S_IFIFO`, …). Raises OSError where there is no such thing."""
        self._make(path, meta, lambda place: self.places.node(place, kind, device))

    def hard_link(self, existing: bytes, path: bytes) -> None:
        """Another name of an entry that was restored before."""
        self._make(path, None, lambda place: self.places.link(existing, place))

    def _make(
        self, path: bytes, meta: Meta | None, make: Callable[[bytes], None], *, symlink: bool = False
    ) -> None:
        """What one call makes; aside first if the name is taken."""
        self._check_folding(path)
        aside = self.places.status(path) is not None
        place = self.places.temporary(path) if aside else path
        make(place)
        try:
            if meta is not None:
                self._metadata.set_named(self.places, place, path, meta, symlink=symlink)
            if aside:
                self._put(place, path)
        except (OSError, StaddleError):
            with contextlib.suppress(OSError):
                self.places.remove(place)
            raise

    def _check_folding(self, path: bytes) -> None:
        """Refuse a name that this file system takes for another one of the same backup."""
        directory, _ = split(path)
        if not self.places.folds(directory):
            return
        exact = hash(path)
        if self._folded.setdefault(hash(fold(path)), exact) != exact:
            raise StaddleError("the file system of the target takes it for the same name as another entry")

    # --- errors -------------------------------------------------------------------------------------

    def why(self, path: bytes, error: OSError) -> str:
        """What an error says, in words; looks for the file flag behind a refusal."""
        if error.errno in _BLOCKED and sys.platform == "linux":
            for place in (path, split(path)[0]):
                if locked := self._locked_by_name(place):
                    return locked
        return reason(error)

    def locked(self, path: bytes, fd: int) -> str:
        """What to say of an open file or directory that nothing may change; empty for any other."""
        try:
            flags = fsattrs.get_flags(fd)
        except OSError:
            return ""
        if not flags & (fsattrs.IMMUTABLE | fsattrs.APPEND):
            return ""
        shown = os.fsdecode(self.root.rstrip(b"/") + path)
        return f"{shown!r} is immutable or append-only (`chattr -ia` makes it writable)"

    def _locked_by_name(self, path: bytes) -> str:
        try:
            status = self.places.status(path)
            if status is None or stat.S_IFMT(status.st_mode) not in {stat.S_IFREG, stat.S_IFDIR}:
                return ""
            if sys.platform == "win32":
                return ""
            is_directory = stat.S_ISDIR(status.st_mode)
            fd = self.places.open_directory(path) if is_directory else self.places.open_file(path)
            try:
                return self.locked(path, fd)
            finally:
                os.close(fd)
        except (OSError, StaddleError):
            return ""


def fold(path: bytes) -> bytes:
    """What names that some file systems take for the same have in common: letters without case, composed."""
    text = path.decode(errors="surrogateescape").casefold()
    return unicodedata.normalize("NFD", text).encode(errors="surrogateescape")


def check_hopeless(error: OSError, root: bytes) -> None:
    """Raises StaddleError for an error that every further file would meet as well."""
    if error.errno in _HOPELESS:
        raise StaddleError(
            f"cannot go on restoring to {os.fsdecode(root)!r}: {reason(error)}",
            hint=(
                "mount it for writing, or restore to another directory"
                if error.errno == errno.EROFS
                else "make room, or restore to another directory"
            ),
        ) from error
