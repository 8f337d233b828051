"""Sorts more byte strings than belong into memory: the names of a huge directory, a long list of files."""

from __future__ import annotations

import heapq
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import IO

import zstandard

RUN_BYTES = 4 << 20
"""So much is sorted at once."""
BLOCK_BYTES = 32 << 10
"""Of each sorted run so much is unpacked at a time while all of them are merged."""
KEPT_BYTES = 16 << 20
"""So much of what is packed stays in memory; the rest goes into a temporary file."""
_STRING_BYTES = 48
"""What a string takes beside its own bytes: an object, and its place in a list."""


class Sorter:
    """Byte strings without NUL, given in the order of bytes, each once. Bounded memory.

    First `add`, then iterate, as often as wanted, also in several threads. A temporary file goes with the
    sorter; where there is no room for it more is kept in memory, packed.
    """

    def __init__(self, values: Iterable[bytes] = ()) -> None:
        """Args: values: to begin with."""
        self._run: list[bytes] = []
        self._run_bytes = 0
        self._runs: list[list[int]] = []
        self._blocks = _Blocks()
        self._ended = False
        self._lock = threading.Lock()
        for value in values:
            self.add(value)

    def add(self, value: bytes) -> None:
        """Take one more. Before the first iteration only."""
        self._run.append(value)
        self._run_bytes += len(value) + _STRING_BYTES
        if self._run_bytes >= RUN_BYTES:
            self._pack()

    def __iter__(self) -> Iterator[bytes]:
        with self._lock:
            if not self._ended:
                self._ended = True
                if self._runs:
                    self._pack()
                self._run.sort()
        last = None
        for value in heapq.merge(*map(self._values, self._runs)) if self._runs else self._run:
            if value != last:
                yield value
            last = value

    def _pack(self) -> None:
        """Sort what was collected, and pack it up."""
        run, self._run, self._run_bytes = sorted(self._run), [], 0
        numbers, first, size = [], 0, 0
        for at, value in enumerate(run):
            size += len(value) + 1
            if size >= BLOCK_BYTES:
                numbers.append(self._blocks.add(b"\0".join(run[first : at + 1])))
                first, size = at + 1, 0
        if first < len(run):
            numbers.append(self._blocks.add(b"\0".join(run[first:])))
        self._runs.append(numbers)

    def _values(self, numbers: list[int]) -> Iterator[bytes]:
        for number in numbers:
            yield from self._blocks[number].split(b"\0")


class _Blocks:
    """Blocks of bytes by number: packed, in memory up to KEPT_BYTES, then in a temporary file."""

    def __init__(self) -> None:
        self._places: list[bytes | tuple[int, int]] = []  # packed, or where it stands in the file
        self._kept_bytes = self._file_bytes = 0
        self._file: IO[bytes] | None = None
        self._no_room = False
        self._lock = threading.Lock()

    def add(self, block: bytes) -> int:
        """Keep one more; its number."""
        # The compressor's own result keeps the room that the block might have needed.
        packed = memoryview(zstandard.ZstdCompressor(level=1).compress(block)).tobytes()
        self._places.append(self._written(packed) or packed)
        return len(self._places) - 1

    def __getitem__(self, number: int) -> bytes:
        place = self._places[number]
        if isinstance(place, tuple):
            assert self._file is not None
            with self._lock:
                self._file.seek(place[0])
                place = self._file.read(place[1])
        return zstandard.ZstdDecompressor().decompress(place)

    def _written(self, packed: bytes) -> tuple[int, int] | None:
        """Where it stands in the file now; None for what stays in memory."""
        if self._no_room or self._kept_bytes + len(packed) <= KEPT_BYTES:
            self._kept_bytes += len(packed)
            return None
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 closed below
                weakref.finalize(self, self._file.close)
            self._file.seek(self._file_bytes)
            rest = memoryview(packed)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._no_room = True
            return None
        self._file_bytes += len(packed)
        return self._file_bytes - len(packed), len(packed)
