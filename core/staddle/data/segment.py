"""Builds one segment: records in, stored containers and the manifest out.

A segment boundary is a forced cut: what a segment holds depends on its records alone, so a segment that is
sent again after a failure has the same chunks. With segments of 64 MiB this costs one or two chunks each.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.api.types import Buffer
from staddle.data.base import BaseChunks, NeedContent
from staddle.data.collect import Collector
from staddle.data.manifest import ZERO_REGION, EntryBatch, EntryFlag, EntryType, ManifestBuilder, ManifestHead
from staddle.data.packer import StoredContainer
from staddle.data.pipeline import Pipeline, StreamPlan
from staddle.data.records import NO_BASE, FilesRecord, PartRecord
from staddle.data.runner import ZERO_ROW, Runner
from staddle.errors import ProtocolError

# Plain numbers: numpy takes several times as long with members of an enum.
_PART = int(EntryFlag.PART)
_PART_BITS = int(EntryFlag.PART | EntryFlag.LAST)
_DIRECTORY = int(EntryType.DIRECTORY)
_NAMED_STREAM = int(EntryType.NAMED_STREAM)
_IMAGE = int(EntryType.IMAGE)


class SegmentResult(msgspec.Struct, frozen=True, kw_only=True):
    """A segment whose data is stored; its manifest is not yet.

    Attributes:
        manifest: plain bytes, to be sealed and stored.
        containers: those stored for this segment, with their receipts.
        refers: ids of all containers that the manifest refers to, new and old (for COMMIT).
        first, next: the records `[first, next)`.
        files: entries that are no directories; a file in parts counts where its last part is.
        dirs: directories.
        bytes_read: contents that came in records.
        bytes_hole: zero regions that came as a length.
        bytes_unchanged: size of the entries taken over from the base.
        bytes_stored: containers' sizes, of one copy.
        chunks: chunk rows.
        chunks_hit: of these, how many were stored before.
    """

    manifest: bytes
    containers: list[StoredContainer]
    refers: list[bytes]
    first: int
    next: int
    files: int
    dirs: int
    bytes_read: int
    bytes_hole: int
    bytes_unchanged: int
    bytes_stored: int
    chunks: int
    chunks_hit: int


class _Entries(msgspec.Struct, frozen=True):
    """Rows for the manifest; `first` of the `based` rows counts from the end of the segment's own chunks."""

    batch: EntryBatch
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    based: NDArray[np.intp]


