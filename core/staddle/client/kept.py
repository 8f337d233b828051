"""Found entries packed small: what a record keeps of them until it is durable.

A stat result takes three quarters of a kilobyte, and a window of unchanged files has hundreds of thousands.
"""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Iterator, Sequence
from typing import Any, overload

import msgspec

from staddle import typed
from staddle.client.scan import Found

_FIELDS = [
    name
    for name in (
        *(
            "st_mode",
            "st_uid",
            "st_gid",
            "st_size",
            "st_mtime_ns",
            "st_ctime_ns",
            "st_ino",
            "st_dev",
            "st_nlink",
        ),
        *("st_rdev", "st_blocks", "st_flags", "st_birthtime", "st_birthtime_ns", "st_file_attributes"),
    )
    if hasattr(os.stat_result, name)
]
# Its fields are those that this system has, which no class statement can say.
_Status: Any = namedtuple("_Status", _FIELDS)  # type: ignore[misc]  # noqa: PYI024


_BITS_MAX = 63


class KeptFounds(Sequence[Found]):
    """A sequence of entries as they were found. Each look into it unpacks it: it is rarely needed."""

    __slots__ = ("_count", "_packed")

    def __init__(self, founds: Sequence[Found]) -> None:
        directories: dict[bytes, int] = {}
        rows = [
            (
                directories.setdefault(found.directory, len(directories)),
                found.name,
                *[getattr(found.status, field) for field in _FIELDS],
            )
            for found in founds
        ]
        self._count = len(rows)
        try:
            self._packed = msgspec.msgpack.encode((list(directories), rows))
        except OverflowError:  # a time that 64 bits of nanoseconds do not hold
            self._packed = msgspec.msgpack.encode((list(directories), [_spelled(row) for row in rows]))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Found]:
        return iter(self[:])

    @overload
    def __getitem__(self, index: int) -> Found: ...

    @overload
    def __getitem__(self, index: slice) -> list[Found]: ...

    def __getitem__(self, index: int | slice) -> Found | list[Found]:
        directories, rows = typed.unpack(self._packed, list[Any])
        if isinstance(index, slice):
            return [_unpacked(directories, row) for row in rows[index]]
        return _unpacked(directories, rows[index])


def _spelled(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        str(each) if isinstance(each, int) and each.bit_length() > _BITS_MAX else each for each in row
    )


def _unpacked(directories: list[bytes], row: list[Any]) -> Found:
    directory, name, *values = row
    status: Any = _Status(*[int(each) if isinstance(each, str) else each for each in values])
    return Found(directories[directory], name, status)
