"""The keyring: the keys of all domains of a grid, sealed under its recovery key.

One lies on each medium (kind `4e`) and one in the grid's `pki/`, so that media and recovery key are enough to
bring everything back. A keyring is written anew whenever a key is added; of several, the latest counts.
"""

from __future__ import annotations

import msgspec

from staddle.api.types import Buffer, Kind
from staddle.data.crypto import (
    DomainKeys,
    RecoveryKey,
    aead,
    best_suite,
    hkdf,
)
from staddle.data.envelope import HEAD_BYTES, decode_head, encode_head
from staddle.data.plain import Id, check_version, unmsgpack
from staddle.data.sealed import checked_footer, open_body, seal_body
from staddle.errors import Corrupt, Denied

VERSION = 1
_WHAT = "keyring"
_INFO = b"staddle keyring 1"


class Keyring(msgspec.Struct, frozen=True, kw_only=True):
    """All keys of a grid; repr shows none of them."""

    grid: Id
    created_ns: int
    domains: list[DomainKeys]
    version: int = VERSION


class _OnlyVersion(msgspec.Struct, frozen=True):
    version: int


def encode(
    recovery_key: RecoveryKey, grid: bytes, domains: list[DomainKeys], nonce: bytes, created_ns: int
) -> bytes:
    """The whole object.

    Args:
        recovery_key: seals it.
        grid: 16-byte id.
        domains: all of the grid's.
        nonce: 12 fresh random bytes.
        created_ns: UTC; the latest keyring counts.
    """
    ring = Keyring(
        grid=grid,
        created_ns=created_ns,
        domains=[msgspec.structs.replace(domain, grid=grid) for domain in domains],
    )
    suite = best_suite()
    fields = {"grid": grid.hex(), "suite": str(suite), "nonce": nonce.hex()}
    head = encode_head(Kind.KEYRING, VERSION, fields)
    cipher = aead(suite, hkdf(recovery_key.key, salt=grid, info=_INFO))
    sealed = seal_body(grid, head, msgspec.msgpack.encode(ring), cipher, nonce=nonce, version=VERSION)
    return b"".join(sealed.parts)


def decode(recovery_key: RecoveryKey, blob: Buffer) -> Keyring:
    """Open a keyring. Raises Denied (another recovery key), Corrupt, NewerFormat."""
    head = bytes(memoryview(blob)[:HEAD_BYTES])
    footer = checked_footer(blob, _WHAT, VERSION)
    fields = decode_head(head, Kind.KEYRING, _WHAT, VERSION)
    try:
        grid, nonce = bytes.fromhex(fields["grid"]), bytes.fromhex(fields["nonce"])
        cipher = aead(int(fields["suite"]), hkdf(recovery_key.key, salt=grid, info=_INFO))
    except (KeyError, ValueError):
        raise Corrupt(f"{_WHAT}: the head lacks a field") from None
    try:
        plain = open_body(blob, head, footer, cipher, nonce=nonce, what=_WHAT)
    except Corrupt:
        # the digest over all bytes was right: these are the bytes that were written
        raise Denied(
            f"this recovery key does not open the keyring of grid {grid.hex()}",
            hint="use the recovery key that was printed for this grid",
        ) from None
    try:
        check_version(_WHAT, unmsgpack(plain, _OnlyVersion).version, VERSION)
        ring = unmsgpack(plain, Keyring)
    except ValueError as error:
        raise Corrupt(f"{_WHAT}: {error}") from None
    if ring.grid != grid:
        raise Corrupt(f"{_WHAT}: the grid in the head is not the one inside")
    return ring
