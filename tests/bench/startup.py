"""How long commands take that have next to nothing to do, on a running grid: medians of 11.

python tests/bench/startup.py [--runs 11] [--dir DIR] [--json]

`help` is `staddle --help`, `one_file` a backup of one small file that has changed, `empty` a backup of 1,000
files of which none has; `python` is what the interpreter needs to do nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from comparison import spread
from tools import ask, grid, staddle_program

FILES = 1000
COMMAND_S = 120.0


def took_s(argv: list[str]) -> float:
    """Seconds of one command that must succeed."""
    begin = time.perf_counter()
    subprocess.run(argv, check=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def figures(work: str, runs: int) -> dict[str, dict[str, float]]:
    """All of them in turn, so that what else the machine does hits all alike."""
    program, home = staddle_program(), os.path.join(work, "grid")
    one, many = os.path.join(work, "one"), os.path.join(work, "many")
    for directory in (one, many):
        os.mkdir(directory)
    for number in range(FILES):
        write(os.path.join(many, f"{number:04d}.txt"), f"file {number}\n" * 50)

    def backup(path: str) -> list[str]:
        return [*program, "backup", path, "--name", os.path.basename(path), "--home", home]

    commands: dict[str, Callable[[], list[str]]] = {
        "python_s": lambda: [sys.executable, "-c", ""],
        "help_s": lambda: [*program, "--help"],
        "one_file_s": lambda: backup(one),
        "empty_s": lambda: backup(many),
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    with grid(home):
        write(os.path.join(one, "note.txt"), "new\n")
        time.sleep(0.1)  # a file as new as its scan may still be changing: it would be read again
        ask(backup(one))
        ask(backup(many))
        for run in range(runs):
            write(os.path.join(one, "note.txt"), f"changed {run}\n")
            for name, command in commands.items():
                found[name].append(took_s(command()))
    return {name: spread(values) for name, values in found.items()}


def write(path: str, text: str) -> None:
    """One small file."""
    with open(path, "w", encoding="ascii") as handle:
        handle.write(text)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-", dir=options.dir) as work:
        found = figures(work, options.runs)
    if options.json:
        print(json.dumps(found))
        return
    for name, each in found.items():
        print(f"{name:12} {each['median']:.3f} ({each['min']:.3f}-{each['max']:.3f})")


if __name__ == "__main__":
    main()
