"""Tier 2: the entries of a manifest as Arrow columns, with no Python object per file.

Names and paths are bytes. SQL users get text: where the bytes are UTF-8 the text is exact and the `_raw`
column is NULL; else the text has U+FFFD for what is not, and `_raw` keeps the bytes.

Chunk lists become runs `(container number, first ordinal, count)`: a new file is one run, an unchanged one
usually too. Zero regions occupy nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from staddle.api.catalog import ManifestColumns
from staddle.errors import Corrupt

_ZERO_REGION = 0xFFFFFFFF
_RUN = pa.struct([("c", pa.int32()), ("o", pa.int64()), ("n", pa.int32())])


def directory_rows(columns: ManifestColumns, backup: int, manifest_no: int, first_dir_no: int) -> pa.Table:
    """Rows of the table `dirs`."""
    dirs = columns.entries.dirs
    text, raw = _text_and_raw(pa.array(dirs, pa.binary()))
    count = len(dirs)
    return pa.table(
        {
            "dir_no": np.arange(first_dir_no, first_dir_no + count, dtype=np.int64),
            "backup": _repeat(backup, count),
            "manifest_no": _repeat(manifest_no, count),
            "path": text,
            "path_raw": raw,
        }
    )


def file_rows(
    columns: ManifestColumns,
    backup: int,
    manifest_no: int,
    first_dir_no: int,
    container_no: Sequence[int],
) -> pa.Table:
    """Rows of the table `files`, in the order of the manifest.

    Args:
        columns: the decoded manifest.
        backup: its backup.
        manifest_no: its number in the catalog.
        first_dir_no: number of its first directory.
        container_no: number of each container in its table.

    Raises:
        Corrupt: the columns contradict each other.
    """
    entries = columns.entries
    values = entries.columns
    count = len(values["dir"])
    names = _split(entries.names, count)
    text, raw = _text_and_raw(names)
    return pa.table(
        {
            "backup": _repeat(backup, count),
            "manifest_no": _repeat(manifest_no, count),
            "row_no": np.arange(count, dtype=np.int32),
            "dir_no": values["dir"].astype(np.int64) + first_dir_no,
            "name": text,
            "name_raw": raw,
            "type": values["type"],
            "mode": values["mode"].astype(np.uint16),
            "uid": values["uid"],
            "gid": values["gid"],
            "size_bytes": values["size"],
            "mtime_ns": values["mtime_ns"],
            "ctime_ns": values["ctime_ns"],
            "part_offset": values["offset"],
            "flags": values["flags"],
            "link": _links(entries.links, values["link"]),
            "runs": _runs(columns, np.asarray(container_no, np.int32)),
        }
    )


def _runs(columns: ManifestColumns, container_no: NDArray[np.int32]) -> pa.Array:
    first, count = columns.chunk_first.astype(np.int64), columns.chunk_count.astype(np.int64)
    chunks = columns.chunks
    rows, total = len(count), int(count.sum())
    if rows and int((first + count).max()) > len(chunks.container):
        raise Corrupt("manifest: an entry refers to chunks that are not there")
    entry_of = np.repeat(np.arange(rows), count)
    chunk_of = np.arange(total) + np.repeat(first - (np.cumsum(count) - count), count)
    container = chunks.container[chunk_of]
    stored = container != _ZERO_REGION
    entry_of, container = entry_of[stored], container[stored]
    ordinal = chunks.ordinals[chunk_of[stored]].astype(np.int64)
    if container.size and int(container.max()) >= len(container_no):
        raise Corrupt("manifest: a chunk lies in a container that is not in the table")
    begins = np.ones(len(container), bool)
    begins[1:] = (
        (entry_of[1:] != entry_of[:-1])
        | (container[1:] != container[:-1])
        | (ordinal[1:] != ordinal[:-1] + 1)
    )
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(container))
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(entry_of[starts], minlength=rows), out=offsets[1:])
    fields = [
        pa.array(container_no[container[starts]]),
        pa.array(ordinal[starts]),
        pa.array(lengths.astype(np.int32)),
    ]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(fields, fields=list(_RUN)))


def _split(joined: bytes, count: int) -> pa.Array:
    """Strings that are joined by NUL, as a binary array."""
    if not count:
        return pa.array([], pa.binary())
    data = np.frombuffer(joined, np.uint8)
    ends = np.flatnonzero(data == 0)
    if len(ends) != count - 1:
        raise Corrupt(f"manifest: {len(ends) + 1} names for {count} rows")
    offsets = np.zeros(count + 1, np.int32)
    offsets[1:-1] = ends - np.arange(count - 1)
    offsets[-1] = len(data) - (count - 1)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[data != 0])]
    return pa.Array.from_buffers(pa.binary(), count, buffers)


def _text_and_raw(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Text that SQL can show, and the bytes where the text is not exact."""
    try:
        return values.cast(pa.string()), pa.nulls(len(values), pa.binary())
    except pa.ArrowInvalid:
        pass
    text: list[str] = []
    raw: list[bytes | None] = []
    for value in values.to_pylist():
        try:
            text.append(value.decode())
            raw.append(None)
        except UnicodeDecodeError:
            text.append(value.decode(errors="replace"))
            raw.append(value)
    return pa.array(text, pa.string()), pa.array(raw, pa.binary())


def _links(links: Sequence[bytes], index: NDArray[Any]) -> pa.Array:
    """Targets as text, NULL for rows without one."""
    table = pa.array([link.decode(errors="replace") for link in links], pa.string())
    return table.take(pa.array(index.astype(np.int64) - 1, mask=index == 0))


def _repeat(value: int, count: int) -> NDArray[np.int32]:
    return np.full(count, value, np.int32)
