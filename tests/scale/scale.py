"""A great many files, and what memory each process takes for them. Linux.

    python tests/scale/scale.py [--cases tree,links] [--files 1000000] [--dir /var/tmp] [--json FILE]

Each case is one grid of a manager and an agent, and for each number of files: the first backup, one of
unchanged files, a restore of all (compared with the source), `ls`, `find` and `verify`. The client's peak is
what the kernel says of the ended process (wait4, ru_maxrss), a daemon's its VmHWM, set back before each step.

This process imports the standard library only: it must stay small, for a child's peak counts from what its
parent had when it was started.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

BOUNDS_MIB = {"client": 300, "agent": 512, "manager": 600}
"""Of the client, and of the sums of a part's processes."""
COMMAND_LIMIT_S = 7200.0
RUN = [sys.executable, "-m", "staddle"]
_IN_DIRECTORY = 100


# --- what is backed up --------------------------------------------------------------------------------


def _write(path: bytes, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        if content:
            os.write(fd, content)
    finally:
        os.close(fd)


def make_tree(top: bytes, count: int) -> None:
    """Files of 1-7 bytes, no two of which are alike, a hundred in each directory."""
    for number in range(count):
        directory = b"%s/%03d/%02d" % (top, number // 10_000, number // _IN_DIRECTORY % 100)
        if number % _IN_DIRECTORY == 0:
            os.makedirs(directory)
        _write(b"%s/file-%07d.txt" % (directory, number), b"%d" % number)


def make_directory(top: bytes, count: int) -> None:
    """One directory, not filled in the order of names; every second file is empty."""
    step = next(step for step in (7919, 7907, 7901) if count % step)  # a prime: every number comes once
    for at in range(count):
        number = at * step % count
        _write(b"%s/entry-%07d.txt" % (top, number), b"%d" % number if number % 2 else b"")


def make_links(top: bytes, count: int) -> None:
    """Pairs of names of one file each, the second far from the first."""
    for number in range(count // 2):
        first, second = b"%s/a/%04d" % (top, number // 500), b"%s/b/%04d" % (top, number // 500)
        if number % 500 == 0:
            os.makedirs(first)
            os.makedirs(second)
        _write(b"%s/one-%07d" % (first, number), b"%d" % number)
        os.link(b"%s/one-%07d" % (first, number), b"%s/two-%07d" % (second, number))


CASES: dict[str, Callable[[bytes, int], None]] = {
    "tree": make_tree,
    "directory": make_directory,
    "links": make_links,
    "list": make_tree,  # named one by one, with --files-from
}


def write_list(top: bytes, path: str) -> None:
    """The paths of all files below a directory, one per line."""
    with open(path, "wb") as lines:
        for directory, _, names in os.walk(top):
            lines.writelines(directory + b"/" + name + b"\n" for name in names)


# --- comparing ----------------------------------------------------------------------------------------


def compare(left: bytes, right: bytes) -> int:
    """Every name, mode, time, content and pair of names is the same. Returns the files. Raises SystemExit."""
    count, pending = 0, [b""]
    inodes: dict[int, int] = {}
    while pending:
        below = pending.pop()
        names = sorted(os.listdir(left + below))
        if names != sorted(os.listdir(right + below)):
            raise SystemExit(f"other names are in {(left + below)!r} than in {(right + below)!r}")
        for name in names:
            path = below + b"/" + name
            one, other = os.lstat(left + path), os.lstat(right + path)
            if stat.S_ISDIR(one.st_mode):
                pending.append(path)
            elif inodes.setdefault(one.st_ino, other.st_ino) != other.st_ino:
                raise SystemExit(f"{path!r} is not the same file as its other name")
            if (one.st_mode, one.st_mtime_ns) != (other.st_mode, other.st_mtime_ns):
                raise SystemExit(f"{path!r} has another mode or time")
            if stat.S_ISREG(one.st_mode):
                count += 1
                if _content(left + path) != _content(right + path):
                    raise SystemExit(f"{path!r} has another content")
    if len(set(inodes.values())) != len(inodes):
        raise SystemExit("files that were two are one now")
    return count


def _content(path: bytes) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


# --- measuring ----------------------------------------------------------------------------------------


class Grid:
    """A manager and an agent, and the commands that are measured."""

    def __init__(self, home: str) -> None:
        self.environment = os.environ | {"STADDLE_HOME": home}
        self._quietly("init", "--home", home)
        self._quietly("up")

    def _quietly(self, *words: str) -> str:
        done = subprocess.run(
            [*RUN, *words], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise SystemExit(f"staddle {' '.join(words)}: exit {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def close(self) -> None:
        """End its processes."""
        with contextlib.suppress(SystemExit):
            self._quietly("down")

    def processes(self) -> dict[str, list[int]]:
        """All processes by part."""
        status = json.loads(self._quietly("status", "--json"))
        parts = {"manager": status["manager"]["pids"]}
        for agent in status["agents"]:
            parts.setdefault("agent", []).extend(agent["pids"])
        return {part: sorted({each for pid in pids for each in _family(pid)}) for part, pids in parts.items()}

    def measured(self, *words: str) -> dict[str, object]:
        """Run a command to its end: seconds, the client's peak and those of the daemons."""
        before = self.processes()
        for pid in itertools.chain(*before.values()):
            with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # the peak is what it has now (proc(5))
        started = time.monotonic()
        with tempfile.TemporaryFile() as errors:
            peak_mib = _client(words, self.environment, errors)
        took_s = time.monotonic() - started
        after = self.processes()
        if before != after:
            raise SystemExit(f"processes have ended: {before}, {after}")
        found: dict[str, object] = {"took_s": round(took_s, 1), "client_mib": round(peak_mib)}
        for part, pids in after.items():
            peaks = [_peak_mib(pid) for pid in pids]
            found |= {f"{part}_mib": round(sum(peaks)), f"{part}_each_mib": list(map(round, peaks))}
        return found


def _client(words: tuple[str, ...], environment: dict[str, str], errors: object) -> float:
    """Its peak in MiB."""
    child = subprocess.Popen(
        [*RUN, *words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
    )
    end = time.monotonic() + COMMAND_LIMIT_S
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            child.kill()
            child.wait()
            raise SystemExit(f"staddle {' '.join(words)} did not end in {COMMAND_LIMIT_S:g} s")
        time.sleep(0.05)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        errors.seek(0)
        said = errors.read().decode(errors="replace")
        raise SystemExit(f"staddle {' '.join(words)}: exit {child.returncode}: {said[-2000:]}")
    return usage.ru_maxrss / 1024


def _family(pid: int) -> Iterator[int]:
    yield pid
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
            children = file.read().split()
        for child in children:
            yield from _family(int(child))


def _peak_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


# --- a case -------------------------------------------------------------------------------------------


def play(case: str, counts: list[int], work: str) -> Iterator[dict[str, object]]:
    """All steps of a case for each number of files; what each one took."""
    grid = Grid(os.path.join(work, "home"))
    try:
        for count in counts:
            top = os.path.join(work, f"{case}-{count}")
            os.makedirs(top)
            CASES[case](os.fsencode(top), count)
            for step, figures in _steps(grid, case, top, count):
                yield {"case": case, "files": count, "step": step, **figures}
            shutil.rmtree(top)
    finally:
        grid.close()


def _steps(grid: Grid, case: str, top: str, count: int) -> Iterator[tuple[str, dict[str, object]]]:
    name, to, paths = f"{case}-{count}", f"{top}-restored", [top]
    if case == "list":
        write_list(os.fsencode(top), f"{top}.list")
        paths = ["--files-from", f"{top}.list"]
    yield "first backup", grid.measured("backup", *paths, "--name", name)
    yield "unchanged backup", grid.measured("backup", *paths, "--name", name)
    yield "restore", grid.measured("restore", "latest", "--name", name, "--to", to)
    argv = [sys.executable, __file__, "--compare", top, os.path.join(to, top.lstrip("/"))]
    found = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
    if found.returncode or int(found.stdout) != count // 2 * 2:
        raise SystemExit(f"{name} was not restored as it was: {found.stdout}{found.stderr}")
    shutil.rmtree(to)
    yield "ls", grid.measured("ls", "latest", top)
    yield "find", grid.measured("find", "*9*", "--limit", "50000")
    yield "verify", grid.measured("verify", "--read-data")


def main(arguments: list[str] | None = None) -> int:
    """Print a table; 1 if something is beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument(
        "--files", default="1000000", help="how many; several, with commas, one after the other"
    )
    parser.add_argument("--dir", help="work below this directory; it should lie on a disk")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--compare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.compare:
        print(compare(*map(os.fsencode, options.compare)))
        return 0
    rows, beyond = [], []
    print(f"{'case':10} {'files':>8} {'step':17} {'s':>7} {'client':>7} {'agent':>7} {'manager':>8}  MiB")
    for case in options.cases.split(","):
        with tempfile.TemporaryDirectory(dir=options.dir, prefix="scale-") as work:
            for row in play(case, [int(each) for each in options.files.split(",")], work):
                rows.append(row)
                line = (
                    f"{case:10} {row['files']:8} {row['step']:17} {row['took_s']:7} {row['client_mib']:7} "
                    f"{row['agent_mib']:7} {row['manager_mib']:8}"
                )
                over = [part for part, most in BOUNDS_MIB.items() if row[f"{part}_mib"] > most]
                beyond += over
                print(line + (f"  beyond the bound: {', '.join(over)}" if over else ""), flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
