"""Snapshots of the tier-1 state: one file each, checksummed; the two newest that verify are kept.

magic 8 | version u32 | reserved u32 | grid 16 | epoch u64 | LSN u64 | state length u64
| BLAKE3 of all else 32 | state
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress

import msgspec
from blake3 import blake3

from staddle.errors import ConfigError, Corrupt, NewerFormat, NotFound
from staddle.platform.durable import Files, write_file_durable
from staddle.platform.readfault import is_read_fault

SNAPSHOT_VERSION = 1
SNAPSHOT_MAGIC = b"STADSNP\n"
SNAPSHOTS_KEPT = 2

_HEADER = struct.Struct("<8sII16sQQQ")
_DIGEST_BYTES = 32
_NAME = re.compile(r"snapshot-([0-9a-f]{16})\.snap")


class Snapshot(msgspec.Struct, frozen=True):
    """The state after the record `lsn`."""

    epoch: int
    lsn: int
    state: bytes


def write_snapshot(directory: str, grid: bytes, snapshot: Snapshot, files: Files) -> None:
    """Write one, durably, and remove all but the two newest that verify. Raises OSError."""
    path = os.path.join(directory, f"snapshot-{snapshot.lsn:016x}.snap")
    head = _HEADER.pack(
        SNAPSHOT_MAGIC, SNAPSHOT_VERSION, 0, grid, snapshot.epoch, snapshot.lsn, len(snapshot.state)
    )
    digest = blake3(head).update(snapshot.state).digest()
    write_file_durable(path, [head, digest, snapshot.state], files)
    kept = 0
    for lsn, name in _names(directory):
        if kept >= SNAPSHOTS_KEPT:
            with suppress(FileNotFoundError):
                files.remove(os.path.join(directory, name))
        elif _verifies(directory, grid, lsn):
            kept += 1


def verified(directory: str, grid: bytes) -> Iterator[Snapshot]:
    """Snapshots that verify, newest first.

    Raises:
        NewerFormat: the newest was written by a newer release.
        ConfigError: it belongs to another grid.
    """
    for lsn, _name in _names(directory):
        with suppress(Corrupt):
            yield read_snapshot(directory, grid, lsn)


def read_snapshot(directory: str, grid: bytes, lsn: int) -> Snapshot:
    """Read and check one.

    Raises:
        NotFound, Corrupt, NewerFormat, ConfigError: none there; damaged; newer; of another grid.
        OSError: it can't be read, for another reason than a bad block.
    """
    path = os.path.join(directory, f"snapshot-{lsn:016x}.snap")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise NotFound(f"there is no snapshot {path}") from error
    except OSError as error:
        if not is_read_fault(error):
            raise
        raise Corrupt(f"snapshot {path}: {error.strerror or error}", hint="the older one is used") from error
    start = _HEADER.size + _DIGEST_BYTES
    if len(data) < start or not data.startswith(SNAPSHOT_MAGIC):
        raise Corrupt(f"snapshot {path}: not a snapshot", hint="the older one is used")
    _, version, _, of_grid, epoch, of_lsn, length = _HEADER.unpack_from(data)
    if version > SNAPSHOT_VERSION:
        raise NewerFormat(
            f"snapshot {path} has version {version}, this release reads up to {SNAPSHOT_VERSION}",
            hint="start the release that wrote it, or a newer one",
        )
    view = memoryview(data)
    digest = blake3(view[: _HEADER.size]).update(view[start:]).digest()
    if digest != data[_HEADER.size : start] or length != len(data) - start or of_lsn != lsn:
        raise Corrupt(f"snapshot {path}: damaged", hint="the older one is used")
    if of_grid != grid:
        raise ConfigError(
            f"snapshot {path} belongs to grid {of_grid.hex()}, this is grid {grid.hex()}",
            hint="check which home directory is meant",
        )
    return Snapshot(epoch, lsn, data[start:])


def newest_epoch(directory: str) -> int:
    """Highest epoch that any snapshot's header names, verified or not; 0 for none.

    One that can't be read names none: its term's log file has the epoch in its name. Raises OSError.
    """
    epochs = [0]
    for _lsn, name in _names(directory):
        head = b""
        try:
            with open(os.path.join(directory, name), "rb") as file:
                head = file.read(_HEADER.size)
        except OSError as error:
            if not is_read_fault(error):
                raise
        if len(head) == _HEADER.size and head.startswith(SNAPSHOT_MAGIC):
            epochs.append(_HEADER.unpack(head)[4])
    return max(epochs)


def _verifies(directory: str, grid: bytes, lsn: int) -> bool:
    try:
        read_snapshot(directory, grid, lsn)
    except Corrupt:
        return False
    return True


def _names(directory: str) -> list[tuple[int, str]]:
    """(LSN, name) of every snapshot file, newest first."""
    matches = [(m, name) for name in os.listdir(directory) if (m := _NAME.fullmatch(name))]
    return sorted(((int(match[1], 16), name) for match, name in matches), reverse=True)
