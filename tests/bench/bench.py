"""Borg, restic and Staddle over the same corpora, interleaved; and what makes up Staddle's own time.

    python3 dev.py bench [--only tree,image] [--json FILE] [--plots DIR]     the comparison
    python3 dev.py bench --startup --stages --fingerprints --catalog         the parts, one after the other
    python3 dev.py bench --profile image/first                               where the time goes

Each tool runs at its defaults with encryption, all repositories on one disk. Staddle is a grid of a manager,
one agent and one directory medium with `copies = 1`; the work of its daemons counts. Figures are medians with
their spread; machines are noisy, so compare within one run only. `first` is always run, since all other
steps follow from it. What is measured at its own time is added to the same --json FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import bench_targets
import plots
from comparison import Plan, compare, say, table
from corpora import CORPORA
from measuring import Failed, machine, require_linux
from tools import CACHE, HERE, STEPS, TOOLS

FORMAT = 1
PART_S = 7200.0


def listed(known: dict[str, Any] | tuple[str, ...]) -> Callable[[str], list[str]]:
    """A parser of `a,b,c`, each of them known."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {','.join(known)}")
        return [name for name in known if name in found]

    return parse


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="dev.py bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", type=listed(CORPORA), default=list(CORPORA), help=f"corpora, of {','.join(CORPORA)}")
    add("--steps", type=listed(STEPS), default=list(STEPS), help=f"of {','.join(STEPS)}")
    add("--tools", type=listed(TOOLS), default=list(TOOLS), help=f"of {','.join(TOOLS)}")
    add("--rounds", type=int, default=3, help="default 3")
    add("--scale", type=float, default=1.0, help="size of the corpora; 0.02 for a try")
    add("--json", metavar="FILE", help="put the figures there; what it has of other parts stays")
    add("--plots", metavar="DIR", help="write SVG plots there")
    add("--dir", metavar="DIR", help="where everything is done (default: .bench of this tree)")
    add("--keep", action="store_true", help="leave what was worked on, and say where")
    add("--startup", action="store_true", help="how long a command takes that has nothing to do")
    add("--stages", action="store_true", help="each stage of the data path by itself")
    add("--fingerprints", nargs="?", type=int, const=20_000_000, metavar="ENTRIES", help="default 20 million")
    add("--catalog", nargs="?", type=int, const=10_000_000, metavar="FILES", help="default 10 million")
    add("--profile", metavar="CORPUS/STEP", help="top functions of client, agent and manager")
    found = parser.parse_args(words)
    found.steps = [step for step in STEPS if step in {"first", *found.steps}]
    if found.rounds < 1 or not 0 < found.scale <= 100:
        parser.error("--rounds is at least 1, --scale above 0")
    if found.profile:
        corpus, _, step = found.profile.partition("/")
        if corpus not in CORPORA or step not in STEPS:
            parser.error("--profile takes one of the corpora and one of the steps: image/first")
    return found


def measured(script: str, *words: str) -> Any:
    """What a benchmark of a part says of itself in JSON; its progress is shown."""
    argv = [sys.executable, os.path.join(HERE, script), *words, "--json"]
    say(f"{script} {' '.join(words)}")
    done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=PART_S, check=False)
    if done.returncode:
        raise Failed(f"{script} ended with {done.returncode}")
    return json.loads(done.stdout)


def parts(options: argparse.Namespace, base: str) -> dict[str, Callable[[], Any]]:
    """The parts that were asked for: what measures each of them."""
    wanted: dict[str, Callable[[], Any]] = {}
    if options.startup:
        wanted["startup"] = lambda: measured("startup.py", "--dir", base)
    if options.stages:
        mib = str(max(8, int(256 * options.scale)))
        wanted["stages"] = lambda: measured("bench_stages.py", "--mib", mib, "--directory", base)
    if options.fingerprints:
        entries = str(options.fingerprints)
        wanted["fingerprints"] = lambda: measured(
            "bench_fingerprints.py", "--entries", entries, "--directory", base
        )
    if options.catalog:
        wanted["catalog"] = lambda: measured("bench_catalog.py", str(options.catalog), base)
    if options.profile:
        import profiling

        corpus, _, step = options.profile.partition("/")
        wanted["profile"] = lambda: profiling.profile(corpus, step, options.scale, base)
    return wanted


def comparison(
    options: argparse.Namespace, base: str, report: dict[str, Any], save: Callable[[], None]
) -> None:
    """The interleaved run, with the link's own cost beside it; prints the table and the targets."""
    require_linux()
    if any(name.startswith("staddle") for name in options.tools):
        report["link"] = measured("bench_link.py", "--gib", str(max(0.05, options.scale)))
    plan = Plan(options.only, options.steps, options.tools, options.rounds, options.scale, base)
    compare(plan, report, save)
    for name, config in report["tools"].items():
        print(f"{name:12} {config}")
    print(f"\n{table(report['rows'])}")


def main(words: list[str] | None = None) -> int:
    """Measure what was asked for; 0, or 1 with a message."""
    options = arguments(words)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # daemons are ended too
    report: dict[str, Any] = {"format": FORMAT}
    if options.json and os.path.exists(options.json):
        with open(options.json, encoding="utf-8") as handle:
            report = json.load(handle)
        if report.get("format") != FORMAT:
            raise Failed(f"{options.json} is of another format: give another --json FILE")
    os.makedirs(options.dir or CACHE, exist_ok=True)
    base = tempfile.mkdtemp(prefix="run-", dir=os.path.abspath(options.dir or CACHE))
    report["machine"] = machine(base)

    def save() -> None:
        if options.json:
            with open(options.json + ".new", "w", encoding="utf-8") as handle:
                json.dump(report, handle, indent=1)
            os.replace(options.json + ".new", options.json)

    try:
        print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report["machine"].items()))
        wanted = parts(options, base)
        for name, measure in wanted.items():
            report[name] = measure()
            save()
            show(name, report[name])
        if not wanted:
            comparison(options, base, report, save)
            print()
        print(bench_targets.text(report))
        save()
        if options.plots and report.get("rows"):
            plots.write(report, options.plots)
    finally:
        if options.keep:
            say(f"kept: {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    return 0


def show(name: str, found: Any) -> None:
    """A part's figures as text."""
    print(f"\n{name}")
    if isinstance(found, list):
        for entry in found:
            print("  " + "  ".join(f"{value:>12}" for value in entry.values()))
        return
    for key, value in found.items():
        if isinstance(value, list):
            print(f"  {key}:", *value, sep="\n    ")
        elif isinstance(value, dict):
            print(f"  {key:28} {value['median']:.3f} ({value['min']:.3f}-{value['max']:.3f})")
        else:
            print(f"  {key:28} {f'{value:,.3f}' if isinstance(value, float) else value}")
    print()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        say(f"bench: {failure}")
        sys.exit(1)
