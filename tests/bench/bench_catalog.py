"""How fast the catalog takes in files and answers.

    python tests/bench/bench_catalog.py [FILES] [DIRECTORY] [--json]

Targets for 10 million files: ingested in under 120 s, one directory listed in under 50 ms, found by substring
in under 2 s.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time

import numpy as np

from staddle.api.catalog import ManifestRows, Record
from staddle.catalog.duck import DuckCatalog
from staddle.catalog.oplog import OpLog
from staddle.data.entries import COLUMNS, EntryBatch
from staddle.data.manifest import ManifestBuilder, ManifestHead, decode
from staddle.engine import ops
from staddle.engine.messages import CopyOf, StoredObject

SEGMENT_FILES = 50_000
FILES_PER_DIR = 40
SEED = 7


def an_id(number):
    return b"\x01\x90" + number.to_bytes(14, "big")


def manifest_of(segment, rng):
    """A plausible segment: sizes, times and names as in real trees; one chunk a file, sometimes more."""
    rows = SEGMENT_FILES
    first = segment * rows
    columns = {name: np.zeros(rows, kind) for name, kind in COLUMNS.items()}
    columns["dir"] = (np.arange(rows) // FILES_PER_DIR).astype("<u4")
    columns["type"][:] = 1
    columns["mode"][:] = 0o644
    columns["uid"][:] = 1000
    columns["size"] = rng.lognormal(8.5, 2.0, rows).astype("<u8")
    columns["mtime_ns"] = 1_700_000_000_000_000_000 + rng.integers(0, 10**17, rows, dtype=np.int64)
    columns["ctime_ns"] = columns["mtime_ns"]
    dirs = [
        b"/home/data/project%05d/src/part%03d" % divmod(first // FILES_PER_DIR + n, 500)
        for n in range(-(-rows // FILES_PER_DIR))
    ]
    names = b"\0".join(b"document-%x-%d.txt" % (first + n, n % 97) for n in range(rows))
    head = ManifestHead(
        grid=bytes(16),
        domain=bytes(16),
        client="bench",
        name="tree",
        job=1,
        backup=1,
        stream=0,
        epoch=1,
        ordinal=segment,
        first=segment,
    )
    builder = ManifestBuilder(head)
    counts = 1 + (rng.random(rows) < 0.1) * rng.integers(0, 8, rows)
    total = int(counts.sum())
    containers = [builder.container_index(an_id(segment * 16 + n)) for n in range(8)]
    per = -(-total // 8)
    place = np.arange(total)
    builder.add_chunks(
        np.zeros((total, 32), np.uint8), np.array(containers)[place // per], place % per, np.full(total, 1000)
    )
    builder.add_entries(
        EntryBatch(names=names, dirs=dirs, columns=columns), np.cumsum(counts) - counts, counts
    )
    return builder.build(segment + 1), [an_id(segment * 16 + n) for n in range(8)]


def committed(segment, containers):
    def item(item_id):
        return StoredObject(
            id=item_id,
            size_bytes=1 << 25,
            digest=bytes(32),
            copies=[CopyOf("disk", item_id.hex())],
            raw_bytes=1 << 26,
            chunks=100,
        )

    return ops.SegmentCommitted(
        job=1,
        backup=1,
        stream=0,
        epoch=1,
        ordinal=segment,
        first=segment,
        next=segment + 1,
        manifest=item(an_id(1 << 40 | segment)),
        containers=[item(each) for each in containers],
        refs=b"".join(containers),
        revived=[],
        domain="d",
        want=1,
        files=SEGMENT_FILES,
        dirs=0,
        bytes_read=1,
        bytes_stored=1,
        at_ns=1,
    )


def say(text):
    print(text, file=sys.stderr, flush=True)


def timed(figures, key, call, repeat=5):
    """Call it some times; the median in ms becomes a figure, the spread is said."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        result = call()
        times.append((time.perf_counter() - begin) * 1e3)
    figures[key] = statistics.median(times)
    say(f"{key}: {figures[key]:.1f} ({min(times):.1f}-{max(times):.1f})")
    return result


