"""Targets of the fingerprint library: log, run, manifest."""

from __future__ import annotations

import os
import shutil

import numpy as np
from blake3 import blake3
from targets import Target, in_file, msgpack_samples, scratch

from staddle.dedup import log as dedup_log
from staddle.dedup import manifest as dedup_manifest
from staddle.dedup import runs
from staddle.dedup.heads import pack_head
from staddle.platform.durable import Files


def _dedup_log(data: bytes) -> None:
    in_file("dedup/log.0000000001", data)
    for record in dedup_log.LogReader(os.path.join(scratch(), "dedup"), 1):
        if record.type == dedup_log.PUBLISH:
            dedup_log.decode_entries(record.payload)


def _dedup_log_seeds() -> list[bytes]:
    directory = os.path.join(scratch(), "dedup-seed")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    writer = dedup_log.LogWriter.create(directory, 1, Files())
    entries = dedup_log.Entries(
        [bytes(16), bytes(range(16))], np.array([1, 2], np.uint32), np.arange(3, dtype=np.uint64),
        np.arange(3, dtype=np.uint64), np.arange(3, dtype=np.uint32), np.arange(3, dtype=np.uint32),
    )  # fmt: skip
    writer.append(dedup_log.PUBLISH, 5, dedup_log.encode_entries(entries))
    writer.append(dedup_log.REMOVE, 6, [bytes(16)])
    writer.close()
    with open(os.path.join(directory, "log.0000000001"), "rb") as file:
        return [file.read()]


def _dedup_run(data: bytes) -> None:
    """prefix bits u8, rows u32, fences' digest 16, then the file."""
    if len(data) < 21:
        return
    bits, rows = data[0] % 40, int.from_bytes(data[1:5], "big")
    in_file("dedup/run.0000000001", data[21:])
    table = runs.open_run(os.path.join(scratch(), "dedup"), runs.RunRef(1, bits, rows, data[5:21]))
    table._lower_bound(np.arange(3, dtype=np.uint64) << np.uint64(62))


def _dedup_run_seeds() -> list[bytes]:
    directory = os.path.join(scratch(), "run-seed")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    from staddle.dedup.rows import no_rows

    writer = runs.RunWriter(directory, 1, 8, Files())
    for partition in range(256):
        writer.add(partition, no_rows())
    ref = writer.finish()
    with open(os.path.join(directory, "run.0000000001"), "rb") as file:
        data = file.read()
    return [bytes([ref.prefix_bits]) + ref.row_count.to_bytes(4, "big") + ref.fences_digest + data]


def _dedup_manifest(data: bytes) -> None:
    in_file("dedup/CURRENT", data)
    dedup_manifest.load_manifest(os.path.join(scratch(), "dedup"))


def _dedup_manifest_inside(body: bytes) -> None:
    head = pack_head(dedup_manifest._TEXT, 1, len(body))
    _dedup_manifest(head + blake3(body).digest(length=16) + body)


def _with_head(body: bytes) -> bytes:
    return pack_head(dedup_manifest._TEXT, 1, len(body)) + blake3(body).digest(length=16) + body


TARGETS = [
    Target("dedup-log", _dedup_log, _dedup_log_seeds),
    Target("dedup-run", _dedup_run, _dedup_run_seeds),
    Target(
        "dedup-manifest",
        _dedup_manifest,
        lambda: [_with_head(each) for each in msgpack_samples(dedup_manifest.Manifest)],
    ),
    Target(
        "dedup-manifest-inside",
        _dedup_manifest_inside,
        lambda: msgpack_samples(dedup_manifest.Manifest),
        "msgpack",
    ),
]
