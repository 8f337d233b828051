"""From a scan to records: what the client reads, in the form that an agent takes (data.records)."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator

from staddle.client.base import BaseIndex, BaseRow
from staddle.client.scan import Found, reason
from staddle.client.units import HardLinks, OwnerNames, Record, Tally, Unit, Units
from staddle.data.records import (
    NO_BASE,
    PAYLOAD_BYTES_MAX,
    EntryFlag,
    EntryRows,
    EntryType,
    encode_files,
    encode_part,
)
from staddle.engine.messages import WHOLE_BASE

_OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOATIME", 0)
)


class Source:
    """Makes records for one job. One instance serves several streams' threads at once."""

    def __init__(self, base: BaseIndex, tally: Tally) -> None:
        self._base = base
        self._tally = tally
        self._links = HardLinks()
        self._names = OwnerNames()

    def records(self, units: Units) -> Iterator[Record]:
        """One stream's records: takes units until there are no more."""
        for unit in units:
            yield from self._unit(unit)

    def remake(self, dropped: list[Record], bad: list[bytes]) -> Iterator[Record]:
        """The same input again, without referring to `bad`: unchanged rows there are read now."""
        if WHOLE_BASE in bad:
            self._base.forget()
        else:
            self._base.exclude(bad)
        for record in dropped:
            if record.founds:
                yield from self._again(record.founds)
            else:
                yield record

    def _again(self, founds: list[Found]) -> Iterator[Record]:
        # Cut anew: what was a row without content may now be a mebibyte of it.
        for unit in Units(iter(founds)):
            yield from self._unit(unit, again=True)

    def _unit(self, unit: Unit, *, again: bool = False) -> Iterator[Record]:
        tally = Tally() if again else self._tally
        matches = self._base.match(unit.founds)
        if unit.big and not matches[0]:
            found = unit.founds[0]
            if found.status.st_nlink > 1 and self._links.first(found) != found.path:
                yield from self._batch(unit.founds, matches, tally)
            else:
                yield from self._parts(found, tally)
        else:
            yield from self._batch(unit.founds, matches, tally)

    # --- many entries in one record ---------------------------------------------------------------

    def _batch(self, founds: list[Found], matches: list[list[BaseRow]], tally: Tally) -> Iterator[Record]:
        rows = EntryRows()
        buffer = bytearray(sum(f.status.st_size for f, m in zip(founds, matches, strict=True) if _read(f, m)))
        used, lengths, base_manifests, base_rows = 0, [], [], []
        unchanged = False
        for found, match in zip(founds, matches, strict=True):
            mode = found.status.st_mode
            if stat.S_ISREG(mode) and found.status.st_nlink > 1 and self._add_link(rows, found):
                new = [(0, NO_BASE, 0)]
                tally.add(files=1)
            elif match:
                new = self._add_unchanged(rows, found, match)
                unchanged = True
                tally.add(files=1, unchanged=found.status.st_size)
            elif stat.S_ISREG(mode):
                # A file that has grown must not take the room of those after it.
                room = memoryview(buffer)[used : used + found.status.st_size]
                length = self._read_small(rows, found, room, tally)
                if length is None:
                    self._links.forget(found)
                    continue
                used += length
                new = [(length, NO_BASE, 0)]
                tally.add(files=1, read=length)
            elif self._add_special(rows, found, tally):
                new = [(0, NO_BASE, 0)]
            else:
                continue
            for length, manifest, row in new:
                lengths.append(length)
                base_manifests.append(manifest)
                base_rows.append(row)
        if not len(rows):
            return
        self._names.fill(rows, founds)
        meta = encode_files(rows.build(), lengths, base_manifests, base_rows)
        yield Record(meta, memoryview(buffer)[:used], founds if unchanged else [])

    def _add_link(self, rows: EntryRows, found: Found) -> bool:
        first = self._links.first(found)
        if first == found.path:
            return False
        self._row(rows, found, EntryType.HARDLINK, link=first)
        return True

    def _add_unchanged(
        self, rows: EntryRows, found: Found, match: list[BaseRow]
    ) -> list[tuple[int, int, int]]:
        for part in match:
            flags = EntryFlag.UNCHANGED
            if len(match) > 1:
                flags |= EntryFlag.PART | (EntryFlag.LAST if part.last else EntryFlag(0))
            self._row(rows, found, EntryType.FILE, flags=flags, offset=part.offset)
        return [(0, part.manifest, part.row) for part in match]

    def _read_small(self, rows: EntryRows, found: Found, room: memoryview, tally: Tally) -> int | None:
        try:
            fd = _open(found)
        except OSError as error:
            tally.warn(found.path, f"not read: {reason(error)}")
            return None
        try:
            before = os.fstat(fd)
            if not _same_file(before, found.status):
                tally.warn(found.path, "not read: replaced by something else while the backup ran")
                return None
            limit = min(before.st_size, len(room))
            length = 0
            while length < limit and (got := _readinto(fd, room[length:limit])):
                length += got
            after = os.fstat(fd)
        except OSError as error:
            tally.warn(found.path, f"not read: {reason(error)}")
            return None
        finally:
            os.close(fd)
        changed = _differs(found.status, after) or length != after.st_size
        if changed:
            tally.warn(found.path, "changed while it was read")
        self._row(
            rows,
            Found(found.directory, found.name, after),
            EntryType.FILE,
            flags=EntryFlag.CHANGED if changed else EntryFlag(0),
            size=length,
        )
        return length

    def _add_special(self, rows: EntryRows, found: Found, tally: Tally) -> bool:
        mode = found.status.st_mode
        if stat.S_ISDIR(mode):
            self._row(rows, found, EntryType.DIRECTORY, size=0)
            tally.add(dirs=1)
            return True
        if stat.S_ISLNK(mode):
            try:
                target = os.readlink(found.path)
            except OSError as error:
                tally.warn(found.path, f"not read: {reason(error)}")
                return False
            self._row(rows, found, EntryType.SYMLINK, link=target)
            tally.add(files=1)
            return True
        for test, kind in _SPECIAL:
            if test(mode):
                extra = (
                    {"rdev": getattr(found.status, "st_rdev", 0)}
                    if kind in {EntryType.BLOCK, EntryType.CHAR}
                    else None
                )
                self._row(rows, found, kind, size=0, extra=extra)
                tally.add(files=1)
                return True
        tally.warn(found.path, f"not backed up: a file of unknown type {stat.S_IFMT(mode):#o}")
        return False

    def _row(
        self,
        rows: EntryRows,
        found: Found,
        kind: EntryType,
        *,
        flags: int = 0,
        size: int | None = None,
        offset: int = 0,
        link: bytes = b"",
        extra: dict[str, int] | None = None,
    ) -> None:
        status = found.status
        rows.add(
            found.directory,
            found.name,
            kind,
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            size=status.st_size if size is None else size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
            inode=status.st_ino & 0xFFFFFFFFFFFFFFFF,
            device=status.st_dev & 0xFFFFFFFFFFFFFFFF,
            nlink=status.st_nlink,
            offset=offset,
            flags=int(flags),
            link=link,
            extra=extra,
        )

    # --- one big file in many records -------------------------------------------------------------

    def _parts(self, found: Found, tally: Tally) -> Iterator[Record]:
        try:
            fd = _open(found)
        except OSError as error:
            tally.warn(found.path, f"not read: {reason(error)}")
            self._links.forget(found)
            return
        offset, flags = 0, EntryFlag(0)
        try:
            if not _same_file(os.fstat(fd), found.status):
                tally.warn(found.path, "not read: replaced by something else while the backup ran")
                self._links.forget(found)
                return
            while True:
                buffer = bytearray(PAYLOAD_BYTES_MAX)
                try:
                    length = _fill(fd, memoryview(buffer))
                except OSError as error:
                    tally.warn(found.path, f"only the first {offset} bytes were read: {reason(error)}")
                    length, flags = 0, EntryFlag.ERROR
                tally.add(read=length)
                if length < len(buffer):
                    break
                yield Record(self._part_meta(found, offset, found.status.st_size, flags), buffer)
                offset += length
            after = os.fstat(fd)
        finally:
            os.close(fd)
        size = offset + length
        if not flags and (_differs(found.status, after) or size != after.st_size):
            tally.warn(found.path, "changed while it was read")
            flags = EntryFlag.CHANGED
        tally.add(files=1)
        last = Found(found.directory, found.name, after)
        yield Record(self._part_meta(last, offset, size, flags, last=True), memoryview(buffer)[:length])

    def _part_meta(
        self, found: Found, offset: int, size: int, flags: EntryFlag, *, last: bool = False
    ) -> bytes:
        rows = EntryRows()
        self._row(rows, found, EntryType.FILE, flags=flags, size=size)
        self._names.fill(rows, [found])
        return encode_part(rows.build(), offset, last=last)


