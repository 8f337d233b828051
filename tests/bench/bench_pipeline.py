"""Speed of the data plane: records in, sealed containers out, without a link or a medium.

    python tests/bench/bench_pipeline.py [--mib 256] [--corpus tree text random duplicates small] [--rounds 3]

Prints raw MB per CPU second of the whole process and per second of wall clock, what was stored, and what one
thread of `zstd` alone makes of the same bytes in the same round. Corpora: `tree` are files of this Python's
library, `text` is seeded text, `random` does not compress, `duplicates` are six edited copies of one piece,
`small` are files of 1-8 KiB. `--medium DIR`: containers are written there and synced.
"""

import argparse
import os
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import zstandard

from staddle.api.types import Durability, Receipt
from staddle.data.crypto import ChunkerSpec, DomainKeys
from staddle.data.entries import EntryRows, EntryType
from staddle.data.known import KnownChunks
from staddle.data.manifest import ManifestHead
from staddle.data.pipeline import Pipeline, Settings, StreamPlan
from staddle.data.records import decode_record, encode_files, encode_part
from staddle.data.segment import SegmentBuilder

MIB = 1 << 20
SEGMENT_BYTES = 64 * MIB
KEYS = DomainKeys(
    domain="bench",
    domain_id=bytes(16),
    fingerprint_key=bytes(range(32)),
    wrapping_keys={1: bytes(32)},
    current=1,
    chunker=ChunkerSpec(seed=4711),
)


class SystemIds:
    """Ids that differ, and random bytes."""

    def new_id(self):
        """16 bytes."""
        return os.urandom(16)

    def random(self, length):
        """From the system."""
        return os.urandom(length)


class NoHits:
    """The answer of an empty library."""

    def __init__(self, count):
        self.found = np.zeros(count, np.bool_)
        self.container = self.ordinal = self.raw_length = np.zeros(count, np.uint32)
        self.containers = np.zeros((1, 16), np.uint8)


def python_files(total_bytes):
    """(name, content) of library files, the largest set that fits."""
    roots = [os.path.dirname(os.__file__), *[path for path in sys.path if "site-packages" in path]]
    found = 0
    for root in roots:
        for directory, dirs, names in os.walk(root):
            dirs.sort()
            for name in sorted(names):
                path = os.path.join(directory, name)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                with open(path, "rb") as file:
                    data = file.read()
                found += len(data)
                if found > total_bytes:
                    return
                yield path.encode(), data


