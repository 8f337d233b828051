"""Borg, restic and Staddle over the same corpora, interleaved: wall, CPU of all processes, bytes stored.

    python3 dev.py bench [--rounds N] [--only tree,image] [--json FILE]

Each tool runs at its defaults with encryption, its repository on the same disk. Staddle is a grid of a
manager, one agent and one directory medium with `copies = 1`; the CPU of its daemons counts. The figures are
medians; machines are noisy, so compare within one run only. Every restore is compared with its source.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

MIB = 1 << 20
IDLE_S = 0.5
SETTLE_MAX_S = 20.0


@dataclass
class Measure:
    """One command: wall and CPU seconds, and what the repository grew by."""

    wall_s: float
    cpu_s: float
    stored_bytes: int = 0


@dataclass
class Tool:
    """A backup tool on a repository of its own."""

    name: str
    config: str
    backup: Callable[[str], list[str]]
    restore: Callable[[str, str], list[str]]
    store: str
    environment: dict[str, str]
    daemons: list[int] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None


def tree_bytes(path: str) -> int:
    """Bytes of all files below a directory."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total


def daemons_cpu_s(pids: list[int]) -> float:
    """User and system seconds of daemons so far (Linux)."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", "rb") as handle:
            fields = handle.read().rpartition(b")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def settle(tool: Tool) -> None:
    """Wait until its daemons rest: what they do after a command has ended counts, start-up does not."""
    end = time.monotonic() + SETTLE_MAX_S
    seen = daemons_cpu_s(tool.daemons)
    while tool.daemons and time.monotonic() < end:
        time.sleep(IDLE_S)
        before, seen = seen, daemons_cpu_s(tool.daemons)
        if seen - before <= 0.1 * IDLE_S:
            return


def timed(tool: Tool, argv: list[str], cwd: str) -> Measure:
    """Run one command of a tool to its end; it must succeed (exit 3 is Staddle's word for warnings)."""
    os.sync()  # what the tool before has left to be written is not this one's work
    settle(tool)
    before_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    before_daemons, before_store = daemons_cpu_s(tool.daemons), tree_bytes(tool.store)
    start = time.perf_counter()
    done = subprocess.run(
        argv, env=os.environ | tool.environment, cwd=cwd, capture_output=True, timeout=1800, check=False
    )
    wall = time.perf_counter() - start
    if done.returncode not in {0, 3}:
        raise SystemExit(f"{tool.name}: {argv} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    settle(tool)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before_children.ru_utime - before_children.ru_stime
    cpu += daemons_cpu_s(tool.daemons) - before_daemons
    return Measure(wall, cpu, tree_bytes(tool.store) - before_store)


def version(argv: list[str]) -> str:
    """First line of what a program says of its version."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def borg(work: str) -> Tool:
    """Borg at its defaults, repokey encryption."""
    repo = os.path.join(work, "borg")
    environment = {"BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": os.path.join(work, "borg-base")}
    subprocess.run(
        ["borg", "init", "-e", "repokey-blake2", repo],
        env=os.environ | environment,
        check=True,
        capture_output=True,
    )
    return Tool(
        "borg",
        f"{version(['borg', '--version'])}, repokey-blake2",
        lambda source: ["borg", "create", f"{repo}::{{now:%s}}-{random.getrandbits(32):x}", source],
        lambda archive, to: ["borg", "extract", f"{repo}::{archive}"],
        repo,
        environment,
    )


def restic(work: str) -> Tool:
    """Restic at its defaults."""
    repo = os.path.join(work, "restic")
    environment = {
        "RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": repo,
        "RESTIC_CACHE_DIR": os.path.join(work, "restic-cache"),
    }  # fmt: skip
    subprocess.run(["restic", "init"], env=os.environ | environment, check=True, capture_output=True)
    return Tool(
        "restic",
        version(["restic", "version"]),
        lambda source: ["restic", "backup", "-q", source],
        lambda archive, to: ["restic", "restore", "-q", "latest", "--target", to],
        repo,
        environment,
    )


def staddle(work: str) -> Tool:
    """A grid of a manager, one agent and one directory medium."""
    home = os.path.join(work, "staddle")
    run = [sys.executable, "-m", "staddle"]
    environment = {"STADDLE_HOME": home}
    merged = os.environ | environment
    subprocess.run([*run, "init", "--home", home], check=True, capture_output=True, env=merged)
    subprocess.run([*run, "up"], check=True, capture_output=True, env=merged)
    status = json.loads(
        subprocess.run([*run, "status", "--json"], check=True, capture_output=True, env=merged).stdout
    )
    pids = sorted({pid for part in (status["manager"], *status["agents"]) for pid in part["pids"]})
    return Tool(
        "staddle",
        version([*run, "--version"]) + ", copies = 1, local socket",
        lambda source: [*run, "backup", source, "--name", "bench"],
        lambda archive, to: [*run, "restore", "latest", "--name", "bench", "--to", to],
        os.path.join(home, "media"),
        environment,
        pids,
        lambda: subprocess.run([*run, "down"], check=True, capture_output=True, env=merged) and None,
    )


def make_tree(path: str) -> None:
    """Real files: the Python installation's library, without what happens to be installed beside it."""
    ignored = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages")
    shutil.copytree(sysconfig.get_paths()["stdlib"], path, symlinks=True, ignore=ignored)


def make_image(path: str, size_bytes: int = 512 * MIB) -> None:
    """One big file of library code, object code and noise, in a seeded order."""
    rng = random.Random(7)
    pieces = []
    library = sysconfig.get_paths()["stdlib"]
    for directory, _, names in sorted(os.walk(library)):
        for name in sorted(names):
            with contextlib.suppress(OSError), open(os.path.join(directory, name), "rb") as handle:
                pieces.append(handle.read(MIB))
        if sum(map(len, pieces)) > 256 * MIB:
            break
    os.makedirs(path)
    with open(os.path.join(path, "disk.img"), "wb") as handle:
        while handle.tell() < size_bytes:
            piece = rng.choice(pieces) if rng.random() < 0.8 else rng.randbytes(64 * 1024)
            # A changing prefix keeps repeated pieces from being plain duplicates.
            handle.write(rng.randbytes(rng.randrange(1, 64)) + piece)


def make_small(path: str) -> None:
    """25,000 files of 1-8 KiB of compressible text."""
    rng = random.Random(11)
    words = [rng.randbytes(4).hex().encode() for _ in range(4000)]
    for number in range(25_000):
        directory = os.path.join(path, f"{number // 500:03d}")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f"{number:05d}.txt"), "wb") as handle:
            handle.write(b" ".join(rng.choices(words, k=rng.randrange(110, 900))))


