"""Collects the contents of files in pooled buffers and cuts them there: the caller's side of a segment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from staddle.api.types import Buffer
from staddle.data.chunker import Chunker, FileCutter, Rows


class Batch:
    """A buffer whose content is cut. `buffer` is None if all its rows are zeros."""

    __slots__ = ("buffer", "rows")

    def __init__(self) -> None:
        self.buffer: bytearray | None = None
        self.rows = Rows()


class Collector:
    """One segment's contents, in stream order. Used by one thread.

    Whole small files come many at a time (`files`); a big one in pieces (`begin`, `piece`, `hole`, `end`).
    A chunk lies in one buffer: what is not cut yet when a buffer is full moves on to the next.

    Attributes:
        chunks: rows made so far in all batches.
    """

    def __init__(
        self,
        chunker: Chunker,
        acquire: Callable[[], bytearray],
        release: Callable[[bytearray], None],
        emit: Callable[[Batch], None],
    ) -> None:
        """Begin without a buffer.

        Args:
            chunker: of the domain.
            acquire: gives a buffer.
            release: takes it back.
            emit: takes over a full batch and its buffer.
        """
        self._chunker = chunker
        self._acquire = acquire
        self._release = release
        self._emit = emit
        self._batch = Batch()
        self._view: memoryview | None = None
        self._end = 0  # of what is written into the buffer
        self._uncut = 0  # where the open file's uncut bytes begin
        self._file: FileCutter | None = None
        self._rows_before = 0
        self.chunks = 0

    def files(self, payload: Buffer, lengths: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Take whole files, one after the other in `payload`; returns the chunks of each."""
        counts = np.zeros(len(lengths), np.uint32)
        size = len(payload)
        if not size:
            return counts
        view, start = self._room(size)
        view[start : start + size] = payload
        rows = self._batch.rows
        before = len(rows)
        if int(lengths.max()) <= self._chunker.small_bytes_max:
            full = np.flatnonzero(lengths)
            sizes = lengths[full].astype(np.int64)
            rows.starts.extend((np.cumsum(sizes) - sizes + start).tolist())
            rows.lengths.extend(sizes.tolist())
            counts[full] = 1
        else:
            place = start
            for i, length in enumerate(lengths.tolist()):
                counts[i] = self._whole(view, place, length, rows)
                place += length
        self._end = start + size
        self.chunks += len(rows) - before
        return counts

    def _whole(self, view: memoryview, place: int, length: int, rows: Rows) -> int:
        """Cut a file that lies in the buffer as a whole."""
        if length <= self._chunker.small_bytes_max:
            if length:
                rows.add(place, length)
            return min(length, 1)
        cutter = FileCutter(self._chunker)
        cutter.data(view[place : place + length], place, True, rows)
        cutter.flush(rows)
        return cutter.rows_made

    @property
    def offset(self) -> int | None:
        """Where the next byte of the open file stands in it; None if no file is open."""
        return None if self._file is None else self._file.offset + self._end - self._uncut

    def begin(self, offset: int, *, fixed: bool = False) -> None:
        """A file, or with `fixed` an image, comes in pieces, the first of which stands at `offset` in it."""
        self._file = FileCutter(self._chunker, offset, fixed=fixed)
        self._uncut = self._end

    def piece(self, payload: Buffer) -> None:
        """The next bytes of the open file."""
        rest = memoryview(payload)
        while rest:
            if self._view is None or self._end == len(self._view):
                self._turn()
            assert self._view is not None
            part = rest[: len(self._view) - self._end]
            self._view[self._end : self._end + len(part)] = part
            self._end += len(part)
            rest = rest[len(part) :]

    def hole(self, length: int) -> None:
        """The next `length` bytes of the open file are zeros."""
        assert self._file is not None
        self._cut(end_known=True)
        self._file.zeros(length)

    def end(self) -> int:
        """No more of the open file comes, in this segment at least; returns the chunks it has here."""
        file = self._file
        assert file is not None
        self._cut(end_known=True)
        before = len(self._batch.rows)
        file.flush(self._batch.rows)
        self.chunks += len(self._batch.rows) - before
        self._file = None
        return file.rows_made

    def flush(self) -> None:
        """Emit what is there; no file may be open."""
        self._hand_over()

    def abort(self) -> None:
        """Give the buffer back."""
        self._view = None
        if self._batch.buffer is not None:
            self._release(self._batch.buffer)
            self._batch = Batch()

    def _cut(self, *, end_known: bool) -> None:
        if self._file is None or self._view is None:
            return
        rows = self._batch.rows
        before = len(rows)
        self._uncut += self._file.data(self._view[self._uncut : self._end], self._uncut, end_known, rows)
        self.chunks += len(rows) - before

    def _turn(self) -> None:
        """Go on in a new buffer, with the open file's uncut tail at its front."""
        self._cut(end_known=False)
        tail = b"" if self._view is None else bytes(self._view[self._uncut : self._end])
        self._hand_over()  # before waiting for the next buffer: who waits holds none
        view, _ = self._room(len(tail))
        view[: len(tail)] = tail
        self._end = len(tail)
        self._uncut = 0

    def _room(self, size: int) -> tuple[memoryview, int]:
        """The buffer and the place in it for `size` bytes in one stretch."""
        if self._view is not None and self._end + size > len(self._view):
            self._hand_over()
        if self._view is None:
            self._batch.buffer = self._acquire()
            self._view = memoryview(self._batch.buffer)
            self._end = 0
        return self._view, self._end

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, Batch()
        self._view = None
        self._end = self._uncut = 0
        if len(batch.rows):
            self._emit(batch)
        elif batch.buffer is not None:
            self._release(batch.buffer)