def texts(total_bytes, seed=1):
    """One file of seeded text, shuffled lines."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(2, 10))) for _ in range(4000)]
    lines = [" ".join(rng.choices(words, k=12)).encode() for _ in range(1 << 16)]
    out = bytearray()
    while len(out) < total_bytes:
        rng.shuffle(lines)
        out += b"\n".join(lines)
    yield b"/text", bytes(out[:total_bytes])


def randoms(total_bytes, seed=2):
    """One file that does not compress."""
    yield b"/random", random.Random(seed).randbytes(total_bytes)


def duplicates(total_bytes, seed=3):
    """Six copies of one piece, each with a few edits and insertions."""
    rng = random.Random(seed)
    piece = next(texts(total_bytes // 6, seed))[1]
    for copy in range(6):
        yield b"/copy%d" % copy, piece
        edited = bytearray(piece)
        for _ in range(len(piece) // (8 * MIB) + 1):
            at = rng.randrange(len(edited))
            edited[at:at] = rng.randbytes(1000)
        piece = bytes(edited)


def small_files(total_bytes, seed=4):
    """Files of 1-8 KiB."""
    rng = random.Random(seed)
    source = next(texts(8 * MIB, seed))[1]
    total = number = 0
    while total < total_bytes:
        size = rng.randint(1024, 8192)
        at = rng.randrange(len(source) - size)
        yield b"/s%d" % number, b"%d " % number + source[at : at + size]
        total += size
        number += 1


CORPORA = {
    "tree": python_files,
    "text": texts,
    "random": randoms,
    "duplicates": duplicates,
    "small": small_files,
}


def records(files):
    """(meta, payload) as a client sends them."""
    rows, lengths, payload = EntryRows(), [], bytearray()
    for path, data in files:
        directory, name = path.rsplit(b"/", 1)
        if len(data) > MIB:
            if lengths:
                yield encode_files(rows.build(), lengths), bytes(payload)
                rows, lengths, payload = EntryRows(), [], bytearray()
            one = EntryRows()
            one.add(directory or b"/", name, EntryType.FILE, size=len(data))
            batch = one.build()
            view = memoryview(data)
            for at in range(0, len(data), MIB):
                yield encode_part(batch, at, last=at + MIB >= len(data)), view[at : at + MIB]
            continue
        if len(payload) + len(data) > MIB or len(lengths) >= 1000:
            yield encode_files(rows.build(), lengths), bytes(payload)
            rows, lengths, payload = EntryRows(), [], bytearray()
        rows.add(directory or b"/", name, EntryType.FILE, size=len(data))
        lengths.append(len(data))
        payload += data
    if lengths:
        yield encode_files(rows.build(), lengths), bytes(payload)


def store_into(directory):
    """A store that writes and syncs, or drops."""

    def store(sealed):
        if directory:
            path = os.path.join(directory, sealed.container_id.hex())
            with open(path, "wb") as file:
                file.writelines(sealed.parts)
                file.flush()
                os.fsync(file.fileno())
            os.unlink(path)
        return [
            Receipt(
                name="c0/00/00",
                size_bytes=sealed.size_bytes,
                digest=sealed.digest,
                volume=bytes(16),
                durability=Durability.POWER_LOSS,
            )
        ]

    return store


def run(pipeline, messages, store, level):
    """One stream over all records; (stored bytes, chunks, hits, peak of buffers)."""
    known = KnownChunks(lambda prints: NoHits(len(prints)), set)
    plan = StreamPlan(keys=KEYS, ids=SystemIds(), store=store, known=known, level=level)
    stored = chunks = hits = 0
    segment, first, ordinal = None, 0, 0

    def begin():
        head = ManifestHead(
            grid=bytes(16), domain=bytes(16), client="c", name="n", job=1, backup=1, stream=0, epoch=1,
            ordinal=ordinal, first=first,
        )  # fmt: skip
        return SegmentBuilder(pipeline, plan, head)

    segment = begin()
    for seq, (meta, payload) in enumerate(messages):
        segment.add(decode_record(meta, len(payload)), payload)
        if segment.bytes_read >= SEGMENT_BYTES or seq == len(messages) - 1:
            result = segment.finish(seq + 1)
            stored += result.bytes_stored
            chunks += result.chunks
            hits += result.chunks_hit
            first, ordinal = seq + 1, ordinal + 1
            if seq < len(messages) - 1:
                segment = begin()
    return stored, chunks, hits


def zstd_alone(messages, level):
    """CPU seconds of compressing each file, or each 128 KiB of it, by itself."""
    compressor = zstandard.ZstdCompressor(level=level)
    pieces = []
    for meta, payload in messages:
        record = decode_record(meta, len(payload))
        sizes = record.content_lengths.tolist() if hasattr(record, "content_lengths") else [len(payload)]
        view, at = memoryview(payload), 0
        for size in sizes:
            pieces.extend(
                view[place : min(at + size, place + 131072)] for place in range(at, at + size, 131072)
            )
            at += size
    used = time.process_time()
    for piece in pieces:
        compressor.compress(piece)
    return time.process_time() - used


def main():
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--corpus", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--medium", default="", help="a directory for the containers")
    parser.add_argument("--streams", type=int, default=1)
    arguments = parser.parse_args()
    settings = Settings(workers=arguments.workers) if arguments.workers else Settings()
    pipeline = Pipeline(settings)
    print(f"{settings.workers} workers, zstd {arguments.level}, {os.cpu_count()} cores")
    for corpus in arguments.corpus:
        messages = list(records(CORPORA[corpus](arguments.mib * MIB)))
        raw = sum(len(payload) for _, payload in messages)
        cpu, wall, alone = [], [], []
        for _ in range(arguments.rounds):
            clock, used = time.perf_counter(), time.process_time()
            with ThreadPoolExecutor(arguments.streams) as streams:
                store = store_into(arguments.medium)
                jobs = [
                    streams.submit(run, pipeline, messages, store, arguments.level)
                    for _ in range(arguments.streams)
                ]
                stored, chunks, hits = (
                    sum(column) for column in zip(*(job.result() for job in jobs), strict=True)
                )
            total = raw * arguments.streams
            cpu.append(total / 1e6 / (time.process_time() - used))
            wall.append(total / 1e6 / (time.perf_counter() - clock))
            alone.append(raw / 1e6 / zstd_alone(messages, arguments.level))
        print(
            f"{corpus:11} {raw / MIB:6.0f} MiB  {statistics.median(cpu):5.0f} MB per CPU s "
            f"({min(cpu):.0f}-{max(cpu):.0f}, zstd alone {statistics.median(alone):.0f})  "
            f"{statistics.median(wall):5.0f} MB/s wall  "
            f"stored {stored / total:.3f}  {chunks} chunks, {hits} known  "
            f"peak {pipeline.batches.in_use_max}+{pipeline.containers.in_use_max} buffers"
        )
    pipeline.close()


if __name__ == "__main__":
    main()
