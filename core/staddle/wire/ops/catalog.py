"""Manager to the process that owns its catalog: bodies travel as payload, in msgpack."""

from __future__ import annotations

from typing import Any

import msgspec

from staddle.wire.assembly import CALL_PAYLOAD_BYTES_MAX
from staddle.wire.ops.base import MANAGER, Nothing, Operation


class Apply(msgspec.Struct, frozen=True, kw_only=True):
    """Apply records; the payload is a msgpack list of `api.catalog.Record`."""

    count: int


class Applied(msgspec.Struct, frozen=True):
    """The last LSN that is in the catalog."""

    lsn: int


class Ingest(msgspec.Struct, frozen=True, kw_only=True):
    """Take in one manifest; the payload is its plain bytes."""

    backup: int
    manifest: bytes


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A method of the catalog that changes nothing, with its arguments by name."""

    method: str
    arguments: dict[str, Any]


class Told(msgspec.Struct, frozen=True):
    """What it said, as msgpack types."""

    value: Any


APPLY = Operation("catalog.apply", Apply, MANAGER, Applied, CALL_PAYLOAD_BYTES_MAX)
INGEST = Operation("catalog.ingest", Ingest, MANAGER, Nothing, CALL_PAYLOAD_BYTES_MAX)
ASK = Operation("catalog.ask", Ask, MANAGER, Told)
