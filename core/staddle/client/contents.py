"""Plans a restore's reading: chunks of many small files in one request, of a big file in several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from staddle.client.metadata import Meta
from staddle.data.manifest import ZERO_REGION, Chunks

BATCH_BYTES = 16 << 20
"""Raw bytes of one request; one chunk always fits."""
OFFSET_MAX = (1 << 63) - 1
"""Of a file, on every system; the lengths that a backup gives are numbers of 64 bits."""
BATCH_ROWS = 16_384
BATCH_PIECES = 4096


class FileRow(NamedTuple):
    """A manifest's row with content.

    Attributes:
        path: where it is restored, as a path of the backup.
        meta: what is set at its end.
        size_bytes: of the whole file.
        offset: where in the file this row's content begins.
        last: nothing follows of this file.
        damaged: reading it had failed when it was backed up.
        sparse: it had holes: runs of zeros are not written.
        linked: it may have other names.
        replaces: something had its name.
        chunk_first, chunk_count: its chunk rows.
    """

    path: bytes
    meta: Meta
    size_bytes: int
    offset: int
    last: bool
    damaged: bool
    sparse: bool
    linked: bool
    replaces: bool
    chunk_first: int
    chunk_count: int


@dataclass(slots=True)
class Piece:
    """A run of one row's content. `runs` are (position in the file, bytes of the payload); gaps are holes."""

    file: FileRow
    begin: int
    end: int
    opens: bool
    chunks: list[int] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    size_bytes: int = 0
    closes: bool = False

    def add(self, chunk: int, length: int) -> None:
        """The next chunk; what joins the run before it is written together with it."""
        self.chunks.append(chunk)
        if self.runs and sum(self.runs[-1]) == self.end:
            start, before = self.runs[-1]
            self.runs[-1] = (start, before + length)
        else:
            self.runs.append((self.end, length))
        self.end += length
        self.size_bytes += length


@dataclass(slots=True)
class Batch:
    """One request: the pieces whose chunks it brings, in order."""

    index: int
    chunks: Chunks
    pieces: list[Piece] = field(default_factory=list)
    size_bytes: int = 0

    def rows(self) -> NDArray[np.uint32]:
        """Numbers of the chunk rows to be asked for."""
        return np.array([chunk for piece in self.pieces for chunk in piece.chunks], np.uint32)

    def part(self, pieces: list[Piece]) -> Batch:
        """Some of its pieces as a request of their own."""
        return Batch(self.index, self.chunks, pieces, sum(piece.size_bytes for piece in pieces))

    def containers(self, piece: Piece) -> set[bytes]:
        """Where a piece's chunks are stored."""
        indexes = np.unique(self.chunks.container[np.array(piece.chunks, np.intp)])
        return {self.chunks.containers[at] for at in indexes.tolist()}


def plan(index: int, chunks: Chunks, files: Iterable[FileRow]) -> Iterator[Batch]:
    """Cut the contents of one manifest's rows into requests, in order.

    Args:
        index: number of the manifest.
        chunks: its chunk rows.
        files: its rows with content, in the order of the manifest.
    """
    files = list(files)
    chosen = _chunk_rows(files)
    lengths = chunks.lengths[chosen].tolist()
    stored = (chunks.container[chosen] != ZERO_REGION).tolist()
    batch, rows, at = Batch(index, chunks), 0, 0
    for file in files:
        piece = Piece(file, file.offset, file.offset, opens=True)
        for chunk in range(file.chunk_first, file.chunk_first + file.chunk_count):
            length, is_stored = lengths[at], stored[at]
            at += 1
            if not is_stored:
                piece.end += length
                continue
            if batch.size_bytes and (batch.size_bytes + length > BATCH_BYTES or rows >= BATCH_ROWS):
                if piece.chunks:
                    batch.pieces.append(piece)
                    piece = Piece(file, piece.end, piece.end, opens=False)
                yield batch
                batch, rows = Batch(index, chunks), 0
            piece.add(chunk, length)
            batch.size_bytes += length
            rows += 1
        piece.closes = True
        batch.pieces.append(piece)
        if len(batch.pieces) >= BATCH_PIECES:
            yield batch
            batch, rows = Batch(index, chunks), 0
    if batch.pieces:
        yield batch


def _chunk_rows(files: list[FileRow]) -> NDArray[np.int64]:
    """Numbers of the chunk rows of some files, in order."""
    first = np.array([file.chunk_first for file in files], np.int64)
    count = np.array([file.chunk_count for file in files], np.int64)
    return np.repeat(first - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
