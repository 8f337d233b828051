"""One small sealed object: a manifest, a seal or a journal entry (docs/format.md, "Sealed object").

    head (1024, text) | sealed body: one zstd frame | footer (80)

The same head, footer and keys as a container, with the body in the directory's place.
"""

from __future__ import annotations

import msgspec
import zstandard
from blake3 import blake3

from staddle.api.types import Buffer, Kind
from staddle.data.container import SEALED_PART_NONCE, unpack
from staddle.data.crypto import TAG_BYTES, Aead, DomainKeys, best_suite, digest
from staddle.data.envelope import (
    FOOTER_BYTES,
    HEAD_BYTES,
    WORDS,
    Footer,
    decode_footer,
    domain_head,
    open_domain_head,
)
from staddle.data.plain import PLAIN_BYTES_MAX
from staddle.errors import Corrupt

VERSION = 1

_LEVEL = 3


class SealedObject(msgspec.Struct, frozen=True, kw_only=True):
    """Ready for `Volume.put`: the parts in order, their sum, the unkeyed BLAKE3-256 of the whole."""

    object_id: bytes
    parts: list[bytes]
    size_bytes: int
    digest: bytes


def seal_object(
    kind: Kind,
    object_id: bytes,
    plain: Buffer,
    keys: DomainKeys,
    *,
    key: bytes,
    wrap_nonce: bytes,
    suite: int | None = None,
) -> SealedObject:
    """Pack and seal one object.

    Args:
        kind: MANIFEST, SEAL or JOURNAL.
        object_id: 16 bytes, UUIDv7, never used before.
        plain: the body, at most 256 MiB.
        keys: of the domain.
        key: 32 fresh random bytes, for this object alone.
        wrap_nonce: 12 fresh random bytes.
        suite: of SUITES; by default the faster one here.
    """
    suite = suite or best_suite()
    head = domain_head(kind, VERSION, object_id, keys, key=key, wrap_nonce=wrap_nonce, suite=suite)
    return seal_body(object_id, head, plain, Aead(suite, key), nonce=SEALED_PART_NONCE, version=VERSION)


def open_object(keys: DomainKeys, kind: Kind, object_id: bytes, blob: Buffer) -> bytes:
    """The body of a sealed object, every byte of it checked.

    Raises: Corrupt (damaged, cut off, or another object), NewerFormat, Denied (keys of that domain or version
    are not here).
    """
    what = f"{WORDS[kind]} {object_id.hex()}"
    head = bytes(memoryview(blob)[:HEAD_BYTES])
    footer = checked_footer(blob, what, VERSION)
    cipher = open_domain_head(head, kind, object_id, keys, what=what, newest=VERSION)
    return open_body(blob, head, footer, cipher, nonce=SEALED_PART_NONCE, what=what)


def logged_digest(kind: Kind, blob: Buffer) -> bytes:
    """By what the log knows an object: the digest of its bytes, of a container those before its footer."""
    view = memoryview(blob)
    return digest([view[:-FOOTER_BYTES] if kind is Kind.CONTAINER else view])


def seal_body(
    object_id: bytes, head: bytes, plain: Buffer, cipher: Aead, *, nonce: bytes, version: int
) -> SealedObject:
    """Pack `plain` and seal it behind `head`, which is authenticated with it."""
    if len(plain) > PLAIN_BYTES_MAX:
        raise ValueError(f"the body has {len(plain)} bytes, more than {PLAIN_BYTES_MAX}")
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(plain)
    footer = Footer(
        version=version,
        chunks=0,
        sealed_offset=HEAD_BYTES,
        sealed_bytes=len(packed) + TAG_BYTES,
        plain_bytes=len(plain),
    )
    body = cipher.encrypt(nonce, packed, head + footer.bound())
    hasher = blake3(head).update(body)
    tail = msgspec.structs.replace(footer, digest=hasher.digest()).encode()
    return SealedObject(
        object_id=object_id,
        parts=[head, body, tail],
        size_bytes=len(head) + len(body) + len(tail),
        digest=hasher.update(tail).digest(),
    )


def checked_footer(blob: Buffer, what: str, newest: int) -> Footer:
    """The footer of a whole object in memory; its digest and limits are checked. Raises as `open_object`."""
    if len(blob) < HEAD_BYTES + TAG_BYTES + FOOTER_BYTES:
        raise Corrupt(f"{what}: cut off at {len(blob)} bytes")
    view = memoryview(blob)
    footer = decode_footer(bytes(view[-FOOTER_BYTES:]), len(blob), what, newest)
    if footer.chunks or footer.sealed_offset != HEAD_BYTES or footer.plain_bytes > PLAIN_BYTES_MAX:
        raise Corrupt(f"{what}: the footer's counts are beyond their limits")
    if digest([view[:-FOOTER_BYTES]]) != footer.digest:
        raise Corrupt(f"{what}: the digest over all bytes is wrong")
    return footer


def open_body(blob: Buffer, head: bytes, footer: Footer, cipher: Aead, *, nonce: bytes, what: str) -> bytes:
    """Inverse of `seal_body`. Raises Corrupt."""
    sealed = memoryview(blob)[HEAD_BYTES:-FOOTER_BYTES]
    try:
        packed = cipher.decrypt(nonce, sealed, head + footer.bound())
        return unpack(packed, footer.plain_bytes, zstandard.ZstdDecompressor())
    except Corrupt as error:
        raise Corrupt(f"{what}, body at byte {HEAD_BYTES}: {error.message}") from None
