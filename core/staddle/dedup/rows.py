"""Index rows in numpy: how an entry is packed, sorted tables of entries, and their vectorised search.

One entry is a row of four little-endian 64-bit words, 32 bytes:

    0  hi         fingerprint bytes 0-7, read big-endian, so that numeric order is byte order
    1  lo         fingerprint bytes 8-15, read big-endian
    2  container  index into the library's container table (high half), ordinal in that container (low half)
    3  length     raw length of the chunk in bytes (high half), check over all the rest (low half)

Sixteen bytes of a keyed BLAKE3 are enough for an index (the container's directory holds all 32). The check
is what makes a lookup in a damaged file a miss instead of a wrong hit; it guards against rot, not malice.

A table is rows sorted by `hi`, publish order among equals, plus *fences*: where each bucket of leading
bits begins. Keys are uniform, so a bucket holds a few rows, and a batch is searched with a handful of
numpy calls that overlap their cache misses, instead of one cache-missing binary search after another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U8Array = NDArray[np.uint8]
U32Array = NDArray[np.uint32]
U64Array = NDArray[np.uint64]
IndexArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

PARTITIONS = 256
FINGERPRINT_BYTES = 32
CONTAINER_ID_BYTES = 16
ROW_WORDS = 4
ROW_BYTES = 8 * ROW_WORDS
WORD = np.dtype("<u8")

_ROWS_PER_FENCE = 8
PREFIX_BITS_MIN = 8  # a bucket never spans two partitions
PREFIX_BITS_MAX = 30
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(0xFFFFFFFF00000000)
_PARTITION_SHIFT = np.uint64(56)
# Odd 64-bit constants (fractional bits of square roots of primes): any single changed bit changes the check.
_MIX = tuple(
    np.uint64(k)
    for k in (
        0x6A09E667F3BCC909,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
    )
)


def no_rows() -> U64Array:
    """Return an empty row array."""
    return np.empty((0, ROW_WORDS), WORD)


def keys_of(fingerprints: U8Array) -> tuple[U64Array, U64Array]:
    """Split fingerprints of shape (n, 32) into the key words (hi, lo), each of shape (n,).

    Raises:
        ValueError: another shape or type.
    """
    if fingerprints.ndim != 2 or fingerprints.shape[1] != FINGERPRINT_BYTES or fingerprints.dtype != np.uint8:
        raise ValueError(
            f"fingerprints must be uint8 of shape (n, 32), not {fingerprints.dtype} {fingerprints.shape}"
        )
    words = np.ascontiguousarray(fingerprints).view(">u8")
    return words[:, 0].astype(WORD), words[:, 1].astype(WORD)


def partition_of(hi: U64Array) -> IndexArray:
    """Partition (0-255, the first fingerprint byte) of each key."""
    return (hi >> _PARTITION_SHIFT).astype(np.int64)


def pack(
    hi: U64Array, lo: U64Array, container: U32Array, ordinal: U32Array, raw_length: U32Array
) -> U64Array:
    """Pack columns of shape (n,) into rows of shape (n, 4), checks included."""
    rows = np.empty((len(hi), ROW_WORDS), WORD)
    rows[:, 0] = hi
    rows[:, 1] = lo
    rows[:, 2] = (container.astype(WORD) << _HALF) | ordinal
    rows[:, 3] = raw_length.astype(WORD) << _HALF
    rows[:, 3] |= _checks(rows)
    return rows


def container_of(rows: U64Array) -> IndexArray:
    """Container index of each row."""
    return (rows[:, 2] >> _HALF).astype(np.int64)


def ordinal_of(rows: U64Array) -> U32Array:
    """Ordinal in the container of each row."""
    return (rows[:, 2] & _LOW).astype(np.uint32)


def raw_length_of(rows: U64Array) -> U32Array:
    """Raw length in bytes of each row's chunk."""
    return (rows[:, 3] >> _HALF).astype(np.uint32)


def sound(rows: U64Array) -> BoolArray:
    """Tell which rows carry the right check."""
    result: BoolArray = (rows[:, 3] & _LOW) == _checks(rows)
    return result


def _checks(rows: U64Array) -> U64Array:
    mixed: U64Array = rows[:, 0] * _MIX[0]
    mixed ^= rows[:, 1] * _MIX[1]
    mixed ^= rows[:, 2] * _MIX[2]
    mixed ^= (rows[:, 3] & _HIGH) * _MIX[3]
    mixed ^= _MIX[4]  # a row of zeros is not sound
    mixed ^= mixed >> np.uint64(29)
    mixed *= _MIX[5]
    mixed >>= _HALF
    return mixed


def sort_rows(rows: U64Array) -> U64Array:
    """Sort by `hi`, keeping the order of equals."""
    return rows[np.argsort(rows[:, 0], kind="stable")]


def merge_sorted(older: U64Array, newer: U64Array) -> U64Array:
    """Merge two sorted row arrays; among equal `hi` the older rows come first. Linear in the older one."""
    if not len(older) or not len(newer):
        return newer if not len(older) else older
    at = np.searchsorted(older[:, 0], newer[:, 0], side="right")
    at += np.arange(len(newer))
    merged = np.empty((len(older) + len(newer), ROW_WORDS), WORD)
    from_older = np.ones(len(merged), np.bool_)
    from_older[at] = False
    merged[at] = newer
    merged[from_older] = older
    return merged


