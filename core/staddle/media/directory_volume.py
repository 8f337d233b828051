"""An open directory volume: how an object becomes durable and visible, and how it is read and listed."""

from __future__ import annotations

import errno
import heapq
import io
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import blake3

from staddle.api.checks import check_deadline, check_range, checked_name
from staddle.api.media import Deadline, Mode
from staddle.api.types import NAME_MAX, Buffer, Capacity, Durability, ObjectInfo, Receipt
from staddle.errors import Conflict, Corrupt, Denied, MediumFailed, NotFound
from staddle.media.directory_root import Root, is_own_directory
from staddle.media.oserrors import translate
from staddle.platform.durable import FILES, datasync, fsync_dir, publish_no_replace
from staddle.platform.plainfile import NotOrdinary, open_plain
from staddle.platform.readfault import is_read_fault

TMP_NAME = "tmp"

STEP_BYTES = 4 << 20
"""Between two steps of this size the deadline is looked at."""

LIST_BATCH = 16_384
"""Names of one directory that are held at once."""

KNOWN_DIRECTORIES_MAX = 4096
RESERVE_BYTES = 256 << 20
STALE_S = 86_400
SWEEP_MAX = 10_000
_HEX = frozenset("0123456789abcdef")


class DirectoryVolume:
    """Objects as files below a root. Safe for use by several threads, processes and hosts."""

    def __init__(self, root: Root, mode: Mode, reserve_bytes: int | None) -> None:
        """Args: root: of a labelled volume. mode: read or write. reserve_bytes: see DirectoryConfig."""
        self.label = root.label
        self._root = root
        self._mode = mode
        self._reserve_bytes = reserve_bytes
        # Directories whose own names this process has synced up to the root.
        self._durable_directories: set[str] = set()
        self._lock = threading.Lock()
        root.check()
        if mode == "write":
            self._prepare_tmp()

    def put(self, name: str, parts: Sequence[Buffer], digest: bytes, deadline: Deadline) -> Receipt:
        """Write beside, sync, name without replacing, sync the directory (M1-M4)."""
        checked_name(name)
        self._check_writable()
        check_deadline(deadline, f"put {name}")
        receipt = self._receipt(name, sum(memoryview(part).nbytes for part in parts), digest)
        # A put again, after one whose answer was lost, need not write the bytes a second time.
        if self._is_taken(name):
            return self._same_or_conflict(receipt, deadline)
        temporary = temporary_path(self._root.path)
        try:
            try:
                check_area(self._root.path)
                if write_temporary(temporary, parts, deadline) != digest:
                    raise Corrupt(
                        f"object {name}: the bytes to be written don't have the digest that was given",
                        hint="they changed in memory: check the host's RAM",
                    )
                # It may have been unmounted meanwhile: make no directory below an empty mount point.
                self._root.check()
                self._make_directories(name)
                # Past its deadline a caller takes its buffers back: what was read from them is not trusted.
                check_deadline(deadline, f"put {name}")
            except OSError as error:
                raise translate(error, f"write object {name} on {self._root.path}") from error
            return self._publish(receipt, temporary, deadline)
        finally:
            with suppress(OSError):
                os.unlink(temporary)

    def _is_taken(self, name: str) -> bool:
        """Whether there is such an object. Where its directories are not to be had, making them says why."""
        try:
            return os.path.lexists(self._root.reach(name))
        except OSError:
            return False

    def _publish(self, receipt: Receipt, temporary: str, deadline: Deadline) -> Receipt:
        final = self._root.at(receipt.name)
        try:
            publish_no_replace(temporary, final)
        except FileExistsError:
            return self._same_or_conflict(receipt, deadline)
        except OSError as error:
            what = f"name object {receipt.name} on {self._root.path} (it needs hard links)"
            raise translate(error, what, outcome="in_doubt") from error
        try:
            fsync_dir(os.path.dirname(final))
            seen = os.lstat(final).st_size
        except OSError as error:
            what = f"sync object {receipt.name} on {self._root.path}"
            raise translate(error, what, outcome="in_doubt") from error
        self._check_after()
        if seen != receipt.size_bytes:
            text = f"object {receipt.name} on {self._root.path} has {seen} bytes of {receipt.size_bytes}"
            raise MediumFailed(text, outcome="in_doubt")
        return receipt

    def _same_or_conflict(self, receipt: Receipt, deadline: Deadline) -> Receipt:
        """M4: an existing object with the same bytes is made durable once more and is a success."""
        final, what = self._root.at(receipt.name), f"object {receipt.name} on {self._root.path}"
        try:
            if os.path.isdir(final):
                raise Conflict(
                    f"{receipt.name} on {self._root.path} is the beginning of other objects' names"
                )
            with open_plain(final) as file:
                same = os.fstat(file.fileno()).st_size == receipt.size_bytes
                same = same and _digest_file(file, deadline) == receipt.digest
            if not same:
                raise Conflict(f"{what} holds other bytes; they were kept")
            # Its first writer may have died before its own syncs. Windows syncs only what can be written.
            fd = FILES.reopen(final)
            try:
                datasync(fd)
            finally:
                os.close(fd)
            self._make_directories(receipt.name)
            fsync_dir(os.path.dirname(final))
        except NotOrdinary:
            raise Conflict(f"{what} is no ordinary file; it was left alone") from None
        except OSError as error:
            raise translate(error, f"compare {what}", outcome="in_doubt") from error
        self._check_after()
        return receipt

    def get(self, name: str, offset: int, length: int, deadline: Deadline) -> bytes:
        """A range of an object."""
        check_deadline(deadline, f"get {name}")
        try:
            with open_plain(self._root.reach(checked_name(name))) as file:
                check_range(name, offset, length, os.fstat(file.fileno()).st_size)
                file.seek(offset)
                pieces: list[bytes] = []
                left = length
                while left:
                    check_deadline(deadline, f"get {name}")
                    piece = file.read(min(left, 2 * STEP_BYTES))
                    if not piece:
                        raise Corrupt(f"object {name} on {self._root.path} became shorter while it was read")
                    pieces.append(piece)
                    left -= len(piece)
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except OSError as error:
            raise self._read_error(error, name, "read") from error

    def stat(self, name: str, deadline: Deadline) -> ObjectInfo:
        """Size of an object."""
        check_deadline(deadline, f"stat {name}")
        try:
            info = os.lstat(self._root.reach(checked_name(name)))
            if not stat.S_ISREG(info.st_mode):
                raise NotFound(f"no object {name} on {self._root.path}")
            return ObjectInfo(name, info.st_size)
        except OSError as error:
            raise self._read_error(error, name, "stat") from error

    def list(self, after: str, deadline: Deadline, prefix: str = "") -> Iterator[ObjectInfo]:
        """A walk in order of names: '/' sorts before every digit, so a directory comes before its elders."""
        self._root.check()
        try:
            yield from self._walk("", after, prefix, deadline)
        except OSError as error:
            raise self._read_error(error, prefix or "*", "list") from error
        # A volume that vanished in mid-walk looks like one with fewer objects.
        self._root.check()

    def _walk(self, base: str, after: str, prefix: str, deadline: Deadline) -> Iterator[ObjectInfo]:
        directory = self._root.at(base) if base else self._root.path
        last = ""
        while True:
            batch = self._next_names(directory, base, last, after, prefix)
            for entry in batch:
                check_deadline(deadline, f"list of {self._root.path}")
                name = base + entry
                try:
                    info = os.lstat(os.path.join(directory, entry))
                except FileNotFoundError:
                    continue  # deleted since
                if stat.S_ISDIR(info.st_mode):
                    yield from self._walk(name + "/", after, prefix, deadline)
                elif stat.S_ISREG(info.st_mode) and name > after and name.startswith(prefix):
                    yield ObjectInfo(name, info.st_size)
            if len(batch) < LIST_BATCH:
                return
            last = batch[-1]

    @staticmethod
    def _next_names(directory: str, base: str, last: str, after: str, prefix: str) -> Sequence[str]:
        """The smallest entries above `last` that may hold something above `after` with the prefix."""

        def wanted(entry: str) -> bool:
            name = base + entry
            if entry <= last or not _HEX.issuperset(entry) or len(name) > NAME_MAX:
                return False
            # A directory may hold names above `after` though its own is below: if it is the beginning of it.
            if name < after and not after.startswith(name + "/"):
                return False
            return name.startswith(prefix) or prefix.startswith(name + "/")

        with os.scandir(directory) as entries:
            return heapq.nsmallest(LIST_BATCH, (entry.name for entry in entries if wanted(entry.name)))

    def delete(self, name: str, deadline: Deadline) -> None:
        """Remove one placement, durably."""
        checked_name(name)
        self._check_writable()
        check_deadline(deadline, f"delete {name}")
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                path = self._root.reach(name)
                with suppress(FileNotFoundError):
                    if is_own_directory(path):
                        return
                    os.unlink(path)
                # Also where it was gone: whoever removed it may have died before its sync.
                fsync_dir(os.path.dirname(path))
        except OSError as error:
            raise translate(
                error, f"delete object {name} on {self._root.path}", outcome="in_doubt"
            ) from error
        self._check_after()

    def capacity(self) -> Capacity:
        """Room on the file system."""
        try:
            self._root.check()
            return free_space(self._root.path, self._reserve_bytes)
        except OSError as error:
            raise translate(error, f"ask for free space on {self._root.path}") from error

    def close(self) -> None:
        """Nothing is held open."""

    # -- helpers

    def _receipt(self, name: str, size: int, digest: bytes) -> Receipt:
        return Receipt(
            name=name,
            size_bytes=size,
            digest=bytes(digest),
            volume=self.label.volume,
            durability=Durability.POWER_LOSS,
        )

    def _check_writable(self) -> None:
        if self._mode != "write":
            raise Denied(f"{self._root.path} was opened for reading", code="READ_ONLY", retry="never")
        self._root.check()

    def _check_after(self) -> None:
        """The volume was there all the time; if not, nobody knows what was changed, and where."""
        try:
            self._root.check()
        except MediumFailed as error:
            error.outcome = "in_doubt"
            raise

    def _read_error(self, error: OSError, name: str, what: str) -> Exception:
        """NotFound only if the volume is there: on an unmounted one nothing can be said."""
        if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, NotOrdinary)):
            try:
                self._root.check()
            except MediumFailed as failed:
                return failed
            return NotFound(f"no object {name} on {self._root.path}")
        where = f"{what} object {name} on {self._root.path}"
        if what != "list" and is_read_fault(error) and self._root.answers():
            # The disk lives, so this object is lost on it: another copy is read, and this one made again.
            return Corrupt(f"{where}: {error.strerror}", hint="look in the system's log for bad blocks")
        return translate(error, where)

    def _make_directories(self, name: str) -> None:
        """Make those above an object; sync every name between it and the root, once per process."""
        made: list[str] = []
        for path in self._root.directories(name):
            with suppress(FileNotFoundError):
                if path in self._durable_directories and is_own_directory(path):
                    continue
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if os.path.islink(path):
                    raise MediumFailed(
                        f"{path} is a symlink: nothing is written through it",
                        hint="remove it, and look who may write to the medium",
                    ) from None
                if not os.path.isdir(path):
                    raise Conflict(
                        f"{path} is an object, and can't be the beginning of another's name"
                    ) from None
            fsync_dir(os.path.dirname(path))
            made.append(path)
        with self._lock:
            if len(self._durable_directories) >= KNOWN_DIRECTORIES_MAX:
                self._durable_directories.clear()
            self._durable_directories.update(made)

    def _prepare_tmp(self) -> None:
        """Make the work area; remove what writers that died left a day ago or earlier."""
        area = os.path.join(self._root.path, TMP_NAME)
        try:
            os.makedirs(area, mode=0o700, exist_ok=True)
            check_area(self._root.path)
            now_s = time.time()
            with os.scandir(area) as entries:
                for _, entry in zip(range(SWEEP_MAX), entries, strict=False):
                    with suppress(OSError):
                        if now_s - entry.stat(follow_symlinks=False).st_mtime > STALE_S:
                            os.unlink(entry.path)
        except OSError as error:
            raise translate(error, f"prepare {area}") from error


