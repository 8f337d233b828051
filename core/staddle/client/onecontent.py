"""Restores the content of one entry to one place: standard output, a block device, or a file as it stands."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterable
from typing import Protocol

from staddle.api.types import Buffer
from staddle.client.contents import OFFSET_MAX, Batch, FileRow, Piece
from staddle.client.making import Rows
from staddle.client.owners import OwnerOptions, Owners
from staddle.client.scan import reason, split
from staddle.client.units import Tally
from staddle.client.work import Aliases
from staddle.data.manifest import EntryBatch, EntryFlag, EntryType
from staddle.errors import Cancelled, Corrupt, NotFound, StaddleError, UsageError
from staddle.platform import blockdevice

_CONTENT = frozenset(map(int, (EntryType.FILE, EntryType.IMAGE, EntryType.STREAM)))
_ZEROS = bytes(1 << 20)


class Sink(Protocol):
    """Takes the bytes of one content in order. All raise OSError."""

    def begin(self, size_bytes: int) -> None:
        """Its length, as far as known; 0 if not."""

    def write(self, at: int, data: memoryview) -> None:
        """Bytes at a position; positions only grow."""

    def zeros(self, at: int, length_bytes: int) -> None:
        """Nothing but zeros there."""

    def end(self, size_bytes: int) -> None:
        """It is whole: durable on return, where that means something."""

    def close(self) -> None:
        """Idempotent."""


class OneContent:
    """The output of a restore of one entry's content. What is missing of it is an error, not a warning.

    Attributes:
        wanted: the path that is still looked for; empty if it was found. A hard link leads to another one.
    """

    def __init__(self, path: bytes, backup: int, tally: Tally, onto: bytes) -> None:
        """Where it goes is opened when the entry is found and has a content.

        Args:
            path: of the entry.
            backup: its number.
            tally: counts what is done.
            onto: absolute path of a device or file; `-` for standard output.
        """
        self.wanted = path
        self._path = path
        self._backup = backup
        self._tally = tally
        self._onto = onto
        self._sink: Sink | None = None
        self._next = b""
        self._end = 0
        self._whole = False
        self._turn = threading.Lock()
        self._ended = False

    def rows(self, entries: EntryBatch) -> tuple[list[int], frozenset[int]]:
        """The rows of the wanted path."""
        directory, name = split(self.wanted)
        at = next((i for i, each in enumerate(entries.dirs) if each == directory), -1)
        if at < 0:
            return [], frozenset()
        places = entries.columns["dir"].tolist()
        names = entries.name_list()
        return [row for row, place in enumerate(places) if place == at and names[row] == name], frozenset()

    def entries(
        self,
        entries: EntryBatch,
        rows: Iterable[int],
        way: frozenset[int],
        chunks: tuple[list[int], list[int]],
        aliases: Aliases,
    ) -> list[FileRow]:
        """The rows whose content is needed. Raises UsageError for an entry that has none."""
        rows = list(rows)
        if not rows:
            return []
        known = Rows(entries, Owners(OwnerOptions(none=True)))
        files = []
        for row in rows:
            if known.kinds[row] == EntryType.HARDLINK:
                self._next = entries.link(row)
                continue
            if known.kinds[row] not in _CONTENT:
                kind = EntryType(known.kinds[row]).name.lower()
                raise UsageError(
                    f"{os.fsdecode(self._path)!r} is no file but a {kind}", hint="give the path of one file"
                )
            if known.flags[row] & EntryFlag.ERROR:
                self._tally.warn(self._path, "could not be read to its end when it was backed up")
            files.append(known.file(row, self._path, (chunks[0][row], chunks[1][row])))
        return files

    def write(self, batch: Batch, payload: Buffer) -> None:
        """Write the pieces of a batch; the payload is their bytes in order."""
        view, at = memoryview(payload), 0
        with self._turn:
            if self._ended:
                raise Cancelled("the restore has ended")
            try:
                for piece in batch.pieces:
                    self._piece(piece, view[at : at + piece.size_bytes])
                    at += piece.size_bytes
            except OSError as error:
                raise self._broken(error) from error

    def _piece(self, piece: Piece, data: memoryview) -> None:
        if self._sink is None:
            self._sink = open_sink(self._onto)
            self._sink.begin(piece.file.size_bytes)
        if piece.end > OFFSET_MAX:
            raise Corrupt(f"{os.fsdecode(self._path)!r}: the backup gives an impossible size")
        if piece.begin != self._end:
            raise Corrupt(
                f"{os.fsdecode(self._path)!r}: the part before byte {piece.begin} is not in the backup"
            )
        at = 0
        for start, length in piece.runs:
            if start > self._end:
                self._sink.zeros(self._end, start - self._end)
            self._sink.write(start, data[at : at + length])
            at += length
            self._end = start + length
        if piece.end > self._end:
            self._sink.zeros(self._end, piece.end - self._end)
            self._end = piece.end
        self._whole = piece.closes and piece.file.last and self._end == piece.file.size_bytes

    def lost(self, piece: Piece, why: str) -> None:
        """Raises Corrupt: half a content is none."""
        raise Corrupt(f"the content of {os.fsdecode(self._path)!r} can't be had: {why}")

    def end_of_pass(self) -> None:
        """The backup was gone through: was it found, or only a hard link to it."""
        if self._sink is None and self._next and self.wanted == self._path:
            self.wanted, self._next = self._next, b""  # which has the content: no link leads on from there
        else:
            self.wanted = b""

    def finish(self) -> None:
        """It is whole and durable on return.

        Raises:
            NotFound: the backup has no such entry.
            Corrupt: it ends too early in the backup.
            StaddleError: it can't be written.
        """
        with self._turn:
            if self._sink is None:
                raise NotFound(
                    f"backup {self._backup} has no {os.fsdecode(self._path)!r}",
                    hint=f"`staddle ls {self._backup}` shows what it has",
                )
            if not self._whole:
                raise Corrupt(
                    f"only the first {self._end} bytes of {os.fsdecode(self._path)!r} are in the backup"
                )
            try:
                self._sink.end(self._end)
            except OSError as error:
                raise self._broken(error) from error
            self._tally.add(files=1, read=self._end)

    def abort(self) -> None:
        """Close the sink. Idempotent."""
        with self._turn:
            self._ended = True
            if self._sink is not None:
                self._sink.close()

    def _broken(self, error: OSError) -> StaddleError:
        where = "standard output" if self._onto == b"-" else repr(os.fsdecode(self._onto))
        return StaddleError(
            f"cannot write to {where}: {reason(error)}",
            hint="what was written is not the whole content: do not use it",
        )


class StandardOutput:
    """Zeros are written as such: a pipe has no holes."""

    def begin(self, size_bytes: int) -> None:
        """Nothing to do."""

    def write(self, at: int, data: memoryview) -> None:
        """To the end of what was written before."""
        sys.stdout.buffer.write(data)

    def zeros(self, at: int, length_bytes: int) -> None:
        """In pieces, however many there are."""
        for done in range(0, length_bytes, len(_ZEROS)):
            sys.stdout.buffer.write(_ZEROS[: length_bytes - done])

    def end(self, size_bytes: int) -> None:
        """Hand it all on."""
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """It is not ours to close."""


class Onto:
    """An existing block device or file that is overwritten where it stands."""

    def __init__(self, path: bytes) -> None:
        """Open it. Raises StaddleError for what may not be overwritten."""
        self._shown = os.fsdecode(path)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            status = None
        except OSError as error:
            raise self._refused(reason(error)) from error
        if status is not None and not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise self._refused("it is neither a file nor a block device")
        self._is_device = status is not None and stat.S_ISBLK(status.st_mode)
        if self._is_device and (use := blockdevice.in_use(path)):
            raise self._refused(use, hint="unmount it, or choose another device")
        try:
            self._fd = blockdevice.open_exclusive(path) if self._is_device else _open_file(path)
        except OSError as error:
            raise self._refused(reason(error)) from error
        self._closed = False

    def _refused(self, why: str, hint: str = "name an unused device or a file") -> StaddleError:
        return StaddleError(f"cannot restore onto {self._shown!r}: {why}", hint=hint)

    def begin(self, size_bytes: int) -> None:
        """Nothing has been changed before the size is known to fit."""
        if self._is_device:
            room = blockdevice.size_bytes(self._fd)
            if room < size_bytes:
                raise self._refused(f"it has {room} bytes, and {size_bytes} are needed")
        else:
            os.ftruncate(self._fd, 0)

    def write(self, at: int, data: memoryview) -> None:
        """At its place."""
        os.lseek(self._fd, at, os.SEEK_SET)
        while data:
            data = data[os.write(self._fd, data) :]

    def zeros(self, at: int, length_bytes: int) -> None:
        """Holes in a file; on a device zeros, whatever was there."""
        if self._is_device:
            blockdevice.zero(self._fd, at, length_bytes)

    def end(self, size_bytes: int) -> None:
        """A file ends there, also in a hole; what is behind it on a device stays."""
        if not self._is_device:
            os.ftruncate(self._fd, size_bytes)
        os.fsync(self._fd)

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)


def _open_file(path: bytes) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)


def open_sink(onto: bytes) -> Sink:
    """`-` is standard output. Raises StaddleError for what may not be overwritten."""
    return StandardOutput() if onto == b"-" else Onto(onto)