def _read(found: Found, match: list[BaseRow]) -> bool:
    return not match and stat.S_ISREG(found.status.st_mode)


_SPECIAL: list[tuple[Callable[[int], bool], EntryType]] = [
    (stat.S_ISFIFO, EntryType.FIFO),
    (stat.S_ISSOCK, EntryType.SOCKET),
    (stat.S_ISBLK, EntryType.BLOCK),
    (stat.S_ISCHR, EntryType.CHAR),
]


def _open(found: Found) -> int:
    """Open for reading, without leaving a trace in the access time where that is allowed."""
    path = found.path
    nonblock = getattr(os, "O_NONBLOCK", 0)  # a fifo that took the file's place must not hold us up
    try:
        return os.open(path, _OPEN_FLAGS | nonblock)
    except PermissionError:
        return os.open(path, (_OPEN_FLAGS & ~getattr(os, "O_NOATIME", 0)) | nonblock)


def _same_file(now: os.stat_result, then: os.stat_result) -> bool:
    return stat.S_ISREG(now.st_mode) and (now.st_ino, now.st_dev) == (then.st_ino, then.st_dev)


def _differs(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _readinto(fd: int, view: memoryview) -> int:
    if sys.platform == "win32":
        data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)
    return os.readv(fd, [view])


def _fill(fd: int, view: memoryview) -> int:
    """Read until the view is full or the file ends."""
    length = 0
    while length < len(view) and (got := _readinto(fd, view[length:])):
        length += got
    return length
