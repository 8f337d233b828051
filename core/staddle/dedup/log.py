r"""The library's append-only log: what was published since the last merge. One file for all partitions.

One record per batch, one `datasync` per record: the cost of durability is shared by the whole batch. Layout
(integers little-endian):

    head    64 bytes   as in `heads`: "staddle fingerprint log\n", the generation
    record  48 bytes   type u32, 4 zero bytes, lsn u64, payload length u64, 8 zero bytes, digest 16 bytes
            payload

The digest is BLAKE3 (16 bytes) over the file's generation, the record's offset, its head and its payload, so
neither a torn record nor a stale block of another file passes for one. Reading ends at the first bad record,
or the first block that the disk can't read; what follows was never acknowledged, or comes again from the
manager's log, because `applied_lsn` falls back.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from blake3 import blake3

from staddle.api.types import Buffer
from staddle.dedup.heads import HEAD_BYTES, pack_head, read_head
from staddle.dedup.rows import CONTAINER_ID_BYTES, U32Array, U64Array
from staddle.platform.durable import Files
from staddle.platform.readfault import is_read_fault

LOG_VERSION = 1
PUBLISH = 1
REMOVE = 2
REMAP = 3
"""Reserved: chunks of a repacked container moved to another one (G3). Not written by this version."""

_TEXT = b"staddle fingerprint log\n"
_HEAD = struct.Struct("<I4xQQ8x")
_DIGEST_BYTES = 16
_HEAD_BYTES = _HEAD.size + _DIGEST_BYTES
_PLACE = struct.Struct("<QQ")
_COUNTS = struct.Struct("<II")
_ROW_BYTES = 24  # hi, lo, ordinal, raw length; the container is told by the counts
PAYLOAD_BYTES_MAX = 256 << 20


class Record(NamedTuple):
    """One record as read: its type, the lsn that it brings the library to, its payload."""

    type: int
    lsn: int
    payload: memoryview


class Entries(NamedTuple):
    """A PUBLISH payload: `counts[i]` rows belong to `container_ids[i]`, in order."""

    container_ids: list[bytes]
    counts: U32Array
    hi: U64Array
    lo: U64Array
    ordinal: U32Array
    raw_length: U32Array


def encode_entries(entries: Entries) -> list[Buffer]:
    """Payload parts of a PUBLISH record."""
    keys = np.empty((len(entries.hi), 2), "<u8")
    keys[:, 0], keys[:, 1] = entries.hi, entries.lo
    places = np.empty((len(entries.hi), 2), "<u4")
    places[:, 0], places[:, 1] = entries.ordinal, entries.raw_length
    return [
        _COUNTS.pack(len(entries.container_ids), len(entries.hi)),
        b"".join(entries.container_ids),
        entries.counts.astype("<u4").tobytes(),
        keys.tobytes(),
        places.tobytes(),
    ]


def decode_entries(payload: memoryview) -> Entries:
    """Read a PUBLISH payload whose record `LogReader` has let pass."""
    containers, count = _COUNTS.unpack_from(payload)
    ids_at = _COUNTS.size
    counts_at = ids_at + containers * CONTAINER_ID_BYTES
    keys_at = counts_at + containers * 4
    places_at = keys_at + count * 16
    keys = np.frombuffer(payload, "<u8", count * 2, keys_at).reshape(-1, 2)
    places = np.frombuffer(payload, "<u4", count * 2, places_at).reshape(-1, 2)
    return Entries(
        split_ids(payload[ids_at:counts_at]),
        np.frombuffer(payload, "<u4", containers, counts_at),
        keys[:, 0],
        keys[:, 1],
        places[:, 0],
        places[:, 1],
    )


def _makes_sense(kind: int, payload: memoryview) -> bool:
    """Whether the parts of a payload have the sizes that it says. What a newer release added does."""
    if kind == REMOVE:
        return len(payload) % CONTAINER_ID_BYTES == 0
    if kind != PUBLISH:
        return True
    if len(payload) < _COUNTS.size:
        return False
    containers, count = map(int, _COUNTS.unpack_from(payload))
    counts_at = _COUNTS.size + containers * CONTAINER_ID_BYTES
    if len(payload) != counts_at + containers * 4 + count * _ROW_BYTES:
        return False
    total = int(np.frombuffer(payload, "<u4", containers, counts_at).sum(dtype=np.uint64))
    return total == count


def split_ids(packed: memoryview) -> list[bytes]:
    """Cut concatenated container ids."""
    return [bytes(packed[at : at + CONTAINER_ID_BYTES]) for at in range(0, len(packed), CONTAINER_ID_BYTES)]


def log_name(generation: int) -> str:
    """File name of a log."""
    return f"log.{generation:010d}"


class LogWriter:
    """The one open log file. Not for use by two threads at once.

    After an OSError its end is unknown: it must not be written again, only read by a new opening.
    """

    def __init__(self, fd: int, generation: int, size_bytes: int, files: Files) -> None:
        self.generation = generation
        self.size_bytes = size_bytes
        self._fd = fd
        self._files = files

    @classmethod
    def create(cls, directory: str, generation: int, files: Files) -> LogWriter:
        """Make an empty log; it and its name are durable on return."""
        fd = files.create(os.path.join(directory, log_name(generation)))
        try:
            files.write(fd, pack_head(_TEXT, LOG_VERSION, generation))
            files.datasync(fd)
            files.sync_dir(directory)
        except BaseException:
            files.close(fd)
            raise
        return cls(fd, generation, HEAD_BYTES, files)

    @classmethod
    def resume(cls, directory: str, generation: int, good_bytes: int, files: Files) -> LogWriter:
        """Go on after the last good record; a torn rest is cut off. All that was read is durable then."""
        path = os.path.join(directory, log_name(generation))
        fd = files.reopen(path)
        try:
            if os.path.getsize(path) > good_bytes:
                files.truncate(fd, good_bytes)
            files.datasync(fd)  # whoever wrote the last record may have died before its sync
        except BaseException:
            files.close(fd)
            raise
        return cls(fd, generation, good_bytes, files)

    def append(self, kind: int, lsn: int, payload: list[Buffer]) -> None:
        """Add one record; durable on return. Raises OSError, see the class."""
        length = sum(len(part) for part in payload)
        assert length <= PAYLOAD_BYTES_MAX, "callers bound their batches"
        head = _HEAD.pack(kind, lsn, length)
        digest = _digest(self.generation, self.size_bytes, head, payload)
        self._files.write(self._fd, b"".join([head, digest, *payload]))
        self._files.datasync(self._fd)
        self.size_bytes += _HEAD_BYTES + length

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._fd)


class LogReader:
    """Reads one log; after the iteration `good_bytes` and `torn_bytes` say where it ended and what was left.

    `good_bytes` is 0 if not even the file's head is whole.
    """

    def __init__(self, directory: str, generation: int) -> None:
        self.generation = generation
        self.good_bytes = 0
        self.torn_bytes = 0
        self._path = os.path.join(directory, log_name(generation))

    def __iter__(self) -> Iterator[Record]:
        """Yield the records up to the first bad one, or the first block that can't be read.

        Raises:
            NewerFormat: a newer release wrote it.
            OSError: it can't be read now, for want of something.
        """
        with open(self._path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.torn_bytes = size
            head = read_head(_read(file, HEAD_BYTES), _TEXT, LOG_VERSION, self._path)
            if head is None or head[0] != self.generation:
                return
            self.good_bytes = HEAD_BYTES
            self.torn_bytes = size - self.good_bytes
            while self.torn_bytes:
                head_bytes = _read(file, _HEAD_BYTES)
                if len(head_bytes) < _HEAD_BYTES:
                    return
                kind, lsn, length = _HEAD.unpack_from(head_bytes)
                if length > self.torn_bytes - _HEAD_BYTES or length > PAYLOAD_BYTES_MAX:
                    return
                payload = _read(file, length)
                expected = _digest(self.generation, self.good_bytes, head_bytes[: _HEAD.size], [payload])
                if expected != head_bytes[_HEAD.size :] or not _makes_sense(kind, memoryview(payload)):
                    return
                yield Record(kind, lsn, memoryview(payload))
                self.good_bytes += _HEAD_BYTES + length
                self.torn_bytes -= _HEAD_BYTES + length


def _read(file: BinaryIO, count: int) -> bytes:
    """Read up to `count` bytes: none where a block can't be read, so that it ends the log as a tear does."""
    try:
        return file.read(count)
    except OSError as error:
        if is_read_fault(error):
            return b""
        raise


def _digest(generation: int, offset: int, head: Buffer, payload: list[Buffer]) -> bytes:
    hasher = blake3(_PLACE.pack(generation, offset))
    hasher.update(head)
    for part in payload:
        hasher.update(part)
    digest: bytes = hasher.digest(length=_DIGEST_BYTES)
    return digest
