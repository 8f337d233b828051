"""The interleaved run: every step of a corpus by every tool in turn, another one first each time.

A round has fresh repositories and a fresh corpus. Restored data is compared with its source, byte for byte.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from corpora import CORPORA, describe
from measuring import Failed, Usage, run, tree_bytes
from tools import STEPS, TOOLS, Tool

MIB = 1 << 20
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Measure:
    """One step of one tool in one round, with what its repository and what lies beside it grew by."""

    usage: Usage
    stored_bytes: int
    beside_bytes: int


@dataclass
class Plan:
    """What is run, and where. `said` is told of the corpora and the tools' configurations."""

    corpora: Sequence[str]
    steps: Sequence[str]
    tools: Sequence[str]
    rounds: int
    scale: float
    base: str


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def opened(names: Iterable[str], corpus: str, work: str) -> Iterator[list[Tool]]:
    """The tools on fresh repositories; one that is not installed is left out, and said to be."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in names:
            more = {"new": CORPORA[corpus].new} if name == "floor" else {}
            try:
                made.append(stack.enter_context(TOOLS[name](work, name, **more)))
            except Failed as problem:
                if name.startswith("staddle"):
                    raise
                say(f"{name} is left out: {problem}")
        yield made


def rotated(items: Sequence[Any], by: int) -> list[Any]:
    """Another one begins."""
    by %= max(1, len(items))
    return [*items[by:], *items[:by]]


def one_step(tool: Tool, step: str, source: str, work: str) -> Measure | None:
    """Run and measure it; None if the tool has no such step. What was restored is checked."""
    if step not in tool.commands:
        return None
    out = os.path.join(work, f"out-{tool.name}")
    os.makedirs(out, exist_ok=True)
    stored, beside = tree_bytes(tool.store), sum(map(tree_bytes, tool.beside))
    usage = run(tool.commands[step](source, out), cwd=out, environment=tool.environment, daemons=tool.daemons)
    stored, beside = tree_bytes(tool.store) - stored, sum(map(tree_bytes, tool.beside)) - beside
    if step == "restore":
        at = os.path.basename(source) if tool.name == "floor" else source.lstrip(os.sep)
        check_restored(tool.name, source, os.path.join(out, at))
    shutil.rmtree(out)
    return Measure(usage, stored, beside)


def one_round(plan: Plan, corpus: str, turn: int, note: dict[str, Any]) -> dict[Key, Measure]:
    """All steps of one corpus by each tool."""
    figures: dict[Key, Measure] = {}
    source, work = os.path.join(plan.base, corpus), os.path.join(plan.base, f"{corpus}-{turn}")
    os.makedirs(work)
    CORPORA[corpus].make(source, plan.scale)
    note["corpora"].setdefault(corpus, describe(source))
    with opened(plan.tools, corpus, work) as tools:
        note["tools"] |= {tool.name: tool.config for tool in tools}
        for number, step in enumerate(plan.steps):
            if step == "second":
                CORPORA[corpus].change(source)
                note["corpora"].setdefault(f"{corpus}, second", describe(source))
            for tool in rotated(tools, turn + number):
                measure = one_step(tool, step, source, work)
                if measure is not None:
                    figures[corpus, step, tool.name] = measure
                    wall, cpu = measure.usage.wall_s, measure.usage.total_cpu_s
                    say(f"{corpus} {step} {tool.name}: {wall:.2f} s, CPU {cpu:.2f} s")
    shutil.rmtree(source)
    shutil.rmtree(work)
    return figures


def compare(plan: Plan, note: dict[str, Any], save: Callable[[], None]) -> None:
    """Run all rounds; `note` gets corpora, tools and rows, and `save` is called after each round."""
    collected: dict[Key, list[Measure]] = {}
    note |= {"scale": plan.scale, "rounds": plan.rounds, "corpora": {}, "tools": {}, "rows": []}
    for turn in range(plan.rounds):
        for corpus in rotated(plan.corpora, turn):
            say(f"round {turn + 1} of {plan.rounds}: {corpus}")
            for key, measure in one_round(plan, corpus, turn, note).items():
                collected.setdefault(key, []).append(measure)
            order = {name: number for number, name in enumerate((*plan.corpora, *STEPS, *plan.tools))}
            keys = sorted(collected, key=lambda key: [order[part] for part in key])
            note["rows"] = [row(key, collected[key]) for key in keys]
            save()


def spread(values: Iterable[float], digits: int = 3) -> dict[str, float]:
    """Median, least and greatest."""
    found = sorted(values)
    return {
        "median": round(statistics.median(found), digits),
        "min": round(found[0], digits),
        "max": round(found[-1], digits),
    }


def row(key: Key, found: Sequence[Measure]) -> dict[str, Any]:
    """One line of the report: seconds, MiB. `cpu_parts_s` are medians, `peak_mib` the worst of all rounds."""
    names = sorted({name for measure in found for name in measure.usage.cpu_s})
    return {
        "corpus": key[0],
        "step": key[1],
        "tool": key[2],
        "rounds": len(found),
        "wall_s": spread(measure.usage.wall_s for measure in found),
        "cpu_s": spread(measure.usage.total_cpu_s for measure in found),
        "cpu_parts_s": {
            name: round(statistics.median(m.usage.cpu_s.get(name, 0.0) for m in found), 3) for name in names
        },
        "peak_mib": {
            name: round(max(m.usage.peak_bytes.get(name, 0) for m in found) / MIB, 1) for name in names
        },
        "stored_mib": spread((measure.stored_bytes / MIB for measure in found), 2),
        "beside_mib": spread((measure.beside_bytes / MIB for measure in found), 2),
    }


def check_restored(name: str, source: str, restored: str) -> None:
    """Every file and symlink of the source is there, byte for byte, and nothing else. Raises Failed."""
    for directory, subdirectories, names in os.walk(source):
        other = os.path.join(restored, os.path.relpath(directory, source))
        everything = {*subdirectories, *names}
        if not os.path.isdir(other) or set(os.listdir(other)) != everything:
            raise Failed(f"{name} restored other names than there were in {directory}")
        links = {each for each in everything if os.path.islink(os.path.join(directory, each))}
        plain = [each for each in names if each not in links]
        _, different, errors = filecmp.cmpfiles(directory, other, plain, shallow=False)
        wrong = [*different, *errors]
        wrong += [each for each in links if _link(directory, each) != _link(other, each)]
        if wrong:
            raise Failed(f"{name} restored otherwise than they were, in {directory}: {sorted(wrong)[:5]}")
    filecmp.clear_cache()


def _link(directory: str, name: str) -> str | None:
    path = os.path.join(directory, name)
    return os.readlink(path) if os.path.islink(path) else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text: median and, in brackets, least and greatest."""
    head = ("corpus", "step", "tool", "wall s", "CPU s", "stored MiB", "beside", "peak MiB")
    lines = [head]
    for each in rows:
        peaks = "  ".join(f"{name} {size:.0f}" for name, size in each["peak_mib"].items())
        lines.append(
            (
                each["corpus"], each["step"], each["tool"],
                _figure(each["wall_s"]), _figure(each["cpu_s"]), f"{each['stored_mib']['median']:.1f}",
                f"{each['beside_mib']['median']:.1f}", peaks,
            )
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    right = {3, 4, 5, 6}
    return "\n".join(
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )


def _figure(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f}-{values['max']:.2f})"
