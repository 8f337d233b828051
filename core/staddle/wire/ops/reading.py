"""Client to manager: what is in the backups, and where."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from staddle.engine.bounds import Name, Number, RawPath
from staddle.errors import UsageError
from staddle.wire.ops.base import ADMINS, CLIENTS, Operation
from staddle.wire.ops.jobs import Rows

STARS_MAX = 32


class OpenBackup(msgspec.Struct, frozen=True, kw_only=True):
    """Ask to read a backup: `backup` is its number, or 0: the newest one of `name` and `client`, if given."""

    backup: Number = 0
    name: Name = ""
    client: Name = ""


class ListBackups(msgspec.Struct, frozen=True, kw_only=True):
    """All backups that are not pruned, oldest first; a client is shown its own."""


class ManifestRef(msgspec.Struct, frozen=True, array_like=True):
    """A manifest of a backup, in the order of (stream, ordinal).

    `plain_digest`: BLAKE3-256 of its plain bytes, which no agent can change after it was committed; empty
    where it is not known: committed under an earlier release.
    """

    id: bytes
    stream: int
    ordinal: int
    plain_digest: bytes = b""


class AgentRef(msgspec.Struct, frozen=True):
    """An agent that reaches the data: `urls` in order of preference."""

    name: str
    urls: list[str]


class OpenedBackup(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader needs. `signed` is a signed `ReadTicket` for the agents.

    With `fingerprint_key`, the dedup domain's, each chunk is checked against its fingerprint in the manifest:
    a reader need not believe the agent that it reads through.
    """

    backup: int
    name: str
    client: str
    state: str
    started_ns: int
    roots: list[bytes]
    manifests: list[ManifestRef]
    agents: list[AgentRef]
    signed: bytes
    fingerprint_key: bytes = b""


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
    """The entries of one directory of a backup, by the catalog, ascending by name.

    `after`: the last name of the page before; `limit`: of entries, so that a page has bounded memory.
    """

    backup: Number
    path: RawPath
    after: RawPath = b""
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100_000


class Find(msgspec.Struct, frozen=True, kw_only=True):
    """Files whose path matches a glob pattern, newest backup first."""

    pattern: Annotated[str, msgspec.Meta(max_length=1024)]
    backup: Number = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10_000


LIST_BACKUPS = Operation("backup.list", ListBackups, CLIENTS, Rows)
OPEN_BACKUP = Operation("backup.open", OpenBackup, CLIENTS, OpenedBackup)
QUERY = Operation("catalog.query", Query, ADMINS, Rows)
LIST_DIRECTORY = Operation("catalog.ls", ListDirectory, CLIENTS, Rows)


def check_find(find: Find) -> None:
    """Refuse what would keep the catalog busy for long. Raises UsageError."""
    if find.pattern.count("*") > STARS_MAX:
        raise UsageError(f"a pattern with more than {STARS_MAX} stars", hint="search for a part of the name")


FIND = Operation("catalog.find", Find, CLIENTS, Rows, check=check_find)
