r"""What a backup knows of a file: columns shared by the client's records and the manifests on media.

A batch is columnar from the client's scan to the medium: no object per file on the way. All numbers are
little-endian; strings are bytes as the source system gave them, joined by NUL, which no path can hold.

Paths are full and absolute, with `/` between the parts on every system. A Windows path `C:\Users\x` is
written `/C/Users/x`, a share `\\host\share\x` as `/UNC/host/share/x`; UTF-16 that is no text becomes WTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.data.plain import unmsgpack

ROWS_MAX = 1 << 22
"""Most rows in one batch or manifest."""
PATH_BYTES_MAX = 1 << 16
"""Longest directory path or link target."""
EXTRA_BYTES_MAX = 240 << 10
"""Longest packed `extra` map; what is larger travels as NAMED_STREAM."""


class EntryType(IntEnum):
    """What an entry is. Numbers are part of the format."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3  # link: the target as it stands in the link
    HARDLINK = 4  # link: full path of the entry that has the content
    FIFO = 5
    SOCKET = 6
    BLOCK = 7  # extra: rdev
    CHAR = 8  # extra: rdev
    IMAGE = 9  # content of a whole device
    STREAM = 10  # content that came from standard input
    NAMED_STREAM = 11  # an alternate data stream or resource fork of the entry with this path; link: its name


WITH_CONTENT = (EntryType.FILE, EntryType.IMAGE, EntryType.STREAM, EntryType.NAMED_STREAM)
"""Types that may have content."""


class EntryFlag(IntFlag):
    """Bits of the column `flags`. A reader ignores bits that it does not know."""

    PART = 1  # this row has not the whole content: other rows of the same path have the rest
    LAST = 2  # of the rows with PART, the one whose metadata counts
    UNCHANGED = 4  # content taken over from the base backup, not read
    CHANGED = 8  # changed while it was read: the content is from several moments
    SPARSE = 16  # zero regions are holes
    ERROR = 32  # reading failed: what could not be read is missing or zero
    RECENT = 64  # had changed just before it was read: a later change may have left the same times


COLUMNS: dict[str, str] = {
    "dir": "<u4",  # index into dirs
    "type": "|u1",  # EntryType
    "mode": "<u4",  # permission bits, set-id and sticky bits: & 0o7777
    "uid": "<u4",
    "gid": "<u4",
    "size": "<u8",  # bytes, of the whole file
    "mtime_ns": "<i8",  # since 1970-01-01 UTC, may be negative
    "ctime_ns": "<i8",  # change of the metadata (Windows: ChangeTime)
    "inode": "<u8",
    "device": "<u8",
    "nlink": "<u4",
    "offset": "<u8",  # where in the file the content of this row begins
    "flags": "<u2",  # EntryFlag
    "link": "<u4",  # 0: none, else index + 1 into links
    "extra": "<u4",  # 0: none, else index + 1 into extras
}
"""Name and numpy type of every column of a row; the name itself stands in `names`."""

_IS_TYPE = np.isin(np.arange(256), [int(each) for each in EntryType])


class EntriesError(ValueError):
    """Columns contradict each other; the caller knows whether a medium or a peer is to blame."""


class PackedEntries(msgspec.Struct, frozen=True, kw_only=True):
    """An EntryBatch as it is written, by msgpack, as a map with these keys.

    `dirs`, `names` and `links` are joined by NUL; `columns` holds little-endian bytes by name; each of the
    `extras` is a msgpack map; `users` and `groups` give names to the ids that occur.
    """

    rows: int
    dirs: bytes
    names: bytes
    columns: dict[str, bytes]
    links: bytes = b""
    extras: list[bytes] = []
    users: dict[int, str] = {}
    groups: dict[int, str] = {}


class EntryBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of entries in columns.

    Attributes:
        names: last parts of the paths, joined by NUL; `name_list()` splits them.
        dirs: the table of directory paths.
        columns: by the names of COLUMNS, each of shape (rows,).
        links: targets; the column `link` points here.
        extras: packed maps, each distinct one once; the column `extra` points here. Keys: docs/format.md.
        users: uid -> name, as far as known.
        groups: gid -> name.
    """

    names: bytes
    dirs: list[bytes]
    columns: dict[str, NDArray[Any]]
    links: list[bytes] = []
    extras: list[bytes] = []
    users: dict[int, str] = {}
    groups: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.columns["dir"])

    def name_list(self) -> list[bytes]:
        """The last part of every row's path."""
        return self.names.split(b"\0") if len(self) else []

    def paths(self) -> list[bytes]:
        """The full path of every row."""
        dirs = [each if each.endswith(b"/") else each + b"/" for each in self.dirs]
        indexes = self.columns["dir"].tolist()
        return [dirs[at] + name for at, name in zip(indexes, self.name_list(), strict=True)]

    def link(self, row: int) -> bytes:
        """Target of a symlink or hard link, name of a named stream; empty if there is none."""
        at = int(self.columns["link"][row])
        return self.links[at - 1] if at else b""

    def extra(self, row: int) -> dict[str, Any]:
        """Further metadata of a row; empty if there is none. Raises ValueError."""
        at = int(self.columns["extra"][row])
        if not at:
            return {}
        return unmsgpack(self.extras[at - 1], dict[str, Any])

    def pack(self) -> PackedEntries:
        """The form that is written. Raises EntriesError for a NUL in a path, which would shift the tables."""
        dirs, links = b"\0".join(self.dirs), b"\0".join(self.links)
        for blob, count in ((dirs, len(self.dirs)), (links, len(self.links)), (self.names, len(self))):
            if blob.count(b"\0") != max(0, count - 1):
                raise EntriesError("a path holds NUL")
        return PackedEntries(
            rows=len(self),
            dirs=dirs,
            names=self.names,
            columns={
                name: self.columns[name].astype(kind, copy=False).tobytes() for name, kind in COLUMNS.items()
            },
            links=links,
            extras=self.extras,
            users=self.users,
            groups=self.groups,
        )


def unpack_entries(packed: PackedEntries) -> EntryBatch:
    """Inverse of `EntryBatch.pack`; every index and path is checked. Raises EntriesError."""
    rows = packed.rows
    if not 0 <= rows <= ROWS_MAX:
        raise EntriesError(f"{rows} rows")
    columns = {name: column(packed.columns.get(name), kind, rows, name) for name, kind in COLUMNS.items()}
    dirs = packed.dirs.split(b"\0") if packed.dirs else []
    links = packed.links.split(b"\0") if packed.links else []
    if rows and (
        int(columns["dir"].max()) >= len(dirs)
        or int(columns["link"].max()) > len(links)
        or int(columns["extra"].max()) > len(packed.extras)
    ):
        raise EntriesError("a row points outside of its tables")
    if not bool(_IS_TYPE[columns["type"]].all()):
        raise EntriesError("a row is of a type that does not exist")
    batch = EntryBatch(
        names=packed.names,
        dirs=dirs,
        columns=columns,
        links=links,
        extras=packed.extras,
        users=packed.users,
        groups=packed.groups,
    )
    _check_paths(batch)
    return batch


def column(data: bytes | None, kind: str, rows: int, name: str) -> NDArray[Any]:
    """One column from its bytes, of exactly `rows` values. Raises EntriesError."""
    kept = np.dtype(kind)
    if data is None or len(data) != rows * kept.itemsize:
        raise EntriesError(f"column {name!r} has not {rows} values")
    return np.frombuffer(data, kept)


