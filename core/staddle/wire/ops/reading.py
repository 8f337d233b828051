"""Client to manager: what is in the backups, and where."""

from __future__ import annotations

from typing import Any

import msgspec

from staddle.wire.ops.base import ADMINS, CLIENTS, Operation
from staddle.wire.ops.jobs import Rows


class OpenBackup(msgspec.Struct, frozen=True, kw_only=True):
    """Ask to read a backup: `backup` is its number, or 0 with `name` for the newest of that name."""

    backup: int = 0
    name: str = ""


class ListBackups(msgspec.Struct, frozen=True, kw_only=True):
    """All backups that are not pruned, oldest first; a client is shown its own."""


class ManifestRef(msgspec.Struct, frozen=True, array_like=True):
    """A manifest of a backup, in the order of (stream, ordinal)."""

    id: bytes
    stream: int
    ordinal: int


class AgentRef(msgspec.Struct, frozen=True):
    """An agent that reaches the data: `urls` in order of preference."""

    name: str
    urls: list[str]


class OpenedBackup(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader needs. `signed` is a signed `ReadTicket` for the agents."""

    backup: int
    name: str
    client: str
    state: str
    started_ns: int
    roots: list[bytes]
    manifests: list[ManifestRef]
    agents: list[AgentRef]
    signed: bytes


class ReadTicket(msgspec.Struct, frozen=True, kw_only=True):
    """The manager's word that `client` may read `backup` until `expires_ns` (signed)."""

    grid: bytes
    backup: int
    client: str
    domain: str
    manager_epoch: int
    expires_ns: int


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Read-only SQL over the documented views."""

    sql: str
    parameters: tuple[Any, ...] = ()
    limit: int = 10_000


class ListDirectory(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of one directory of a backup, by the catalog."""

    backup: int
    path: bytes


class Find(msgspec.Struct, frozen=True, kw_only=True):
    """Files whose path matches a glob pattern, newest backup first."""

    pattern: str
    backup: int = 0
    limit: int = 10_000


LIST_BACKUPS = Operation("backup.list", ListBackups, CLIENTS, Rows)
OPEN_BACKUP = Operation("backup.open", OpenBackup, CLIENTS, OpenedBackup)
QUERY = Operation("catalog.query", Query, ADMINS, Rows)
LIST_DIRECTORY = Operation("catalog.ls", ListDirectory, CLIENTS, Rows)
FIND = Operation("catalog.find", Find, CLIENTS, Rows)
