"""What stands in a frame's meta, as msgpack arrays, and how an error travels."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from staddle import typed
from staddle.api.types import Buffer
from staddle.errors import OUTCOMES, RETRIES, SCOPES, ProtocolError, StaddleError, UsageError
from staddle.wire.frames import META_BYTES_MAX, WIRE_VERSIONS

ROLES = ("manager", "agent", "client", "admin")
JOINER = "joiner"
"""The role of a peer without a certificate: it may only join (join.py)."""

_TEXT_CHARS_MAX = 4096
_WORD_CHARS_MAX = 64
_MEMBERS_MAX = 16


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The greeting. A role is proved by the transport; here it is only said.

    Attributes:
        name: own name in the grid.
        role: one of `ROLES`.
        grid: 16-byte grid id, or empty when not known yet.
        features: optional abilities, short words.
        release: the product's version, for messages only.
        versions: wire versions spoken; the highest common one is used.
    """

    name: str
    role: str
    grid: bytes = b""
    features: tuple[str, ...] = ()
    release: str = ""
    versions: tuple[int, ...] = WIRE_VERSIONS


class RequestMeta(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Meta of a REQUEST or EVENT. `size_bytes` is the whole payload's size, over all frames."""

    op: str
    size_bytes: int
    args: msgspec.Raw


class ReplyMeta(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Meta of a REPLY."""

    size_bytes: int
    args: msgspec.Raw


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """A StaddleError on the wire. Unknown fields of a newer peer are ignored.

    `kind` is the default code of the nearest core class: an error may carry a finer code than its class.
    """

    code: str
    message: str
    hint: str = ""
    retry: str = "never"
    scope: str = "op"
    outcome: str = "in_doubt"
    exit_code: int = 1
    kind: str = ""


_T = TypeVar("_T")
_BEYOND = re.compile(
    r"Expected `(?P<kind>str|bytes)` (?:of length <= (?P<most>\d+)|matching regex .*) "
    r"- at `\$\.(?P<field>\w+)`"
)
# Only the core's own classes: a plugin's may want other arguments, and the engine reads only the fields.
_CORE = {kind for kind in StaddleError.__subclasses__() if kind.__module__ == StaddleError.__module__}
_CLASSES = {kind.default_code: kind for kind in _CORE}
_encoder = msgspec.msgpack.Encoder()


def pack(value: Any) -> bytes:
    """Msgpack of a Struct or plain value.

    Raises:
        ValueError: it is larger than a meta may be.
        UsageError: text in it is none: words of a command line may hold any bytes.
    """
    try:
        data = _encoder.encode(value)
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{error.object[:80]!r} is no text", hint="names, patterns and queries are written in UTF-8"
        ) from None
    if len(data) > META_BYTES_MAX:
        raise ValueError(
            f"{len(data)} bytes of arguments, at most {META_BYTES_MAX}: put bulk data into the payload"
        )
    return data


def unpack(data: Buffer | msgspec.Raw, kind: type[_T]) -> _T:
    """Inverse of `pack`. Raises ProtocolError for anything that is not a `kind`."""
    try:
        return typed.unpack(data, kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a message that cannot be read: {_in_words(error)}") from None


def _in_words(error: msgspec.DecodeError) -> str:
    """What a person can have caused: a field that is too long, or holds control characters."""
    found = _BEYOND.fullmatch(str(error))
    if found is None:
        return str(error)
    return f"{found['field']} " + (
        f"has more than {found['most']} {'characters' if found['kind'] == 'str' else 'bytes'}"
        if found["most"]
        else "holds characters that it must not hold"
    )


def unpack_hello(meta: bytes | None) -> Hello:
    """The peer's greeting, its lengths checked. Raises ProtocolError."""
    hello = unpack(meta or b"", Hello)
    words = (hello.name, hello.role, hello.release, *hello.features)
    if any(len(word) > _WORD_CHARS_MAX for word in words) or len(hello.grid) not in {0, 16}:
        raise ProtocolError("a greeting with a field that is too long")
    if len(hello.features) > _MEMBERS_MAX or not 0 < len(hello.versions) <= _MEMBERS_MAX:
        raise ProtocolError("a greeting with too many features or versions")
    return hello


def pack_error(error: StaddleError) -> bytes:
    """The meta of an ERROR or CANCEL frame. Long texts are cut."""
    body = ErrorBody(
        code=error.code[:_WORD_CHARS_MAX],
        message=error.message[:_TEXT_CHARS_MAX],
        hint=error.hint[:_TEXT_CHARS_MAX],
        retry=error.retry,
        scope=error.scope,
        outcome=error.outcome,
        exit_code=error.exit_code,
        kind=next((base.default_code for base in type(error).__mro__ if base in _CORE), ""),
    )
    return _encoder.encode(body)


def unpack_error(meta: bytes | None) -> StaddleError:
    """The peer's error, of the same class as there when this side knows the code, else a StaddleError.

    Words outside the known sets fall back to the careful choice: never retry, in doubt.
    """
    body = unpack(meta or b"", ErrorBody)
    return _CLASSES.get(body.kind or body.code, StaddleError)(
        body.message[:_TEXT_CHARS_MAX],
        hint=body.hint[:_TEXT_CHARS_MAX],
        code=body.code[:_WORD_CHARS_MAX],
        retry=next((word for word in RETRIES if word == body.retry), "never"),
        scope=next((word for word in SCOPES if word == body.scope), "op"),
        outcome=next((word for word in OUTCOMES if word == body.outcome), "in_doubt"),
        exit_code=body.exit_code if 0 < body.exit_code < 256 else 1,
    )
