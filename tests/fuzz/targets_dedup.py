"""Targets of the fingerprint library: log, run, manifest, and what a library makes of them."""

from __future__ import annotations

import functools
import os
import shutil
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from targets import Target, in_file, scratch, scratch_dir

from staddle.dedup import log as dedup_log
from staddle.dedup import manifest as dedup_manifest
from staddle.dedup import rows, runs
from staddle.dedup.core import Core
from staddle.dedup.heads import pack_head
from staddle.dedup.ownermap import OwnerMap
from staddle.platform.durable import Files

_NOTHING = dedup_manifest.Manifest(applied_lsn=0, log_floor=1, containers=b"", run=None, incomplete=())
_MASKS = OwnerMap.everyone().masks("a1")
_ASKED = np.stack([np.frombuffer(bytes(range(at, at + 32)), np.uint8) for at in (0, 1, 100)])


def _directory() -> str:
    return os.path.join(scratch(), "dedup")


def _library(manifest: dedup_manifest.Manifest, run: rows.Table | None, records: list[Any]) -> None:
    """What a library is built of, without its files; then it is asked, and its delta is looked through."""
    store: Any = SimpleNamespace(
        directory=_directory(),
        manifest=manifest,
        open_run=lambda: run,
        replay=lambda: iter(records),
        sweep=lambda: None,
        resume_log=lambda: None,
    )
    core = Core(store, 1 << 20)
    hits, _ = core.view(_MASKS).lookup(_ASKED)
    assert not (hits.found & hits.unknown).any()
    assert (hits.container[hits.found] < len(hits.containers)).all()
    core.containers.pack_live()


# --- log -----------------------------------------------------------------------------------------


def _dedup_log(data: bytes) -> None:
    in_file("dedup/log.0000000001", data)
    _library(_NOTHING, None, list(dedup_log.LogReader(_directory(), 1)))


def _dedup_log_inside(data: bytes) -> None:
    """kind u8, then a payload; a second record shows that the first one did no harm."""
    head = pack_head(dedup_log._TEXT, dedup_log.LOG_VERSION, 1)
    for kind, payload in ((data[:1] or b"\1")[0] % 4, data[1:]), (dedup_log.PUBLISH, _payload()):
        record = dedup_log._HEAD.pack(kind, 7, len(payload))
        head += record + dedup_log._digest(1, len(head), record, [payload]) + payload
    _dedup_log(head)


def _payload() -> bytes:
    hi, lo = rows.keys_of(_ASKED)
    entries = dedup_log.Entries(
        [bytes(range(16)), bytes(range(1, 17))], np.array([1, 2], np.uint32), hi, lo,
        np.arange(3, dtype=np.uint32), np.arange(3, dtype=np.uint32),
    )  # fmt: skip
    return b"".join(dedup_log.encode_entries(entries))


def _dedup_log_seeds() -> list[bytes]:
    directory = os.path.join(scratch(), "dedup-seed")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    writer = dedup_log.LogWriter.create(directory, 1, Files())
    writer.append(dedup_log.PUBLISH, 5, [_payload()])
    writer.append(dedup_log.REMOVE, 6, [bytes(range(16))])
    writer.close()
    with open(os.path.join(directory, "log.0000000001"), "rb") as file:
        return [file.read()]


# --- run -----------------------------------------------------------------------------------------


def _open(ref: runs.RunRef, directory: str) -> None:
    table = runs.open_run(directory, ref)
    manifest = dedup_manifest.Manifest(
        applied_lsn=1, log_floor=1, containers=bytes(range(32)), run=ref, incomplete=()
    )
    _library(manifest, table, [])
    for partition in (0, 1, 255):
        rows.sound(table.partition(partition))


def _dedup_run(data: bytes) -> None:
    """prefix bits u8, rows u32, fences' digest 16, then the file."""
    if len(data) < 21:
        return
    bits, count = data[0] % 31, int.from_bytes(data[1:5], "big")
    in_file("dedup/run.0000000001", data[21:])
    _open(runs.RunRef(1, max(bits, rows.PREFIX_BITS_MIN), count, data[5:21]), _directory())


def _dedup_run_inside(data: bytes) -> None:
    """Rows as they are, then 257 fences, behind a right head and a right digest."""
    count = max(len(data) - 257 * 4, 0) // rows.ROW_BYTES
    body, fences = (
        data[: count * rows.ROW_BYTES],
        data[count * rows.ROW_BYTES :][: 257 * 4].ljust(257 * 4, b"\0"),
    )
    in_file("dedup/run.0000000001", pack_head(runs._TEXT, runs.RUN_VERSION, 1, 8) + body + fences)
    _open(runs.RunRef(1, 8, count, blake3(fences).digest(length=16)), _directory())


@functools.cache
def _written_run() -> tuple[runs.RunRef, bytes]:
    """What the manifest refers to, and the file, which stays where it is."""
    directory = scratch_dir("dedup-manifest")
    hi, lo = rows.keys_of(_ASKED)
    some = np.arange(len(hi), dtype=np.uint32) % 2
    packed = rows.sort_rows(rows.pack(hi, lo, some, some, some))
    writer = runs.RunWriter(directory, 1, 8, Files())
    for partition in range(256):
        writer.add(partition, packed[rows.partition_of(packed[:, 0]) == partition])
    ref = writer.finish()
    with open(os.path.join(directory, "run.0000000001"), "rb") as file:
        return ref, file.read()


def _dedup_run_seeds() -> list[bytes]:
    ref, data = _written_run()
    return [bytes([ref.prefix_bits]) + ref.row_count.to_bytes(4, "big") + ref.fences_digest + data]


# --- manifest ------------------------------------------------------------------------------------


def _dedup_manifest(data: bytes) -> None:
    """With the run that it names, if that is the one that is there."""
    directory = os.path.dirname(in_file("dedup-manifest/CURRENT", data))
    found = dedup_manifest.load_manifest(directory)
    assert found is not None
    _library(found, None, [])
    if found.run is not None:
        _open(found.run, directory)


def _manifest_seeds() -> list[bytes]:
    sound = dedup_manifest.Manifest(
        applied_lsn=5, log_floor=2, containers=bytes(range(32)), run=_written_run()[0], incomplete=(3, 255)
    )
    return [msgspec.msgpack.encode(each) for each in (sound, _NOTHING)]


def _with_head(body: bytes) -> bytes:
    return pack_head(dedup_manifest._TEXT, 1, len(body)) + blake3(body).digest(length=16) + body


TARGETS = [
    Target("dedup-log", _dedup_log, _dedup_log_seeds),
    Target("dedup-log-inside", _dedup_log_inside, lambda: [b"\1" + _payload(), b"\2" + bytes(32), b"\3x"]),
    Target("dedup-run", _dedup_run, _dedup_run_seeds),
    Target("dedup-run-inside", _dedup_run_inside, lambda: [_written_run()[1][64:]]),
    Target(
        "dedup-manifest",
        _dedup_manifest,
        lambda: [_with_head(each) for each in _manifest_seeds()],
    ),
    Target(
        "dedup-manifest-inside",
        lambda body: _dedup_manifest(_with_head(body)),
        _manifest_seeds,
        "msgpack",
    ),
]
