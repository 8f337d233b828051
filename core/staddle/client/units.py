"""What streams share: records, units of work taken from the scan, counts, links, names of owners."""

from __future__ import annotations

import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from staddle.api.types import Buffer
from staddle.client.scan import Found, Warn
from staddle.data.records import PAYLOAD_BYTES_MAX, EntryRows

SMALL_BYTES_MAX = 512 * 1024
"""A longer file is sent in parts."""
BATCH_META_BYTES = 160 * 1024
_ROW_BYTES = 84


@dataclass(slots=True)
class Record:
    """One numbered unit of a stream.

    Attributes:
        meta: what is sent.
        payload: with it.
        founds: the entries whose rows are in it, kept where rows may have to be read after all.
        begin: where in the first of them its first row begins; what is before stands in an earlier record.
    """

    meta: bytes
    payload: Buffer
    founds: Sequence[Found] = ()
    begin: int = 0

    @property
    def size(self) -> int:
        """Bytes it takes in the window."""
        return len(self.meta) + len(self.payload)


class Tally:
    """Counts of a job over all its streams, and its warnings. Safe for several threads."""

    def __init__(self, on_warning: Warn | None = None) -> None:
        self._lock = threading.Lock()
        self._on_warning = on_warning
        self.files = self.dirs = self.bytes_read = self.bytes_unchanged = 0
        self.warnings: int = 0

    def add(self, *, files: int = 0, dirs: int = 0, read: int = 0, unchanged: int = 0) -> None:
        """Count what went into a record."""
        with self._lock:
            self.files += files
            self.dirs += dirs
            self.bytes_read += read
            self.bytes_unchanged += unchanged

    def warn(self, path: bytes, message: str) -> None:
        """Something is not in the backup as it should be."""
        with self._lock:
            self.warnings += 1
        if self._on_warning is not None:
            self._on_warning(path, message)


@dataclass(slots=True)
class Unit:
    """What one stream takes at a time: some entries in walk order, or one big file."""

    founds: list[Found]
    big: bool = False


class Units:
    """Cuts the scan into units; several streams take them in turn."""

    def __init__(self, founds: Iterator[Found]) -> None:
        self._founds = founds
        self._lock = threading.Lock()
        self._carried: Found | None = None

    def __iter__(self) -> Iterator[Unit]:
        return self

    def __next__(self) -> Unit:
        with self._lock:
            batch: list[Found] = []
            content = meta = 0
            while (found := self._next()) is not None:
                directory, name, status = found
                size = status.st_size if stat.S_ISREG(status.st_mode) else 0
                cost = _ROW_BYTES + len(name) + len(directory)
                big = size > SMALL_BYTES_MAX
                if big and not batch:
                    return Unit([found], big=True)
                if big or content + size > PAYLOAD_BYTES_MAX or meta + cost > BATCH_META_BYTES:
                    self._carried = found
                    break
                batch.append(found)
                content += size
                meta += cost
            if not batch:
                raise StopIteration
            return Unit(batch)

    def _next(self) -> Found | None:
        found, self._carried = self._carried, None
        return found if found is not None else next(self._founds, None)


class OwnerNames:
    """Names of users and groups, looked up once each."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def fill(
        self, rows: EntryRows, founds: list[Found], users: Iterable[int] = (), groups: Iterable[int] = ()
    ) -> None:
        """Put the names of all owners that occur, and of further users and groups, into the batch."""
        if sys.platform == "win32":
            return
        for uid in {*users, *(found.status.st_uid for found in founds)}:
            if uid not in self._users:
                self._users[uid] = _user_name(uid)
            if self._users[uid]:
                rows.users[uid] = self._users[uid]
        for gid in {*groups, *(found.status.st_gid for found in founds)}:
            if gid not in self._groups:
                self._groups[gid] = _group_name(gid)
            if self._groups[gid]:
                rows.groups[gid] = self._groups[gid]


def _user_name(uid: int) -> str:
    if sys.platform == "win32":
        return ""
    import pwd

    try:
        return _text(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return ""


def _group_name(gid: int) -> str:
    if sys.platform == "win32":
        return ""
    import grp

    try:
        return _text(grp.getgrgid(gid).gr_name)
    except KeyError:
        return ""


def _text(name: str) -> str:
    """A name from the system's tables may hold bytes that are no text."""
    return name.encode(errors="replace").decode()