def without_repeats(rows: U64Array) -> U64Array:
    """Drop rows whose neighbour before names the same key in the same container."""
    same = rows[1:, 0] == rows[:-1, 0]
    if not same.any():
        return rows
    same &= (rows[1:, 1] == rows[:-1, 1]) & ((rows[1:, 2] ^ rows[:-1, 2]) < (1 << 32))
    keep = np.ones(len(rows), np.bool_)
    keep[1:] = ~same
    return rows[keep]


def prefix_bits_for(row_count: int) -> int:
    """Leading key bits that make buckets of four to eight rows."""
    bits = (row_count // _ROWS_PER_FENCE).bit_length()
    return min(max(bits, PREFIX_BITS_MIN), PREFIX_BITS_MAX)


def fences_of(rows: U64Array, prefix_bits: int, partition: int | None = None) -> U32Array:
    """Where each bucket of sorted `rows` begins: shape (buckets + 1,), the last value is the row count.

    Args:
        rows: sorted rows; all of one partition if `partition` is given.
        prefix_bits: leading key bits that number the bucket.
        partition: count only this partition's buckets (there are `2 ** (prefix_bits - 8)`).
    """
    bucket = (rows[:, 0] >> np.uint64(64 - prefix_bits)).astype(np.int64)
    buckets = 1 << prefix_bits
    if partition is not None:
        buckets //= PARTITIONS
        bucket -= partition * buckets
    fences = np.zeros(buckets + 1, np.uint32)
    np.cumsum(np.bincount(bucket, minlength=buckets), out=fences[1:])
    return fences


class Table:
    """Sorted rows with fences: immutable, in memory or mapped from a file; safe to share between threads."""

    __slots__ = ("_shift", "_words", "fences", "prefix_bits", "rows")

    def __init__(self, rows: U64Array, fences: U32Array, prefix_bits: int) -> None:
        self.rows = rows
        self.fences = fences
        self.prefix_bits = prefix_bits
        self._words = rows.reshape(-1)
        self._shift = np.uint64(64 - prefix_bits)

    @classmethod
    def of(cls, rows: U64Array) -> Table:
        """Make the table of sorted rows."""
        bits = prefix_bits_for(len(rows))
        return cls(rows, fences_of(rows, bits), bits)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def memory_bytes(self) -> int:
        """Bytes of rows and fences."""
        return self.rows.nbytes + self.fences.nbytes

    def partition(self, number: int) -> U64Array:
        """Rows of one partition: a view."""
        per_partition = 1 << (self.prefix_bits - PREFIX_BITS_MIN)
        first, end = self.fences[number * per_partition], self.fences[(number + 1) * per_partition]
        return self.rows[int(first) : int(end)]

    def probe(self, hi: U64Array, lo: U64Array, dead: BoolArray) -> tuple[IndexArray, U64Array, IndexArray]:
        """Find the first live row of each key.

        Args:
            hi: key words of shape (n,).
            lo: key words of shape (n,).
            dead: by container index, whether its rows no longer count.

        Returns:
            (which keys have one, their rows, which keys met a damaged row).
        """
        at = self._lower_bound(hi)
        todo = np.arange(len(hi))
        keys: list[IndexArray] = []
        rows: list[U64Array] = []
        damaged: list[IndexArray] = []
        # One round, but for keys whose first row is dead or shares only its first half with the key.
        while len(todo) and len(self.rows):
            found = self.rows.take(at, axis=0, mode="clip")
            same_hi = (found[:, 0] == hi[todo]) & (at < len(self.rows))
            match = np.flatnonzero(same_hi & (found[:, 1] == lo[todo]))
            candidates = found[match]
            whole = sound(candidates)
            container = container_of(candidates)
            whole &= container < len(dead)
            if not whole.all():
                damaged.append(todo[match[~whole]])
                match, candidates, container = match[whole], candidates[whole], container[whole]
            live = ~dead[container]
            keys.append(todo[match[live]])
            rows.append(candidates[live])
            same_hi[match[live]] = False
            more = np.flatnonzero(same_hi)
            todo, at = todo[more], at[more] + 1
        if not keys:
            return np.empty(0, np.int64), no_rows(), np.empty(0, np.int64)
        bad = np.concatenate(damaged) if damaged else np.empty(0, np.int64)
        return np.concatenate(keys), np.concatenate(rows), bad

    def _lower_bound(self, hi: U64Array) -> IndexArray:
        """Position of the first row whose `hi` is not below the key's, bounded by the key's bucket."""
        bucket = (hi >> self._shift).astype(np.int64)
        low = self.fences.take(bucket).astype(np.int64)
        bucket += 1
        high = self.fences.take(bucket).astype(np.int64)
        if not len(hi) or not len(self.rows):
            return low
        # The widest bucket of the batch bounds the rounds: a binary search on all keys at once.
        for _ in range(int((high - low).max()).bit_length()):
            middle = (low + high) >> 1
            below = self._words.take(middle * ROW_WORDS, mode="clip") < hi
            below &= middle < high
            low = np.where(below, middle + 1, low)
            high = np.where(below, high, middle)
        return low
