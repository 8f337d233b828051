"""Start and stop a home's daemons: what `staddle up` and `staddle down` do."""

from __future__ import annotations

import os
import sys
import time

from staddle.config import Settings, home_paths
from staddle.daemon import runfiles
from staddle.daemon.runfiles import RunFile
from staddle.errors import Unavailable
from staddle.platform import process

START_LIMIT_S = 30.0
STOP_LIMIT_S = 15.0
_POLL_S = 0.05
_LOG_TAIL_BYTES = 2000
_ERROR = "staddle: "


def parts(settings: Settings) -> list[str]:
    """The daemons of a home in the order of their start."""
    return ["manager", *(f"agent-{name}" for name in settings.agent)]


def start_missing(settings: Settings) -> list[RunFile]:
    """Start what does not run; the daemons that were started. Raises Unavailable for one that fails."""
    home = settings.home
    missing = [part for part in parts(settings) if runfiles.running(home, part) is None]
    started = []
    for part in missing:
        started.append((part, _spawn(home, part)))
        if part == "manager":
            _await_ready(home, *started[-1])
    return [_await_ready(home, part, pid) for part, pid in started]


def _spawn(home: str, part: str) -> int:
    log_dir = home_paths(home).log
    os.makedirs(log_dir, mode=0o700, exist_ok=True)
    words = ["manager"] if part == "manager" else ["agent", part.removeprefix("agent-")]
    argv = [sys.executable, "-m", "staddle", "daemon", *words, "--home", home]
    with open(os.path.join(log_dir, f"{part}.out"), "ab") as log:
        return process.spawn_detached(argv, log)


def _await_ready(home: str, part: str, pid: int) -> RunFile:
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        run = runfiles.running(home, part)
        if run is not None:
            return run
        if not process.alive(pid):
            break
        time.sleep(_POLL_S)
    path = os.path.join(home_paths(home).log, f"{part}.out")
    raise Unavailable(f"{part} did not start: {_tail(path)}", hint=f"see {path}")


def _tail(path: str) -> str:
    """What a daemon said last: its error, else the last line that is not empty."""
    try:
        with open(path, "rb") as handle:
            handle.seek(max(0, os.path.getsize(path) - _LOG_TAIL_BYTES))
            lines = [line for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "it left no log"
    said = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return (said or lines or ["it said nothing"])[-1].strip()


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
