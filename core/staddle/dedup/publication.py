"""What is published: the directory of one committed container, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from staddle.dedup.log import Entries
from staddle.dedup.rows import CONTAINER_ID_BYTES, BoolArray, U8Array, U32Array, keys_of, partition_of

PUBLICATION_ROWS_MAX = 1 << 22
PUBLICATION_CONTAINERS_MAX = 1 << 20


class Publication(NamedTuple):
    """One container's chunks, from a committed record of the manager's log.

    Attributes:
        lsn: of that record, above 0.
        container_id: 16 bytes, not all zero.
        fingerprints: uint8, shape (n, 32), keyed BLAKE3.
        raw_lengths: bytes of each chunk, shape (n,), below 2**32.
        ordinals: place of each chunk in the container's directory, shape (n,); None: 0 to n-1.
    """

    lsn: int
    container_id: bytes
    fingerprints: U8Array
    raw_lengths: NDArray[Any]
    ordinals: NDArray[Any] | None = None


def entries_of(items: Sequence[Publication], wanted: BoolArray) -> Entries:
    """Check publications and keep the rows of wanted partitions (shape (256,)), without empty containers.

    Raises:
        ValueError: wrong shapes, types or sizes, or more rows than one record takes.
    """
    if sum(len(item.fingerprints) for item in items) > PUBLICATION_ROWS_MAX:
        raise ValueError(f"one batch has at most {PUBLICATION_ROWS_MAX} rows; publish it in several")
    if len(items) > PUBLICATION_CONTAINERS_MAX:
        raise ValueError(f"one batch has at most {PUBLICATION_CONTAINERS_MAX} containers")
    ids: list[bytes] = []
    counts: list[int] = []
    columns: list[tuple[NDArray[np.uint64], NDArray[np.uint64], U32Array, U32Array]] = []
    for item in items:
        if len(item.container_id) != CONTAINER_ID_BYTES or not any(item.container_id):
            raise ValueError(f"a container id has {CONTAINER_ID_BYTES} bytes, not all zero")
        hi, lo = keys_of(item.fingerprints)
        ordinals = np.arange(len(hi)) if item.ordinals is None else item.ordinals
        ordinal, raw_length = (
            _u32(ordinals, len(hi), "ordinals"),
            _u32(item.raw_lengths, len(hi), "raw_lengths"),
        )
        keep = np.flatnonzero(wanted[partition_of(hi)])
        if len(keep) < len(hi):
            hi, lo, ordinal, raw_length = hi[keep], lo[keep], ordinal[keep], raw_length[keep]
        if len(hi):
            ids.append(item.container_id)
            counts.append(len(hi))
            columns.append((hi, lo, ordinal, raw_length))
    if not columns:
        words, halves = np.empty(0, np.uint64), np.empty(0, np.uint32)
        return Entries([], halves, words, words, halves, halves)
    hi, lo, ordinal, raw_length = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Entries(ids, np.array(counts, np.uint32), hi, lo, ordinal, raw_length)


def _u32(values: NDArray[Any], count: int, what: str) -> U32Array:
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise ValueError(f"{what} must be integers of shape ({count},), not {values.dtype} {values.shape}")
    if count and (values.min() < 0 or values.max() >= 1 << 32):
        raise ValueError(f"{what} must lie in 0 to 2**32 - 1")
    return values.astype(np.uint32)
