"""What the database's errors mean: damage, a lock, a shortage of the host, or that it must be opened again.

It tells them apart by words only. What the operating system refused carries one of a few phrases, the same on
all systems; the system's own words behind them may be of any language.
"""

from __future__ import annotations

import errno
import os

import duckdb

from staddle.errors import Corrupt, Locked, StaddleError, Unavailable
from staddle.platform.shortage import is_shortage

_ENDED = (duckdb.FatalException, duckdb.InternalException, duckdb.ConnectionException)
"""After the first two it refuses every statement, room or not; the last is what a closed connection says."""

_LOCKED = ("Could not set lock", "being used by another process")
"""What it says on POSIX and on Windows; "block" is what it says of damage."""

_REFUSED = (
    "Cannot open file",
    "Could not write",
    "Could not fsync",
    "Could not truncate",
    "Could not remove file",
    "Could not rename file",
    "Failed to get stats",
    "bad allocation",
    "Allocation failure",
    "not enough memory",
)
_READ = "Could not read from file"
_NO_READ_FAULTS = (errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE)


class Ended(Unavailable):
    """The database serves nothing any more in this process; a new one opens it again."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, hint="a new process opens it; ask again", code="CATALOG_FAILED", scope="cluster"
        )


def has_ended(error: Exception) -> bool:
    """Whether every later call would fail as well."""
    return isinstance(error, _ENDED)


def is_refused(error: Exception) -> bool:
    """Whether the host refused something: no fault of what is stored, and it may pass."""
    if not isinstance(error, duckdb.Error):
        return is_shortage(error)
    text = str(error)
    if _READ in text:
        return any(os.strerror(number) in text for number in _NO_READ_FAULTS)
    return any(words in text for words in _REFUSED)


def opening_failed(path: str, error: Exception) -> StaddleError:
    """Why a catalog can't be opened: Locked, Unavailable, or else it is damaged (Corrupt)."""
    if any(words in str(error) for words in _LOCKED):
        return Locked(
            f"catalog {path}: another process has it open",
            hint="end that program; while the manager runs, ask with `staddle sql`",
        )
    if is_refused(error):
        return Unavailable(
            f"catalog {path}: {error!r}" if isinstance(error, MemoryError) else f"catalog {path}: {error}",
            hint="nothing is lost: see what the manager's host is short of, then try again",
            scope="cluster",
        )
    return Corrupt(
        f"catalog {path}: {error}", hint="remove the file and its .wal: it is made again from the op-log"
    )


def call_failed(error: Exception) -> StaddleError:
    """What the caller of a catalog is told of an error that is none of the contract."""
    text = f"catalog: {error!r}" if isinstance(error, MemoryError) else f"catalog: {error}"
    if has_ended(error):
        return Ended(text)
    if is_refused(error):
        return Unavailable(text, code="CATALOG_FAILED", scope="cluster")
    return StaddleError(text, code="CATALOG_FAILED", scope="cluster")
