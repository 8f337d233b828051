"""Micro-benchmark of the fingerprint library: durable inserts, look-ups, bytes per entry.

    python tests/bench/bench_fingerprints.py [--entries 20000000] [--directory DIR] [--json]

Entries are published in batches of 10,000 (250 to a container), every batch durable before the next. Look-ups
are timed in batches of 1,000 and 10,000 at 0, 50 and 95 % hits, on the library as the inserts left it, with
its delta. `floor` is what a bare append + datasync of the same bytes costs: the disk's share.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time

import numpy as np

from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.dedup.publication import Publication
from staddle.platform.durable import FILES

BATCH = 10_000
PER_CONTAINER = 250
LOG_ROW_BYTES = 24
TARGETS = {"lookups_per_s_10000": 1_000_000, "inserts_per_s": 500_000}


def main() -> int:
    """Run it once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=2_000_000)
    parser.add_argument(
        "--directory", default=None, help="where to put the library (default: a temporary one)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="fingerprints-", dir=arguments.directory)
    try:
        figures = run(directory, arguments.entries, np.random.default_rng(arguments.seed))
    finally:
        shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            wanted = f"   (target {TARGETS[name]:,})" if name in TARGETS else ""
            print(f"{name:34} {value:>14,.2f}{wanted}")
    return 0


def run(directory: str, entries: int, random: np.random.Generator) -> dict[str, float]:
    """Fill a library, look up, reopen; the figures by name."""
    figures: dict[str, float] = {"entries": entries, "floor_ms_per_batch": disk_floor_ms(directory)}
    path = os.path.join(directory, "library")
    library = Library.open(path, "bench", OwnerMap.everyone())
    stored, seconds, disk_peak = fill(library, entries, random)
    figures["inserts_per_s"] = len(stored) / seconds.sum()
    last = seconds[-max(1, len(seconds) // 10) :]
    figures["inserts_per_s_last_tenth"] = len(last) * BATCH / last.sum()
    figures["publish_ms_median"] = float(np.median(seconds)) * 1e3
    figures["publish_ms_max"] = float(seconds.max()) * 1e3
    lookups(library, stored, random, figures)
    stats = library.stats()
    figures["delta_share"] = stats.delta_entries / stats.entries
    figures["memory_bytes_per_entry"] = stats.memory_bytes / entries
    figures["disk_bytes_per_entry"] = stats.disk_bytes / entries
    figures["disk_bytes_per_entry_peak"] = disk_peak
    library.close()
    begin = time.perf_counter()
    library = Library.open(path, "bench", OwnerMap.everyone())
    figures["reopen_s"] = time.perf_counter() - begin
    library.merge()
    figures["disk_bytes_per_entry_merged"] = library.stats().disk_bytes / entries
    begin = time.perf_counter()
    assert library.verify() == ()
    figures["verify_s"] = time.perf_counter() - begin
    library.close()
    return figures


def fill(library: Library, entries: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Publish in batches; (all fingerprints, seconds of each batch, peak of disk bytes per entry)."""
    stored = np.empty((entries // BATCH * BATCH, 32), np.uint8)
    lengths = np.full(PER_CONTAINER, 128 << 10, np.uint32)
    seconds, peak = [], 0.0
    for at in range(0, len(stored), BATCH):
        stored[at : at + BATCH] = random.integers(0, 256, (BATCH, 32), dtype=np.uint8)
        lsn = at // BATCH + 1
        batch = [
            Publication(lsn, random.bytes(16), stored[first : first + PER_CONTAINER], lengths)
            for first in range(at, at + BATCH, PER_CONTAINER)
        ]
        begin = time.perf_counter()
        library.publish_many(batch)
        seconds.append(time.perf_counter() - begin)
        if at >= len(stored) // 2:
            peak = max(peak, library.stats().disk_bytes / (at + BATCH))
    return stored, np.array(seconds), peak


def lookups(
    library: Library, stored: np.ndarray, random: np.random.Generator, figures: dict[str, float]
) -> None:
    """Time batches of each size and hit rate; the 10,000 figure is the slowest of its hit rates."""
    for size in (1_000, 10_000):
        slowest = float("inf")
        for hits in (0, 50, 95):
            batches = []
            for _ in range(max(20, 500_000 // size)):
                keys = random.integers(0, 256, (size, 32), dtype=np.uint8)
                known = np.flatnonzero(random.random(size) * 100 < hits)
                keys[known] = stored[random.integers(0, len(stored), len(known))]
                batches.append((keys, len(known)))
            begin = time.perf_counter()
            found = sum(int(library.lookup(keys).found.sum()) for keys, _ in batches)
            rate = size * len(batches) / (time.perf_counter() - begin)
            assert found == sum(known for _, known in batches), "every stored fingerprint is found, no other"
            figures[f"lookups_per_s_{size}_at_{hits}%"] = rate
            slowest = min(slowest, rate)
        figures[f"lookups_per_s_{size}"] = slowest


def disk_floor_ms(directory: str) -> float:
    """Milliseconds to append and sync what one batch logs, median of 50."""
    fd = FILES.create(os.path.join(directory, "floor"))
    data, seconds = os.urandom(BATCH * LOG_ROW_BYTES), []
    for _ in range(50):
        begin = time.perf_counter()
        FILES.write(fd, data)
        FILES.datasync(fd)
        seconds.append(time.perf_counter() - begin)
    FILES.close(fd)
    return float(np.median(seconds)) * 1e3


if __name__ == "__main__":
    sys.exit(main())
