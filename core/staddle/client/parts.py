"""An entry whose content is no file of the walk, a stream or an image: its records, piece by piece."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from staddle.api.types import Buffer
from staddle.client.scan import split
from staddle.client.units import Record
from staddle.data.records import EntryFlag, EntryRows, EntryType, encode_part


@dataclass(frozen=True)
class Entry:
    """What is known of it beside its content.

    Attributes:
        path: absolute, as it stands in the backup.
        kind: STREAM or IMAGE.
        mode: permission bits.
        uid, gid: of whom it is.
        mtime_ns: since 1970 UTC.
    """

    path: bytes
    kind: EntryType
    mode: int
    uid: int
    gid: int
    mtime_ns: int

    def record(
        self,
        offset: int,
        payload: Buffer = b"",
        *,
        size: int,
        zero_bytes: int = 0,
        last: bool = False,
        flags: EntryFlag = EntryFlag(0),  # noqa: B008 an immutable number
    ) -> Record:
        """The piece at `offset`: bytes, or a zero region. Args: size: of the whole, as far as known."""
        rows = EntryRows()
        directory, name = split(self.path)
        rows.add(
            directory,
            name,
            self.kind,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            size=size,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.mtime_ns,
            flags=int(flags),
        )
        return Record(encode_part(rows.build(), offset, zero_bytes=zero_bytes, last=last), payload)


def own_ids() -> tuple[int, int]:
    """User and group of this process; zeros where there are none."""
    if sys.platform == "win32":
        return 0, 0
    return os.geteuid(), os.getegid()


class Kept:
    """What can't be read again: records that are to be made again are the very same ones."""

    def remake(self, dropped: list[Record], _bad: list[bytes]) -> Iterator[Record]:
        """See Source.remake. Nothing here refers to a base."""
        yield from dropped
