"""Where the time goes in one step of one corpus: py-spy for the Python side, perf for everything below it.

Each of them gets a run of its own on a fresh grid. py-spy is installed into the bench's cache if it is not
there; perf is used where it is installed and allowed. Shares are of the processor time of one process.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from comparison import say
from corpora import CORPORA
from measuring import CLIENT, Failed, family
from tools import CACHE, Tool, ask, staddle

RATE_HZ = 99
TOP = 25
ATTACH_S = 1.0
WRITE_S = 120.0
PY_SPY = "py-spy>=0.4,<0.5"
SHARE_LEAST = 0.005
# Where a thread waits. py-spy can't always tell a waiting thread from a running one.
WAITING = re.compile(
    r"(Condition\.wait|\w+Selector\.select|Popen\._try_wait|_worker|exit_with_parent\S*|\w*wait\w*) \("
)


def profile(corpus: str, step: str, scale: float, base: str) -> dict[str, object]:
    """Lines of the functions that cost most, for each profiler and process that it could look at."""
    found: dict[str, object] = {"step": f"{corpus}/{step}, scale {scale}"}
    for name, profiler in (("py-spy", by_py_spy), ("perf", by_perf)):
        work = os.path.join(base, name)
        os.mkdir(work)
        source = os.path.join(work, corpus)
        try:
            CORPORA[corpus].make(source, scale)
            with staddle(work, "staddle") as tool:
                command = prepared(tool, corpus, step, source, work)
                found |= {f"{name} {process}": lines for process, lines in profiler(tool, command, work)}
        except Failed as problem:
            say(f"{name} is left out: {problem}")
        shutil.rmtree(work)
    return found


def prepared(tool: Tool, corpus: str, step: str, source: str, work: str) -> list[str]:
    """Run what the step needs before it; its command."""
    out = os.path.join(work, "out")
    os.mkdir(out)
    if step != "first":
        ask(tool.commands["first"](source, out), tool.environment)
    if step == "second":
        CORPORA[corpus].change(source)
    return tool.commands[step](source, out)


def watched(
    record: Callable[[str], list[str]], tool: Tool, command: Sequence[str], work: str
) -> dict[str, str]:
    """Run the command with a profiler at it and at each daemon; the profiles' files by process name.

    Args:
        record: the profiler's command up to what it is to look at, from the file to write.
        tool: with the daemons and the command's environment.
        command: is run below the profiler.
        work: where the files go.

    Raises: Failed.
    """
    members = family(tool.daemons)
    files = {CLIENT: os.path.join(work, CLIENT)}
    watchers = []
    try:
        for process in members:
            name = process.name if process.name not in files else f"{process.name}-{process.pid}"
            files[name] = os.path.join(work, name)
            argv = [*record(files[name]), "-p", str(process.pid)]
            watchers.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(ATTACH_S)
        ask([*record(files[CLIENT]), "--", *command], tool.environment)
    finally:
        for watcher in watchers:
            watcher.send_signal(signal.SIGINT)  # now it writes what it has seen
        for watcher in watchers:
            try:
                watcher.wait(WRITE_S)
            except subprocess.TimeoutExpired:
                watcher.kill()
                watcher.wait(WRITE_S)
    if missing := [name for name, path in files.items() if not os.path.exists(path)]:
        raise Failed(f"nothing was seen of {', '.join(missing)}: may this user trace processes?")
    return files


def by_py_spy(tool: Tool, command: Sequence[str], work: str) -> Iterator[tuple[str, list[str]]]:
    """Python functions, by the share of samples in which they or what they called were running."""
    program = py_spy_program()

    def record(path: str) -> list[str]:
        return [program, "record", "-f", "raw", "-F", "-r", str(RATE_HZ), "-o", path]

    for name, path in watched(record, tool, command, work).items():
        with open(path, encoding="utf-8", errors="replace") as handle:
            yield name, functions(handle)


def functions(stacks: Iterable[str]) -> list[str]:
    """Lines of the costliest functions, from folded stacks: `outer;inner count` each. Waiting is left out."""
    inclusive: Counter[str] = Counter()
    own: Counter[str] = Counter()
    samples = 0
    for line in stacks:
        stack, _, count = line.strip().rpartition(" ")
        if not stack:
            continue
        frames = stack.split(";")
        if WAITING.match(frames[-1]):
            continue
        samples += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            inclusive[frame] += int(count)
    top = [(frame, total) for frame, total in inclusive.most_common() if own[frame] >= SHARE_LEAST * samples]
    lines = [f"{total / samples:6.1%} {own[frame] / samples:6.1%}  {frame}" for frame, total in top[:TOP]]
    return [f"{samples} samples at {RATE_HZ} Hz, without waiting; with callees, by itself", *lines]


def by_perf(tool: Tool, command: Sequence[str], work: str) -> Iterator[tuple[str, list[str]]]:
    """Functions of the interpreter, of libraries and of the kernel."""
    program = shutil.which("perf")
    if program is None:
        raise Failed("perf is not installed (Debian: linux-perf)")

    def record(path: str) -> list[str]:
        return [program, "record", "-q", "-e", "cpu-clock", "-F", str(RATE_HZ), "-o", path]

    for name, path in watched(record, tool, command, work).items():
        report = ask([program, "report", "-i", path, "--stdio", "-g", "none", "--sort", "dso,symbol"])
        yield name, symbols(report)


def symbols(report: str) -> list[str]:
    """The costliest lines of what `perf report --sort dso,symbol` prints: share, library, symbol."""
    line = re.compile(r"\s*(\d+\.\d+)%\s+(\S+)\s+\[.\]\s+(.*?)(?:\s+-\s+-)?\s*$")
    matches = [match for match in map(line.match, report.splitlines()) if match]
    return [f"{float(m[1]):5.1f}%  {m[2]}  {m[3]}" for m in matches[:TOP]]


def py_spy_program() -> str:
    """The installed one, or our own in the cache. Raises Failed."""
    directory = os.path.join(CACHE, "py-spy")
    program = os.path.join(directory, "bin", "py-spy")
    found = shutil.which("py-spy") or (program if os.path.exists(program) else None)
    if found is None and os.environ.get("STADDLE_NO_INSTALL"):
        raise Failed("py-spy is not installed")
    if found is None:
        ask([sys.executable, "-m", "venv", "--clear", directory])
        pip = [os.path.join(directory, "bin", "python"), "-m", "pip", "--disable-pip-version-check"]
        ask([*pip, "install", "--quiet", PY_SPY])
    return found or program
