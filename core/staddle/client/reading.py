"""Reads one file: opens it without leaving a trace, finds its holes, and tells what has changed."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from staddle.api.types import Buffer
from staddle.client.scan import reason
from staddle.data.records import PAYLOAD_BYTES_MAX
from staddle.platform import longpath

HOLE_BYTES_MIN: Final = 256 * 1024
"""A shorter hole is read as the zeros it stands for: many small records would cost more than the reading."""
UNTOLD_BYTES_MAX: Final = 4 << 30
"""So much is read behind the size that a file system tells of a file, and no more: some have no end."""
_BLOCK_BYTES: Final = 512  # unit of st_blocks, whatever the file system's own is
_NOATIME: Final = getattr(os, "O_NOATIME", 0)
# O_NONBLOCK: a fifo that took the file's place must not hold us up.
_OPEN_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | _NOATIME
)
_OTHER_KIND: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.EISDIR, errno.EINVAL})
_ONE_MORE: Final = bytearray(1)
"""What lies behind a file's end is asked for, and never looked at."""
_REPLACED: Final = "replaced by something else while the backup ran"


class NotRead(Exception):
    """An entry could not be read at all; the message says why."""


class Denied(NotRead):
    """The user may not read it."""


def not_read(error: OSError) -> NotRead:
    """What an error says that came while an entry was looked at by the kind that the scan saw."""
    if isinstance(error, PermissionError):
        return Denied(reason(error))
    return NotRead(_REPLACED if error.errno in _OTHER_KIND else reason(error))


def open_file(path: bytes, flags: int = 0) -> int:
    """Open for reading, where that is allowed without a new time of access. `flags`: more of them.

    Raises NotRead: it is not readable, has vanished, or something of another kind has its name now.
    """
    try:
        try:
            return longpath.open(path, _OPEN_FLAGS | flags)
        except PermissionError:  # another owner's: the time of access is written then
            if not _NOATIME:
                raise
            return longpath.open(path, _OPEN_FLAGS & ~_NOATIME | flags)
    except OSError as error:
        raise not_read(error) from error


def status_of(fd: int, scanned: os.stat_result) -> os.stat_result:
    """The status of an open file, which must be the one that the scan saw.

    Raises:
        NotRead: another one has its name now.
        OSError: it can't be had.
    """
    now = os.fstat(fd)
    same = now.st_ino == scanned.st_ino and now.st_dev == scanned.st_dev
    if not same or stat.S_IFMT(now.st_mode) != stat.S_IFMT(scanned.st_mode):
        raise NotRead(_REPLACED)
    return now


def allocated_bytes(status: os.stat_result) -> int:
    """What a file takes on its file system; its size where nobody tells."""
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else blocks * _BLOCK_BYTES


def is_sparse(status: os.stat_result) -> bool:
    """Whether less is allocated than a file's size: it has holes, or the file system makes it smaller."""
    return allocated_bytes(status) < status.st_size


def changed(scanned: os.stat_result, after: os.stat_result, read_bytes: int) -> str:
    """What happened to a file since the scan saw it, in words; empty if nothing did.

    Args:
        scanned: when it was found.
        after: when its reading had ended.
        read_bytes: how much of it is in the backup.
    """
    # A size that stays the same says nothing: in /proc and /sys it is not how much can be read.
    if after.st_size > max(read_bytes, scanned.st_size):
        return f"grew while it was read: only its first {read_bytes} bytes are in the backup"
    if after.st_size != scanned.st_size and after.st_size < max(read_bytes, scanned.st_size):
        return f"shrank while it was read: {read_bytes} bytes are in the backup"
    if (scanned.st_mtime_ns, scanned.st_ctime_ns, scanned.st_size) != (
        after.st_mtime_ns,
        after.st_ctime_ns,
        after.st_size,
    ):
        return "changed while it was read"
    return ""


def fill(fd: int, view: memoryview, offset: int = 0) -> tuple[int, OSError | None]:
    """Read from `offset` until the view is full, the file ends, or an error comes.

    Nothing is read from what is no plain file: a fifo that took its place keeps what is in it.

    Returns:
        How many bytes, and the error.
    """
    length = 0
    try:
        while length < len(view) and (got := _read_into(fd, view[length:], offset + length)):
            length += got
    except OSError as error:
        return length, error
    return length, None


