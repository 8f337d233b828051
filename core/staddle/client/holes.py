"""Which parts of some bytes are worth writing: runs of zeros become holes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 4096
"""What a file system keeps or leaves out, at its places."""


def stored_runs(start: int, data: memoryview) -> Iterator[tuple[int, int]]:
    """The parts of `data` that are to be written, as (position in data, length), without blocks of zeros.

    Args:
        start: where in the file the data begin; blocks are counted from the beginning of the file.
        data: any bytes.
    """
    size = len(data)
    head = min(-start % BLOCK_BYTES, size)
    whole = (size - head) // BLOCK_BYTES
    blocks = np.frombuffer(data, np.uint8, whole * BLOCK_BYTES, head).reshape(whole, BLOCK_BYTES)
    ends = [0, *range(head, head + whole * BLOCK_BYTES + 1, BLOCK_BYTES), size]
    filled: NDArray[np.bool_] = np.any(blocks, axis=1)
    kept = [any(data[:head]), *filled.tolist(), any(data[head + whole * BLOCK_BYTES :])]
    begin = -1
    for at, keep in enumerate(kept):
        if keep and begin < 0:
            begin = ends[at]
        elif not keep and begin >= 0:
            yield begin, ends[at] - begin
            begin = -1
    if begin >= 0:
        yield begin, size - begin
