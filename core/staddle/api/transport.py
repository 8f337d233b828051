"""The transport contract: stream links between clients, agents and the manager, and SCSI transports.

A stream transport serves a URL scheme (`tcp`, `unix`, `mem`). The core puts frames, credit and requests on
top of it (staddle.wire); the transport only moves bytes between two authenticated ends:

- **T1** `PathLost` only when all paths are gone; the loss of one of several is an event.
- **T2** A request cut in flight is `InDoubt` unless the protocol proves otherwise.
- **T3** Order is kept per channel.
- **T4** Back-pressure and bounded memory: a sender that outruns its peer is paused.
- **T5** No secret in repr, log or error.
- **T6** Identity is proved again at each reconnect, before any write.

A SCSI transport carries command descriptor blocks to a device:
`execute(lun, cdb, data_out, data_in, timeout_s)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from staddle.api.types import Buffer


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end, as proved by the transport.

    Attributes:
        name: `manager`, an agent's or a client's name.
        role: `manager`, `agent`, `client` or `admin`.
        address: for messages only, never for decisions.
    """

    name: str
    role: str
    address: str = ""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Own identity on a link. Paths of PEM files; a secret itself never stands here (T5)."""

    ca_file: str
    cert_file: str
    key_file: str


ProtocolFactory = Callable[[], asyncio.BufferedProtocol]


class StreamServer(Protocol):
    """A listening end."""

    url: str

    async def close(self) -> None:
        """Stop listening and close what was accepted. Idempotent."""


class StreamTransport(Protocol):
    """Moves bytes for one URL scheme over asyncio's `BufferedProtocol`."""

    async def connect(
        self, url: str, credentials: Credentials, make: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseTransport:
        """Open a link, both sides authenticated before `connection_made`.

        Raises: PathLost (nobody there), Denied (identity refused), DeadlineExceeded.
        """

    async def serve(self, url: str, credentials: Credentials, make: ProtocolFactory) -> StreamServer:
        """Listen. Port 0 takes a free one; the server's `url` says which. Raises Locked if it is taken."""

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """Proved identity of the other end of an open link. Raises Denied if there is none."""


class ScsiTransport(Protocol):
    """Carries CDBs to logical units; `iscsi`, `sg` and the in-process model implement it."""

    def execute(
        self, lun: int, cdb: bytes, data_out: Buffer, data_in: memoryview, timeout_s: float
    ) -> tuple[int, bytes, int]:
        """Run one command: (SAM-5 status byte, sense bytes, residual count).

        Raises PathLost, InDoubt (cut in flight), DeadlineExceeded.
        """


class TransportType(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport plugin returns from its hook. `kind` is `stream` or `scsi`."""

    scheme: str
    kind: str
    version: str
    api_version: int
    load: Callable[[], Callable[[], StreamTransport | ScsiTransport]]
    summary: str = ""
