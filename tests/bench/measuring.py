"""What one command costs: wall clock, processor seconds and peak memory of every process that works for it.

The command itself is measured by `wait4` (with all that it waited for) and by sampling its peak in /proc; the
daemons that serve it by their lines in /proc before and after. Linux only: nothing else has all of these.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

COMMAND_S = 3600.0
GRACE_S = 30.0
SAMPLE_S = 0.02
IDLE_S = 0.25
SETTLE_MAX_S = 20.0
BUSY_SHARE = 0.1
CLIENT = "client"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_RESET_PEAK = b"5"  # proc(5), clear_refs: VmHWM becomes the resident size of now


class Failed(Exception):
    """A command did not end well; the message has its last words."""


@dataclass(frozen=True)
class Usage:
    """What one command took, by process: `client` is the command itself, the others are daemons.

    Attributes:
        wall_s: from its start to its end.
        cpu_s: user and system time; of daemons also what they did until they rested again.
        peak_bytes: the largest resident size during the command; several processes of one name are added.
    """

    wall_s: float
    cpu_s: dict[str, float]
    peak_bytes: dict[str, int]

    @property
    def total_cpu_s(self) -> float:
        """Of all processes together."""
        return sum(self.cpu_s.values())


@dataclass
class Process:
    """One line of /proc."""

    pid: int
    parent: int
    cpu_s: float
    name: str = ""
    children: list[Process] = field(default_factory=list)


def processes() -> dict[int, Process]:
    """Every process of this machine, with its processor seconds and those of children it has waited for."""
    found: dict[int, Process] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as handle:
            fields = handle.read().rpartition(b")")[2].split()
            cpu_s = sum(map(int, fields[11:15])) / _TICKS_PER_S
            found[int(entry)] = Process(int(entry), int(fields[1]), cpu_s)
    for process in found.values():
        if process.parent in found:
            found[process.parent].children.append(process)
    return found


def family(roots: Sequence[int]) -> list[Process]:
    """The daemons and all processes below them. A child that has no name of its own has its parent's."""
    everyone = processes()
    found: dict[int, Process] = {}

    def take(process: Process, name: str) -> None:
        if process.pid not in found:
            process.name = daemon_name(process.pid) or name
            found[process.pid] = process
            for child in process.children:
                take(child, process.name)

    for pid in roots:
        if pid not in everyone:
            raise Failed(f"the daemon with process id {pid} is gone: see log/ in its home")
        take(everyone[pid], "daemon")
    return list(found.values())


def daemon_name(pid: int) -> str:
    """`agent-data` of `staddle daemon agent-data a1 …`; "" for anything else."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as handle:
        words = handle.read().decode(errors="replace").split("\0")
        if "daemon" in words[:-1]:
            return words[words.index("daemon") + 1]
    return ""


def cpu_by_name(members: Sequence[Process]) -> dict[str, float]:
    """Processor seconds so far, added up by name."""
    sums: dict[str, float] = {}
    for process in members:
        sums[process.name] = sums.get(process.name, 0.0) + process.cpu_s
    return sums


def peak_bytes(pid: int) -> int:
    """The process's largest resident size since the last reset; 0 if it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as handle:
        for line in handle:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def reset_peak(pid: int) -> None:
    """Let the peak begin anew, where the kernel allows it; else it counts from the daemon's start."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/clear_refs", "wb") as handle:
        handle.write(_RESET_PEAK)


def settle(roots: Sequence[int]) -> list[Process]:
    """Wait until the daemons rest: what they do after a command has ended is part of its cost."""
    members = family(roots)
    end = time.monotonic() + SETTLE_MAX_S
    while roots and time.monotonic() < end:
        before = sum(process.cpu_s for process in members)
        time.sleep(IDLE_S)
        members = family(roots)
        spent_s = sum(process.cpu_s for process in members) - before
        if spent_s <= BUSY_SHARE * IDLE_S and not any(waits_for_a_core(each.pid) for each in members):
            break
    return members


def waits_for_a_core(pid: int) -> bool:
    """Whether a thread of it would run if it could: on a busy machine that is no rest."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as handle:
                if handle.read().rpartition(b")")[2].split()[0] == b"R":
                    return True
    return False


