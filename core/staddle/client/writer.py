"""Writes a restore's contents, one thread at a time: each file in order of offsets, and then its name."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from staddle.api.types import Buffer
from staddle.client.contents import OFFSET_MAX, Batch, FileRow, Piece
from staddle.client.ending import Folders, LinkAliases, Links
from staddle.client.holes import stored_runs
from staddle.client.making import Maker
from staddle.client.policy import Action
from staddle.client.scan import reason
from staddle.client.target import Fresh
from staddle.client.work import Aliases, Work
from staddle.data.manifest import EntryBatch
from staddle.errors import Cancelled, StaddleError
from staddle.platform.flush import FlushList


@dataclass(slots=True)
class _OpenFile:
    """The file that is being written. `row`: of what came last of it."""

    row: FileRow
    fresh: Fresh
    end: int = 0
    written: int = 0


def _write_at(file: _OpenFile, start: int, data: memoryview) -> None:
    if start != file.written:
        os.lseek(file.fresh.fd, start, os.SEEK_SET)
    file.written = start + len(data)
    while data:
        data = data[os.write(file.fresh.fd, data) :]


class Writer:
    """All that a restore does to the file system, in the order of the calls."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._folders = Folders()
        self._links = Links()
        self._maker = Maker(work, self._folders, self._links)
        self._open: _OpenFile | None = None
        self._replaces = False
        self._spoiled = b""
        self._turn = threading.Lock()
        self._ended = False

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A thread whose caller was cancelled may still run when `abort` comes: one at a time, none after."""
        with self._turn:
            if self._ended:
                raise Cancelled("the restore has ended")
            yield

    def entries(
        self,
        entries: EntryBatch,
        rows: Iterable[int],
        way: frozenset[int],
        chunks: tuple[list[int], list[int]],
        aliases: Aliases,
    ) -> list[FileRow]:
        """Make all that has no content; the rest are the rows whose content is needed (`Maker.make`)."""
        with self._alone():
            return self._maker.make(entries, rows, way, chunks, aliases)

    # --- contents -----------------------------------------------------------------------------------

    def write(self, batch: Batch, payload: Buffer) -> None:
        """Write the pieces of a batch; the payload is their bytes in order."""
        view, at = memoryview(payload), 0
        with self._alone():
            for piece in batch.pieces:
                self._piece(piece, view[at : at + piece.size_bytes])
                at += piece.size_bytes

    def lost(self, piece: Piece, why: str) -> None:
        """The content of a piece can't be had: its file is not restored, not even in part."""
        row = piece.file
        with self._alone():
            if row.path == self._spoiled:
                return
            if self._open is None or self._open.row.path != row.path:
                self._end_open()
            self._spoil(row)
            self._work.lost_content(row.path, why)

    def _piece(self, piece: Piece, data: memoryview) -> None:
        row = piece.file
        begins = piece.opens and not row.offset
        if row.path == self._spoiled and not begins:
            return
        try:
            if begins:
                self._begin(row)
            file = self._open
            if file is None or file.row.path != row.path or file.end != piece.begin:
                self._spoil(row)
                self._work.lost_content(row.path, f"the part before byte {piece.begin} is not in the backup")
                return
            file.row = row
            self._write_runs(file, piece, data)
            if piece.closes and row.last:
                self._complete(file)
        except (OSError, StaddleError) as error:
            self._spoil(row)
            self._work.failed(row.path, error)

    def _begin(self, row: FileRow) -> None:
        self._end_open()
        self._spoiled = b""
        self._open = _OpenFile(row, self._work.target.create_file(row.path))
        self._replaces = row.replaces

    @staticmethod
    def _write_runs(file: _OpenFile, piece: Piece, data: memoryview) -> None:
        if piece.end > OFFSET_MAX:
            raise StaddleError("the backup gives an impossible size")
        at = 0
        for start, length in piece.runs:
            run = data[at : at + length]
            at += length
            if not file.row.sparse:
                _write_at(file, start, run)
                continue
            for inner, size in stored_runs(start, run):
                _write_at(file, start + inner, run[inner : inner + size])
        file.end = piece.end

    def _complete(self, file: _OpenFile) -> None:
        """The last part is written."""
        row = file.row
        if file.end != row.size_bytes:
            self._spoil(row)
            self._work.lost_content(
                row.path, f"{file.end} bytes are in the backup instead of {row.size_bytes}"
            )
            return
        self._close(file)
        if row.damaged:
            self._work.warn(row.path, "could not be read to its end when it was backed up")

    def _end_open(self) -> None:
        """Another file begins, or nothing follows: an open file then has no end in the backup."""
        file = self._open
        if file is None:
            return
        try:
            self._close(file)
        except (OSError, StaddleError) as error:
            self._work.failed(file.row.path, error)
        else:
            self._work.warn(file.row.path, f"only its first {file.end} bytes are in the backup")

    def _close(self, file: _OpenFile) -> None:
        """What is set on it, its name, and what may be set only then."""
        self._open = None
        row, fresh, work = file.row, file.fresh, self._work
        try:
            if file.end != file.written:
                os.ftruncate(fresh.fd, file.end)  # it ends in a hole
            if sys.platform == "win32":
                fresh.close()  # closing sets the time, and an open file can't be renamed
            work.metadata.set_open(fresh.fd, work.target.places, fresh.place, row.path, row.meta)
            work.target.publish(fresh)
        except (OSError, StaddleError):
            work.target.discard(fresh)
            raise
        try:
            if row.linked and work.metadata.has_flags(row.path, row.meta):
                self._links.flags_later(row.path, row.meta)
            elif row.meta.extra:
                work.metadata.set_flags(fresh.fd, work.target.places, row.path, row.meta)
        finally:
            fresh.close()
        work.tally.add(files=1, read=file.end)
        work.did(Action.REPLACE if self._replaces else Action.NEW, row.path, file.end)

    def _spoil(self, row: FileRow) -> None:
        """Leave nothing of a file that is not whole."""
        self._spoiled = row.path
        file = self._open
        if file is not None and file.row.path == row.path:
            self._open = None
            self._work.target.discard(file.fresh)

    # --- the end ------------------------------------------------------------------------------------

    def missing_contents(self) -> LinkAliases:
        """Contents that are restored under the names of hard links to them, in a second pass."""
        with self._alone():
            self._end_open()
            return self._links.aliases(self._work)

    def finish(self, delete: Callable[[Folders], None]) -> None:
        """Hard links, deletions, then the directories' metadata from the deepest up; all durable on return.

        Args:
            delete: removes what is not in the backup from these directories.

        Raises:
            StaddleError: the system could not write everything back.
        """
        with self._alone():
            self._end_open()
            self._links.finish(self._work)
            delete(self._folders)
            if not self._work.dry_run:
                self._settle()

    def _settle(self) -> None:
        flush = FlushList()
        try:
            self._work.target.hold(flush)
            self._folders.finish(self._work, flush)
            flush.flush()
        except OSError as error:
            shown = os.fsdecode(self._work.target.root)
            raise StaddleError(
                f"what was restored to {shown!r} may not be on the disk: {reason(error)}",
                hint="look after the disk, then restore again with --overwrite always",
            ) from error
        finally:
            flush.close()

    def abort(self) -> None:
        """Close what is open; the restore has failed, or is over. Idempotent."""
        with self._turn:
            self._ended = True
            if self._open is not None:
                self._spoil(self._open.row)
            self._work.target.close()
