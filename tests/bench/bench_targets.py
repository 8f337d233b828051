"""The targets for speed and size, as ratios within one run: which are met, and by how much.

python tests/bench/bench_targets.py FILE      FILE is what `dev.py bench --json FILE` wrote
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PEERS = ("borg", "restic")
OWN = "staddle"
HEAVY = ("tree", "image", "random", "duplicates")
FASTER, AIM_RESTORE, AIM_LIGHT = 1.5, 1.5, 2.0
CPU_OVER_ZSTD = 1.35
STORED_OVER_PEER, SECOND_IMAGE_SHARE = 1.08, 1 / 3
TLS_SHARE, CORES_SHARE, STREAMS = 0.7, 0.85, 4
AGENT_MIB, CLIENT_MIB = 384.0, 200.0
HELP_S, EMPTY_S = 0.15, 0.6
LOOKUPS_PER_S, INSERTS_PER_S = 1_000_000.0, 500_000.0
DISK_BYTES, MEMORY_BYTES = 40.0, 100.0
FULL_ENTRIES, FULL_FILES = 20_000_000, 10_000_000
INGEST_S, LIST_MS, FIND_MS = 120.0, 50.0, 2000.0


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        name: what it is about.
        value: as measured, None if it was not.
        limit: what is allowed, None if what it depends on was not measured.
        unit: of both.
        note: where the limit comes from, and the aim beyond it.
        least: the limit is the least that is allowed, not the most.
    """

    name: str
    value: float | None
    limit: float | None
    unit: str
    note: str = ""
    least: bool = False

    @property
    def met(self) -> bool | None:
        """None if it was not measured."""
        if self.value is None or self.limit is None:
            return None
        return self.value >= self.limit if self.least else self.value <= self.limit

    def line(self) -> str:
        """As it is printed."""
        note = f" ({self.note})" if self.note else ""
        if self.value is None or self.limit is None:
            return f"-       {self.name}: not measured"
        word = "at least" if self.least else "at most"
        text = f"{self.name}: {self.value:,.2f} {self.unit}, {word} {self.limit:,.2f}{note}"
        if self.met:
            return f"met     {text}"
        off = abs(self.value / self.limit - 1) if self.limit else 1.0
        return f"MISSED  {text}, by {off:.0%}"


