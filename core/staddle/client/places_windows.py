r"""Names below a restore's root on Windows: by path, in the `\\?\` form, each directory looked at before use.

Windows has no calls relative to an open directory in Python. What a directory is, is asked when it is
entered; it can't be a symlink or junction then.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator

from staddle.client.scan import reason
from staddle.client.temporary import temporary_name
from staddle.errors import StaddleError

FOLDERS_MAX = 4096
"""Directories that are remembered as looked at."""
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_REPARSE_POINT = 0x400
_NOT_ALLOWED = re.compile(rb'[\\:*?"<>|\x00-\x1f]')
_DEVICE_NAME = re.compile(rb"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


def windows_part(part: bytes) -> bytes:
    """One part of a path as Windows can hold it: it must neither climb nor name a drive, stream or device."""
    plain = _NOT_ALLOWED.sub(b"_", part)
    bare = plain.rstrip(b". ")  # Windows drops them: `.. ` would be `..`
    plain = bare + b"_" * (len(plain) - len(bare))
    return b"_" + plain if _DEVICE_NAME.fullmatch(plain) else plain


class Places:
    """The names below one root; the twin of `places_posix.Places`."""

    def __init__(
        self, root: bytes, *, make: bool, replace: bool, follow: frozenset[bytes] = frozenset()
    ) -> None:
        """Args: as of the twin; `follow` has no meaning here."""
        self.root = root
        self._replace = replace
        self.on_enter: Callable[[bytes, bool], None] = lambda _path, _made: None
        self._long = _long(root)
        self._seen: OrderedDict[bytes, bool] = OrderedDict()
        self._numbered = b"", 0
        if make:
            try:
                os.makedirs(self._long, exist_ok=True)
            except OSError as error:
                raise StaddleError(
                    f"cannot restore to {os.fsdecode(root)!r}: {reason(error)}",
                    hint="name a directory you can write",
                ) from error

    def close(self) -> None:
        """Nothing is open. Idempotent."""

    # --- directories --------------------------------------------------------------------------------

    def _at(self, path: bytes, *, make: bool = False) -> bytes:
        """Where a name is; its directory is looked at, and made if it is missing."""
        if path == b"/":
            return self._long
        directory, name = _parts(path)
        self._enter(directory, make=make)
        return self._join(directory) + b"\\" + windows_part(name)

    def _join(self, directory: bytes) -> bytes:
        parts = [windows_part(part) for part in directory.split(b"/") if part]
        return b"\\".join([self._long.rstrip(b"\\"), *parts])

    def _enter(self, path: bytes, *, make: bool) -> None:
        missing = []
        while path != b"/" and path not in self._seen:
            missing.append(path)
            path = _parts(path)[0]
        for step in reversed(missing):
            where, made = self._join(step), False
            try:
                status = os.lstat(where)
            except FileNotFoundError:
                if not make:
                    raise
                os.mkdir(where)
                made = True
            else:
                if getattr(status, "st_file_attributes", 0) & _REPARSE_POINT:
                    raise StaddleError(
                        f"{os.fsdecode(where)!r} is a symlink: a restore does not write through it",
                        hint="remove it, or restore to an empty directory",
                    )
                if not stat.S_ISDIR(status.st_mode):
                    if not (make and self._replace):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                    os.unlink(where)
                    os.mkdir(where)
                    made = True
            self._remember(step, made=made)
            self.on_enter(step, made)

    def _remember(self, path: bytes, *, made: bool) -> None:
        self._seen[path] = made
        if len(self._seen) > FOLDERS_MAX:
            self._seen.popitem(last=False)

    def make_directory(self, path: bytes) -> bool:
        """Make it, and what is missing above it; whether this call made it."""
        if path == b"/":
            return False
        where = self._at(path, make=True)
        try:
            os.mkdir(where)
        except FileExistsError:
            return False
        self._remember(path, made=True)
        return True

    def names(self, path: bytes) -> Iterator[bytes]:
        """The names in a directory, in no order."""
        self._enter(path, make=False)
        with os.scandir(self._join(path)) as entries:
            for entry in entries:
                yield entry.name

    # --- names --------------------------------------------------------------------------------------

    def status(self, path: bytes) -> os.stat_result | None:
        """The lstat of what has this name; None if nothing has, or its directory is missing."""
        try:
            return os.lstat(self._at(path))
        except FileNotFoundError:
            return None

    def is_fresh(self, directory: bytes, *, make: bool) -> bool:
        """Is this directory one that this restore has made, as far as is still known."""
        self._enter(directory, make=make)
        return self._seen.get(directory, False)

    def folds(self, directory: bytes) -> bool:
        """Names that differ in case only are one."""
        return True

    def create(self, path: bytes) -> tuple[int, bytes]:
        """A new empty file beside `path`, under a name of its own: its descriptor, and its path."""
        temporary = self.temporary(path)
        return os.open(self._at(temporary, make=True), _CREATE, 0o600), temporary

    def temporary(self, path: bytes) -> bytes:
        """A name beside `path` for what is renamed to it afterwards."""
        directory, name = _parts(path)
        return path[: -len(name)] + temporary_name(secrets.token_hex(8).encode(), self.inode(directory))

    def inode(self, directory: bytes) -> int:
        """The number that `temporary_name` takes; the directory is made if it is missing."""
        if directory != self._numbered[0]:
            self._enter(directory, make=True)
            self._numbered = directory, os.lstat(self._join(directory)).st_ino
        return self._numbered[1]

    def rename(self, source: bytes, target: bytes) -> None:
        """Within one directory, over whatever file has the name."""
        os.replace(self._at(source), self._at(target))

    def symlink(self, target: bytes, path: bytes) -> None:
        """A symlink that says `target`, whatever that is."""
        os.symlink(target, self._at(path, make=True))

    def read_link(self, path: bytes) -> bytes:
        """What a symlink says."""
        return os.readlink(self._at(path))

    def node(self, path: bytes, kind: int, device: int) -> None:
        """There are no such files here: raises OSError."""
        raise OSError(errno.ENOTSUP, "this system has no such files")

    def link(self, existing: bytes, path: bytes) -> None:
        """Another name of a file."""
        os.link(self._at(existing), self._at(path, make=True))

    def remove(self, path: bytes) -> None:
        """Remove a name that is no directory."""
        where = self._at(path)
        status = os.lstat(where)
        # A junction, or a symlink to a directory, is removed as a directory is: it, not what it leads to.
        if getattr(status, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_DIRECTORY:
            os.rmdir(where)
        else:
            os.unlink(where)

    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._seen.pop(path, None)
        self._numbered = b"", 0
        os.rmdir(self._at(path))

    def open_file(self, path: bytes) -> int:
        """Open a regular file for reading."""
        return os.open(self._at(path), _READ)

    # --- metadata -----------------------------------------------------------------------------------

    def change_mode(self, path: bytes, mode: int) -> None:
        """Here that is the read-only attribute."""
        os.chmod(self._at(path), mode)

    def change_time(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Of what is no symlink: there is no call for one."""
        os.utime(self._at(path), ns=(atime_ns, mtime_ns))

    def reach(self, path: bytes) -> bytes:
        """A path to the name that any call takes."""
        return self._at(path)


def _parts(path: bytes) -> tuple[bytes, bytes]:
    """Directory and name. The one place where a name is looked at: all calls come through here."""
    directory, _, name = path.rpartition(b"/")
    if not name or name in {b".", b".."} or b"\0" in name or not path.startswith(b"/"):
        raise StaddleError(f"the backup names a path that leads outside: {os.fsdecode(path)!r}")
    return directory or b"/", name


def _long(root: bytes) -> bytes:
    r"""The form that has no limit of 260 characters: `\\?\C:\a`, `\\?\UNC\server\share`."""
    if sys.platform != "win32":
        return root  # for tests of what is no call of the system
    full = os.path.abspath(root).replace(b"/", b"\\")
    if full.startswith(b"\\\\?\\"):
        return full
    return b"\\\\?\\UNC" + full[1:] if full.startswith(b"\\\\") else b"\\\\?\\" + full
