"""Decoding into types, safe in several threads at once, with one kind of error.

msgspec builds what it needs to know of a Struct when it first meets it, and another thread that meets the
same Struct meanwhile sees it half built: the process crashes (seen with msgspec 0.22). Types are made ready
here, one at a time, and everything that decodes outside of a single thread goes through this module.

Text that is no UTF-8 and values that are nested too deeply come out of msgspec as UnicodeDecodeError and
RecursionError. Whoever reads foreign bytes must not have to remember that: here they are DecodeErrors too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec

from staddle.api.types import Buffer

T = TypeVar("T")

_lock = threading.Lock()
_decoders: dict[Any, Decoder[Any]] = {}


class Decoder(Generic[T]):
    """Msgpack to one type. Made by `decoder`."""

    __slots__ = ("_inner",)

    def __init__(self, kind: Any) -> None:
        self._inner: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)

    def decode(self, data: Buffer | msgspec.Raw) -> T:
        """One value, and nothing behind it. Raises msgspec.DecodeError."""
        try:
            return self._inner.decode(data)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(_in_words(error)) from None


def _in_words(error: UnicodeDecodeError | RecursionError) -> str:
    """It may end in a message to a user."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else "text in it is no UTF-8"


def decoder(kind: type[T] | Any) -> Decoder[Any]:
    """The one msgpack decoder of a type; its Structs are ready once this returns."""
    found = _decoders.get(kind)
    if found is None:
        with _lock:
            found = _decoders.get(kind) or Decoder(kind)
            _decoders[kind] = found
    return found


def unpack(data: Buffer | msgspec.Raw, kind: type[T]) -> T:
    """Msgpack to `kind`. Raises msgspec.DecodeError."""
    value: T = decoder(kind).decode(data)
    return value


def from_json(data: Buffer, kind: type[T]) -> T:
    """JSON to `kind`. Raises msgspec.DecodeError."""
    decoder(kind)
    try:
        return msgspec.json.decode(data, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(_in_words(error)) from None


def convert(value: Any, kind: type[T], builtin_types: Iterable[type] = ()) -> T:
    """Plain values to `kind`. Raises msgspec.ValidationError."""
    decoder(kind)
    try:
        return msgspec.convert(value, kind, builtin_types=tuple(builtin_types))
    except RecursionError as error:
        raise msgspec.ValidationError(_in_words(error)) from None
