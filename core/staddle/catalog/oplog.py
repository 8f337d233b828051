"""The append-only op-log: every change of the grid, durable before it is acknowledged.

`append` takes records with their LSNs and gives a future that is resolved when they are durable. One writer
thread takes whatever has queued up meanwhile into one write and one datasync (group commit). After a failed
write or sync nothing can be known about the pages that were dirty, so the log accepts nothing more: the
process has to end, and the next one recovers what is on disk.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress

import msgspec

from staddle.api.catalog import Record
from staddle.catalog.latency import CommitLatency
from staddle.catalog.logformat import (
    DAMAGED_HINT,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    LogHeader,
    encode_frame,
    encode_header,
    encode_records,
    file_name,
)
from staddle.catalog.logrecovery import LogFile, log_names, make_sure, read_records, scan_log
from staddle.catalog.snapshots import Snapshot, newest_epoch, verified, write_snapshot
from staddle.errors import ConfigError, Corrupt, Fenced, StaddleError, Unavailable, UsageError
from staddle.platform.descriptors import none_free, when_free
from staddle.platform.durable import FILES, Files, make_directories

SEGMENT_BYTES = 16 << 20
ROOM_BYTES = 1 << 20
QUEUE_BYTES_MAX = 64 << 20
BATCH_BYTES = 4 << 20
CLOSE_WAIT_S = 30.0
DESCRIPTOR_WAIT_S = 10.0


class _Waiting(msgspec.Struct, frozen=True):
    encoded: list[bytes]
    size_bytes: int
    last_lsn: int
    since_s: float
    durable: Future[int]


def highest_epoch(directory: str) -> int:
    """Highest manager epoch that the log or its snapshots know; 0 without a log (K1 takes the next)."""
    if not os.path.isdir(directory):
        return 0
    return max([newest_epoch(directory), *(epoch for epoch, _, _ in log_names(directory))])


class OpLog:
    """The log of one manager epoch, with all earlier ones behind it. Safe for use by several threads.

    Attributes:
        epoch: the manager epoch that writes.
        first_lsn: first record that `replay` can still give.
        latency: seconds from `append` to durable.
    """

    def __init__(
        self,
        directory: str,
        grid: bytes,
        epoch: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files = FILES,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Recover what is there and begin a file of this epoch, durably.

        Args:
            directory: made if it is missing; its parent must exist.
            grid: 16 bytes.
            epoch: above every epoch in the log.
            segment_bytes: where a new file is begun.
            files: the file system.
            clock: seconds, for the latency only.

        Raises:
            Fenced: the log already has this epoch or a later one.
            Corrupt, NewerFormat, ConfigError: see `scan_log`.
            OSError: the file system.
        """
        self._directory, self._grid, self.epoch = directory, grid, epoch
        self._segment_bytes, self._files_api, self._clock = segment_bytes, files, clock
        self.latency = CommitLatency()
        self._make_directory()
        seen = highest_epoch(directory)
        if epoch <= seen:
            raise Fenced(
                f"op-log {directory} already has epoch {seen}, epoch {epoch} can't write it",
                hint="another manager has taken over",
                scope="cluster",
            )
        self._sweep()
        newest = next(verified(directory, grid), None)
        scan = scan_log(directory, grid, covered_lsn=newest.lsn if newest else 0)
        make_sure(scan, files)
        self._snapshot_lsn = newest.lsn if newest else 0
        self.first_lsn = scan.first_lsn
        self._logs = scan.files
        self._next_lsn = scan.next_lsn
        self._durable_lsn = scan.next_lsn - 1
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._closing = False
        self._failure: StaddleError | None = None
        self._changed = threading.Condition()
        self._fd = -1
        self._begin_file(scan.next_lsn)
        self._writer = threading.Thread(target=self._write_loop, name="op-log", daemon=True)
        self._writer.start()

    @property
    def durable_lsn(self) -> int:
        """The last durable record."""
        return self._durable_lsn

    @property
    def last_lsn(self) -> int:
        """The last record that was appended, durable or not yet."""
        return self._next_lsn - 1

    def append(self, records: Sequence[Record]) -> Future[int]:
        """Queue records that become durable together: after a crash all of them are there, or none.

        Does not block. The future gives the last LSN once it is durable; it can't be cancelled.

        Args:
            records: the next ones, of this epoch.

        Raises:
            Unavailable: too much waits for the disk already; the same records may be appended later.
            UsageError: not the next records, or more than a frame holds.
            StaddleError: the log has failed or is closed.
        """
        done: Future[int] = Future()
        done.set_running_or_notify_cancel()
        encoded = encode_records(records)
        size_bytes = sum(map(len, encoded))
        if size_bytes + 5 > FRAME_BYTES_MAX:
            raise UsageError(f"one change of {size_bytes} bytes; the op-log takes {FRAME_BYTES_MAX}")
        with self._changed:
            self._check_usable()
            given = [(record.epoch, record.lsn) for record in records]
            wanted = [(self.epoch, self._next_lsn + index) for index in range(len(records))]
            if not records or given != wanted:
                raise UsageError(
                    f"op-log: records {given[:1]}, where ({self.epoch}, {self._next_lsn}) belongs"
                )
            if self._queue and self._queue_bytes + size_bytes > QUEUE_BYTES_MAX:
                raise Unavailable(
                    f"op-log: {self._queue_bytes} bytes wait for the disk already",
                    code="LOG_BUSY",
                    hint="the manager's disk is too slow, see commit_seconds",
                )
            self._next_lsn += len(records)
            self._queue_bytes += size_bytes
            self._queue.append(_Waiting(encoded, size_bytes, self._next_lsn - 1, self._clock(), done))
            self._changed.notify()
        return done

    def replay(self, after_lsn: int = 0) -> Iterator[Record]:
        """Records above `after_lsn` that are durable now, in order.

        Raises:
            Corrupt: some of them are not there (dropped below a snapshot) or are damaged.
        """
        with self._changed:
            logs = [msgspec.structs.replace(log) for log in self._logs]
            upto = self._durable_lsn
        return read_records(logs, after_lsn, upto)

    def check_holds(self, epoch: int, lsn: int) -> None:
        """See that the log has the record that somebody was told of as durable.

        A damaged last write can't be told from one that a crash cut short, and is cut off. Whoever knows more
        than the log is left with is the proof that it was acknowledged.

        Args:
            epoch: of the record; 0 if it is not known.
            lsn: of the record.

        Raises:
            Corrupt: it has no such record, or another epoch's in its place.
        """
        if lsn < self.first_lsn or lsn <= self._snapshot_lsn:
            return  # a snapshot stands in for it
        found = next(self.replay(lsn - 1), None) if lsn <= self._durable_lsn else None
        if found is None or epoch not in {0, found.epoch}:
            raise Corrupt(
                f"op-log {self._directory}: record {lsn} of epoch {epoch} was acknowledged and is not there: "
                "the end of the log is damaged",
                hint=DAMAGED_HINT,
            )

    def write_snapshot(self, lsn: int, state: bytes) -> None:
        """Keep the tier-1 state after record `lsn`, durably; the two newest are kept.

        Raises:
            UsageError: `lsn` is not durable yet, or an equal or later snapshot exists.
            OSError: the file system.
        """
        if not self._snapshot_lsn < lsn <= self._durable_lsn:
            raise UsageError(
                f"a snapshot of record {lsn} must lie in ({self._snapshot_lsn}, {self._durable_lsn}]"
            )
        write_snapshot(self._directory, self._grid, Snapshot(self.epoch, lsn, state), self._files_api)
        self._snapshot_lsn = lsn

    def newest_snapshot(self) -> Snapshot | None:
        """The newest snapshot that verifies, read from disk."""
        return next(verified(self._directory, self._grid), None)

    def truncate(self, floors: Sequence[int]) -> list[str]:
        """Drop files whose records all lie at or below two verified snapshots and every floor.

        Args:
            floors: LSNs that are safe elsewhere: of a copy of a snapshot in another failure domain, and what
                each consumer (catalog, replica, DR set) has taken. None given drops nothing.

        Returns:
            The paths that were removed.
        """
        lsns = [snapshot.lsn for snapshot in verified(self._directory, self._grid)]
        if len(lsns) < 2 or not floors:
            return []
        bound = min(lsns[1], *floors)
        removed = []
        with self._changed:
            while len(self._logs) > 1 and self._logs[0].next_lsn - 1 <= bound:
                removed.append(self._logs.pop(0).path)
            self.first_lsn = next(log.header.first_lsn for log in self._logs if not log.superseded)
        for path in removed:  # ascending, so that a crash in between leaves no hole
            with suppress(FileNotFoundError):
                self._files_api.remove(path)
            self._files_api.sync_dir(self._directory)
        return removed

    def close(self) -> None:
        """Write what waits, and stop. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join(CLOSE_WAIT_S)
        if self._writer.is_alive():
            raise Unavailable(f"op-log {self._directory}: the disk does not answer", scope="cluster")
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._files_api.close(fd)

    # --- the writer thread -----------------------------------------------------------------------

    def _write_loop(self) -> None:
        while batch := self._take():
            try:
                self._write([piece for waiting in batch for piece in waiting.encoded], batch[-1].last_lsn)
            except Exception as error:  # noqa: BLE001 - whatever it was, nothing after it may be acknowledged
                self._fail(error, batch)
                return
            now_s = self._clock()
            for waiting in batch:
                self.latency.observe(now_s - waiting.since_s)
                waiting.durable.set_result(waiting.last_lsn)

    def _take(self) -> list[_Waiting]:
        """The next group, or nothing once the log is closed and empty."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait(timeout=1.0)
            batch: list[_Waiting] = []
            size_bytes = 0
            while self._queue and (not batch or size_bytes + self._queue[0].size_bytes <= BATCH_BYTES):
                waiting = self._queue.popleft()
                batch.append(waiting)
                size_bytes += waiting.size_bytes
            self._queue_bytes -= size_bytes
            return batch

    def _write(self, encoded: list[bytes], last_lsn: int) -> None:
        """One frame, durable on return."""
        if self._logs[-1].end >= self._segment_bytes:
            self._begin_file(self._logs[-1].next_lsn)
        log = self._logs[-1]
        frame = encode_frame(encoded, log.header.salt, log.end)
        self._make_room(log.end, len(frame))
        self._files_api.write(self._fd, frame)
        self._files_api.datasync(self._fd)
        with self._changed:
            log.end += len(frame)
            log.next_lsn = last_lsn + 1
            self._durable_lsn = last_lsn

    def _make_room(self, end: int, size_bytes: int) -> None:
        """Lengthen the file with zeros, so that most commits overwrite and change no length."""
        if end + size_bytes <= self._room_end:
            return
        os.lseek(self._fd, self._room_end, os.SEEK_SET)
        missing = end + size_bytes - self._room_end
        self._files_api.write(self._fd, bytes(missing + ROOM_BYTES))
        self._files_api.datasync(self._fd)
        self._room_end += missing + ROOM_BYTES
        os.lseek(self._fd, end, os.SEEK_SET)

    def _begin_file(self, first_lsn: int) -> None:
        """A new file with its header and some room, whole and durable before it has its name.

        While no descriptor is free, the file that is open takes more. Once the new one has its name there is
        no way back: a record behind its beginning belongs into it.
        """
        header = LogHeader(
            grid=self._grid, epoch=self.epoch, first_lsn=first_lsn, salt=secrets.token_bytes(32)
        )
        path = os.path.join(self._directory, file_name(self.epoch, first_lsn))
        temporary = path + ".tmp"
        full = self._fd
        try:
            fd = self._files_api.create(temporary)
        except OSError as error:
            if full >= 0 and none_free(error):
                return
            raise
        try:
            self._files_api.write(fd, encode_header(header) + bytes(ROOM_BYTES))
            self._files_api.datasync(fd)
        finally:
            self._files_api.close(fd)  # Windows renames no open file
        self._files_api.replace(temporary, path)
        when_free(lambda: self._files_api.sync_dir(self._directory), DESCRIPTOR_WAIT_S)
        self._fd = when_free(lambda: self._files_api.reopen(path), DESCRIPTOR_WAIT_S)
        if full >= 0:
            self._files_api.close(full)
        os.lseek(self._fd, HEADER_BYTES, os.SEEK_SET)
        self._room_end = HEADER_BYTES + ROOM_BYTES
        with self._changed:
            self._logs.append(LogFile(path=path, header=header, next_lsn=first_lsn, end=HEADER_BYTES))

    def _fail(self, error: Exception, batch: list[_Waiting]) -> None:
        failure = StaddleError(
            f"op-log {self._directory}: write failed: {error}",
            hint="the manager ends; check the disk, then start it again",
            code="LOG_FAILED",
            retry="operator",
            scope="cluster",
            outcome="in_doubt",
        )
        with self._changed:
            self._failure = failure
            pending = [*batch, *self._queue]
            self._queue.clear()
            self._queue_bytes = 0
        for waiting in pending:
            waiting.durable.set_exception(failure)

    # --- helpers ---------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise Unavailable(f"op-log {self._directory} is closed")

    def _sweep(self) -> None:
        """Remove files that a process of an earlier epoch began and never gave their name."""
        for name in os.listdir(self._directory):
            if name.endswith(".tmp"):
                self._files_api.remove(os.path.join(self._directory, name))

    def _make_directory(self) -> None:
        try:
            make_directories(self._directory)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"op-log: {self._directory} is not a directory") from error
