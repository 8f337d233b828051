"""Turns what was found into the rows of FILES and PART records, within the limits of a record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from staddle.client import acls
from staddle.client.attributes import I64_MAX, I64_MIN, clamp_ns
from staddle.client.kept import KeptFounds
from staddle.client.scan import Found
from staddle.client.units import OwnerNames, Record
from staddle.data.records import (
    NO_BASE,
    ROWS_MAX,
    EntryFlag,
    EntryRows,
    EntryType,
    encode_files,
    encode_part,
)

META_BYTES: Final = 224 << 10
"""A record is closed before its meta gets longer; what a row says of itself may make one longer alone."""
_ROW_BYTES: Final = 96
_OWNER_BYTES: Final = 80
_MODE_BITS: Final = 0o7777
_NOT_BASED: Final = (NO_BASE, 0)
_U64: Final = 0xFFFFFFFFFFFFFFFF
_encode = msgspec.msgpack.Encoder().encode


def _values(
    status: os.stat_result, kind: EntryType, flags: int, size: int | None, offset: int
) -> tuple[int, ...]:
    """A row's numbers. Times that no column holds are the nearest ones."""
    mtime_ns, ctime_ns = status.st_mtime_ns, status.st_ctime_ns
    if not I64_MIN <= mtime_ns <= I64_MAX or not I64_MIN <= ctime_ns <= I64_MAX:
        mtime_ns, ctime_ns = clamp_ns(mtime_ns), clamp_ns(ctime_ns)
    return (
        kind,
        status.st_mode & _MODE_BITS,
        status.st_uid,
        status.st_gid,
        status.st_size if size is None else size,
        mtime_ns,
        ctime_ns,
        status.st_ino & _U64,
        status.st_dev & _U64,
        status.st_nlink,
        offset,
        flags,
    )


def part_meta(
    names: OwnerNames,
    found: Found,
    offset: int,
    size: int,
    *,
    flags: int = 0,
    zero_bytes: int = 0,
    last: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """Meta of a PART record of a file. `extra` counts on the last one only."""
    rows = EntryRows()
    values = _values(found.status, EntryType.FILE, flags, size, 0)
    rows.add_values(found.directory, found.name, values, extra=_encode(extra) if extra else b"")
    names.fill(rows, [found], *(acls.named_in(extra) if extra else ()))
    return encode_part(rows.build(), offset, zero_bytes=zero_bytes, last=last)


class RowBatch:
    """Rows and contents of many entries, cut into FILES records.

    Contents are read into `room`, then the row is added. A record ends where the next row would make it too
    long: how much a row says of its entry is known only when the entry was looked at.

    Attributes:
        files, dirs, bytes_read, bytes_unchanged: for the tally, counted by who adds.
    """

    def __init__(self, names: OwnerNames, payload_bytes: int) -> None:
        """Args: payload_bytes: of all contents that may be read."""
        self._names = names
        self._payload = memoryview(bytearray(payload_bytes))
        self._used = 0
        self._closed: list[Record] = []
        self.files = self.dirs = self.bytes_read = self.bytes_unchanged = 0
        self._open()

    def _open(self) -> None:
        self._rows = EntryRows()
        self._lengths: list[int] = []
        self._bases: list[tuple[int, int]] = []
        self._founds: list[Found] = []
        self._owners: set[int] = set()
        self._users: set[int] = set()
        self._groups: set[int] = set()
        self._first = self._used
        self._begin = self._cost = 0
        self._unchanged = False
        self._last_directory = b""

    def room(self, size_bytes: int) -> memoryview:
        """Where the next entry's content goes."""
        return self._payload[self._used : self._used + size_bytes]

    def add(
        self,
        found: Found,
        kind: EntryType,
        *,
        length: int = 0,
        base: tuple[int, int] | None = None,
        flags: int = 0,
        size: int | None = None,
        offset: int = 0,
        link: bytes = b"",
        extra: Mapping[str, Any] | bytes | None = None,
    ) -> None:
        """The next row.

        Args:
            found: the entry.
            kind: what it is.
            length: of its content, which stands in `room`.
            base: (manifest, row) of the base backup that has the content instead.
            flags: EntryFlag.
            size: of the file, if it is not the status's.
            offset: where in the file the content begins.
            link: target.
            extra: further metadata, packed or not.
        """
        status, name, directory = found.status, found.name, found.directory
        packed = extra if isinstance(extra, bytes) else _encode(extra) if extra else b""
        cost = _ROW_BYTES + len(name) + len(link) + len(packed)
        if directory != self._last_directory:
            cost += len(directory)
        if self._lengths and (self._cost + cost > META_BYTES or len(self._lengths) == ROWS_MAX):
            self.close()
            cost += len(directory)
        if not self._lengths:
            self._begin = offset
        owner = status.st_uid << 32 | status.st_gid
        if owner not in self._owners:
            self._owners.add(owner)
            cost += 2 * _OWNER_BYTES
        if packed:
            users, groups = acls.named_in(packed)
            cost += _OWNER_BYTES * (len(users - self._users) + len(groups - self._groups))
            self._users |= users
            self._groups |= groups
        self._last_directory = directory
        self._cost += cost
        self._used += length
        self._lengths.append(length)
        if base is None:
            base = _NOT_BASED
        else:
            self._unchanged = True
        self._bases.append(base)
        if not self._founds or self._founds[-1] is not found:
            self._founds.append(found)
        self._rows.add_values(directory, name, _values(status, kind, flags, size, offset), link, packed)

    def close(self) -> None:
        """Make a record of the rows so far."""
        if not self._lengths:
            return
        self._names.fill(self._rows, self._founds, self._users, self._groups)
        bases = np.array(self._bases, np.uint32)
        meta = encode_files(self._rows.build(), self._lengths, bases[:, 0], bases[:, 1])
        payload = self._payload[self._first : self._used]
        founds = KeptFounds(self._founds) if self._unchanged else ()
        self._closed.append(Record(meta, payload, founds, self._begin))
        self._open()

    def take(self) -> list[Record]:
        """The records that are closed, once."""
        closed, self._closed = self._closed, []
        return closed


def unchanged_flags(*, parts: int, last: bool, sparse: bool) -> int:
    """Flags of a row whose content stands in the base backup."""
    flags = EntryFlag.UNCHANGED
    if sparse:
        flags |= EntryFlag.SPARSE
    if parts > 1:
        flags |= EntryFlag.PART | (EntryFlag.LAST if last else EntryFlag(0))
    return int(flags)
