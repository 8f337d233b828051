"""What every format shares and needs no cipher: lengths, ids, versions, decoding. Clients need no more."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from staddle import typed
from staddle.api.types import Buffer
from staddle.errors import Corrupt, NewerFormat

ID_BYTES = 16
FINGERPRINT_BYTES = 32
PLAIN_BYTES_MAX = 256 << 20
"""Longest unpacked body of a sealed object; checked before memory is taken."""
Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
"""A 16-byte identifier, in the structures that are read from media."""
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
"""A 32-byte digest, likewise."""

_Struct = TypeVar("_Struct")


def unmsgpack(data: Buffer, kind: type[_Struct]) -> _Struct:
    """Decode msgpack that may be hostile. Raises ValueError, whatever is wrong with it."""
    try:
        return typed.unpack(data, kind)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def check_version(what: str, version: int, newest: int) -> None:
    """Readers take the newest version and the one before it, and refuse later ones."""
    if version > newest:
        raise NewerFormat(
            f"{what}: format {version}, and this release reads up to {newest}",
            hint="use a newer release of Staddle",
        )
    if version < max(1, newest - 1):
        raise Corrupt(f"{what}: format {version} is no longer read", hint="use an older release of Staddle")
