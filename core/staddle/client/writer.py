"""Writes a restore's entries, one thread at a time: files in order of offsets, directories' metadata last."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from staddle.api.types import Buffer
from staddle.client.contents import Batch, FileRow, Piece
from staddle.client.scan import Warn, reason
from staddle.client.target import Meta, Target, check_hopeless
from staddle.client.units import Tally
from staddle.data.manifest import EntryBatch, EntryFlag, EntryType
from staddle.errors import Cancelled, StaddleError

# Plain numbers: a comparison with a member of an enum takes ten times as long.
_DIRECTORY = int(EntryType.DIRECTORY)
_PART = int(EntryFlag.PART)
_LAST = int(EntryFlag.LAST)
_ERROR = int(EntryFlag.ERROR)
_CONTENT = frozenset(map(int, (EntryType.FILE, EntryType.IMAGE, EntryType.STREAM)))
_NODES = {
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.SOCKET: stat.S_IFSOCK,
    EntryType.BLOCK: stat.S_IFBLK,
    EntryType.CHAR: stat.S_IFCHR,
}
_DEVICES = frozenset({EntryType.BLOCK, EntryType.CHAR})
_META = np.dtype([("mode", "<u4"), ("uid", "<u4"), ("gid", "<u4"), ("mtime_ns", "<i8")])


@dataclass(slots=True)
class _OpenFile:
    """The file that is being written. `row`: of what came last of it."""

    row: FileRow
    fd: int
    end: int = 0
    written: int = 0


class Writer:
    """All that a restore does to the file system, in the order of the calls.

    Args:
        target: where to.
        tally: counts what was restored.
        warn: called for an entry that is not restored as it was.
        lose: called for a file whose content can't be had.
    """

    def __init__(self, target: Target, tally: Tally, warn: Warn, lose: Warn) -> None:
        self._target = target
        self._tally = tally
        self._warn = warn
        self._lose = lose
        self._open: _OpenFile | None = None
        self._spoiled = b""
        self._directories: list[tuple[list[bytes], NDArray[np.void]]] = []
        self._links: list[tuple[bytes, bytes]] = []
        self._turn = threading.Lock()
        self._ended = False

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A thread whose caller was cancelled may still run when `abort` comes: one at a time, none after."""
        with self._turn:
            if self._ended:
                raise Cancelled("the restore has ended")
            yield

    # --- a manifest's rows ------------------------------------------------------------------------

    def entries(
        self,
        entries: EntryBatch,
        rows: list[int],
        chunk_rows: Callable[[int], tuple[int, int]],
        aliases: Mapping[bytes, bytes],
    ) -> list[FileRow]:
        """Make all that has no content, directories first; the rest are the rows whose content is needed.

        Args:
            entries: of a manifest.
            rows: those to be restored, ascending.
            chunk_rows: first chunk row of a row, and how many.
            aliases: paths that are restored under another one.
        """
        with self._alone():
            return self._entries(entries, rows, chunk_rows, aliases)

    def _entries(
        self,
        entries: EntryBatch,
        rows: list[int],
        chunk_rows: Callable[[int], tuple[int, int]],
        aliases: Mapping[bytes, bytes],
    ) -> list[FileRow]:
        kinds = entries.columns["type"].tolist()
        self._add_directories(entries, [row for row in rows if kinds[row] == _DIRECTORY])
        paths = entries.paths()
        file_rows = _FileRows(entries)
        files = []
        for row in rows:
            kind = kinds[row]
            if kind == _DIRECTORY:
                continue
            source = aliases.get(paths[row], paths[row])
            try:
                place = self._target.path(source)
                if kind in _CONTENT:
                    files.append(file_rows.make(row, source, place, chunk_rows(row)))
                elif kind == EntryType.HARDLINK:
                    self._links.append((source, entries.link(row)))
                else:
                    self._special(entries, row, EntryType(kind), source, place)
            except (OSError, StaddleError) as error:
                self._failed(source, error)
        return files

    def _add_directories(self, entries: EntryBatch, rows: list[int]) -> None:
        paths, kept = entries.paths() if rows else [], []
        for row in rows:
            try:
                self._target.ensure_directory(self._target.path(paths[row]))
            except (OSError, StaddleError) as error:
                self._failed(paths[row], error)
            else:
                kept.append(row)
        if kept:
            metas = np.empty(len(kept), _META)
            for name in _META.names or ():
                metas[name] = entries.columns[name][kept]
            self._directories.append(([paths[row] for row in kept], metas))
            self._tally.add(dirs=len(kept))

    def _special(self, entries: EntryBatch, row: int, kind: EntryType, source: bytes, place: bytes) -> None:
        if kind is EntryType.SYMLINK:
            self._target.symlink(entries.link(row), place)
        elif kind in _DEVICES and not self._target.privileged:
            self._warn(source, "a device is not restored: only an administrator may make one")
            return
        elif kind in _NODES:
            self._target.node(place, _NODES[kind], _device(entries, row))
        else:
            self._warn(source, "an alternate data stream is not restored by this release")
            return
        self._target.set_metadata(place, _meta(entries, row))
        self._tally.add(files=1)

    def _failed(self, source: bytes, error: OSError | StaddleError) -> None:
        if isinstance(error, OSError):
            check_hopeless(error, self._target.root)
            self._warn(source, f"not restored: {reason(error)}")
        else:
            self._warn(source, f"not restored: {error.message}")

    # --- contents ---------------------------------------------------------------------------------

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
            if row.source == self._spoiled:
                return
            if self._open is None or self._open.row.path != row.path:
                self._end_open()
            self._spoil(row)
            self._lose(row.source, why)

    def _piece(self, piece: Piece, data: memoryview) -> None:
        row = piece.file
        if row.source == self._spoiled and not (piece.opens and not row.offset):
            return
        try:
            if piece.opens and not row.offset:
                self._begin(row)
            if self._open is None or self._open.row.path != row.path or self._open.end != piece.begin:
                self._spoil(row)
                self._lose(row.source, f"the part before byte {piece.begin} is not in the backup")
                return
            self._open.row = row
            self._write_runs(self._open, piece, data)
            if piece.closes and row.last:
                self._complete()
        except (OSError, StaddleError) as error:
            self._spoil(row)
            self._failed(row.source, error)

    def _begin(self, row: FileRow) -> None:
        self._end_open()
        self._spoiled = b""
        self._open = _OpenFile(row, self._target.create_file(row.path))

    @staticmethod
    def _write_runs(file: _OpenFile, piece: Piece, data: memoryview) -> None:
        at = 0
        for start, length in piece.runs:
            if start != file.written:
                os.lseek(file.fd, start, os.SEEK_SET)
            done = 0
            while done < length:
                done += os.write(file.fd, data[at + done : at + length])
            at += length
            file.written = start + length
        file.end = piece.end

    def _complete(self) -> None:
        """The last part is written."""
        file = self._open
        assert file is not None
        row = file.row
        if file.end != row.size_bytes:
            self._spoil(row)
            self._lose(row.source, f"{file.end} bytes are in the backup instead of {row.size_bytes}")
            return
        self._close(file)
        if row.damaged:
            self._warn(row.source, "could not be read to its end when it was backed up")

    def _end_open(self) -> None:
        """Another file begins, or nothing follows: an open file then has no end in the backup."""
        file = self._open
        if file is not None:
            self._close(file)
            self._warn(file.row.source, f"only its first {file.end} bytes are in the backup")

    def _close(self, file: _OpenFile) -> None:
        self._open = None
        try:
            if file.end != file.written:
                os.ftruncate(file.fd, file.end)  # it ends in a hole
            self._target.set_file_metadata(file.fd, file.row.path, file.row.meta)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(file.row.path)
            raise
        finally:
            os.close(file.fd)
        self._tally.add(files=1, read=file.end)

    def _spoil(self, row: FileRow) -> None:
        """Leave nothing of a file that is not whole."""
        self._spoiled = row.source
        file = self._open
        if file is not None and file.row.path == row.path:
            self._open = None
            os.close(file.fd)
            with contextlib.suppress(OSError):
                os.unlink(row.path)

    # --- the end ----------------------------------------------------------------------------------

    def missing_contents(self, selected: Callable[[bytes], bool]) -> dict[bytes, bytes]:
        """Hard links whose content has another path that is not restored: that path -> where it goes."""
        aliases: dict[bytes, bytes] = {}
        rest = []
        for path, content in self._links:
            if not selected(content) and content not in aliases:
                aliases[content] = path
            else:
                rest.append((path, aliases.get(content, content)))
        self._links = rest
        return aliases

    def finish(self) -> None:
        """Hard links, then the directories' metadata from the deepest up."""
        with self._alone():
            self._end_open()
            self._hard_links()
            self._directory_metadata()

    def _hard_links(self) -> None:
        for path, content in self._links:
            try:
                self._target.hard_link(self._target.path(content), self._target.path(path))
            except FileNotFoundError:
                self._warn(path, "hard link not restored: the file that it is another name of is missing")
            except (OSError, StaddleError) as error:
                self._failed(path, error)
            else:
                self._tally.add(files=1)
        self._links = []

    def _directory_metadata(self) -> None:
        found = [(path, metas, row) for paths, metas in self._directories for row, path in enumerate(paths)]
        found.sort(key=lambda each: each[0].count(b"/"), reverse=True)
        for path, metas, row in found:
            if path != b"/":  # the target itself keeps the metadata that its owner gave it
                meta = Meta(*metas[row].tolist())
                self._target.set_directory_metadata(self._target.path(path), meta)
        self._directories = []

    def abort(self) -> None:
        """Close what is open; the restore has failed. Idempotent."""
        with self._turn:
            self._ended = True
            if self._open is not None:
                self._spoil(self._open.row)


