"""Agent to manager: presence, and what the data path needs to know."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from staddle.engine.bounds import Address, Id, Name, Number
from staddle.wire.ops.base import AGENTS, CLIENTS, Nothing, Operation


class AgentHello(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's process is there: `part` is `control` or `data`.

    The data process says where it listens, and what label it found on each of its media: empty for a place
    that holds nothing yet; a medium that can't be read now is left out. `manager_epoch` is the highest that
    it has ever followed, `epoch_proof` what that manager gave it to prove it.
    """

    part: Literal["control", "data"]
    pid: Number
    urls: Annotated[tuple[Address, ...], msgspec.Meta(max_length=16)] = ()
    labels: dict[Name, bytes] = {}
    manager_epoch: Number = 0
    epoch_proof: Annotated[bytes, msgspec.Meta(max_length=1024)] = b""


class AgentWelcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent's role needs.

    Attributes:
        domains: `data.crypto.DomainKeys`, msgpack, of its pools only.
        labels: the text of each medium's label.
        fresh: media that were never used: only these may be given their label by the agent.
        keyring: the sealed keyring, which lies on every medium.
        epoch_proof: a signed EpochProof: kept, and shown to every manager.
    """

    grid: bytes
    manager_epoch: int
    ticket_key: bytes
    domains: list[bytes]
    owner_map: bytes
    labels: dict[str, bytes]
    fresh: list[str]
    keyring: bytes
    epoch_proof: bytes = b""


class EpochProof(msgspec.Struct, frozen=True, kw_only=True):
    """The manager's word (signed, as a ticket) that it has the epoch.

    A manager gives way to a higher epoch (K3); without this any agent could make it do so by a lie.
    """

    grid: Id
    manager_epoch: Number


class MediumReport(msgspec.Struct, frozen=True, kw_only=True):
    """A medium as one agent sees it now. `volume`: which one is there by its label; empty if not known."""

    name: Name
    state: Annotated[str, msgspec.Meta(pattern=r"\A(up|busy|suspect|offline|fenced)\Z")]
    message: str = ""
    total_bytes: int = 0
    free_bytes: int = 0
    low: bool = False
    volume: Annotated[bytes, msgspec.Meta(max_length=16)] = b""


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """Sign of life of an agent's control process, with the health of its media."""

    media: Annotated[list[MediumReport], msgspec.Meta(max_length=1024)]
    pids: Annotated[list[Number], msgspec.Meta(max_length=16)]
    sessions: Number = 0


class Usable(msgspec.Struct, frozen=True, kw_only=True):
    """Which of these containers may be referred to by a pool's new backup now (G1)."""

    pool: Name
    containers: list[Id]


class IdList(msgspec.Struct, frozen=True):
    """Some of the ids that were asked about."""

    ids: list[bytes]


class Locate(msgspec.Struct, frozen=True, kw_only=True):
    """Where objects lie, best copy first.

    With `backup` instead of `ids`: all manifests of that backup, in the order of (stream, ordinal).
    """

    kind: Name
    ids: list[Id]
    backup: Number = 0


class Located(msgspec.Struct, frozen=True, array_like=True):
    """One object: its size, digest and copies as (medium, name)."""

    id: bytes
    size_bytes: int
    digest: bytes
    copies: list[tuple[str, str]]


class LocatedList(msgspec.Struct, frozen=True):
    """Reply to `objects.locate`: what is known, in the order asked."""

    objects: list[Located]


class BadCopy(msgspec.Struct, frozen=True, kw_only=True):
    """A reader found a copy damaged or missing."""

    id: Id
    medium: Name
    name: Name
    code: Name


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """Containers committed after an LSN, in the log's order: what the fingerprint library takes in (S2)."""

    after_lsn: Number
    domain: Name
    limit: Annotated[int, msgspec.Meta(ge=1)] = 256


class CommittedContainer(msgspec.Struct, frozen=True, array_like=True):
    """A container that has become visible (or gone, with `dropped`) at `lsn`."""

    lsn: int
    object: Located
    dropped: bool = False


class CommittedList(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to `containers.committed`; `lsn` is how far this answer reaches."""

    lsn: int
    containers: list[CommittedContainer]


AGENT_HELLO = Operation("agent.hello", AgentHello, AGENTS, AgentWelcome)
AGENT_REPORT = Operation("agent.report", AgentReport, AGENTS, Nothing)
USABLE = Operation("containers.usable", Usable, AGENTS | CLIENTS, IdList)
LOCATE = Operation("objects.locate", Locate, AGENTS, LocatedList)
BAD_COPY = Operation("copy.bad", BadCopy, AGENTS, Nothing)
COMMITTED = Operation("containers.committed", Committed, AGENTS, CommittedList)