class _Watch(threading.Thread):
    """Samples the peak of a running command, and ends it at its deadline."""

    def __init__(self, command: subprocess.Popen[bytes], limit_s: float) -> None:
        super().__init__(daemon=True)
        self.command = command
        self.limit = time.monotonic() + limit_s
        self.ended = threading.Event()
        self.peak = peak_bytes(command.pid)
        self.overdue = False

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_S):
            self.peak = max(self.peak, peak_bytes(self.command.pid))
            if time.monotonic() > self.limit and not self.overdue:
                self.overdue = True
                self.command.kill()


def run(
    argv: Sequence[str],
    *,
    cwd: str,
    environment: Mapping[str, str] | None = None,
    daemons: Sequence[int] = (),
    limit_s: float = COMMAND_S,
) -> Usage:
    """Run a command to its end; it must succeed without warnings.

    Args:
        argv: the command.
        cwd: its directory.
        environment: what it gets beside ours.
        daemons: process ids of those that serve it; their children are found.
        limit_s: after that it is killed.

    Raises: Failed.
    """
    require_linux()
    os.sync()  # what others have left to be written is not this one's work
    before = settle(daemons)
    for process in before:
        reset_peak(process.pid)
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        command = subprocess.Popen(
            argv, cwd=cwd, env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        watch = _Watch(command, limit_s)
        watch.start()
        status, used = _wait(command)
        wall_s = time.perf_counter() - begin
        watch.ended.set()
        watch.join(GRACE_S)
        code = command.returncode = os.waitstatus_to_exitcode(status)
        if code or watch.overdue:
            said.seek(0, os.SEEK_END)
            said.seek(max(0, said.tell() - 2000))
            words = said.read().decode(errors="replace").strip()
            why = f"was killed after {limit_s:.0f} s" if watch.overdue else f"ended with {code}"
            raise Failed(f"`{' '.join(argv)}` {why}: {words}")
    after = settle(daemons)
    cpu = {CLIENT: used.ru_utime + used.ru_stime}
    begun = cpu_by_name(before)
    cpu |= {name: total - begun.get(name, 0.0) for name, total in cpu_by_name(after).items()}
    peaks = {CLIENT: watch.peak or used.ru_maxrss * 1024}
    for process in after:
        peaks[process.name] = peaks.get(process.name, 0) + peak_bytes(process.pid)
    return Usage(wall_s, cpu, peaks)


def _wait(command: subprocess.Popen[bytes]):
    """Its exit status and resources. After Ctrl-C, which it sees itself, it gets a while to end."""
    try:
        _, status, used = os.wait4(command.pid, 0)
    except BaseException:
        command.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(GRACE_S)
        command.kill()
        command.wait(GRACE_S)
        raise
    return status, used


def require_linux() -> None:
    """Raises Failed elsewhere."""
    if not sys.platform.startswith("linux"):
        raise Failed("only Linux has what is measured here: run the comparison there")


def tree_bytes(path: str) -> int:
    """Bytes of all files below a directory; 0 if it does not exist."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total


def machine(directory: str) -> dict[str, object]:
    """What a reader has to know of this machine: figures of two machines are not to be compared."""
    import platform

    model = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
        models = [line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")]
        model = (models or [model])[0]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "system": platform.platform(),
        "processor": model,
        "cores": os.cpu_count() or 1,
        "memory_gib": round(memory / 2**30, 1),
        "file_system": file_system(directory),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def file_system(directory: str) -> str:
    """Kind of the file system that holds a directory, as its mount says; "" if unknown."""
    best, kind = "", ""
    with contextlib.suppress(OSError), open("/proc/mounts", encoding="utf-8", errors="replace") as handle:
        for line in handle:
            _, place, name, *_ = line.split()
            inside = os.path.commonpath([place, os.path.realpath(directory)]) == place
            if inside and len(place) >= len(best):
                best, kind = place, name
    return kind