def _meta(entries: EntryBatch, row: int) -> Meta:
    columns = entries.columns
    return Meta(
        int(columns["mode"][row]),
        int(columns["uid"][row]),
        int(columns["gid"][row]),
        int(columns["mtime_ns"][row]),
    )


def _device(entries: EntryBatch, row: int) -> int:
    further = entries.extra(row)  # noqa: S610 - no query, but our own further metadata
    return int(further.get("rdev", 0))


class _FileRows:
    """Makes the FileRows of one manifest, out of lists: numbers of numpy are slow one by one."""

    def __init__(self, entries: EntryBatch) -> None:
        columns = entries.columns
        self._metas = [columns[name].tolist() for name in _META.names or ()]
        self._sizes, self._offsets, self._flags = (
            columns[name].tolist() for name in ("size", "offset", "flags")
        )

    def make(self, row: int, source: bytes, place: bytes, chunks: tuple[int, int]) -> FileRow:
        """One row. Args: place: in the target. chunks: first chunk row, and how many."""
        flags = self._flags[row]
        return FileRow(
            path=place,
            source=source,
            meta=Meta(*[column[row] for column in self._metas]),
            size_bytes=self._sizes[row],
            offset=self._offsets[row],
            last=not flags & _PART or bool(flags & _LAST),
            damaged=bool(flags & _ERROR),
            chunk_first=chunks[0],
            chunk_count=chunks[1],
        )
