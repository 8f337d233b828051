"""What a client sends to its agent: DATA meta (msgpack) beside a payload of at most 1 MiB.

- FILES: many entries in the order of the walk; the payload is their whole contents, one behind the other.
- PART: a piece of one file that is too long for one record, or a zero region of it.

The agent decodes with `decode_record`, which trusts nothing: a hostile client gets ProtocolError, and can
make no agent take memory, or keep a path, that the checks of `entries` refuse.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.api.types import Buffer
from staddle.data.entries import (
    WITH_CONTENT,
    EntriesError,
    EntryBatch,
    EntryFlag,
    EntryRows,
    EntryType,
    PackedEntries,
    column,
    unpack_entries,
)
from staddle.data.plain import unmsgpack
from staddle.errors import ProtocolError

__all__ = [
    "META_BYTES_MAX",
    "NO_BASE",
    "PAYLOAD_BYTES_MAX",
    "ROWS_MAX",
    "EntryBatch",
    "EntryFlag",
    "EntryRows",
    "EntryType",
    "FilesRecord",
    "PartRecord",
    "decode_record",
    "encode_files",
    "encode_part",
]

PAYLOAD_BYTES_MAX = 1 << 20
META_BYTES_MAX = 256 << 10
ROWS_MAX = 1 << 14
"""Most rows in one record; META_BYTES_MAX allows about two thousand with names of usual length."""
FILE_BYTES_MAX = 1 << 62
NO_BASE = 0xFFFFFFFF
"""In `base_manifests`: this row takes no content from the base backup."""

_HAS_CONTENT = np.isin(np.arange(256), [int(each) for each in WITH_CONTENT])
_UNCHANGED = int(EntryFlag.UNCHANGED)


class FilesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded FILES record; all arrays have one value per row of `batch`.

    Attributes:
        batch: the entries.
        content_lengths: u32, bytes of the payload that are the row's whole content; 0 for directories and
        such. base_manifests: u32, index of a manifest of the base backup whose row has this file's content,
        or NO_BASE. base_rows: u32, the row there. A file that lies in several rows of the base is sent as as
        many rows,
            each with its own base and the flags PART and, on the last one, LAST.
    """

    batch: EntryBatch
    content_lengths: NDArray[np.uint32]
    base_manifests: NDArray[np.uint32]
    base_rows: NDArray[np.uint32]


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded PART record.

    Attributes:
        batch: one row: the file, with the metadata known so far; final ones if `last`.
        offset: where in the file this piece begins.
        zero_bytes: length of a zero region that stands for a payload; 0 if there is a payload.
        last: nothing follows of this file.
    """

    batch: EntryBatch
    offset: int
    zero_bytes: int = 0
    last: bool = False


class _Files(msgspec.Struct, frozen=True, tag_field="kind", tag="files"):
    entries: PackedEntries
    lengths: bytes
    base_manifests: bytes = b""
    base_rows: bytes = b""


class _Part(msgspec.Struct, frozen=True, tag_field="kind", tag="part"):
    entries: PackedEntries
    offset: int
    zero_bytes: int = 0
    last: bool = False


_encoder = msgspec.msgpack.Encoder()


def encode_files(
    batch: EntryBatch,
    content_lengths: NDArray[Any] | list[int],
    base_manifests: NDArray[Any] | list[int] | None = None,
    base_rows: NDArray[Any] | list[int] | None = None,
) -> bytes:
    """Meta of a FILES record; see FilesRecord. Give both base columns or none."""
    with_base = base_manifests is not None and base_rows is not None
    return _encoder.encode(
        _Files(
            entries=batch.pack(),
            lengths=np.asarray(content_lengths, "<u4").tobytes(),
            base_manifests=np.asarray(base_manifests, "<u4").tobytes() if with_base else b"",
            base_rows=np.asarray(base_rows, "<u4").tobytes() if with_base else b"",
        )
    )


def encode_part(batch: EntryBatch, offset: int, *, zero_bytes: int = 0, last: bool = False) -> bytes:
    """Meta of a PART record for the one row of `batch`; see PartRecord."""
    return _encoder.encode(_Part(entries=batch.pack(), offset=offset, zero_bytes=zero_bytes, last=last))


def decode_record(meta: Buffer, payload_bytes: int) -> FilesRecord | PartRecord:
    """Read and check the meta of a DATA message.

    Args:
        meta: as it came from the link.
        payload_bytes: length of the payload beside it.

    Raises: ProtocolError.
    """
    if len(meta) > META_BYTES_MAX or payload_bytes > PAYLOAD_BYTES_MAX:
        raise ProtocolError(f"DATA with {len(meta)} bytes of meta and {payload_bytes} of payload is too long")
    try:
        raw: _Files | _Part = unmsgpack(meta, _Files | _Part)  # type: ignore[arg-type]
        batch = unpack_entries(raw.entries)
        return (
            _files(raw, batch, payload_bytes) if isinstance(raw, _Files) else _part(raw, batch, payload_bytes)
        )
    except ValueError as error:
        raise ProtocolError(f"DATA that makes no sense: {error}") from None


def _files(raw: _Files, batch: EntryBatch, payload_bytes: int) -> FilesRecord:
    rows = len(batch)
    if not 0 < rows <= ROWS_MAX:
        raise EntriesError(f"{rows} rows")
    lengths = column(raw.lengths, "<u4", rows, "lengths")
    if raw.base_manifests or raw.base_rows:
        manifests = column(raw.base_manifests, "<u4", rows, "base_manifests")
        base_rows = column(raw.base_rows, "<u4", rows, "base_rows")
    else:
        manifests, base_rows = np.full(rows, NO_BASE, "<u4"), np.zeros(rows, "<u4")
    if int(lengths.sum(dtype=np.uint64)) != payload_bytes:
        raise EntriesError(
            f"contents of {int(lengths.sum(dtype=np.uint64))} bytes in a payload of {payload_bytes}"
        )
    based = manifests != NO_BASE
    unchanged = (batch.columns["flags"] & _UNCHANGED) != 0
    empty = ~_HAS_CONTENT[batch.columns["type"]]
    if bool((lengths[empty | based] > 0).any()) or bool((based & empty).any()):
        raise EntriesError("content for a row that has none")
    if bool((based != unchanged).any()):
        raise EntriesError("UNCHANGED stands on exactly the rows with a base")
    return FilesRecord(batch=batch, content_lengths=lengths, base_manifests=manifests, base_rows=base_rows)


def _part(raw: _Part, batch: EntryBatch, payload_bytes: int) -> PartRecord:
    if len(batch) != 1 or int(batch.columns["type"][0]) not in WITH_CONTENT:
        raise EntriesError("a part is a piece of one entry that has content")
    if payload_bytes and raw.zero_bytes:
        raise EntriesError("a part has a payload or a zero region, not both")
    if not payload_bytes and not raw.zero_bytes and not raw.last:
        raise EntriesError("an empty part that is not the last one")
    if raw.offset < 0 or raw.zero_bytes < 0 or raw.offset + raw.zero_bytes + payload_bytes > FILE_BYTES_MAX:
        raise EntriesError(f"a part at {raw.offset} of {raw.zero_bytes} zero bytes")
    return PartRecord(batch=batch, offset=raw.offset, zero_bytes=raw.zero_bytes, last=raw.last)
