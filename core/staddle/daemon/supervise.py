"""Start and stop a home's daemons: what `staddle up` and `staddle down` do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

from staddle.config import Settings, home_paths
from staddle.daemon import runfiles
from staddle.daemon.runfiles import RunFile
from staddle.errors import Locked, StaddleError, Unavailable
from staddle.platform import process

START_LIMIT_S = 30.0
OTHERS_LIMIT_S = 5.0
STOP_LIMIT_S = 15.0
_POLL_S = 0.05
_LOG_READ_BYTES = 1 << 20
_ERROR = "staddle: "
_ROOM_BYTES = 4096


def parts(settings: Settings) -> list[str]:
    """The daemons of a home in the order of their start."""
    return ["manager", *(f"agent-{name}" for name in settings.agent)]


@dataclass(frozen=True)
class _Started:
    """A daemon on its way: `log` has what it says, from `offset` on."""

    part: str
    process: subprocess.Popen[bytes]
    log: str
    offset: int


def start_missing(settings: Settings) -> list[RunFile]:
    """Start what does not run; the daemons that were started. Interrupted, it takes them back.

    Raises: StaddleError for one that fails, with its own words and its own exit code.
    """
    home = settings.home
    missing = [part for part in parts(settings) if runfiles.running(home, part) is None]
    started: list[_Started] = []
    try:
        for part in missing:
            with process.interrupted_later():
                started.append(_spawn(home, part))
            if part == "manager":
                _await_ready(home, started[-1])
        return [_await_ready(home, each) for each in started]
    except KeyboardInterrupt:
        # One that is not ready yet is known to nobody else: `down` would not find it.
        for each in reversed(started):
            _end(each.process)
        raise
    finally:
        for each in started:
            process.forget(each.process)


def _spawn(home: str, part: str) -> _Started:
    log_dir = home_paths(home).log
    os.makedirs(log_dir, mode=0o700, exist_ok=True)
    words = ["manager"] if part == "manager" else ["agent", part.removeprefix("agent-")]
    argv = [sys.executable, "-m", "staddle", "daemon", *words, "--home", home]
    path = os.path.join(log_dir, f"{part}.out")
    with open(path, "ab") as log:
        return _Started(part, process.spawn_detached(argv, log), path, log.tell())


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """Ask it to end; one that does not listen is killed."""
    daemon.terminate()
    try:
        daemon.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(STOP_LIMIT_S)


def _await_ready(home: str, started: _Started) -> RunFile:
    limit, code = time.monotonic() + START_LIMIT_S, None
    while time.monotonic() < limit:
        run = runfiles.running(home, started.part)
        if run is not None:
            return run
        ended, code = code, started.process.poll()
        if code == Locked.default_exit_code:
            if ended is None:  # somebody else starts the same part, and was quicker: that is as good
                limit = min(limit, time.monotonic() + OTHERS_LIMIT_S)
        elif code is not None:
            break
        time.sleep(_POLL_S)
    if code is None:
        raise Unavailable(
            f"{started.part} is not ready after {START_LIMIT_S:.0f} s", hint=f"its log is {started.log}"
        )
    raise StaddleError(
        f"{started.part} did not start: {_cause(started)}",
        hint=f"its log is {started.log}",
        code="START_FAILED",
        retry="operator",
        exit_code=code if 0 < code < 128 else Unavailable.default_exit_code,
    )


def _cause(started: _Started) -> str:
    """What a daemon said since it was started: its first error, since others follow from it."""
    try:
        with open(started.log, "rb") as handle:
            handle.seek(started.offset)
            text = handle.read(_LOG_READ_BYTES).decode(errors="replace")
    except OSError:
        return "it left no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    if not lines and shutil.disk_usage(os.path.dirname(started.log)).free < _ROOM_BYTES:
        return f"no space left on device, not even for its log in {os.path.dirname(started.log)}"
    return said[0] if said else (lines or ["it said nothing"])[-1]


def stop_all(settings: Settings) -> list[str]:
    """Stop what runs, agents first; the parts that were stopped. One that does not listen is killed."""
    stopped = []
    for part in reversed(parts(settings)):
        run = runfiles.running(settings.home, part)
        if run is None:
            continue
        process.terminate(run.pid)
        if not _gone(run.pid, STOP_LIMIT_S):
            for pid in [run.pid, *run.pids]:
                process.kill(pid)
            _gone(run.pid, STOP_LIMIT_S)
        runfiles.withdraw(settings.home, part)
        stopped.append(part)
    return stopped


def _gone(pid: int, limit_s: float) -> bool:
    limit = time.monotonic() + limit_s
    while process.alive(pid):
        if time.monotonic() > limit:
            return False
        time.sleep(_POLL_S)
    return True
