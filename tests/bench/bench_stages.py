"""Each stage of the data path by itself, on one core: MB per processor second.

    python tests/bench/bench_stages.py [--mib 256] [--directory DIR] [--rounds 3] [--json]

The stages get what the stage before them makes: `read` file contents, `copy` into the batch buffer, `chunk`
the buffers, `fingerprint`, `look-up` and `compress` the chunks, `seal` what is left of them, `digest` and
`store` full containers. `store` writes and syncs: its seconds are of the wall clock too. `all` is what one
core makes of new data if nothing else is to be done. Buffers are reused, as an agent's are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import zstandard
from bench_pipeline import KEYS
from corpora import Stock

from staddle.data.chunker import Chunker, Rows
from staddle.data.container import ContainerBuilder
from staddle.data.crypto import NONCE_BYTES, digest
from staddle.data.pipeline import CONTAINER_BYTES
from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.platform.durable import FILES

MIB = 1 << 20
BATCH = 8 * MIB
LEVEL = 1
READ = 1 * MIB


def write_corpora(directory: str, mib: int) -> dict[str, str]:
    """`files`: contents of library files; `random`: what does not compress."""
    paths = {name: os.path.join(directory, name) for name in ("files", "random")}
    stock, rng = Stock(0), random.Random(41)
    for name, source in (("files", stock.take), ("random", rng.randbytes)):
        with open(paths[name], "wb") as handle:
            handle.writelines(source(MIB) for _ in range(mib))
    return paths


class Buffers:
    """Buffers of one size by number, made at first use: memory that is touched for the first time is slow."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._made: list[bytearray] = []

    def take(self, number: int) -> bytearray:
        while len(self._made) <= number:
            self._made.append(bytearray(self._size))
        return self._made[number]


class Data:
    """One corpus, and what each stage has made of it for the next."""

    def __init__(self, path: str, directory: str) -> None:
        self.path, self.directory = path, directory
        self.pieces: list[bytes] = []
        self.batches: list[memoryview] = []
        self.chunks: list[memoryview] = []
        self.prints: list[bytes] = []
        self.bodies: list[bytes] = []
        self.containers: list[Any] = []
        self.batch_buffers, self.container_buffers = Buffers(BATCH), Buffers(CONTAINER_BYTES)
        self.library = Library.open(os.path.join(directory, "library"), "bench", OwnerMap.everyone())

    def read(self) -> None:
        self.pieces = []
        with open(self.path, "rb", buffering=0) as handle:
            while piece := handle.read(READ):
                self.pieces.append(piece)

    def copy(self) -> None:
        self.batches = []
        at, place = BATCH, 0
        for piece in self.pieces:
            if at + len(piece) > BATCH:
                self.batches.append(memoryview(self.batch_buffers.take(place)))
                at, place = 0, place + 1
            self.batches[-1][at : at + len(piece)] = piece
            at += len(piece)
        self.batches[-1] = self.batches[-1][:at]

    def chunk(self) -> None:
        chunker = Chunker(KEYS.chunker)
        self.chunks = []
        for view in self.batches:
            rows = Rows()
            chunker.cut_data(view, 0, True, rows)
            self.chunks += [
                view[start : start + length] for start, length in zip(rows.starts, rows.lengths, strict=True)
            ]

    def fingerprint(self) -> None:
        self.prints = [KEYS.fingerprint(chunk) for chunk in self.chunks]

    def look_up(self) -> None:
        keys = np.frombuffer(b"".join(self.prints), np.uint8).reshape(-1, 32)
        for at in range(0, len(keys), 1024):
            self.library.lookup(keys[at : at + 1024])

    def compress(self) -> None:
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.bodies = [compressor.compress(chunk) for chunk in self.chunks]

    def seal(self) -> None:
        self.containers = []
        builder = self._builder()
        for print_, body, chunk in zip(self.prints, self.bodies, self.chunks, strict=True):
            shorter: Any = body if len(body) < len(chunk) else chunk
            if not builder.fits(len(shorter)):
                self.containers.append(builder)
                builder = self._builder()
            builder.add_packed(print_, shorter, len(chunk))
        self.containers.append(builder)

    def _builder(self) -> ContainerBuilder:
        buffer = self.container_buffers.take(len(self.containers))
        return ContainerBuilder(
            KEYS, os.urandom(16), os.urandom(32), os.urandom(NONCE_BYTES),
            capacity_bytes=CONTAINER_BYTES, buffer=buffer,
        )  # fmt: skip

    def finish(self) -> None:
        self.containers = [builder.finish() for builder in self.containers]

    def digest(self) -> None:
        for sealed in self.containers:
            digest(sealed.parts)

    def store(self) -> None:
        for number, sealed in enumerate(self.containers):
            path = os.path.join(self.directory, f"container-{number}")
            fd = FILES.create(path)
            for part in sealed.parts:
                FILES.write(fd, part)
            FILES.datasync(fd)
            FILES.close(fd)
            os.unlink(path)


STAGES = ("read", "copy", "chunk", "fingerprint", "look_up", "compress", "seal", "finish", "digest", "store")


def once(data: Data) -> dict[str, tuple[float, float]]:
    """(processor, wall) seconds of each stage."""
    took = {}
    for stage in STAGES:
        call: Callable[[], None] = getattr(data, stage)
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        took[stage] = (time.process_time() - cpu, time.perf_counter() - wall)
    return took


def run(directory: str, mib: int, rounds: int) -> list[dict[str, Any]]:
    """A line for each corpus and stage."""
    lines = []
    for corpus, path in write_corpora(directory, mib).items():
        work = os.path.join(directory, f"{corpus}-work")
        os.mkdir(work)
        data = Data(path, work)
        rounds_took = [once(data) for _ in range(rounds)]
        data.library.close()
        megabytes = mib * MIB / 1e6
        total = 0.0
        for stage in STAGES:
            cpu = statistics.median(each[stage][0] for each in rounds_took)
            wall = statistics.median(each[stage][1] for each in rounds_took)
            total += cpu
            lines.append(
                {
                    "corpus": corpus,
                    "stage": stage,
                    "mb_per_cpu_s": round(megabytes / max(cpu, 1e-6), 1),
                    "mb_per_wall_s": round(megabytes / max(wall, 1e-6), 1),
                    "us_per_chunk": round(cpu / len(data.chunks) * 1e6, 2),
                }
            )
        lines.append({"corpus": corpus, "stage": "all", "mb_per_cpu_s": round(megabytes / total, 1)})
    return lines


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--directory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stages-", dir=arguments.directory) as directory:
        lines = run(directory, arguments.mib, arguments.rounds)
    if arguments.json:
        json.dump(lines, sys.stdout)
        return
    for line in lines:
        print("  ".join(f"{value:>12}" for value in line.values()))


if __name__ == "__main__":
    main()