def fill_whole(fd: int, view: memoryview) -> tuple[int, bool, OSError | None]:
    """Read a file that is told to be as long as the view: `fill` and `goes_on`, mostly in one call.

    Returns:
        How many bytes, whether there are more than were told, and the error.
    """
    length, error = 0, None
    try:
        if view and sys.platform not in {"win32", "darwin"}:
            length = os.preadv(fd, [view, _ONE_MORE], 0)
            if length == len(view):
                return length, False, None
    except OSError as failed:
        return 0, False, failed
    if length < len(view):
        rest, error = fill(fd, view[length:], length)
        length += rest
    length = min(length, len(view))
    if error is None and length == len(view):
        return length, *goes_on(fd, length)
    return length, False, error


def goes_on(fd: int, end: int) -> tuple[bool, OSError | None]:
    """Can more be read of a file than its file system tells: in /proc, and on many a FUSE mount, that is 0.

    Args: end: what was read ended there, where the file should.

    Returns:
        False for one that has grown meanwhile; and the error, if reading on is one.
    """
    length, error = fill(fd, memoryview(bytearray(1)), end)
    try:
        return length > 0 and os.fstat(fd).st_size <= end, error
    except OSError as failed:
        return False, failed


if sys.platform in {"win32", "darwin"}:

    def _read_into(fd: int, view: memoryview, offset: int) -> int:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)

else:

    def _read_into(fd: int, view: memoryview, offset: int) -> int:
        return os.preadv(fd, [view], offset)


# --- in pieces ------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A run of a file's bytes: `data`, or a hole of `hole_bytes`. Of the last one `error` says why it is."""

    offset: int
    data: Buffer
    hole_bytes: int
    last: bool
    error: OSError | None = None

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + len(self.data) + self.hole_bytes


def pieces(fd: int, size_bytes: int, *, sparse: bool, offset: int = 0) -> Iterator[Piece]:
    """A file's bytes from `offset` to the size that it had when it was opened; one at least.

    A file that grows faster than it is read has an end, too. One that shrinks, or can't be read on, ends in a
    piece that is shorter. One that is longer than is told, without having grown, is read to its end. Holes
    are asked for only where the file has some.
    """
    untold = False
    while True:
        limit = min(offset + PAYLOAD_BYTES_MAX, size_bytes)
        start, end = next_hole(fd, offset, limit, size_bytes) if sparse else (limit, limit)
        if start == offset < end:
            piece = Piece(offset, b"", end - offset, end >= size_bytes)
        else:
            view = memoryview(bytearray(max(start - offset, 0)))
            length, error = fill(fd, view, offset)
            ended = error is not None or length < len(view) or offset + length >= size_bytes
            piece = Piece(offset, view[:length], 0, ended, error)
        if piece.last and piece.error is None and piece.end >= size_bytes:
            more, error = goes_on(fd, piece.end)
            if more and not untold:
                untold, sparse, size_bytes = True, False, piece.end + UNTOLD_BYTES_MAX
                piece = piece._replace(last=False)
            elif more:
                error = OSError(errno.EFBIG, "more than a file without a size may have")
            piece = piece._replace(error=error)
        if piece.last or piece.end > offset:
            yield piece
        if piece.last:
            return
        offset = piece.end


def next_hole(fd: int, offset: int, limit: int, size_bytes: int) -> tuple[int, int]:
    """Start and end of the first hole of HOLE_BYTES_MIN or more that begins before `limit`.

    (limit, limit) if there is none, or if the file system does not tell.
    """
    if sys.platform == "win32":
        return limit, limit
    at = offset
    try:
        while at < limit:
            start = os.lseek(fd, at, os.SEEK_HOLE)
            if start >= limit:
                break
            try:
                end = min(os.lseek(fd, start, os.SEEK_DATA), size_bytes)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                # A hole up to the end, which may have come nearer: nothing is invented behind it.
                end = min(os.fstat(fd).st_size, size_bytes)
                if end - start < HOLE_BYTES_MIN:
                    break
            if end - start >= HOLE_BYTES_MIN:
                return start, end
            at = max(end, at + 1)
    except OSError:
        pass
    return limit, limit