def temporary_path(root: str) -> str:
    """A name in the work area that nobody else takes."""
    return os.path.join(root, TMP_NAME, os.urandom(16).hex() + ".part")


def check_area(root: str) -> None:
    """Nothing is written or swept behind a symlink in the place of the work area. Raises OSError."""
    area = os.path.join(root, TMP_NAME)
    if not is_own_directory(area):
        raise NotADirectoryError(errno.ENOTDIR, f"its {TMP_NAME} is no directory, or a symlink", area)


def write_temporary(path: str, parts: Sequence[Buffer], deadline: Deadline) -> bytes:
    """Write and sync a new file; the BLAKE3 of what was written.

    Raises: OSError, DeadlineExceeded (not done).
    """
    hasher = blake3.blake3()
    fd = FILES.create(path)
    try:
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, view.nbytes, STEP_BYTES):
                check_deadline(deadline, f"write {path}")
                piece = view[start : start + STEP_BYTES]
                hasher.update(piece)
                FILES.write(fd, piece)
        # Not after a passed deadline: a sync may take long.
        check_deadline(deadline, f"write {path}")
        FILES.datasync(fd)
    finally:
        FILES.close(fd)
    return hasher.digest()


def free_space(path: str, reserve_bytes: int | None) -> Capacity:
    """Room on the file system of `path`; `low` as DirectoryConfig says. Raises OSError."""
    usage = shutil.disk_usage(path)
    reserve = min(RESERVE_BYTES, usage.total // 8) if reserve_bytes is None else reserve_bytes
    return Capacity(usage.total, usage.free, low=usage.free < reserve)


def _digest_file(file: io.FileIO, deadline: Deadline) -> bytes:
    hasher = blake3.blake3()
    while piece := file.read(STEP_BYTES):
        check_deadline(deadline, "comparison with the stored object", "in_doubt")
        hasher.update(piece)
    return hasher.digest()
