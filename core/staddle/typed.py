"""Decoding into types, safe in several threads at once.

msgspec builds what it needs to know of a Struct when it first meets it, and another thread that meets the
same Struct meanwhile sees it half built: the process crashes (seen with msgspec 0.22). Types are made ready
here, one at a time, and everything that decodes outside of a single thread goes through this module.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from staddle.api.types import Buffer

T = TypeVar("T")

_lock = threading.Lock()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def decoder(kind: type[T] | Any) -> msgspec.msgpack.Decoder[Any]:
    """The one msgpack decoder of a type; its Structs are ready once this returns."""
    found = _decoders.get(kind)
    if found is None:
        with _lock:
            found = _decoders.get(kind) or msgspec.msgpack.Decoder(kind)
            _decoders[kind] = found
    return found


def unpack(data: Buffer | msgspec.Raw, kind: type[T]) -> T:
    """Msgpack to `kind`. Raises msgspec.MsgspecError, UnicodeDecodeError, RecursionError."""
    value: T = decoder(kind).decode(data)
    return value


def from_json(data: Buffer, kind: type[T]) -> T:
    """JSON to `kind`. Raises msgspec.MsgspecError, UnicodeDecodeError, RecursionError."""
    decoder(kind)
    return msgspec.json.decode(data, type=kind)


def convert(value: Any, kind: type[T], builtin_types: Iterable[type] = ()) -> T:
    """Plain values to `kind`. Raises msgspec.ValidationError."""
    decoder(kind)
    return msgspec.convert(value, kind, builtin_types=tuple(builtin_types))
