"""Options of the built-in media: what may stand in their `[medium.NAME]` tables."""

from __future__ import annotations

import msgspec

from staddle.api.types import HomePath


class DirectoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a directory medium.

    Attributes:
        path: the directory. It is made if it does not exist, unless `mount` is set.
        mount: the path must be, or lie below, a mounted file system (`/` itself does not count), so that an
            unmounted share is never labelled by mistake. A labelled volume is recognised by its label anyway.
        reserve_bytes: below this much free space the medium calls itself low (M9). By default 256 MiB
            (eight containers), or an eighth of a file system that is smaller than 2 GiB.
    """

    path: HomePath
    mount: bool = False
    reserve_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path:
            raise ValueError("path must name a directory")
        if self.reserve_bytes is not None and self.reserve_bytes < 0:
            raise ValueError("reserve_bytes is negative")


class MemoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a memory medium.

    Attributes:
        store: media with the same store, in one process, share their objects; the medium's name by default.
        capacity_bytes: when it is full.
        reserve_bytes: below this much free space it calls itself low (M9).
    """

    store: str = ""
    capacity_bytes: int = 1 << 40
    reserve_bytes: int = 0

    def __post_init__(self) -> None:
        if self.capacity_bytes < 0 or self.reserve_bytes < 0:
            raise ValueError("capacity_bytes and reserve_bytes are not negative")