def _check_paths(batch: EntryBatch) -> None:
    """Refuse paths that are not absolute, and parts that would climb (`..`) or hide a path (`/`)."""
    names = batch.names
    if names.count(b"\0") != max(0, len(batch) - 1) or (names and not len(batch)):
        raise EntriesError("there are not as many names as rows")
    framed = b"\0" + names + b"\0"
    if b"/" in names or b"\0.\0" in framed or b"\0..\0" in framed:
        raise EntriesError("a name is '.', '..' or holds '/'")
    if b"\0\0" in framed and len(batch):
        roots = [at for at, each in enumerate(batch.dirs) if each == b"/"]
        empty = [row for row, name in enumerate(batch.name_list()) if not name]
        if not bool(np.isin(batch.columns["dir"][empty], roots).all()):
            raise EntriesError("only the root directory has an empty name")
    if not all(map(is_absolute, batch.dirs)):
        raise EntriesError("a directory path is not absolute or holds '.' or '..'")
    if any(not 0 < len(each) <= PATH_BYTES_MAX for each in batch.links):
        raise EntriesError("a link target is empty or too long")
    hard = batch.columns["link"][batch.columns["type"] == EntryType.HARDLINK]
    if not all(at and is_absolute(batch.links[at - 1]) for at in hard.tolist()):
        raise EntriesError("a hard link leads to a path that is not absolute")
    if any(len(each) > EXTRA_BYTES_MAX for each in batch.extras):
        raise EntriesError("further metadata of a row is too long")


def is_absolute(path: bytes) -> bool:
    """Whether it is a full path without `.`, `..`, empty parts or NUL; `/` itself is one."""
    if path == b"/":
        return True
    if not path.startswith(b"/") or len(path) > PATH_BYTES_MAX or b"\0" in path:
        return False
    return not {b"", b".", b".."} & set(path[1:].split(b"/"))


_ROW = np.dtype([(name, kind) for name, kind in COLUMNS.items() if name not in {"link", "extra"}])


class EntryRows:
    """Collects rows on the client, one `add` per file, and turns them into a batch at once."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, ...]] = []
        self._names: list[bytes] = []
        self._dirs: dict[bytes, int] = {}
        self._link: list[int] = []
        self._extra: list[int] = []
        self._links: list[bytes] = []
        self._extras: dict[bytes, int] = {}
        self.users: dict[int, str] = {}
        self.groups: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        directory: bytes,
        name: bytes,
        type: EntryType,  # noqa: A002 - the column's name
        *,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime_ns: int = 0,
        ctime_ns: int = 0,
        inode: int = 0,
        device: int = 0,
        nlink: int = 1,
        offset: int = 0,
        flags: int = 0,
        link: bytes = b"",
        extra: Mapping[str, Any] | bytes | None = None,
    ) -> int:
        """Append one row; returns its number. See COLUMNS for the meanings.

        `mode` may be a whole st_mode; `extra` may be packed already.
        """
        values = (
            *(type, mode & 0o7777, uid, gid, size, mtime_ns, ctime_ns, inode, device, nlink),
            *(offset, flags),
        )
        packed = extra if isinstance(extra, bytes) else msgspec.msgpack.encode(extra) if extra else b""
        return self.add_values(directory, name, values, link, packed)

    def add_values(
        self, directory: bytes, name: bytes, values: tuple[int, ...], link: bytes = b"", extra: bytes = b""
    ) -> int:
        """The same for who has a million rows to add.

        Args:
            directory: of the path.
            name: its last part.
            values: in the order of COLUMNS, without `dir`, `link` and `extra`; mode without the type.
            link: target, empty for none.
            extra: a packed map, empty for none.
        """
        self._rows.append((self._dirs.setdefault(directory, len(self._dirs)), *values))
        self._names.append(name)
        if link:
            self._links.append(link)
        self._link.append(len(self._links) if link else 0)
        self._extra.append(self._extras.setdefault(extra, len(self._extras) + 1) if extra else 0)
        return len(self._rows) - 1

    def build(self) -> EntryBatch:
        """The rows so far as a batch. Raises OverflowError for a number that its column cannot hold."""
        rows = np.array(self._rows, _ROW)
        columns: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(rows[name]) for name in _ROW.names or ()
        }
        columns["link"] = np.array(self._link, "<u4")
        columns["extra"] = np.array(self._extra, "<u4")
        return EntryBatch(
            names=b"\0".join(self._names),
            dirs=list(self._dirs),
            columns=columns,
            links=self._links,
            extras=list(self._extras),
            users=self.users,
            groups=self.groups,
        )
