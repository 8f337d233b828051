r"""The run: one immutable file of sorted rows, all partitions in order, mapped into memory.

Layout (little-endian; rows and fences as in `rows`):

    head       64 bytes as in `heads`: "staddle fingerprint run\n", generation, prefix bits
    rows       32 bytes each, sorted; partition p is one contiguous section
    fences     u32 each, 2 ** prefix_bits + 1 of them

The partitions share one file, because hashed keys reach all of them at once: a merge round rewrites every
section anyway, one file needs one map, one descriptor and one commit, and a batch is searched in all
partitions together instead of in 256 little searches.

Why mapped: a look-up of 256 keys takes about four times the processor time if each bucket is read by a call
of its own. The price: where the disk can't read a mapped page, the access is no error that could be caught,
it ends the process (SIGBUS; Windows: an in-page error). So whoever opens a run after processes that did not
live to close it (`Store`) has it read through first, by calls that do fail.
"""

from __future__ import annotations

import io
import mmap
import os
from contextlib import suppress
from typing import Annotated

import msgspec
import numpy as np
from blake3 import blake3

from staddle.dedup.heads import HEAD_BYTES, pack_head, read_head
from staddle.dedup.rows import (
    PARTITIONS,
    PREFIX_BITS_MAX,
    PREFIX_BITS_MIN,
    ROW_BYTES,
    ROW_WORDS,
    Table,
    U32Array,
    U64Array,
    fences_of,
)
from staddle.engine.bounds import Number
from staddle.errors import Corrupt
from staddle.platform.durable import Files
from staddle.platform.readfault import is_read_fault

RUN_VERSION = 1
_TEXT = b"staddle fingerprint run\n"
_READ_BYTES = 1 << 20
_WRITE_BYTES = 1 << 20
_SYNC_BYTES = 16 << 20  # sync as we go: the last publish of a round must not wait for all of it
_FENCES_DIGEST_BYTES = 16


class RunRef(msgspec.Struct, frozen=True):
    """What the manifest says about the run.

    Attributes:
        generation: in the file's name, never used again.
        prefix_bits: size of the fences.
        row_count: rows in the file.
        fences_digest: BLAKE3 of the fences (rows have their own checks).
    """

    generation: Number
    prefix_bits: Annotated[int, msgspec.Meta(ge=PREFIX_BITS_MIN, le=PREFIX_BITS_MAX)]
    row_count: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    fences_digest: bytes


def run_name(generation: int) -> str:
    """File name of a run."""
    return f"run.{generation:010d}"


def open_run(directory: str, ref: RunRef, *, readable: bool = True) -> Table:
    """Map a run. Rows are checked when they are used, or by `Library.verify`.

    Args:
        directory: of the library.
        ref: what the manifest says.
        readable: as far as is known. Else all of it is read first, so that no access to the map ends the
            process: at the speed of the disk, in bounded memory.

    Raises:
        Corrupt: missing, cut, unreadable, or not this run; its rows are lost.
        NewerFormat: a newer release wrote it.
        OSError: it can't be mapped now, for want of something; its rows are not lost.
    """
    path = os.path.join(directory, run_name(ref.generation))
    fence_count = (1 << ref.prefix_bits) + 1
    expected_bytes = HEAD_BYTES + ref.row_count * ROW_BYTES + fence_count * 4
    hint = "its partitions answer unknown until they are rebuilt from the containers"
    try:
        with open(path, "rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes != expected_bytes:
                raise Corrupt(f"{path}: {size_bytes} bytes, expected {expected_bytes}", hint=hint)
            if not readable:
                _read_through(file)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or is_read_fault(error):
            raise Corrupt(f"{path}: {error.strerror or error}", hint=hint) from error
        raise
    if read_head(mapped[:HEAD_BYTES], _TEXT, RUN_VERSION, path) != (ref.generation, ref.prefix_bits):
        raise Corrupt(f"{path}: not run {ref.generation}", hint=hint)
    rows = np.frombuffer(mapped, "<u8", ref.row_count * ROW_WORDS, HEAD_BYTES).reshape(-1, ROW_WORDS)
    fences = np.frombuffer(mapped, "<u4", fence_count, HEAD_BYTES + ref.row_count * ROW_BYTES)
    if _digest(fences) != ref.fences_digest:
        raise Corrupt(f"{path}: the fences are damaged", hint=hint)
    return Table(rows, fences, ref.prefix_bits)


def _read_through(file: io.FileIO) -> None:
    buffer = bytearray(_READ_BYTES)
    while file.readinto(buffer):
        pass


class RunWriter:
    """Writes a run, partition by partition in ascending order. Nothing refers to it before `finish`."""

    def __init__(self, directory: str, generation: int, prefix_bits: int, files: Files) -> None:
        self._directory = directory
        self._path = os.path.join(directory, run_name(generation))
        self._generation = generation
        self._prefix_bits = prefix_bits
        self._files = files
        self._row_count = 0
        self._fences: list[U32Array] = []
        self._pending = [pack_head(_TEXT, RUN_VERSION, generation, prefix_bits)]
        self._pending_bytes = HEAD_BYTES
        self._unsynced_bytes = 0
        self._fd: int | None = files.create(self._path)

    def add(self, partition: int, rows: U64Array) -> None:
        """Append a partition's sorted rows."""
        fences = fences_of(rows, self._prefix_bits, partition)
        self._fences.append(fences[:-1] + np.uint32(self._row_count))
        self._row_count += len(rows)
        self._write(rows.tobytes())

    def finish(self) -> RunRef:
        """Write the fences; the file and its name are durable on return."""
        assert len(self._fences) == PARTITIONS, "every partition is added, an empty one too"
        fences = np.concatenate([*self._fences, np.array([self._row_count], np.uint32)])
        self._write(fences.astype("<u4").tobytes())
        self._flush(sync=True)
        self._close()
        self._files.sync_dir(self._directory)
        return RunRef(self._generation, self._prefix_bits, self._row_count, _digest(fences))

    def abort(self) -> None:
        """Give up: close and remove the file, as far as it can be."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):  # what stays is swept at the next opening
            self._files.remove(self._path)

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _WRITE_BYTES:
            self._flush(sync=self._unsynced_bytes + self._pending_bytes >= _SYNC_BYTES)

    def _flush(self, *, sync: bool) -> None:
        assert self._fd is not None, "the run is finished"
        self._files.write(self._fd, b"".join(self._pending))
        self._unsynced_bytes += self._pending_bytes
        self._pending, self._pending_bytes = [], 0
        if sync:
            self._files.datasync(self._fd)
            self._unsynced_bytes = 0

    def _close(self) -> None:
        # Once, also if it fails: the number may be another file's then.
        fd, self._fd = self._fd, None
        if fd is not None:
            self._files.close(fd)


def _digest(fences: U32Array) -> bytes:
    digest: bytes = blake3(fences.astype("<u4", copy=False).data.cast("B")).digest(
        length=_FENCES_DIGEST_BYTES
    )
    return digest
