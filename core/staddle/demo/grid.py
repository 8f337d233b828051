"""Starts, breaks, mends and asks a grid of separate processes, through the command line as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from staddle.client.connection import GridConnection, local_settings
from staddle.config import home_paths, load
from staddle.daemon import runfiles
from staddle.errors import StaddleError, Unavailable
from staddle.platform import process
from staddle.platform.eventloop import run_loop
from staddle.wire.ops.base import Operation
from staddle.wire.ops.jobs import LIST_JOBS, JobRow, ListJobs

Request = TypeVar("Request")
Answer = TypeVar("Answer")

STADDLE = [sys.executable, "-m", "staddle"]
COMMAND_LIMIT_S = 300.0
KILL_LIMIT_S = 10.0
INTERRUPTED_LIMIT_S = 60.0
POLL_S = 0.05


def ask(home: str, operation: Operation[Request, Answer], request: Request) -> Answer:
    """One question to the manager of a home."""

    async def once() -> Answer:
        async with GridConnection(local_settings(home)) as grid:
            return await grid.manager.call(operation, request, timeout_s=30.0)

    return run_loop(once())


@dataclass
class RunningBackup:
    """A `staddle backup --json` in a process of its own."""

    process: subprocess.Popen[bytes]
    lines: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for work in (self._read_lines, self._read_errors):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(line.decode(errors="replace") for line in self.process.stderr)

    def wait(self, limit_s: float = COMMAND_LIMIT_S) -> int:
        """Its exit code. One that does not end is killed, and TimeoutExpired raised."""
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10.0)
            raise
        finally:
            for thread in self._threads:
                thread.join(10.0)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
        return code

    @property
    def summary(self) -> dict[str, Any]:
        """The last line. Raises StaddleError with what the process said if there is none."""
        found: dict[str, Any]
        for found in reversed(self.lines):
            if found.get("message_type") == "summary":
                return found
        raise StaddleError("the backup has no summary: " + "".join(self.errors)[-2000:])


class RealGrid:
    """One home. `close` ends every process of it, also stopped ones."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.environment = os.environ | {"STADDLE_HOME": home}
        self._moved: dict[str, str] = {}
        self._stopped: set[int] = set()

    # --- commands -----------------------------------------------------------------------------------

    def run(
        self, *words: str, check: bool = True, limit_s: float = COMMAND_LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run `staddle WORDS`. Raises StaddleError with its words if it fails and `check` is set."""
        argv = [*STADDLE, *words]
        with subprocess.Popen(
            argv,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as child:
            try:
                out, err = child.communicate(timeout=limit_s)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    _interrupt(child)
                child.kill()
                raise
        if check and child.returncode != 0:
            raise StaddleError(f"staddle {' '.join(words)}: exit {child.returncode}: {err[-3000:]}")
        return subprocess.CompletedProcess(argv, child.returncode, out, err)

    def json(self, *words: str) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.run(*words, "--json").stdout)

    def init(self, agents: int, edit: Callable[[str], str] | None = None) -> None:
        """Make the home; `edit` may change the text of its configuration."""
        self.run("init", "--home", self.home, "--agents", str(agents))
        if edit is not None:
            path = home_paths(self.home).config_file
            with open(path, encoding="utf-8") as handle:
                text = edit(handle.read())
            with open(path, "w", encoding="utf-8") as handle:
                handle.write(text)

    def up(self) -> None:
        """Start what is missing."""
        self.run("up")

    def down(self) -> None:
        """Stop everything in good order."""
        self.run("down")

    def backup(self, *words: str) -> RunningBackup:
        """Start a backup with `--json`."""
        return self.start("backup", *words, "--json")

    def start(self, *words: str) -> RunningBackup:
        """Start a command whose output is JSON Lines."""
        started = subprocess.Popen(
            [*STADDLE, *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return RunningBackup(started)

    # --- looking ------------------------------------------------------------------------------------

    def job(self, number: int = 0) -> JobRow | None:
        """A job, or the newest one; None while there is none."""
        jobs = ask(self.home, LIST_JOBS, ListJobs(job=number, limit=1)).jobs
        return jobs[0] if jobs else None

    def wait_job(self, test: Callable[[JobRow], bool], what: str, limit_s: float = 60.0) -> JobRow:
        """The newest job, once it passes a test. Raises Unavailable after `limit_s`."""
        found: list[JobRow] = []

        def look() -> bool:
            job = self.job()
            if job is not None and test(job):
                found.append(job)
            return bool(found)

        self.wait(look, what, limit_s)
        return found[0]

    def wait(self, test: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
        """Until a test is passed. Raises Unavailable after `limit_s`, with what the grid said last."""
        end = time.monotonic() + limit_s
        said = ""
        while time.monotonic() < end:
            try:
                if test():
                    return
            except StaddleError as error:
                said = f": {error}"
            time.sleep(POLL_S)
        raise Unavailable(f"within {limit_s:g} s it did not happen that {what}{said}")

    def pids(self, part: str) -> list[int]:
        """All processes of `manager` or `agent-NAME`."""
        run = runfiles.running(self.home, part)
        if run is None:
            raise Unavailable(f"{part} does not run")
        return sorted({run.pid, *run.pids})

    def medium_path(self, name: str) -> str:
        """The directory of a medium."""
        return load(self.home).path_of(name)

    # --- breaking -----------------------------------------------------------------------------------

    def kill(self, part: str) -> None:
        """Kill -9 all processes of a part."""
        _end(self.pids(part))

    def kill_everything(self, *running: RunningBackup) -> None:
        """Kill -9 every process of the grid and these backups, at once."""
        pids = [backup.process.pid for backup in running]
        for part in self._parts():
            with contextlib.suppress(Unavailable):
                pids += self.pids(part)
        _end(pids)
        for backup in running:
            backup.wait(10.0)

    def stop(self, part: str) -> None:
        """The part is there, and silent."""
        for pid in self.pids(part):
            process.suspend(pid)
            self._stopped.add(pid)

    def resume(self, part: str) -> None:
        """A zombie wakes up."""
        for pid in self.pids(part):
            process.resume(pid)
            self._stopped.discard(pid)

    def take_away(self, medium: str) -> None:
        """The directory of a medium is gone."""
        path = self.medium_path(medium)
        self._moved[medium] = path
        os.rename(path, path + ".gone")

    def bring_back(self, medium: str) -> None:
        """It is there again, with all that was on it."""
        path = self._moved.pop(medium)
        os.rename(path + ".gone", path)

    def fault(self, medium: str, *rules: dict[str, Any]) -> None:
        """Let calls of a medium fail, as its `fault_file` says (none: let it work again)."""
        name = load(self.home).medium[medium].fault_file
        assert name is not None, "the configuration names no fault_file"
        path = os.path.join(self.home, name)
        with open(path + ".new", "w", encoding="utf-8") as handle:
            json.dump(list(rules), handle)
        os.replace(path + ".new", path)

    # --- the end ------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every process, however it stands."""
        for pid in list(self._stopped):
            with contextlib.suppress(ProcessLookupError):
                process.resume(pid)
        with contextlib.suppress(StaddleError, subprocess.TimeoutExpired):
            self.run("down", check=False, limit_s=60.0)
        self.kill_everything()

    def _parts(self) -> list[str]:
        return ["manager", *(f"agent-{name}" for name in load(self.home).agent)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _interrupt(child: subprocess.Popen[str]) -> None:
    """We are interrupted, and so is it: an `up` that was simply killed would leave daemons behind."""
    if os.name == "posix":
        child.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=INTERRUPTED_LIMIT_S)


def _end(pids: list[int]) -> None:
    """Kill -9, and wait until they are gone."""
    for pid in pids:
        process.kill(pid)
    end = time.monotonic() + KILL_LIMIT_S
    while any(process.alive(pid) for pid in pids):
        if time.monotonic() > end:
            raise Unavailable(f"some of the processes {pids} do not end")
        time.sleep(POLL_S)


@contextlib.contextmanager
def grid(home: str, agents: int, edit: Callable[[str], str] | None = None) -> Iterator[RealGrid]:
    """A grid that is up, and ended afterwards."""
    made = RealGrid(home)
    made.init(agents, edit)
    with made:
        made.up()
        yield made
