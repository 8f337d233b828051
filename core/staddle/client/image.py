"""Backs up devices and disk images block by block: entries of type IMAGE, in records at multiples of 1 MiB.

All of it is read each time; agents cut it at fixed places (data.chunker), so only what changed is stored.
Holes of files are skipped; a record of zeros travels as its length.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

from staddle.client.parts import Entry, Kept
from staddle.client.scan import absolute, reason
from staddle.client.units import Record, Tally
from staddle.data.chunker import ZERO_BLOCK_BYTES
from staddle.data.records import PAYLOAD_BYTES_MAX, EntryFlag, EntryType
from staddle.errors import NotFound, StaddleError, UsageError
from staddle.platform import blockdevice

_SECTOR_BYTES = 4096
"""What is given up at a time where a device can't be read."""
_BAD_SECTOR = frozenset({errno.EIO, getattr(errno, "ENODATA", errno.EIO)})
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class ImageFailed(StaddleError):
    """A device can't be opened, or went away while it was read."""

    default_code = "IMAGE_FAILED"
    default_retry = "operator"


def image_paths(names: list[str] | list[bytes]) -> list[bytes]:
    """The absolute paths of what is to be imaged, each checked.

    Raises NotFound, or UsageError for what has no blocks, or stands there twice.
    """
    paths = [absolute(name) for name in names]
    for path in paths:
        shown = os.fsdecode(path)
        if paths.count(path) > 1:
            raise UsageError(f"--image {shown!r} is given twice", hint="name each device once")
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise NotFound(
                f"cannot back up the image {shown!r}: {reason(error)}",
                hint="name a device or a file that exists",
            ) from error
        # Outside of Linux disks are (also) character devices.
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and sys.platform != "linux")):
            raise UsageError(
                f"--image {shown!r} is neither a block device nor a file",
                hint="directories are backed up without --image, pipes with --stdin",
            )
    return paths


def image_size(path: bytes) -> int:
    """Bytes of a device or a file; 0 where the system does not tell. For the progress bar."""
    try:
        with io.FileIO(os.open(path, _FLAGS)) as file:
            return file.seek(0, os.SEEK_END)
    except OSError:
        return 0


class ImageSource(Kept):
    """Images for several streams: each takes the next one that is left."""

    def __init__(self, paths: list[bytes], tally: Tally) -> None:
        self._left = list(reversed(paths))
        self._lock = threading.Lock()
        self._tally = tally

    def records(self) -> Iterator[Record]:
        """One stream's records. Raises ImageFailed."""
        while True:
            with self._lock:
                if not self._left:
                    return
                path = self._left.pop()
            yield from _Image(path, self._tally).records()


class _Image:
    def __init__(self, path: bytes, tally: Tally) -> None:
        self._path = path
        self._tally = tally
        self._bad_bytes = 0
        self._first_bad = 0

    def records(self) -> Iterator[Record]:
        try:
            with io.FileIO(os.open(self._path, _FLAGS)) as file:
                yield from self._read(file)
        except OSError as error:
            raise ImageFailed(
                f"cannot read the image {os.fsdecode(self._path)!r}: {reason(error)}",
                hint="devices are readable for root, or for members of the group `disk`",
            ) from error

    def _read(self, file: io.FileIO) -> Iterator[Record]:
        before = os.fstat(file.fileno())
        regular = stat.S_ISREG(before.st_mode)
        if not regular and (use := blockdevice.in_use(self._path, written=True)):
            self._tally.warn(
                self._path,
                f"{use}: what is written while it is read makes the image one of no moment; "
                "unmount it, mount it read-only, or take a snapshot of it",
            )
        known = file.seek(0, os.SEEK_END)  # a device's stat has no size; some systems tell none at all
        entry = Entry(
            self._path,
            EntryType.IMAGE,
            stat.S_IMODE(before.st_mode),
            before.st_uid,
            before.st_gid,
            before.st_mtime_ns if regular else time.time_ns(),
        )
        offset = zeros = 0  # `zeros` bytes before `offset` are not sent yet
        while True:
            hole = _hole(file, offset, known) if regular else 0
            offset, zeros = offset + hole, zeros + hole
            buffer = bytearray(PAYLOAD_BYTES_MAX - offset % PAYLOAD_BYTES_MAX)
            length = self._piece(file, memoryview(buffer), offset)
            self._tally.add(read=length)
            view = memoryview(buffer)[:length]
            if _is_zero(view):
                zeros += length
            else:
                if zeros:
                    yield entry.record(offset - zeros, size=known, zero_bytes=zeros)
                    zeros = 0
                yield entry.record(offset, view, size=known)
            offset += length
            if length < len(buffer):
                break
        flags = self._judge(os.fstat(file.fileno()), before, offset, known)
        self._tally.add(files=1)
        yield entry.record(offset - zeros, size=offset, zero_bytes=zeros, last=True, flags=flags)

    def _judge(self, after: os.stat_result, before: os.stat_result, size: int, known: int) -> EntryFlag:
        """Warn of what makes the image less than one moment's device."""
        flags = EntryFlag(0)
        if self._bad_bytes:
            self._tally.warn(
                self._path,
                f"{self._bad_bytes} bytes could not be read, the first at {self._first_bad}: "
                "zeros stand in their place",
            )
            flags |= EntryFlag.ERROR
        changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
        if (known and size != known) or (stat.S_ISREG(before.st_mode) and changed):
            self._tally.warn(self._path, "changed while it was read")
            flags |= EntryFlag.CHANGED
        return flags

    def _piece(self, file: io.FileIO, view: memoryview, offset: int) -> int:
        """Read until the view is full or the image ends. Sectors that can't be read become zeros.

        Raises OSError for a device that is gone.
        """
        file.seek(offset)
        try:
            return _fill(file, view)
        except OSError as error:
            if error.errno not in _BAD_SECTOR:
                raise
        length = 0
        while length < len(view):
            sector = view[length : length + _SECTOR_BYTES - (offset + length) % _SECTOR_BYTES]
            file.seek(offset + length)
            try:
                got = _fill(file, sector)
            except OSError as error:
                if error.errno not in _BAD_SECTOR:
                    raise
                sector[:] = bytes(len(sector))
                got = len(sector)
                if not self._bad_bytes:
                    self._first_bad = offset + length
                self._bad_bytes += got
            length += got
            if got < len(sector):
                break
        return length


def _fill(file: io.FileIO, view: memoryview) -> int:
    length = 0
    while length < len(view) and (got := file.readinto(view[length:])):
        length += got
    return length


def _hole(file: io.FileIO, offset: int, size: int) -> int:
    """Bytes of a hole that begins at `offset`, in whole zero blocks but at the end of the file."""
    if sys.platform == "win32" or not hasattr(os, "SEEK_DATA") or offset >= size:
        return 0
    try:
        data = file.seek(offset, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: nothing but a hole follows. Everything else: this file system knows no holes.
        return size - offset if error.errno == errno.ENXIO else 0
    # A hole that ends inside of a block: the block is cut as if all of it had been written.
    return max(0, data // ZERO_BLOCK_BYTES * ZERO_BLOCK_BYTES - offset)


def _is_zero(view: memoryview) -> bool:
    """Also for an empty one."""
    words = len(view) // 8 * 8
    return not np.frombuffer(view[:words], np.uint64).any() and not any(view[words:])
