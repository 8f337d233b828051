"""Reading a log directory: which records count, and what a crash or a zombie left behind.

Each manager epoch writes files of its own (K3). A file of epoch E that begins with LSN N seals every lower
epoch at N - 1: what a zombie of a lower epoch appends later is never read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from staddle.api.catalog import Record
from staddle.catalog.logformat import (
    DAMAGED_HINT,
    HEADER_BYTES,
    LogHeader,
    Tail,
    decode_header,
    judge_tail,
    parse_file_name,
    read_frames,
)
from staddle.errors import Corrupt
from staddle.platform.durable import Files


class LogFile(msgspec.Struct, kw_only=True):
    """One file of the log and the part of it that counts.

    Attributes:
        next_lsn: behind its last record that counts.
        end: offset behind its last valid frame; cut there if `torn`.
        superseded: a later epoch took over before its first record.
    """

    path: str
    header: LogHeader
    next_lsn: int
    end: int
    torn: bool = False
    superseded: bool = False


class LogScan(msgspec.Struct, kw_only=True):
    """A whole directory, checked.

    Attributes:
        next_lsn: what the next epoch begins with.
        last_bytes: the last file as it was read.
    """

    files: list[LogFile]
    epoch: int
    next_lsn: int
    last_bytes: memoryview

    @property
    def first_lsn(self) -> int:
        """First record that is still there, or `next_lsn` if there is none."""
        return next((file.header.first_lsn for file in self.files if not file.superseded), self.next_lsn)


def log_names(directory: str) -> list[tuple[int, int, str]]:
    """(epoch, first LSN, name) of every log file, ascending."""
    names = [(place, name) for name in os.listdir(directory) if (place := parse_file_name(name))]
    return sorted((*place, name) for place, name in names)


def scan_log(directory: str, grid: bytes, covered_lsn: int = 0) -> LogScan:
    """Read and check every file.

    Args:
        directory: the log's.
        grid: whose log it must be.
        covered_lsn: LSN of the newest verified snapshot; up to it records may be missing.

    Raises:
        Corrupt: acknowledged records are missing or damaged; names file and offset.
        NewerFormat: written by a newer release.
        ConfigError: of another grid.
    """
    places = log_names(directory)
    files: list[LogFile] = []
    expected = 0
    data = memoryview(b"")
    for index, (epoch, first_lsn, name) in enumerate(places):
        path = os.path.join(directory, name)
        limit = min((first for later, first, _ in places[index + 1 :] if later > epoch), default=None)
        last = index + 1 == len(places)
        data = _read(path)
        header = decode_header(data, path, grid)
        if (header.epoch, header.first_lsn) != (epoch, first_lsn):
            raise Corrupt(f"op-log file {path}: its header belongs to another file", hint=DAMAGED_HINT)
        if limit is not None and first_lsn >= limit:
            files.append(
                LogFile(path=path, header=header, next_lsn=first_lsn, end=HEADER_BYTES, superseded=True)
            )
            continue
        if expected and first_lsn != expected and first_lsn - 1 > covered_lsn:
            raise Corrupt(
                f"op-log file {path} begins with record {first_lsn}, where {expected} belongs",
                hint=DAMAGED_HINT,
            )
        file = _scan_file(data, header, path, limit=limit, last=last)
        files.append(file)
        expected = file.next_lsn
    _check_beginning(files, covered_lsn)
    return LogScan(
        files=files,
        epoch=max((place[0] for place in places), default=0),
        next_lsn=max(expected, covered_lsn + 1),
        last_bytes=data,
    )


def read_records(files: list[LogFile], after_lsn: int, upto_lsn: int) -> Iterator[Record]:
    """Records in `(after_lsn, upto_lsn]`, in order, one file in memory at a time.

    Raises:
        Corrupt: one of them is missing or damaged.
    """
    expected = after_lsn + 1
    for file in files:
        if file.superseded or file.next_lsn <= expected:
            continue
        for _end, records in read_frames(memoryview(_read(file.path)), file.header, file.path):
            for record in records:
                if record.lsn >= min(file.next_lsn, upto_lsn + 1):
                    break
                if record.lsn > expected:
                    raise Corrupt(
                        f"op-log: record {expected} is missing before {file.path}", hint=DAMAGED_HINT
                    )
                if record.lsn == expected:
                    expected += 1
                    yield record
    if expected <= upto_lsn:
        raise Corrupt(f"op-log: records from {expected} to {upto_lsn} are missing", hint=DAMAGED_HINT)


def make_sure(scan: LogScan, files: Files) -> None:
    """Cut what a crash left behind the last valid frame; durable is then what the scan has found.

    The last file is written again, as it was read, and synced, even if it is whole. A process that was killed
    may have died before its sync, and what builds on its records must not be durable without them. And a sync
    that failed is told of once: the system takes the pages for written from then on, and gives the records
    to every reader, while the disk has none of them. Earlier files were synced before a later one was begun.
    The names are made sure with the next file's. Raises OSError.
    """
    for file in scan.files:
        if file.torn or file is scan.files[-1]:
            fd = files.reopen(file.path)
            try:
                if file.torn:
                    files.truncate(fd, file.end)
                if file is scan.files[-1]:
                    os.lseek(fd, 0, os.SEEK_SET)
                    files.write(fd, scan.last_bytes[: file.end])
                files.datasync(fd)
            finally:
                files.close(fd)
            file.torn = False


def _scan_file(data: memoryview, header: LogHeader, path: str, *, limit: int | None, last: bool) -> LogFile:
    file = LogFile(path=path, header=header, next_lsn=header.first_lsn, end=HEADER_BYTES)
    for end, records in read_frames(data, header, path):
        if limit is not None and records[-1].lsn >= limit:
            break
        file.end, file.next_lsn = end, records[-1].lsn + 1
    if limit is not None and file.next_lsn == limit:
        return file  # sealed: whatever a zombie wrote behind it does not count
    tail, offset = judge_tail(data, file.end, header)
    if tail is Tail.DAMAGED or (tail is Tail.TORN and not last):
        raise Corrupt(f"op-log file {path}: damaged at offset {offset}", hint=DAMAGED_HINT)
    file.torn = tail is Tail.TORN
    return file


def _check_beginning(files: list[LogFile], covered_lsn: int) -> None:
    """Without a snapshot that covers what came before, a log must begin with record 1."""
    first = next((file for file in files if not file.superseded), None)
    if first is not None and first.header.first_lsn - 1 > covered_lsn:
        raise Corrupt(
            f"op-log file {first.path} begins with record {first.header.first_lsn}, "
            f"and no snapshot verifies that covers what came before",
            hint=DAMAGED_HINT,
        )


def _read(path: str) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(file.read())
