"""Where a restore writes: the full source path below one directory, and never outside it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from typing import Final, NamedTuple

from staddle.client.scan import Warn, join, reason, split
from staddle.errors import StaddleError

_BINARY: Final = getattr(os, "O_BINARY", 0)
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY
_PRIVATE_DIR: Final = 0o700
_PRIVATE_FILE: Final = 0o600
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_HOPELESS: Final = frozenset({errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)})
_NOT_ON_WINDOWS: Final = re.compile(rb'[\\:*?"<>|\x00-\x1f]')
_PLACES_MAX: Final = 4096
_DEVICE_NAME: Final = re.compile(rb"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


class Meta(NamedTuple):
    """What is set on an entry once its content is there. `mode`: permission bits."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


def windows_part(part: bytes) -> bytes:
    """One part of a path as Windows can hold it: it must neither climb nor name a drive, stream or device."""
    plain = _NOT_ON_WINDOWS.sub(b"_", part)
    bare = plain.rstrip(b". ")  # Windows drops them: `.. ` would be `..`
    plain = bare + b"_" * (len(plain) - len(bare))
    return b"_" + plain if _DEVICE_NAME.fullmatch(plain) else plain


class Target:
    """A restore's directory. Creates what is asked for with private modes; metadata is set afterwards.

    A directory on the way that is a symlink is refused: it would lead the restore out of the target.
    """

    def __init__(self, root: bytes, warn: Warn) -> None:
        """Args: root: absolute; made if it is missing. Raises StaddleError when that can't be done."""
        self.root = root
        self._warn = warn
        self._checked: set[bytes] = {root}
        self._places: dict[bytes, bytes] = {}
        self.privileged = hasattr(os, "geteuid") and os.geteuid() == 0
        try:
            os.makedirs(root, exist_ok=True)
        except OSError as error:
            raise StaddleError(
                f"cannot restore to {os.fsdecode(root)!r}: {reason(error)}",
                hint="name a directory you can write",
            ) from error

    def path(self, source: bytes) -> bytes:
        """The place of a source path. Raises StaddleError for one that would lead outside."""
        directory, _, name = source.rpartition(b"/")
        place = self._places.get(directory)
        if place is None:
            if len(self._places) >= _PLACES_MAX:
                self._places.clear()
            place = self._places[directory] = self._place(directory)
        # All names of one directory lead to the same place: only the last part is looked at for each.
        return self._place(name, place) if name else place

    def _place(self, source: bytes, below: bytes = b"") -> bytes:
        parts = [part for part in source.split(b"/") if part]
        if any(part in {b".", b".."} or b"\0" in part for part in parts):
            raise StaddleError(f"the backup names a path that leads outside: {os.fsdecode(source)!r}")
        if sys.platform == "win32":
            parts = [windows_part(part) for part in parts]
        top = below or self.root
        return join(top, b"/".join(parts)) if parts else top

    def ensure_directory(self, path: bytes) -> None:
        """Make `path` and what is missing above it. Raises StaddleError for a symlink on the way."""
        missing = []
        while path not in self._checked:
            missing.append(path)
            path = split(path)[0]
        for step in reversed(missing):
            try:
                status = os.lstat(step)
            except FileNotFoundError:
                os.mkdir(step, _PRIVATE_DIR)
            else:
                if not stat.S_ISDIR(status.st_mode):
                    if stat.S_ISLNK(status.st_mode):
                        raise StaddleError(
                            f"{os.fsdecode(step)!r} is a symlink: a restore does not write through it",
                            hint="remove it, or restore to an empty directory",
                        )
                    os.unlink(step)
                    os.mkdir(step, _PRIVATE_DIR)
            self._checked.add(step)

    def _clear(self, path: bytes) -> None:
        """Make room for a new entry: whatever has the name is unlinked, so nothing is written through it."""
        self.ensure_directory(split(path)[0])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def create_file(self, path: bytes) -> int:
        """A new empty file, open for writing; its descriptor."""
        self.ensure_directory(split(path)[0])
        try:
            return os.open(path, _CREATE, _PRIVATE_FILE)
        except FileExistsError:
            os.unlink(path)
            return os.open(path, _CREATE, _PRIVATE_FILE)

    def symlink(self, target: bytes, path: bytes) -> None:
        """A symlink that says `target`, whatever that is."""
        self._clear(path)
        os.symlink(target, path)

    def hard_link(self, existing: bytes, path: bytes) -> None:
        """Another name of a file that was restored before."""
        self.ensure_directory(split(existing)[0])
        self._clear(path)
        if os.link in os.supports_follow_symlinks:
            os.link(existing, path, follow_symlinks=False)
        else:
            os.link(existing, path)

    def node(self, path: bytes, kind: int, device: int = 0) -> None:
        """A named pipe, socket or device (`stat.S_IFIFO`, …). Raises OSError where there is no such thing."""
        if sys.platform == "win32":
            raise OSError(errno.ENOTSUP, "this system has no such files")
        self._clear(path)
        if kind == stat.S_IFIFO:
            os.mkfifo(path, _PRIVATE_FILE)
        else:
            os.mknod(path, kind | _PRIVATE_FILE, device)

    # --- metadata ---------------------------------------------------------------------------------

    def set_file_metadata(self, fd: int, path: bytes, meta: Meta) -> None:
        """Owner, mode and time of an open file, in the order in which none undoes another.

        By its descriptor, so that nothing that has taken the name since can be hit. What can't be set is a
        warning.
        """
        if sys.platform == "win32":
            self.set_metadata(path, meta)
            return
        try:
            if self.privileged:
                os.fchown(fd, meta.uid, meta.gid)
            os.fchmod(fd, self._mode(meta))
            os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))
        except (OSError, OverflowError) as error:
            self._warn(path, f"metadata not set: {_why(error)}")

    def set_directory_metadata(self, path: bytes, meta: Meta) -> None:
        """The same for a directory, once nothing more is written into it."""
        if sys.platform == "win32":
            self.set_metadata(path, meta)
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            self._warn(path, f"metadata not set: {reason(error)}")
            return
        try:
            self.set_file_metadata(fd, path, meta)
        finally:
            os.close(fd)

    def set_metadata(self, path: bytes, meta: Meta) -> None:
        """The same for an entry that can't be opened; of a symlink its own owner and time."""
        try:
            link = stat.S_ISLNK(os.lstat(path).st_mode)
            if self.privileged and sys.platform != "win32":
                os.chown(path, meta.uid, meta.gid, follow_symlinks=False)
            if not link:
                os.chmod(path, self._mode(meta))
            if os.utime in os.supports_follow_symlinks:
                os.utime(path, ns=(meta.mtime_ns, meta.mtime_ns), follow_symlinks=False)
            elif not link:
                os.utime(path, ns=(meta.mtime_ns, meta.mtime_ns))
        except (OSError, OverflowError) as error:
            self._warn(path, f"metadata not set: {_why(error)}")

    def _mode(self, meta: Meta) -> int:
        """Set-id bits only where the owner is the original one: they lend the owner's rights."""
        mode = stat.S_IMODE(meta.mode)
        if self.privileged or not hasattr(os, "geteuid") or os.geteuid() == meta.uid:
            return mode
        return mode & ~_SET_ID


def check_hopeless(error: OSError, root: bytes) -> None:
    """Raises StaddleError for an error that every further file would meet as well."""
    if error.errno in _HOPELESS:
        raise StaddleError(
            f"cannot go on restoring to {os.fsdecode(root)!r}: {reason(error)}",
            hint="make room, or restore to another directory",
        ) from error


def _why(error: OSError | OverflowError) -> str:
    return reason(error) if isinstance(error, OSError) else "the time is out of this system's range"
