"""Client and manager to agent: streams, reads, single objects."""

from __future__ import annotations

import msgspec

from staddle.engine.bounds import Id
from staddle.wire.assembly import CALL_PAYLOAD_BYTES_MAX
from staddle.wire.ops.admin import Findings, VerifyObject
from staddle.wire.ops.base import ADMINS, CLIENTS, MANAGER, Nothing, Operation

FLUSH_SEQ = (1 << 64) - 1
"""Number of a message that is no record but a flush."""


class OpenStream(msgspec.Struct, frozen=True, kw_only=True):
    """Serve a signed ticket over the channel that comes with this request.

    The client's messages are records: `seq`, meta and payload of data.records; one with seq FLUSH_SEQ carries
    an `engine.messages.Flush` as meta. The agent's carry one of `engine.messages.AgentToClient` as meta.
    """

    signed: bytes


class ReadManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The plain bytes of a manifest of the ticket's backup, as the reply's payload."""

    signed: bytes
    manifest: Id


class ReadChunks(msgspec.Struct, frozen=True, kw_only=True):
    """Chunk rows of a manifest: `rows` is packed little-endian u32; the payload is their bytes, in order.

    Zero regions are left out of the payload; the reader knows them from the manifest. At most 32 MiB raw.
    """

    signed: bytes
    manifest: Id
    rows: bytes


class CheckObject(msgspec.Struct, frozen=True, kw_only=True):
    """Check one copy of an object: that it is there, or every byte of it with `read_data`."""

    object: VerifyObject
    read_data: bool


class PutObject(msgspec.Struct, frozen=True, kw_only=True):
    """Seal and store a small object (payload: its plain bytes) on media; the reply lists the copies.

    `sealed`: the payload is the whole object. `placement`: of its name; by default the agent draws one.
    """

    kind: str
    id: bytes
    domain: str
    media: list[str]
    sealed: bool = False
    placement: bytes = b""


class ObjectStored(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to `object.put`: an `engine.messages.StoredObject` and which media failed, with why."""

    size_bytes: int
    digest: bytes
    copies: list[tuple[str, str]]
    failed: dict[str, str] = {}


class DeleteObject(msgspec.Struct, frozen=True, kw_only=True):
    """Remove exactly these placements."""

    medium: str
    names: list[str]


class LabelMedium(msgspec.Struct, frozen=True, kw_only=True):
    """Write a volume's label, or read the one that is there."""

    medium: str
    label: bytes = b""


class LabelFound(msgspec.Struct, frozen=True):
    """The label's plain text; empty where there is none."""

    label: bytes


class ScanMedium(msgspec.Struct, frozen=True, kw_only=True):
    """Objects of one kind on a medium, after a name: looked at for a rebuild, `names_only` for orphans."""

    medium: str
    kind: str
    after: str = ""
    limit: int = 1000
    names_only: bool = False


class ScannedObject(msgspec.Struct, frozen=True, array_like=True):
    """One object as it was found: digest and counts come from its own footer (containers) or bytes."""

    name: str
    size_bytes: int
    digest: bytes
    raw_bytes: int
    chunks: int
    domain: str
    problem: str = ""


class Scanned(msgspec.Struct, frozen=True):
    """Reply to `medium.scan`; fewer than `limit` means that the end is reached."""

    objects: list[ScannedObject]


class GetObject(msgspec.Struct, frozen=True, kw_only=True):
    """Open a small sealed object; its plain bytes are the reply's payload."""

    medium: str
    name: str
    domain: str


OPEN_STREAM = Operation("stream.open", OpenStream, CLIENTS, Nothing)
READ_MANIFEST = Operation("read.manifest", ReadManifest, CLIENTS, Nothing)
READ_CHUNKS = Operation("read.chunks", ReadChunks, CLIENTS, Nothing)
CHECK_OBJECT = Operation("object.check", CheckObject, ADMINS | MANAGER, Findings)
PUT_OBJECT = Operation("object.put", PutObject, MANAGER, ObjectStored, CALL_PAYLOAD_BYTES_MAX)
DELETE_OBJECT = Operation("object.delete", DeleteObject, MANAGER, Nothing)
LABEL_MEDIUM = Operation("medium.label", LabelMedium, MANAGER, LabelFound)
SCAN_MEDIUM = Operation("medium.scan", ScanMedium, MANAGER, Scanned)
GET_OBJECT = Operation("object.get", GetObject, MANAGER, Nothing)
