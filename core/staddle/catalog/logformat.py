"""One file of the op-log: its header, its frames, and how the end of it is judged after a crash.

    header   magic 8 | version u32 | header length u32 | grid 16 | epoch u64 | first LSN u64 | salt 32
             | check 16
    frame    magic 4 | payload length u32 | check 8 | payload
    rest     zeros: room that was made ahead, since overwriting is faster than growing a file

All integers are little-endian. A payload is the msgpack array of the records of **one write**, followed by
one datasync; the next frame is written after that has returned. So a frame that is not whole can only be the
last one, and a valid frame behind a broken one proves damage to what was acknowledged. Damage to the last
frame itself looks like a write that a crash cut short, and no mark in the log could tell: it would be
written after the frame, and be missing as well. Whoever was told of the record (the catalog's file, a
snapshot, the next term's file) is the proof, see `OpLog.check_holds`. A check is BLAKE3
keyed with the file's random salt over the frame's offset, its length and its payload: neither another file's
old blocks nor bytes that a client chose can pass for a frame.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from enum import Enum

import msgspec
from blake3 import blake3

from staddle import typed
from staddle.api.catalog import Record
from staddle.errors import ConfigError, Corrupt, NewerFormat

LOG_VERSION = 1
LOG_MAGIC = b"STADLOG\n"
FRAME_MAGIC = b"\xf5SLF"
DAMAGED_HINT = "move the home's manager/ away, then `staddle up` and `staddle catalog rebuild`"
FRAME_BYTES_MAX = 64 << 20
"""Largest payload. Checked before anything is allocated."""

_HEADER = struct.Struct("<8sII16sQQ32s")
_FRAME = struct.Struct("<4sI8s")
_PLACE = struct.Struct("<QI")
_CHECK_BYTES = 16
HEADER_BYTES = _HEADER.size + _CHECK_BYTES
FRAME_HEAD_BYTES = _FRAME.size

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.log")
_DECODER = typed.decoder(list[Record])
_ENCODER = msgspec.msgpack.Encoder()


class LogHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Who wrote a file: one manager epoch, from `first_lsn` on."""

    grid: bytes
    epoch: int
    first_lsn: int
    salt: bytes
    version: int = LOG_VERSION


class Tail(Enum):
    """What follows the last valid frame."""

    CLEAN = "clean"  # nothing, or zeros
    TORN = "torn"  # a write that never ended: it was never acknowledged
    DAMAGED = "damaged"  # a valid frame comes later, so acknowledged records are missing


def file_name(epoch: int, first_lsn: int) -> str:
    """Name of a log file; names sort by (epoch, first LSN)."""
    return f"{epoch:016x}-{first_lsn:016x}.log"


def parse_file_name(name: str) -> tuple[int, int] | None:
    """Inverse of `file_name`: (epoch, first LSN), or None for any other file."""
    match = _NAME.fullmatch(name)
    return (int(match[1], 16), int(match[2], 16)) if match else None


def encode_header(header: LogHeader) -> bytes:
    """The first `HEADER_BYTES` of a file."""
    head = _HEADER.pack(
        LOG_MAGIC, header.version, HEADER_BYTES, header.grid, header.epoch, header.first_lsn, header.salt
    )
    return head + blake3(head).digest(length=_CHECK_BYTES)


def decode_header(data: bytes | memoryview, path: str, grid: bytes) -> LogHeader:
    """Check and read a header.

    Raises:
        Corrupt: not a log file, or damaged.
        NewerFormat: of a newer release.
        ConfigError: of another grid.
    """
    if len(data) < HEADER_BYTES:
        raise Corrupt(f"op-log file {path}: only {len(data)} bytes", hint=DAMAGED_HINT)
    magic, version, length, of_grid, epoch, first_lsn, salt = _HEADER.unpack_from(data)
    if magic != LOG_MAGIC:
        raise Corrupt(f"op-log file {path}: not an op-log file", hint=DAMAGED_HINT)
    if version > LOG_VERSION:
        raise NewerFormat(
            f"op-log file {path} has version {version}, this release reads up to {LOG_VERSION}",
            hint="start the release that wrote it, or a newer one",
        )
    check = blake3(data[: _HEADER.size]).digest(length=_CHECK_BYTES)
    if length != HEADER_BYTES or check != bytes(data[_HEADER.size : HEADER_BYTES]):
        raise Corrupt(f"op-log file {path}: damaged header at offset 0", hint=DAMAGED_HINT)
    if of_grid != grid:
        raise ConfigError(
            f"op-log file {path} belongs to grid {of_grid.hex()}, this is grid {grid.hex()}",
            hint="check which home directory is meant",
        )
    return LogHeader(grid=of_grid, epoch=epoch, first_lsn=first_lsn, salt=salt, version=version)


def encode_records(records: Sequence[Record]) -> list[bytes]:
    """Each record as msgpack. Raises what msgspec raises for arguments that msgpack can't carry."""
    return [_ENCODER.encode(record) for record in records]


def encode_frame(encoded: list[bytes], salt: bytes, offset: int) -> bytes:
    """A frame of already encoded records, to be written at `offset` and nowhere else."""
    payload = b"\xdd" + struct.pack(">I", len(encoded)) + b"".join(encoded)
    return _FRAME.pack(FRAME_MAGIC, len(payload), _check(salt, offset, payload)) + payload


def read_frames(data: memoryview, header: LogHeader, path: str) -> Iterator[tuple[int, list[Record]]]:
    """Valid frames from the beginning, as (offset behind the frame, records); ends at the first other byte.

    Raises:
        Corrupt: a frame is whole, yet its records can't be or do not follow one another.
    """
    offset, lsn = HEADER_BYTES, header.first_lsn
    while (payload := _payload_at(data, offset, header.salt)) is not None:
        try:
            records = _DECODER.decode(payload)
        except msgspec.DecodeError as error:
            raise Corrupt(f"op-log file {path}: unreadable records at offset {offset}: {error}") from error
        for record in records:
            if record.epoch != header.epoch or record.lsn != lsn:
                raise Corrupt(
                    f"op-log file {path}: record ({record.epoch}, {record.lsn}) at offset {offset}, "
                    f"where ({header.epoch}, {lsn}) belongs"
                )
            lsn += 1
        offset += FRAME_HEAD_BYTES + len(payload)
        yield offset, records


def judge_tail(data: memoryview, end: int, header: LogHeader) -> tuple[Tail, int]:
    """What follows the last valid frame, which ended at `end`; and the offset that proves it."""
    rest = bytes(data[end:])
    if not rest.strip(b"\0"):
        return Tail.CLEAN, end
    found = rest.find(FRAME_MAGIC)
    while found >= 0:
        if _payload_at(data, end + found, header.salt) is not None:
            return Tail.DAMAGED, end
        found = rest.find(FRAME_MAGIC, found + 1)
    return Tail.TORN, end


def _payload_at(data: memoryview, offset: int, salt: bytes) -> memoryview | None:
    """The payload of a valid frame at `offset`, else None."""
    if offset + FRAME_HEAD_BYTES > len(data):
        return None
    magic, length, check = _FRAME.unpack_from(data, offset)
    start = offset + FRAME_HEAD_BYTES
    if magic != FRAME_MAGIC or length > FRAME_BYTES_MAX or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if check == _check(salt, offset, payload) else None


def _check(salt: bytes, offset: int, payload: bytes | memoryview) -> bytes:
    hasher = blake3(_PLACE.pack(offset, len(payload)), key=salt)
    hasher.update(payload)
    return hasher.digest(length=8)
