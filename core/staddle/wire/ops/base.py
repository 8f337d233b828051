"""What an operation is: its name, the types of its request and reply, and who may send it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from staddle import typed
from staddle.api.types import Buffer
from staddle.errors import ProtocolError
from staddle.wire.calls import Reply
from staddle.wire.handlers import Call, Handlers
from staddle.wire.messages import unpack

CLIENTS = frozenset({"client", "admin"})
AGENTS = frozenset({"agent"})
MANAGER = frozenset({"manager"})
ADMINS = frozenset({"admin"})

INLINE_BYTES_MAX = 64 * 1024
"""A longer reply travels as payload, since a frame's meta is bounded."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Operation(NamedTuple, Generic[Request, Answer]):
    """One operation: a request of type `request`, sent by `roles` only, is answered by a `reply`.

    A request may bring up to `payload_bytes_max` of payload. `check` raises StaddleError for a request whose
    fields no type can describe; it runs before the handler.
    """

    name: str
    request: type[Request]
    roles: frozenset[str]
    reply: type[Answer]
    payload_bytes_max: int = 0
    check: Callable[[Request], None] | None = None

    def decode(self, reply: Reply) -> Answer:
        """The typed answer, wherever it travelled. Raises ProtocolError."""
        if len(reply.payload):
            return unpack(reply.payload, self.reply)
        try:
            return typed.convert(reply.args, self.reply)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"{self.name}: an answer that cannot be read: {error}") from None


def register(
    handlers: Handlers,
    operation: Operation[Any, Any],
    function: Callable[[Call], Awaitable[Any]],
    *,
    cancellable: bool = False,
    opens_channel: bool = False,
) -> None:
    """Answer an operation with `function`: it returns its typed reply, or (reply, payload)."""

    async def answer(call: Call) -> Any:
        if operation.check is not None:
            operation.check(call.args)
        result = await function(call)
        return result if isinstance(result, tuple) else encode_reply(result)

    handlers.add(
        operation.name,
        answer,
        roles=operation.roles,
        args=operation.request,
        cancellable=cancellable,
        opens_channel=opens_channel,
        payload_bytes_max=operation.payload_bytes_max,
    )


class Nothing(msgspec.Struct, frozen=True):
    """An empty reply."""


def encode_reply(value: msgspec.Struct) -> tuple[Any, Buffer]:
    """Args and payload of a typed answer: in the args if it is short, else in the payload."""
    packed = msgspec.msgpack.encode(value)
    return (msgspec.Raw(packed), b"") if len(packed) <= INLINE_BYTES_MAX else ({}, packed)
