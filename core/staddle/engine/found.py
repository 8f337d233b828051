"""What a rebuild has found on the media: objects that were read and verified, and those that can't be."""

from __future__ import annotations

import msgspec

from staddle.engine.messages import CopyOf, StreamEndOf


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An object that was found, read and verified, and all its placements."""

    id: bytes
    size_bytes: int
    digest: bytes
    domain: str
    copies: list[CopyOf]


class FoundContainer(Found, frozen=True, kw_only=True):
    """A container."""

    raw_bytes: int
    chunks: int


class FoundManifest(Found, frozen=True, kw_only=True):
    """A manifest: its head, the containers that it refers to, and its counts."""

    job: int
    backup: int
    client: str
    name: str
    stream: int
    epoch: int
    ordinal: int
    first: int
    next: int
    previous_manifest: bytes
    previous_digest: bytes
    refs: list[bytes]
    created_ns: int
    plain_digest: bytes = b""
    files: int = 0
    dirs: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0


class FoundSeal(Found, frozen=True, kw_only=True):
    """A seal, as SealNeeded had it."""

    manager_epoch: int
    job: int
    backup: int
    client: str
    name: str
    pool: str
    roots: list[bytes]
    started_ns: int
    finished_ns: int
    state: str
    files: int
    dirs: int
    bytes_read: int
    bytes_stored: int
    warnings: int
    streams: list[StreamEndOf]


class FoundBad(msgspec.Struct, frozen=True, kw_only=True):
    """An object of which no copy is whole, and where they lie. `size_bytes`: of the longest."""

    id: bytes
    size_bytes: int
    copies: list[CopyOf]