def bench_log(directory, figures):
    log = OpLog(directory, bytes(16), 1)
    record = ops.to_args(committed(0, [an_id(n) for n in range(4)]))
    for lsn in range(1, 2001):
        log.append([Record(1, lsn, "segment_committed", record)]).result(30)
    figures["log_single_ms_median"] = log.latency.quantile_s(0.5) * 1e3
    figures["log_single_ms_99%"] = log.latency.quantile_s(0.99) * 1e3
    begin = time.perf_counter()
    last = [log.append([Record(1, lsn, "segment_committed", record)]) for lsn in range(2001, 7001)][-1]
    last.result(60)
    figures["log_grouped_per_s"] = 5000 / (time.perf_counter() - begin)
    log.close()


def begin_job(catalog):
    begun = ops.JobBegun(
        job=1,
        kind="backup",
        client="bench",
        name="tree",
        roots=[b"/home/data"],
        pool="p",
        domain="d",
        streams=1,
        backup=1,
        base_backup=0,
        request=b"r",
        session=b"s",
        at_ns=1,
    )
    medium = ops.MediumSet(name="disk", plugin="memory", volume=bytes(16), failure_domain="here")
    catalog.apply(
        [Record(1, n, ops.op_name(type(op)), ops.to_args(op)) for n, op in enumerate((medium, begun), 1)]
    )


def ingest(catalog, files, figures):
    rng = np.random.default_rng(SEED)
    wall = cpu = apply_s = 0.0
    for segment in range(files // SEGMENT_FILES):
        plain, containers = manifest_of(segment, rng)
        op = committed(segment, containers)
        record = Record(1, segment + 3, ops.op_name(type(op)), ops.to_args(op))
        begin, begin_cpu = time.perf_counter(), time.process_time()
        catalog.apply([record])
        applied = time.perf_counter()
        catalog.ingest([ManifestRows(backup=1, manifest=op.manifest.id, plain=plain)])
        apply_s += applied - begin
        wall += time.perf_counter() - begin
        cpu += time.process_time() - begin_cpu
    figures |= {
        "ingest_s": wall,
        "ingest_cpu_s": cpu,
        "ingest_records_s": apply_s,
        "files_per_s": files / wall,
    }
    say(f"ingest: {wall:.1f} s, {cpu:.1f} s CPU")


def questions(catalog, files, figures):
    """`find_ms` is the slowest of the searches by substring."""
    middle = files // FILES_PER_DIR // 2
    path = b"/home/data/project%05d/src/part%03d" % divmod(middle, 500)
    assert len(timed(figures, "list_ms", lambda: catalog.list_directory(1, path))) == FILES_PER_DIR
    assert len(timed(figures, "find_name_ms", lambda: catalog.find("ment-1f4", [1]))) > 0
    timed(figures, "find_path_ms", lambda: catalog.find("5/src/part007/document-1", [1]))
    timed(figures, "find_nothing_ms", lambda: catalog.find("no such thing", [1]))
    figures["find_ms"] = max(figures[f"find_{what}_ms"] for what in ("name", "path", "nothing"))
    assert timed(figures, "files_hit_ms", lambda: catalog.files_hit(1, [an_id(1)]), 1)
    timed(figures, "sql_count_ms", lambda: catalog.query("SELECT type, count(*) FROM v_files GROUP BY type"))
    assert timed(figures, "verify_ms", catalog.verify, 1) == []


def run(files, directory):
    """All figures by name: milliseconds, seconds, bytes, as the names say."""
    files -= files % SEGMENT_FILES
    figures = {"files": files, "seed": SEED}
    bench_log(os.path.join(directory, "oplog"), figures)
    path = os.path.join(directory, "bench.duckdb")
    catalog = DuckCatalog(path, decode)
    begin_job(catalog)
    ingest(catalog, files, figures)
    questions(catalog, files, figures)
    timed(figures, "snapshot_ms", lambda: catalog.snapshot(os.path.join(directory, "snap.duckdb")), 1)
    catalog.close()
    figures["disk_bytes_per_file"] = os.path.getsize(path) / files
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="?", type=int, default=1_000_000)
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.files < SEGMENT_FILES:
        parser.error(f"at least {SEGMENT_FILES} files")
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        figures = run(arguments.files, directory)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:24} {value:>14,.2f}")


if __name__ == "__main__":
    main()