def make_random(path: str) -> None:
    """256 MiB that nothing can compress."""
    rng = random.Random(13)
    os.makedirs(path)
    with open(os.path.join(path, "noise"), "wb") as handle:
        handle.writelines(rng.randbytes(MIB) for _ in range(256))


CORPORA = {"tree": make_tree, "image": make_image, "small": make_small, "random": make_random}


@contextlib.contextmanager
def tools(work: str) -> Iterator[list[Tool]]:
    """Every tool that is installed, on a fresh repository."""
    made = [staddle(work)]
    for name, make in (("borg", borg), ("restic", restic)):
        if shutil.which(name):
            made.append(make(work))
        else:
            print(f"{name}: not installed, left out", file=sys.stderr)
    try:
        yield made
    finally:
        for tool in made:
            tool.stop()


def check_restored(tool: Tool, source: str, restored: str) -> None:
    """Every file and symlink of the source is there, byte for byte, and nothing else."""
    for directory, subdirectories, names in os.walk(source):
        other = os.path.join(restored, os.path.relpath(directory, source))
        links = [name for name in subdirectories if os.path.islink(os.path.join(directory, name))]
        plain = [name for name in names if not os.path.islink(os.path.join(directory, name))]
        _, different, errors = filecmp.cmpfiles(directory, other, plain, shallow=False)
        wrong = [*different, *errors, *set(os.listdir(directory)).symmetric_difference(os.listdir(other))]
        wrong += [
            name
            for name in {*links, *names} - {*plain}
            if os.readlink(os.path.join(directory, name)) != os.readlink(os.path.join(other, name))
        ]
        if wrong:
            raise SystemExit(f"{tool.name}: restored otherwise than they were, in {directory}: {wrong[:5]}")


def one_round(corpus: str, source: str, base: str, turn: int) -> dict[tuple[str, str, str], Measure]:
    """First backup, unchanged backup and restore of one corpus by each tool; another one begins each time."""
    figures = {}
    with tempfile.TemporaryDirectory(dir=base) as work, tools(work) as made:
        made[:] = made[turn % len(made) :] + made[: turn % len(made)]
        for step in ("first", "unchanged", "restore"):
            for tool in made:
                out = os.path.join(work, f"out-{tool.name}")
                os.makedirs(out, exist_ok=True)
                if step == "restore":
                    archive = _last_archive(tool) if tool.name == "borg" else ""
                    argv = tool.restore(archive, out)
                else:
                    argv = tool.backup(source)
                figures[corpus, step, tool.name] = timed(tool, argv, out)
                if step == "restore":
                    check_restored(tool, source, os.path.join(out, source.lstrip("/")))
    return figures


def _last_archive(tool: Tool) -> str:
    listed = subprocess.run(
        ["borg", "list", "--short", tool.store],
        env=os.environ | tool.environment,
        check=True,
        capture_output=True,
    )
    return listed.stdout.decode().splitlines()[-1]


def main() -> None:
    """Print a table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="tree,image", help=f"of {','.join(CORPORA)}")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--dir", help="work below this directory")
    options = parser.parse_args()
    collected: dict[tuple[str, str, str], list[Measure]] = {}
    with tempfile.TemporaryDirectory(dir=options.dir) as base:
        for corpus in options.only.split(","):
            source = os.path.join(base, f"corpus-{corpus}")
            CORPORA[corpus](source)
            print(f"{corpus}: {tree_bytes(source) / MIB:.0f} MiB", file=sys.stderr)
            for turn in range(options.rounds):
                for key, measure in one_round(corpus, source, base, turn).items():
                    collected.setdefault(key, []).append(measure)
            shutil.rmtree(source)
    rows = [
        {
            "corpus": corpus, "step": step, "tool": tool, "rounds": len(found),
            "wall_s": round(statistics.median(m.wall_s for m in found), 2),
            "cpu_s": round(statistics.median(m.cpu_s for m in found), 2),
            "stored_mib": round(statistics.median(m.stored_bytes for m in found) / MIB, 1),
        }
        for (corpus, step, tool), found in collected.items()
    ]  # fmt: skip
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'corpus':8} {'step':10} {'tool':8} {'wall s':>8} {'CPU s':>8} {'stored MiB':>11}")
    for row in rows:
        print(
            f"{row['corpus']:8} {row['step']:10} {row['tool']:8} {row['wall_s']:8.2f} {row['cpu_s']:8.2f} "
            f"{row['stored_mib']:11.1f}"
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as handle:
            json.dump(rows, handle, indent=1)


if __name__ == "__main__":
    main()