class Figures:
    """Looks things up in a report."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.rows = {(row["corpus"], row["step"], row["tool"]): row for row in report.get("rows", [])}
        self.corpora = [name for name in report.get("corpora", {}) if "," not in name]

    def get(self, corpus: str, step: str, tool: str, measure: str = "wall_s") -> float | None:
        """A median, None if it was not measured."""
        row = self.rows.get((corpus, step, tool))
        return row[measure]["median"] if row else None

    def best_peer(self, corpus: str, step: str, measure: str = "wall_s") -> tuple[str, float | None]:
        """The peer with the lower figure, and the figure; only if both were measured."""
        found = [(self.get(corpus, step, peer, measure), peer) for peer in PEERS]
        values = [(value, peer) for value, peer in found if value is not None]
        return (min(values)[1], min(values)[0]) if len(values) == len(PEERS) else ("", None)

    def link_cpu_s(self, corpus: str) -> float | None:
        """What carrying a corpus over the local socket costs at both ends."""
        wanted = {"transport": "unix", "api": "asyncio"}
        found = [each for each in self.report.get("link", []) if wanted.items() <= each.items()]
        entry = found[0] if found else None
        if entry is None or corpus not in self.report.get("corpora", {}):
            return None
        gib = self.report["corpora"][corpus]["bytes"] / 2**30
        return (entry["client_s_per_gib"] + entry["server_s_per_gib"]) * gib

    def part(self, name: str, key: str) -> float | None:
        """A figure of a part, None if it was not measured."""
        value = self.report.get(name, {}).get(key)
        return value["median"] if isinstance(value, dict) else value


def times(value: float | None, factor: float) -> float | None:
    """None stays None."""
    return None if value is None else value * factor


def of_backups(figures: Figures) -> Iterator[Target]:
    """First and unchanged backups: wall clock and processor."""
    for corpus in (name for name in HEAVY if name in figures.corpora):
        peer, best = figures.best_peer(corpus, "first")
        own = figures.get(corpus, "first", OWN)
        note = f"{peer} {best:.2f} / {FASTER}" if best else ""
        yield Target(f"first, {corpus}, wall", own, times(best, 1 / FASTER), "s", note)
        zstd, link = figures.get(corpus, "first", "floor", "cpu_s"), figures.link_cpu_s(corpus)
        limit = None if zstd is None or link is None else CPU_OVER_ZSTD * zstd + link
        note = f"{CPU_OVER_ZSTD} * zstd {zstd:.2f} + link {link:.2f}" if limit else ""
        yield Target(f"first, {corpus}, CPU", figures.get(corpus, "first", OWN, "cpu_s"), limit, "s", note)
    if "small" in figures.corpora:
        yield not_slower(figures, "small", "first", AIM_LIGHT)
    for corpus in figures.corpora:
        yield not_slower(figures, corpus, "unchanged", AIM_LIGHT)
    for corpus in figures.corpora:
        yield not_slower(figures, corpus, "restore", AIM_RESTORE)


def not_slower(figures: Figures, corpus: str, step: str, aim: float) -> Target:
    """As fast as the faster peer; the note says how many times as fast it is."""
    peer, best = figures.best_peer(corpus, step)
    own = figures.get(corpus, step, OWN)
    note = f"{best / own:.2f} times as fast as {peer}, the aim is {aim}" if best and own else ""
    return Target(f"{step}, {corpus}, wall", own, best, "s", note)


def of_stored(figures: Figures) -> Iterator[Target]:
    """What the repositories grow by."""
    for corpus in figures.corpora:
        peer, best = figures.best_peer(corpus, "first", "stored_mib")
        own = figures.get(corpus, "first", OWN, "stored_mib")
        note = f"{peer} {best:.1f} * {STORED_OVER_PEER}" if best else ""
        yield Target(f"first, {corpus}, stored", own, times(best, STORED_OVER_PEER), "MiB", note)
    for corpus, share in (("image", SECOND_IMAGE_SHARE), ("tree", 1.0)):
        if corpus in figures.corpora:
            restic = figures.get(corpus, "second", "restic", "stored_mib")
            own = figures.get(corpus, "second", OWN, "stored_mib")
            note = f"restic {restic:.1f} * {share:.2f}" if restic else ""
            yield Target(f"second, {corpus}, stored", own, times(restic, share), "MiB", note)


def of_links(figures: Figures) -> Iterator[Target]:
    """TLS beside the local socket, and four streams beside one."""
    cores = float(min(STREAMS, figures.report["machine"]["cores"]))
    for corpus in figures.corpora:
        local, tls = (figures.get(corpus, "first", tool) for tool in (OWN, "staddle-tls"))
        share = local / tls if local and tls else None
        unit = "of the local socket's speed"
        yield Target(f"first, {corpus}, over TLS", share, TLS_SHARE, unit, least=True)
    for corpus in (name for name in figures.corpora if name != "image"):
        one, four = (figures.get(corpus, "first", tool) for tool in (OWN, "staddle-4"))
        cpu = figures.get(corpus, "first", "staddle-4", "cpu_s")
        if not (one and four and cpu):
            yield Target(f"first, {corpus}, four streams", None, None, "")
            continue
        # One stream may keep all cores busy by itself: then there is nothing left to scale to.
        note = f"{one / four:.2f} times as fast as one stream, {cpu / four:.2f} of {cores:.0f} cores busy"
        scaled = max(one / four, cpu / four)
        yield Target(f"first, {corpus}, four streams", scaled, CORES_SHARE * cores, "cores", note, least=True)


def of_memory(figures: Figures) -> Iterator[Target]:
    """Peaks: of both processes of the agent together, and of the client."""
    peaks = [
        (sum(size for name, size in row["peak_mib"].items() if name.startswith("agent")), corpus, step)
        for (corpus, step, tool), row in figures.rows.items()
        if tool == "staddle-4"
    ]
    worst, corpus, step = max(peaks, default=(None, "", ""))
    yield Target("peak of the agent with 4 streams", worst, AGENT_MIB, "MiB", f"{corpus}, {step}")
    clients = [
        (row["peak_mib"]["client"], step)
        for (corpus, step, tool), row in figures.rows.items()
        if tool == OWN and corpus == "small" and step in {"first", "unchanged", "second"}
    ]
    peak, step = max(clients, default=(None, ""))
    yield Target("peak of the client on small files", peak, CLIENT_MIB, "MiB", step)


def of_parts(figures: Figures) -> Iterator[Target]:
    """Start-up, fingerprint library, catalog."""
    yield Target("--help", figures.part("startup", "help_s"), HELP_S, "s")
    yield Target("empty incremental of 1,000 files", figures.part("startup", "empty_s"), EMPTY_S, "s")
    entries = figures.part("fingerprints", "entries")
    note = "" if entries is None or entries >= FULL_ENTRIES else f"with {entries:,.0f} entries only"
    for key, limit, unit, least in (
        ("lookups_per_s_10000", LOOKUPS_PER_S, "look-ups/s", True),
        ("inserts_per_s", INSERTS_PER_S, "inserts/s", True),
        ("disk_bytes_per_entry", DISK_BYTES, "bytes an entry on disk", False),
        ("memory_bytes_per_entry", MEMORY_BYTES, "bytes an entry in memory", False),
    ):
        value = figures.part("fingerprints", key)
        yield Target("fingerprints", value, limit, unit, note, least=least)
    files = figures.part("catalog", "files")
    note = "" if files is None or files >= FULL_FILES else f"with {files:,.0f} files only"
    for key, limit, unit, name in (
        ("ingest_s", INGEST_S, "s", "ingest"),
        ("list_ms", LIST_MS, "ms", "one directory"),
        ("find_ms", FIND_MS, "ms", "find by substring"),
    ):
        yield Target(f"catalog, {name}", figures.part("catalog", key), limit, unit, note)


def evaluate(report: dict[str, Any]) -> list[Target]:
    """All targets of a report."""
    figures = Figures(report)
    groups = (of_backups, of_stored, of_links, of_memory, of_parts)
    return [target for group in groups for target in group(figures)]


def text(report: dict[str, Any], *, everything: bool = False) -> str:
    """A line for each target that was measured, or for every one; and how many were met."""
    found = evaluate(report)
    known = [target for target in found if target.met is not None]
    met = sum(target.met is True for target in known)
    lines = [target.line() for target in (found if everything else known)]
    lines.append(f"{met} of {len(known)} targets met, {len(found) - len(known)} not measured")
    if report.get("scale", 1.0) < 1.0:
        lines.append(f"with corpora of {report['scale']} of their size, where fixed costs count for most")
    return "\n".join(lines)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as handle:
        print(text(json.load(handle), everything=True))
