"""Which path of an inode with several names is the one that has its content in the backup."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable

from staddle.client.scan import Found

IN_MEMORY_MAX = 20_000
"""So many inodes are kept in memory, some 6 MB; with more all of them go into a table on disk."""
CACHE_KIB = 8192
"""Memory of that table."""


class HardLinks:
    """The first path of each inode that has several. One instance for all streams of a job; bounded memory.

    The table is an unnamed temporary database, which goes with the process. Where there is no room for it,
    what was known of the inodes is forgotten, and again whenever it gets too much: the next path of such an
    inode has the content once more, as a file of its own.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Args: warn: told once if something had to be forgotten."""
        self._warn = warn
        self._lock = threading.Lock()
        self._few: dict[bytes, bytes] = {}
        self._table: sqlite3.Connection | None = None
        self._no_room = False

    def first(self, found: Found) -> bytes:
        """The path that has the content; the found one itself if it came first."""
        key, path = _key(found), found.path
        with self._lock:
            if len(self._few) >= IN_MEMORY_MAX and key not in self._few:
                self._move()
            if self._table is not None:
                try:
                    return _first(self._table, key, path)
                except sqlite3.Error as error:
                    self._give_up(error)
            return self._few.setdefault(key, path)

    def forget(self, found: Found) -> None:
        """Its content could not be read by this path: another path of the same inode may have it."""
        key, path = _key(found), found.path
        with self._lock:
            if self._few.get(key) == path:
                del self._few[key]
            if self._table is not None:
                try:
                    self._table.execute("DELETE FROM first WHERE inode = ? AND path = ?", (key, path))
                except sqlite3.Error as error:
                    self._give_up(error)

    def _move(self) -> None:
        """From memory into a table."""
        if self._no_room:
            self._few.clear()
            return
        try:
            self._table = _new_table()
            weakref.finalize(self, self._table.close)
            self._table.executemany("INSERT INTO first VALUES (?, ?)", self._few.items())
        except sqlite3.Error as error:
            self._give_up(error)
        self._few.clear()

    def _give_up(self, error: sqlite3.Error) -> None:
        if self._table is not None:
            self._table.close()
        self._table, self._no_room = None, True
        self._warn(f"no table of hard links can be kept ({error}): some are backed up as files of their own")


def _key(found: Found) -> bytes:
    return b"%x %016x" % (found.status.st_dev, found.status.st_ino)


def _new_table() -> sqlite3.Connection:
    # The name of a database without a file that is left behind; calls come from several threads, in turn.
    table = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    table.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    table.execute("PRAGMA journal_mode = OFF")
    table.execute("CREATE TABLE first (inode BLOB PRIMARY KEY, path BLOB NOT NULL) WITHOUT ROWID")
    table.execute("BEGIN")
    return table


def _first(table: sqlite3.Connection, key: bytes, path: bytes) -> bytes:
    for (known,) in table.execute("SELECT path FROM first WHERE inode = ?", (key,)):
        return bytes(known)
    table.execute("INSERT INTO first VALUES (?, ?)", (key, path))
    return path
