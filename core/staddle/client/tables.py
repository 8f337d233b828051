"""Compact tables for what a restore keeps to its end: bytes in one block, paths by their hashes only."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict

import numpy as np
import zstandard

_BLOCK_BYTES = 64 << 10
_BLOCKS_KEPT = 8


class ByteTable:
    """A list of byte strings that only grows: packed in blocks, with 8 bytes beside each.

    Reading in order, or nearly so, unpacks each block once.
    """

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._firsts = array("Q")  # index of the first string of each block
        self._ends = array("Q", [0])
        self._fill = bytearray()
        self._fill_first = 0
        self._unpacked: OrderedDict[int, bytes] = OrderedDict()
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, value: bytes) -> None:
        """Append one."""
        self._fill += value
        self._ends.append(self._ends[-1] + len(value))
        if len(self._fill) >= _BLOCK_BYTES:
            # The compressor's own result keeps the room that the block might have needed.
            self._packed.append(memoryview(self._compressor.compress(bytes(self._fill))).tobytes())
            self._firsts.append(self._fill_first)
            self._fill_first = len(self)
            self._fill = bytearray()

    def __getitem__(self, at: int) -> bytes:
        if not 0 <= at < len(self):
            raise IndexError(at)
        if at >= self._fill_first:
            block: bytes | bytearray = self._fill
            base = self._ends[self._fill_first]
        else:
            number = bisect_right(self._firsts, at) - 1
            block = self._block(number)
            base = self._ends[self._firsts[number]]
        return bytes(block[self._ends[at] - base : self._ends[at + 1] - base])

    def _block(self, number: int) -> bytes:
        block = self._unpacked.get(number)
        if block is None:
            block = self._unpacked[number] = self._decompressor.decompress(self._packed[number])
            if len(self._unpacked) > _BLOCKS_KEPT:
                self._unpacked.popitem(last=False)
        return block


class PathMarks:
    """A set of paths of 8 bytes each: their hashes, keyed anew in each process, so nobody can aim at one.

    Of two paths in 2^64 the wrong one is taken for marked. Adding and asking alternate in few turns: the
    first question after an addition sorts.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._sorted = 0

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, path: bytes) -> None:
        """Mark a path; twice does no harm."""
        self._hashes.append(hash(path))

    def __contains__(self, path: bytes) -> bool:
        hashes = self._hashes
        if self._sorted != len(hashes):
            np.frombuffer(hashes, np.int64).sort()
            self._sorted = len(hashes)
        wanted = hash(path)
        at = bisect_left(hashes, wanted)
        return at < len(hashes) and hashes[at] == wanted
