"""`run/PART.json` and `run/PART.lock`: which daemons of a home run, and where they can be reached.

The lock is held by the daemon for its life, so a file that a crash left behind never counts as running.
"""

from __future__ import annotations

import hashlib
import logging
import os

import msgspec

from staddle import typed
from staddle.config import home_paths
from staddle.errors import Corrupt, Locked
from staddle.platform.durable import write_file_durable
from staddle.platform.lock import FileLock

log = logging.getLogger(__name__)


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a running daemon says of itself. `part` is `manager` or `agent-NAME`."""

    part: str
    pid: int
    pids: list[int]
    urls: list[str]


class _Stored(RunFile, frozen=True, kw_only=True):
    """As it stands in the file: a wrong process id must send no signal to somebody else's process.

    A daemon of the first release writes no `check`.
    """

    check: str = ""


def _check(run: RunFile) -> str:
    plain = msgspec.json.encode([run.part, run.pid, run.pids, run.urls])
    return hashlib.sha256(plain).hexdigest()[:16]


def _path(home: str, part: str, ending: str) -> str:
    return os.path.join(home_paths(home).run, f"{part}.{ending}")


def claim(home: str, part: str) -> FileLock:
    """Become this home's `part`. Raises Locked if it runs already."""
    os.makedirs(home_paths(home).run, mode=0o700, exist_ok=True)
    lock = FileLock(_path(home, part, "lock"))
    if not lock.acquire():
        raise Locked(
            f"{part} of {home} runs already", hint="see `staddle status`, or stop it with `staddle down`"
        )
    withdraw(home, part)  # what a crash has left there must not pass for this process
    return lock


def publish(home: str, run: RunFile) -> None:
    """Say that the daemon is ready."""
    stored = msgspec.json.encode(msgspec.structs.asdict(run) | {"check": _check(run)})
    write_file_durable(_path(home, run.part, "json"), stored)


def withdraw(home: str, part: str) -> None:
    """The daemon ends in good order."""
    try:
        os.unlink(_path(home, part, "json"))
    except FileNotFoundError:
        return
    except OSError as error:  # the end goes on; what is left there names a process that holds no lock
        log.warning("the run file of %s can't be removed: %s", part, error)


def running(home: str, part: str) -> RunFile | None:
    """The daemon that holds the lock now, or None. Raises Corrupt if what it says of itself is damaged."""
    path = _path(home, part, "lock")
    if not os.path.exists(path):
        return None
    lock = FileLock(path)
    if lock.acquire():
        lock.release()
        return None
    path = _path(home, part, "json")
    try:
        with open(path, "rb") as handle:
            stored = typed.from_json(handle.read(), _Stored)
    except OSError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        stored = None
    found = stored and RunFile(part=stored.part, pid=stored.pid, pids=stored.pids, urls=stored.urls)
    if stored is None or found is None or found.part != part or stored.check not in {"", _check(found)}:
        raise Corrupt(
            f"{path} is damaged: {part} runs, but which process it is can't be told",
            hint=f"end {part} of this home by hand, then `staddle up`",
        )
    return found
