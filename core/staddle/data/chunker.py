"""Content-defined cutting of files into chunks, the same cuts however the bytes arrive.

Two rules make the cuts a function of the file's bytes (from its first byte in this segment on) alone:

- A cut looks up to `max_bytes` ahead (FastCDC). So a cut is taken only if its chunk starts at least
  `max_bytes` before the end of what is known, unless that is the end of the file.
- Zero blocks are whole 64 KiB blocks at multiples of 64 KiB of the file's offset. They are found before the
  cutting and end the stretch of data before them, so a block counts as known only when it is complete.

Images of devices are cut at multiples of one length instead: what changes on a device stays in its place, and
data moves by whole blocks, so neither search nor state is needed to find it again.

FastCDC: Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data
Deduplication", USENIX ATC 2016; here with normalisation level 2 and a seeded gear table.
"""

from __future__ import annotations

import numpy as np
from pyfastcdc import FastCDC

from staddle.data.crypto import ChunkerSpec
from staddle.errors import NewerFormat

ZERO_BLOCK_BYTES = 65536
ZERO = -1
"""Stands for the position of a chunk that is all zeros: it has a length and no data."""

_PROBE_STEP = 1024  # every 8 KiB one word: nearly all blocks with data are told apart by 8 words
_WORD_BYTES = 8


class Rows:
    """Chunks in stream order: where each lies in its buffer (or ZERO), and how long it is, in bytes."""

    __slots__ = ("lengths", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.lengths: list[int] = []

    def add(self, start: int, length: int) -> None:
        """Append one chunk."""
        self.starts.append(start)
        self.lengths.append(length)

    def __len__(self) -> int:
        return len(self.starts)


class Chunker:
    """Cuts by one domain's specification. Holds no state of a file: one serves any number of files.

    Attributes:
        small_bytes_max: a whole file of at most this many bytes is one chunk, without looking at it.
        carry_bytes_max: what may remain uncut when more of the file is to come.
        fixed_bytes: length of an image's chunks, a power of two: the largest up to the average.
    """

    def __init__(self, spec: ChunkerSpec) -> None:
        """Raises NewerFormat for a chunker that this release does not know."""
        if spec.id != "fastcdc-v1":
            raise NewerFormat(
                f"the dedup domain cuts with {spec.id!r}, this release knows only 'fastcdc-v1'",
                hint="upgrade this agent",
            )
        self.min_bytes = spec.min_bytes
        self.max_bytes = spec.max_bytes
        self.small_bytes_max = min(spec.min_bytes, ZERO_BLOCK_BYTES - 1)
        self.carry_bytes_max = spec.max_bytes + ZERO_BLOCK_BYTES
        self.fixed_bytes = 1 << (spec.average_bytes.bit_length() - 1)
        self._cdc = FastCDC(
            spec.average_bytes,
            min_size=spec.min_bytes,
            max_size=spec.max_bytes,
            normalized_chunking=2,
            seed=spec.seed,
        )

    def cut_data(self, view: memoryview, base: int, end_known: bool, rows: Rows) -> int:
        """Cut a stretch without zero blocks; positions in `rows` count from `base`.

        Returns how many bytes were cut: all of them if the stretch's end is known, else the sum of the
        chunks whose cut can't change with what follows.
        """
        length = len(view)
        if not end_known and length <= self.max_bytes:
            return 0
        if length <= self.min_bytes:
            if length:
                rows.add(base, length)
            return length
        limit = length if end_known else length - self.max_bytes
        add_start, add_length = rows.starts.append, rows.lengths.append
        done = 0
        for chunk in self._cdc.cut_buf(view):
            if chunk.offset > limit:
                break
            add_start(base + chunk.offset)
            add_length(chunk.length)
            done = chunk.offset + chunk.length
        return done

    def cut_fixed(self, view: memoryview, base: int, offset: int, rows: Rows, *, end_known: bool) -> int:
        """The same for an image: cuts at multiples of `fixed_bytes` of the image; `offset` is the view's."""
        length = len(view)
        done = 0
        while done < length:
            size = self.fixed_bytes - (offset + done) % self.fixed_bytes
            if size > length - done:
                if not end_known:
                    break
                size = length - done
            rows.add(base + done, size)
            done += size
        return done


def zero_runs(view: memoryview, offset: int) -> list[tuple[int, int]]:
    """Runs of complete zero blocks in `view`, as (start, end) positions in it.

    `offset` is the position in the file of the view's first byte.
    """
    first = -offset % ZERO_BLOCK_BYTES
    count = (len(view) - first) // ZERO_BLOCK_BYTES
    if count <= 0:
        return []
    blocks = np.frombuffer(view, np.uint64, count * (ZERO_BLOCK_BYTES // _WORD_BYTES), first)
    blocks = blocks.reshape(count, -1)
    suspects = np.flatnonzero(~blocks[:, ::_PROBE_STEP].any(axis=1)).tolist()
    runs: list[tuple[int, int]] = []
    for index in suspects:
        if blocks[index].view(np.uint8).any():
            continue
        start = first + index * ZERO_BLOCK_BYTES
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + ZERO_BLOCK_BYTES)
        else:
            runs.append((start, start + ZERO_BLOCK_BYTES))
    return runs


class FileCutter:
    """Cuts one file whose bytes arrive in pieces. `offset` is where the first uncut byte stands in it."""

    __slots__ = ("_chunker", "_fixed", "_zeros", "offset", "rows_made")

    def __init__(self, chunker: Chunker, offset: int = 0, *, fixed: bool = False) -> None:
        """Args: chunker: of the domain. offset: in the file, of the first byte to come. fixed: an image."""
        self._chunker = chunker
        self._fixed = fixed
        self._zeros = 0
        self.offset = offset
        self.rows_made = 0

    def data(self, view: memoryview, base: int, end_known: bool, rows: Rows) -> int:
        """Cut as much of `view` as is certain, and say how many bytes that was.

        The rest must come again at the start of the next view. With `end_known` (the file, the segment, or
        the data before a hole ends here) all is cut. Never more than `carry_bytes_max` remain.
        """
        before = len(rows)
        place = 0
        for start, end in zero_runs(view, self.offset):
            self._stretch(view[place:start], base + place, self.offset + place, rows, end_known=True)
            self._zeros += end - start
            place = end
        known = len(view)
        if not end_known:
            known -= min((self.offset + known) % ZERO_BLOCK_BYTES, known - place)
        place += self._stretch(
            view[place:known], base + place, self.offset + place, rows, end_known=end_known
        )
        self.offset += place
        self.rows_made += len(rows) - before
        return place

    def zeros(self, length: int) -> None:
        """A hole of `length` bytes follows; the data before it must have been cut with `end_known`."""
        self._zeros += length
        self.offset += length

    def flush(self, rows: Rows) -> None:
        """The file or the segment ends: give out the run of zeros that is still open."""
        if self._zeros:
            rows.add(ZERO, self._zeros)
            self._zeros = 0
            self.rows_made += 1

    def _stretch(self, view: memoryview, base: int, offset: int, rows: Rows, *, end_known: bool) -> int:
        """Cut data without zero blocks that stands at `base` of its buffer and at `offset` of the file."""
        if not view:
            return 0
        mark = len(rows)
        if self._fixed:
            done = self._chunker.cut_fixed(view, base, offset, rows, end_known=end_known)
        else:
            done = self._chunker.cut_data(view, base, end_known, rows)
        if done and self._zeros:  # the run of zeros before this data ended here
            rows.starts.insert(mark, ZERO)
            rows.lengths.insert(mark, self._zeros)
            self._zeros = 0
        return done