class SegmentBuilder:
    """One segment of one stream. Used by one thread; a context manager that aborts what was not finished.

    `add` all records in order, then `finish`. Any error ends the segment: `abort` it (or leave the context).
    The one exception is NeedContent, after which the same segment goes on.

    Attributes:
        bytes_read: contents so far.
        rows: entries so far; with `chunks`, what bounds a manifest.
    """

    def __init__(self, shared: Pipeline, plan: StreamPlan, head: ManifestHead) -> None:
        """Begin a segment.

        Args:
            shared: of the process.
            plan: of the (stream, epoch).
            head: of the manifest, all but `next`.

        Raises: Unavailable (too many unfinished segments), NewerFormat (chunker).
        """
        self._shared = shared
        self._plan = plan
        self._runner = Runner(shared, plan)
        chunker = shared.enter(plan)  # counted last: whatever fails before it has nothing to undo
        self._open = True
        self._head = head
        self._collector = Collector(
            chunker, self._runner.batch_buffer, shared.batches.release, self._runner.submit
        )
        self._entries: list[_Entries] = []
        self._based: list[BaseChunks] = []
        self._based_rows = 0
        self._part: PartRecord | None = None
        self._part_offset = 0
        self._part_first = 0
        self.bytes_read = 0
        self.rows = 0
        self._bytes_hole = 0
        self._bytes_unchanged = 0
        self._files = 0
        self._dirs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def chunks(self) -> int:
        """Chunk rows so far; those of the open buffer's last file may not be counted yet."""
        return self._collector.chunks + self._based_rows

    def add(self, record: FilesRecord | PartRecord, payload: Buffer) -> None:
        """Take the next record; the payload is copied. Waits while the workers or the media are behind.

        Raises: NeedContent (nothing of this record was taken), ProtocolError (records that don't fit
        together), and whatever failed in the background.
        """
        self._runner.check()
        if isinstance(record, FilesRecord):
            self._add_files(record, payload)
        else:
            self._add_part(record, payload)

    def finish(self, next_seq: int) -> SegmentResult:
        """Pack and store all that is left, and describe it.

        Args:
            next_seq: the first record after this segment.

        Raises: as `add`; then the segment is aborted already.
        """
        try:
            if self._part is not None:
                self._end_part(last=False)
            self._collector.flush()
            self._runner.drain()
            result = self._result(next_seq)
        except BaseException:
            self.abort()
            raise
        self._leave()
        self._runner.close()
        return result

    def cancel(self) -> None:
        """From any thread: let `add` or `finish`, which may be waiting, raise Cancelled soon."""
        self._runner.cancel()

    def abort(self) -> None:
        """Give the segment up: threads stop working for it, its buffers are free again. Idempotent.

        Raises: DeadlineExceeded if a thread hangs.
        """
        if not self._open:
            return
        self._leave()
        self._collector.abort()
        self._runner.abort()
        self._runner.close()

    def _leave(self) -> None:
        self._open = False
        self._shared.leave()

    # --- records ------------------------------------------------------------------------------

    def _add_files(self, record: FilesRecord, payload: Buffer) -> None:
        if self._part is not None:
            raise ProtocolError("files came before the last part of the file before them")
        rows = len(record.batch)
        based = np.flatnonzero(record.base_manifests != NO_BASE)
        taken = self._take_base(record) if len(based) else None
        before = self._collector.chunks
        count = self._collector.files(payload, record.content_lengths).astype(np.int64)
        first = before + np.cumsum(count) - count
        if taken is not None:
            based = taken.at
            first[based] = taken.first + self._based_rows
            count[based] = taken.count
            self._based.append(taken)
            self._based_rows += len(taken.lengths)
            self._bytes_unchanged += int(taken.lengths.sum())
        self._entries.append(_Entries(record.batch, first, count, based))
        self.rows += rows
        self.bytes_read += len(payload)
        self._count(record.batch)

    def _take_base(self, record: FilesRecord) -> BaseChunks:
        if self._plan.base is None:
            raise NeedContent(np.flatnonzero(record.base_manifests != NO_BASE).tolist(), [])
        return self._plan.base.take(record, self._plan.known.usable)

    def _add_part(self, record: PartRecord, payload: Buffer) -> None:
        if self._part is None:
            self._part_offset = record.offset
            self._part_first = self._collector.chunks
            self._collector.begin(record.offset, fixed=int(record.batch.columns["type"][0]) == _IMAGE)
        elif record.offset != self._collector.offset:
            raise ProtocolError(f"a part at {record.offset} came where {self._collector.offset} was expected")
        self._part = record
        if payload:
            self._collector.piece(payload)
            self.bytes_read += len(payload)
        if record.zero_bytes:
            self._collector.hole(record.zero_bytes)
            self._bytes_hole += record.zero_bytes
        if record.last:
            self._end_part(last=True)

    def _end_part(self, *, last: bool) -> None:
        """The open file or its piece in this segment is complete: one row."""
        record = self._part
        assert record is not None
        self._part = None
        count = self._collector.end()
        columns = record.batch.columns
        bits = 0 if last and not self._part_offset else EntryFlag.PART | (EntryFlag.LAST if last else 0)
        batch = msgspec.structs.replace(
            record.batch,
            columns={
                **columns,
                "offset": np.array([self._part_offset], columns["offset"].dtype),
                "flags": (columns["flags"] & ~np.uint16(_PART_BITS)) | np.uint16(bits),
            },
        )
        none = np.zeros(0, np.intp)
        self._entries.append(_Entries(batch, np.array([self._part_first]), np.array([count]), none))
        self.rows += 1
        self._count(batch)

    def _count(self, batch: EntryBatch) -> None:
        kind, flags = batch.columns["type"], batch.columns["flags"]
        directory = kind == _DIRECTORY
        counted = (flags & _PART_BITS) != _PART
        counted &= ~directory & (kind != _NAMED_STREAM)
        self._dirs += int(directory.sum())
        self._files += int(counted.sum())

    # --- the result ---------------------------------------------------------------------------

    def _result(self, next_seq: int) -> SegmentResult:
        rows = self._runner.rows()
        containers = self._runner.stored()
        table = self._runner.table
        builder = ManifestBuilder(self._head)
        for container_id in table.ids:  # in order, so that its numbers are the manifest's indexes
            builder.container_index(container_id)
        numbers = np.where(rows.numbers == ZERO_ROW, ZERO_REGION, rows.numbers)
        builder.add_chunks(rows.fingerprints, numbers, rows.ordinals, rows.lengths)
        for taken in self._based:
            indexes = np.array([builder.container_index(each) for each in taken.containers], np.uint32)
            container = taken.container.copy()
            stored = container != ZERO_REGION
            container[stored] = indexes[container[stored]]
            builder.add_chunks(taken.fingerprints, container, taken.ordinals, taken.lengths)
        for entries in self._entries:
            entries.first[entries.based] += len(rows.lengths)
            builder.add_entries(entries.batch, entries.first, entries.count)
        return SegmentResult(
            manifest=builder.build(next_seq),
            containers=containers,
            refers=list(builder.containers),
            first=self._head.first,
            next=next_seq,
            files=self._files,
            dirs=self._dirs,
            bytes_read=self.bytes_read,
            bytes_hole=self._bytes_hole,
            bytes_unchanged=self._bytes_unchanged,
            bytes_stored=sum(each.size_bytes for each in containers),
            chunks=builder.chunk_rows,
            chunks_hit=self._runner.hits,
        )
