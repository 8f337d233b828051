"""Names below a restore's root, reached by directory descriptors: no symlink leads any of it elsewhere.

Every call opens its directory by the one above it, with O_NOFOLLOW, or has it open already. So whoever swaps
a directory for a symlink while a restore runs gains nothing, and a path may be longer than PATH_MAX.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator

from staddle.client.rootdir import WALK, open_root
from staddle.client.temporary import PROBE, temporary_name
from staddle.errors import StaddleError

assert sys.platform != "win32"

FOLDERS_MAX = 32
"""Directories that are kept open at once."""
FRESH_MAX = 65_536
"""So many of the directories made are remembered as such."""
_NO_NAMES = frozenset({b"", b".", b".."})
_PRIVATE_DIR = 0o700
_PRIVATE_FILE = 0o600
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OTHERS_WRITE = 0o022


class Folder:
    """An open directory.

    Attributes:
        fd: its descriptor.
        fresh: this restore has made it, so nothing of others is in it.
        folds: whether names that differ in case only are one in it; None if that was not tried.
    """

    __slots__ = ("_inode", "fd", "folds", "fresh")

    def __init__(self, fd: int, *, fresh: bool) -> None:
        self.fd = fd
        self.fresh = fresh
        self.folds: bool | None = None
        self._inode: int | None = None

    def number(self) -> int:
        """Its inode."""
        if self._inode is None:
            self._inode = os.fstat(self.fd).st_ino
        return self._inode


class Places:
    """The names below one root. Paths are those of the backup, `/` is the root. For one thread at a time.

    All calls raise OSError as the system does, and StaddleError for a path that would lead outside.

    Attributes:
        on_enter: called with the path of each directory that is entered, and whether it was made for that.
    """

    def __init__(
        self, root: bytes, *, make: bool, replace: bool, follow: frozenset[bytes] = frozenset()
    ) -> None:
        """Open a root.

        Args:
            root: absolute.
            make: make it, and what is missing above it. Else it may be missing: then it is empty.
            replace: a file that has the name of a directory makes room for it.
            follow: directories that may be reached by a symlink, if only this user or root could have put it.
        """
        self.root = root
        self._nonce = secrets.token_hex(4).encode()
        self._count = 0
        self._replace = replace
        self._follow = follow
        self.on_enter: Callable[[bytes, bool], None] = lambda _path, _made: None
        self._fresh: dict[int, bool | None] = {}  # directories made: do they fold, by the hash of their path
        fd = open_root(root, make=make)
        self._top = None if fd is None else Folder(fd, fresh=False)
        self._open: OrderedDict[bytes, Folder] = OrderedDict()
        self._last = b""
        self._last_folder: Folder | None = None

    def close(self) -> None:
        """Close all descriptors. Idempotent."""
        for folder in self._open.values():
            os.close(folder.fd)
        self._open.clear()
        self._last, self._last_folder = b"", None
        if self._top is not None:
            os.close(self._top.fd)
            self._top = None

    # --- directories --------------------------------------------------------------------------------

    def folder(self, path: bytes, *, make: bool = False) -> Folder:
        """A directory, open until many others have been. Args: make: it and what is missing above it."""
        if path == self._last and self._last_folder is not None:
            return self._last_folder
        folder = self._open.get(path)
        if folder is None:
            folder = self._walk(path, make=make)
        else:
            self._open.move_to_end(path)
        self._last, self._last_folder = path, folder
        return folder

    def _walk(self, path: bytes, *, make: bool) -> Folder:
        if self._top is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        names: list[bytes] = []
        at, folder = path, self._top
        while at != b"/":
            known = self._open.get(at)
            if known is not None:
                folder = known
                break
            at, name = _parts(at)
            names.append(name)
        for name in reversed(names):
            at = at + name if at == b"/" else at + b"/" + name
            folder, made = self._step(folder, name, at, make=make)
            self._keep(at, folder)
            self.on_enter(at, made)
        return folder

    def _keep(self, path: bytes, folder: Folder) -> None:
        """Keep it open until many others have been used."""
        if folder.fresh:
            if len(self._fresh) >= FRESH_MAX:
                self._fresh.clear()
            self._fresh[hash(path)] = folder.folds
        self._open[path] = folder
        if len(self._open) > FOLDERS_MAX:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest.fd)

    def _step(self, above: Folder, name: bytes, path: bytes, *, make: bool) -> tuple[Folder, bool]:
        made = False
        try:
            fd = os.open(name, WALK | os.O_NOFOLLOW, dir_fd=above.fd)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(name, _PRIVATE_DIR, dir_fd=above.fd)
            made = True
            fd = os.open(name, WALK | os.O_NOFOLLOW, dir_fd=above.fd)
        except OSError as error:
            if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                raise
            status = os.stat(name, dir_fd=above.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                fd = self._through_symlink(above, name, path, status)
            elif make and self._replace:
                os.unlink(name, dir_fd=above.fd)
                return self._step(above, name, path, make=True)
            else:
                raise
        folder = Folder(fd, fresh=made or hash(path) in self._fresh)
        folder.folds = self._fresh.get(hash(path))
        return folder, made

    def _through_symlink(self, above: Folder, name: bytes, path: bytes, status: os.stat_result) -> int:
        """Behind a symlink, if it is one that the user relies on anyway. Raises StaddleError."""
        holder = os.fstat(above.fd)
        ours = {0, os.geteuid()}
        safe = holder.st_uid in ours and not holder.st_mode & _OTHERS_WRITE and status.st_uid in ours
        if path in self._follow and safe:
            return os.open(name, WALK, dir_fd=above.fd)
        raise StaddleError(
            f"{os.fsdecode(self._shown(path))!r} is a symlink: a restore does not write through it",
            hint="remove it, or restore to an empty directory",
        )

    def _shown(self, path: bytes) -> bytes:
        return self.root.rstrip(b"/") + path

    def make_directory(self, path: bytes) -> bool:
        """Make it, and what is missing above it; whether this call made it."""
        if path == b"/":
            return False
        directory, name = _parts(path)
        above = self.folder(directory, make=True)
        try:
            os.mkdir(name, _PRIVATE_DIR, dir_fd=above.fd)
        except FileExistsError:
            return False
        # Entered now, so that it is known as fresh.
        folder = Folder(os.open(name, WALK | os.O_NOFOLLOW, dir_fd=above.fd), fresh=True)
        self._keep(path, folder)
        self._last, self._last_folder = path, folder
        return True

    def open_directory(self, path: bytes) -> int:
        """Open for listing and metadata; the caller closes it."""
        if path == b"/":
            return os.open(b".", _LIST, dir_fd=self.folder(path).fd)
        directory, name = _parts(path)
        return os.open(name, _LIST, dir_fd=self.folder(directory).fd)

    def names(self, path: bytes) -> Iterator[bytes]:
        """The names in a directory, in no order."""
        fd = self.open_directory(path)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    yield os.fsencode(entry.name)
        finally:
            os.close(fd)

    # --- names --------------------------------------------------------------------------------------

    def status(self, path: bytes) -> os.stat_result | None:
        """The lstat of what has this name; None if nothing has, or its directory is missing."""
        try:
            if path == b"/":
                return os.fstat(self.folder(path).fd)
            directory, name = _parts(path)
            return os.stat(name, dir_fd=self.folder(directory).fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_fresh(self, directory: bytes, *, make: bool) -> bool:
        """Is this directory one that this restore has made, as far as is still known.

        Args:
            directory: the path.
            make: make it if it is missing.
        """
        return self.folder(directory, make=make).fresh

    def folds(self, directory: bytes) -> bool:
        """Are two names of this directory one if they differ in case only. Tried out once for each."""
        folder = self.folder(directory, make=True)
        if folder.folds is not None:
            return folder.folds
        at, known = directory, folder
        while known.folds is None and known.fresh and at != b"/":
            at = _parts(at)[0]  # a new directory is as the one that it was made in
            known = self.folder(at)
        if known.folds is None:
            known.folds = _folds(known)
        folder = self.folder(directory)
        folder.folds = known.folds
        if folder.fresh:
            self._fresh[hash(directory)] = folder.folds
        return folder.folds

    def create(self, path: bytes) -> tuple[int, bytes]:
        """A new empty file beside `path`, under a name of its own: its descriptor, and its path."""
        above = self.folder(_parts(path)[0], make=True)
        place = self.temporary(path)
        return os.open(_parts(place)[1], _CREATE, _PRIVATE_FILE, dir_fd=above.fd), place

    def temporary(self, path: bytes) -> bytes:
        """A name beside `path` for what is renamed to it afterwards."""
        directory, name = _parts(path)
        self._count += 1
        own = b"%s%08x" % (self._nonce, self._count & 0xFFFFFFFF)
        return path[: -len(name)] + temporary_name(own, self.inode(directory))

    def inode(self, directory: bytes) -> int:
        """The number that `temporary_name` takes."""
        return self.folder(directory).number()

    def rename(self, source: bytes, target: bytes) -> None:
        """Within one directory, over whatever has the name, atomically."""
        directory, name = _parts(source)
        other, new = _parts(target)
        assert directory == other, "a rename from one directory to another"
        fd = self.folder(directory).fd
        os.rename(name, new, src_dir_fd=fd, dst_dir_fd=fd)

    def symlink(self, target: bytes, path: bytes) -> None:
        """A symlink that says `target`, whatever that is."""
        directory, name = _parts(path)
        os.symlink(target, name, dir_fd=self.folder(directory, make=True).fd)

    def read_link(self, path: bytes) -> bytes:
        """What a symlink says."""
        directory, name = _parts(path)
        return os.readlink(name, dir_fd=self.folder(directory).fd)

    def node(self, path: bytes, kind: int, device: int) -> None:
        """A named pipe, socket or device (`stat.S_IFIFO`, …)."""
        directory, name = _parts(path)
        fd = self.folder(directory, make=True).fd
        if kind == stat.S_IFIFO:
            os.mkfifo(name, _PRIVATE_FILE, dir_fd=fd)
        else:
            os.mknod(name, kind | _PRIVATE_FILE, device, dir_fd=fd)

    def link(self, existing: bytes, path: bytes) -> None:
        """Another name of a file, of whatever kind; a symlink itself, not what it leads to."""
        directory, name = _parts(existing)
        held = os.dup(self.folder(directory).fd)  # the walk to the other may close it
        try:
            other, new = _parts(path)
            fd = self.folder(other, make=True).fd
            os.link(name, new, src_dir_fd=held, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(held)

    def remove(self, path: bytes) -> None:
        """Remove a name that is no directory."""
        directory, name = _parts(path)
        os.unlink(name, dir_fd=self.folder(directory).fd)

    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._forget(path)
        directory, name = _parts(path)
        os.rmdir(name, dir_fd=self.folder(directory).fd)

    def _forget(self, path: bytes) -> None:
        self._fresh.pop(hash(path), None)
        folder = self._open.pop(path, None)
        if folder is not None:
            os.close(folder.fd)
        self._last, self._last_folder = b"", None

    def open_file(self, path: bytes) -> int:
        """Open a regular file for reading; never waits, as on a pipe."""
        directory, name = _parts(path)
        return os.open(name, _READ, dir_fd=self.folder(directory).fd)

    # --- metadata of what can't be opened -------------------------------------------------------------

    def change_owner(self, path: bytes, uid: int, gid: int) -> None:
        """Of the name itself, also of a symlink."""
        directory, name = _parts(path)
        os.chown(name, uid, gid, dir_fd=self.folder(directory).fd, follow_symlinks=False)

    def change_mode(self, path: bytes, mode: int) -> None:
        """Of what is no symlink; never of what one leads to."""
        directory, name = _parts(path)
        fd = self.folder(directory).fd
        if sys.platform != "linux":
            os.chmod(name, mode, dir_fd=fd, follow_symlinks=False)
            return
        # Linux has no such call (before 6.6), but a path to what a descriptor stands for.
        with _held(name, fd) as held:
            if stat.S_ISLNK(os.fstat(held).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            os.chmod(b"/proc/self/fd/%d" % held, mode)

    def change_time(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Of the name itself, also of a symlink."""
        directory, name = _parts(path)
        fd = self.folder(directory).fd
        os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)

    def reach(self, path: bytes) -> bytes:
        """A short path to the name, for calls that take no descriptor; good until the next call."""
        if path == b"/" or not sys.platform.startswith("linux"):
            return self._shown(path)
        directory, name = _parts(path)
        return b"/proc/self/fd/%d/%s" % (self.folder(directory).fd, name)


def _folds(folder: Folder) -> bool:
    probe = temporary_name(secrets.token_hex(8).encode(), folder.number()) + PROBE
    os.close(os.open(probe, _CREATE, _PRIVATE_FILE, dir_fd=folder.fd))
    try:
        os.stat(probe.upper(), dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    finally:
        os.unlink(probe, dir_fd=folder.fd)
    return True


@contextlib.contextmanager
def _held(name: bytes, directory_fd: int) -> Iterator[int]:
    fd = os.open(name, getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _parts(path: bytes) -> tuple[bytes, bytes]:
    """Directory and name. The one place where a name is looked at: all calls come through here."""
    directory, _, name = path.rpartition(b"/")
    if name in _NO_NAMES or b"\0" in name or path[:1] != b"/":
        raise StaddleError(f"the backup names a path that leads outside: {os.fsdecode(path)!r}")
    return directory or b"/", name
