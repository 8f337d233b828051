"""From a scan to records: what the client reads, in the form that an agent takes (data.records)."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from staddle.client.attributes import capture, is_incomplete
from staddle.client.base import BaseIndex, BaseRow, is_recent
from staddle.client.hardlinks import HardLinks
from staddle.client.reading import (
    Denied,
    NotRead,
    Piece,
    changed,
    fill_whole,
    is_sparse,
    not_read,
    open_file,
    pieces,
    status_of,
)
from staddle.client.rows import RowBatch, part_meta, unchanged_flags
from staddle.client.scan import Found, reason, split
from staddle.client.units import SMALL_BYTES_MAX, OwnerNames, Record, Tally, Unit, Units
from staddle.data.entries import EXTRA_BYTES_MAX
from staddle.data.records import EntryFlag, EntryType
from staddle.engine.messages import WHOLE_BASE
from staddle.platform import fsattrs, longpath

Extra = dict[str, Any]


class Source:
    """Makes records for one job. One instance serves several streams' threads at once."""

    def __init__(self, base: BaseIndex, tally: Tally, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Args: now_ns: the clock of the files' times, as far as this system has it."""
        self._base = base
        self._tally = tally
        self._now_ns = now_ns
        self._links = HardLinks(lambda message: tally.warn(b"", message))
        self._names = OwnerNames()

    def records(self, units: Units) -> Iterator[Record]:
        """One stream's records: takes units until there are no more."""
        for unit in units:
            yield from self._unit(unit)

    def in_order(self, founds: Iterator[Found]) -> Iterator[Found]:
        """Of a scan that several streams share: which name of a file has its content is its order's choice.

        Else the fastest stream would decide, and the next backup, which decides otherwise, read it again.
        """
        for found in founds:
            if found.status.st_nlink > 1 and not stat.S_ISDIR(found.status.st_mode):
                self._links.first(found)
            yield found

    def remake(self, dropped: list[Record], bad: list[bytes]) -> Iterator[Record]:
        """The same input again, without referring to `bad`: unchanged rows there are read now."""
        if WHOLE_BASE in bad:
            self._base.forget()
        else:
            self._base.exclude(bad)
        before: Found | None = None
        for record in dropped:
            if record.founds:
                yield from self._again(record, before)
                before = record.founds[-1]
            else:
                yield record

    def rest(self, found: Found, start: int, *, changed: bool) -> Iterator[Record]:
        """A big file from `start` on: what comes before it was sent by an earlier process of this job.

        Args: changed: it is not the same any more as when that process read it.
        """
        self.names_first(found)
        return self._parts(found, self._tally, start, known_changed=changed)

    def names_first(self, found: Found) -> None:
        """An earlier process of this job has sent the content under this path, if under any."""
        if found.status.st_nlink > 1:
            self._links.first(found)

    def _again(self, record: Record, before: Found | None) -> Iterator[Record]:
        founds = record.founds
        if record.begin:
            # Rows of a big file filled more than one record. What came before this one may be durable.
            if founds[0] != before:
                yield from self._parts(founds[0], self._uncounted(), record.begin)
            founds = founds[1:]
        # Cut anew: what was a row without content may now be a mebibyte of it.
        for unit in Units(iter(founds)):
            yield from self._unit(unit, again=True)

    def _uncounted(self) -> Tally:
        """For what is made again: it is counted already, but only now something may be wrong with it."""
        return Tally(self._tally.warn)

    def _unit(self, unit: Unit, *, again: bool = False) -> Iterator[Record]:
        tally = self._uncounted() if again else self._tally
        matches = self._base.match(unit.founds)
        found = unit.founds[0]
        linked = found.status.st_nlink > 1
        if unit.big and not matches[0] and not (linked and self._content_of(found) != found.path):
            yield from self._parts(found, tally)
        else:
            yield from self._batch(unit.founds, matches, tally)

    # --- many entries in one record ---------------------------------------------------------------

    def _batch(self, founds: list[Found], matches: list[list[BaseRow]], tally: Tally) -> Iterator[Record]:
        pairs = list(zip(founds, matches, strict=True))
        batch = RowBatch(
            self._names, sum(found.status.st_size for found, match in pairs if _read(found, match))
        )
        for found, match in pairs:
            try:
                if not self._add_link(batch, found):
                    self._add(batch, found, match, tally)
            except NotRead as why:
                self._links.forget(found)
                tally.warn(found.path, f"not read: {why}")
            except _Longer:
                batch.close()
                yield from batch.take()
                yield from self._parts(found, tally)
            yield from batch.take()
        batch.close()
        tally.add(files=batch.files, dirs=batch.dirs, read=batch.bytes_read, unchanged=batch.bytes_unchanged)
        yield from batch.take()

    def _add_link(self, batch: RowBatch, found: Found) -> bool:
        """Another name of what has been seen, whatever that is."""
        status = found.status
        if status.st_nlink < 2 or stat.S_ISDIR(status.st_mode):
            return False
        first = self._content_of(found)
        if first == found.path:
            return False
        batch.add(found, EntryType.HARDLINK, link=first)
        batch.files += 1
        return True

    def _content_of(self, found: Found) -> bytes:
        """The name that has the content of a file with several; its own if none has.

        One that does not lead there any more counts no longer: the number of an inode that is gone is soon
        that of another file.
        """
        first = self._links.first(found)
        if first == found.path or _is_at(first, found.status):
            return first
        self._links.forget(Found(*split(first), found.status))
        return self._links.first(found)

    def _add(self, batch: RowBatch, found: Found, match: list[BaseRow], tally: Tally) -> None:
        mode = found.status.st_mode
        if match:
            self._add_unchanged(batch, found, match, tally)
        elif stat.S_ISREG(mode):
            if found.status.st_size > SMALL_BYTES_MAX:  # one that was taken for another name until now
                raise _Longer
            self._add_small(batch, found, tally)
        elif stat.S_ISDIR(mode):
            batch.add(found, EntryType.DIRECTORY, size=0, extra=self._look(found, tally))
            batch.dirs += 1
        elif stat.S_ISLNK(mode):
            try:
                target = longpath.readlink(found.path)
            except OSError as error:
                raise not_read(error) from error
            batch.add(found, EntryType.SYMLINK, link=target, extra=self._look(found, tally))
            batch.files += 1
        else:
            self._add_special(batch, found, tally)

    def _add_unchanged(self, batch: RowBatch, found: Found, match: list[BaseRow], tally: Tally) -> None:
        # A change of attributes is a change of the ctime: those of the base are still the file's. A base of
        # a release that kept none has nothing here. What one lacked, with a warning, needs another look.
        extra: Extra | bytes = match[-1].extra
        if not extra or is_incomplete(match[-1].extra):
            extra = self._look(found, tally)
        for part in match:
            batch.add(
                found,
                EntryType.FILE,
                base=(part.manifest, part.row),
                flags=unchanged_flags(parts=len(match), last=part.last, sparse=part.sparse),
                offset=part.offset,
                extra=extra if part.last else None,
            )
        batch.files += 1
        batch.bytes_unchanged += found.status.st_size

    def _add_small(self, batch: RowBatch, found: Found, tally: Tally) -> None:
        status, path, now = found.status, found.path, found
        flags = self._recent(found)
        fd = open_file(path)
        try:
            # A file that has grown must not take the room of those after it.
            room = batch.room(status.st_size)
            length, more, error = fill_whole(fd, room)
            if more:
                raise _Longer
            extra, same = capture(fd, path, status, tally.warn, limit_bytes=EXTRA_BYTES_MAX - len(path))
            if error is not None or not same or length != status.st_size:
                now = Found(found.directory, found.name, status_of(fd, status))
                flags |= _judge(found, now, Piece(0, room[:length], 0, True, error), extra, tally)
        except OSError as failed:
            raise not_read(failed) from failed
        finally:
            os.close(fd)
        if is_sparse(now.status):
            flags |= EntryFlag.SPARSE
        batch.add(now, EntryType.FILE, length=length, flags=flags, size=length, extra=extra)
        batch.files += 1
        batch.bytes_read += length

    def _recent(self, found: Found) -> int:
        """The flag of a file that is about to be read, if a change after that could leave the same times."""
        return EntryFlag.RECENT if is_recent(found.status.st_ctime_ns, self._now_ns()) else 0

    def _add_special(self, batch: RowBatch, found: Found, tally: Tally) -> None:
        for test, kind in _SPECIAL:
            if test(found.status.st_mode):
                extra = self._look(found, tally)
                if kind in _DEVICES:
                    extra["rdev"] = fsattrs.device_numbers(found.status)
                batch.add(found, kind, size=0, extra=extra)
                batch.files += 1
                return
        tally.warn(
            found.path, f"not backed up: a file of unknown type {stat.S_IFMT(found.status.st_mode):#o}"
        )

    def _look(self, found: Found, tally: Tally) -> Extra:
        """The further metadata of what is not open. Raises NotRead if something else has its name now."""
        status, path, limit = found.status, found.path, EXTRA_BYTES_MAX - len(found.path)
        fd = -1
        try:
            if sys.platform == "linux" and stat.S_IFMT(status.st_mode) in _OPENED:
                with contextlib.suppress(Denied):  # then its flags can't be had
                    fd = open_file(path, os.O_DIRECTORY if stat.S_ISDIR(status.st_mode) else 0)
            if fd >= 0:
                status_of(fd, status)
                return capture(fd, path, status, tally.warn, limit_bytes=limit)[0]
            with longpath.reachable(path) as short:
                return capture(short, path, status, tally.warn, limit_bytes=limit)[0]
        except OSError as error:
            raise not_read(error) from error
        finally:
            if fd >= 0:
                os.close(fd)

    # --- one big file in many records -------------------------------------------------------------

    def _parts(
        self, found: Found, tally: Tally, start: int = 0, *, known_changed: bool = False
    ) -> Iterator[Record]:
        try:
            fd = open_file(found.path)
            before = _status_or_close(fd, found.status)
        except NotRead as why:
            tally.warn(found.path, f"not read: {why}")
            self._links.forget(found)
            return
        sparse = is_sparse(before)
        flags = self._recent(found) | (EntryFlag.SPARSE if sparse else 0)
        try:
            for piece in pieces(fd, before.st_size, sparse=sparse, offset=start):
                tally.add(read=len(piece.data))
                if piece.last:
                    break
                size = found.status.st_size
                meta = part_meta(
                    self._names, found, piece.offset, size, flags=flags, zero_bytes=piece.hole_bytes
                )
                yield Record(meta, piece.data)
            extra, now, error = _finish(fd, found, before, tally)
        finally:
            os.close(fd)
        piece = piece._replace(error=piece.error or error)
        flags |= _judge(found, now, piece, extra, tally, known_changed=known_changed)
        tally.add(files=1)
        meta = part_meta(
            self._names,
            now,
            piece.offset,
            piece.end,
            flags=flags,
            zero_bytes=piece.hole_bytes,
            last=True,
            extra=extra,
        )
        yield Record(meta, piece.data)


class _Longer(Exception):
    """A file has no room in a record of many: it has more than the size that was told, or than fits."""


def _read(found: Found, match: list[BaseRow]) -> bool:
    status = found.status
    return not match and stat.S_ISREG(status.st_mode) and status.st_size <= SMALL_BYTES_MAX


def _is_at(path: bytes, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(longpath.lstat(path), status)
    except OSError:
        return False


def _status_or_close(fd: int, scanned: os.stat_result) -> os.stat_result:
    try:
        return status_of(fd, scanned)
    except OSError as error:
        os.close(fd)
        raise not_read(error) from error
    except NotRead:
        os.close(fd)
        raise


def _finish(
    fd: int, found: Found, before: os.stat_result, tally: Tally
) -> tuple[Extra, Found, OSError | None]:
    """What is known of a file at the end. What was sent of it must end somehow, even if this fails now."""
    path = found.path
    try:
        extra, _ = capture(fd, path, before, tally.warn, limit_bytes=EXTRA_BYTES_MAX - len(path))
        return extra, Found(found.directory, found.name, os.fstat(fd)), None
    except OSError as error:
        return {}, Found(found.directory, found.name, before), error


def _judge(
    found: Found,
    now: Found,
    last: Piece,
    extra: Extra,
    tally: Tally,
    *,
    known_changed: bool = False,
) -> int:
    """Flags for what went wrong while a file was read, and the warning that belongs to them."""
    if last.error is not None:
        extra["error"] = reason(last.error)
        tally.warn(found.path, f"only the first {last.end} bytes were read: {extra['error']}")
        return EntryFlag.ERROR
    what = changed(found.status, now.status, last.end) or (
        "changed while it was read" if known_changed else ""
    )
    if what:
        tally.warn(found.path, what)
        return EntryFlag.CHANGED
    return 0


_OPENED = frozenset({stat.S_IFDIR, stat.S_IFREG})
_DEVICES = (EntryType.BLOCK, EntryType.CHAR)
_SPECIAL: list[tuple[Callable[[int], bool], EntryType]] = [
    (stat.S_ISFIFO, EntryType.FIFO),
    (stat.S_ISSOCK, EntryType.SOCKET),
    (stat.S_ISBLK, EntryType.BLOCK),
    (stat.S_ISCHR, EntryType.CHAR),
]
