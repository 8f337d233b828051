"""Administrator to manager: state, deletion, checks, the catalog."""

from __future__ import annotations

from typing import Annotated

import msgspec

from staddle.wire.ops.base import ADMINS, CLIENTS, MANAGER, Nothing, Operation
from staddle.wire.ops.reading import AgentRef


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """State of manager, agents and media."""


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as the manager sees it."""

    name: str
    state: str
    urls: list[str]
    pids: list[int]


class MediumStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A medium as its agents see it; sizes in bytes."""

    name: str
    plugin: str
    state: str
    path: str
    free_bytes: int
    message: str = ""
    bad_copies: int = 0


class GridStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to `grid.status`.

    `damaged` objects have bad copies that are not repaired yet; of them `lost` ones have no good copy left.
    """

    grid: bytes
    epoch: int
    state: str
    pids: list[int]
    url: str
    agents: list[AgentStatus]
    media: list[MediumStatus]
    commit_ms_p50: float = 0.0
    commit_ms_p99: float = 0.0
    damaged: int = 0
    lost: int = 0


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """End the daemon in good order."""


class Prune(msgspec.Struct, frozen=True, kw_only=True):
    """Remove backups. With `dry_run` only say which containers would be freed."""

    backups: list[int]
    dry_run: bool = False


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed, or would be. `held` are those that stay, since running jobs build on them."""

    backups: list[int]
    containers: int
    bytes_freed: int
    held: list[int] = []


class VerifyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to check for some backups (none named: all that are not pruned).

    Attributes:
        limit: most objects of one answer, in the order of their ids; 0: all of them, as clients of the first
            release ask.
        after: id of the last object of the page before.
    """

    backups: tuple[int, ...] = ()
    after: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0


class VerifyObject(msgspec.Struct, frozen=True, array_like=True):
    """One copy of one object to be checked by an agent that reaches it; all copies of one come together.

    `known`: `bad` (a reader has found it damaged or missing), `away` (its medium is not up: not to be
    checked, but a copy all the same), or `none` (there is no copy at all, nor a medium and a name). These are
    shown only to clients that ask for pages.
    """

    kind: str
    id: bytes
    medium: str
    name: str
    size_bytes: int
    digest: bytes
    domain: str
    backups: list[int]
    known: str = ""


class VerifyObjects(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to `verify.plan`.

    Attributes:
        problems: findings that need no reading of data.
        unchecked: media that can't be read now, and how many copies on them are left out, in words.
        agents: who can be asked.
        reach: agent -> media.
        next: `after` of the next page; empty at the end.
        total_bytes: of all copies in all pages, about; with the first page.
        media: those that are up, with the first page.
    """

    objects: list[VerifyObject]
    problems: list[str]
    unchecked: list[str]
    agents: list[AgentRef]
    reach: dict[str, list[str]]
    next: bytes = b""
    total_bytes: int = 0
    media: list[str] = []


class RebuildCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """Make the manager's tier 1 and the catalog from the media again. Refused where the log knows them."""


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild found; `missing` names what was not there to read."""

    backups: int
    containers: int
    manifests: int
    missing: list[str] = []


class VerifyCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """Check the catalog's references, and that it is what the log says."""


class Findings(msgspec.Struct, frozen=True):
    """Problems in words; none means all is well. `code` is that of the error behind them, if there is one."""

    problems: list[str]
    code: str = ""


class SnapshotCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """A consistent copy of the catalog in a file of the manager's host."""

    path: str


class CreateToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token with which a client joins once: it gets its own certificate."""

    name: str
    valid_s: float = 3600.0


class TokenMade(msgspec.Struct, frozen=True, kw_only=True):
    """The token's text, a secret until it is used, and where the manager listens."""

    token: str
    url: str


STATUS = Operation("grid.status", Status, CLIENTS, GridStatus)
STOP = Operation("daemon.stop", Stop, ADMINS | MANAGER, Nothing)
PRUNE = Operation("backup.prune", Prune, ADMINS, Pruned)
VERIFY_PLAN = Operation("verify.plan", VerifyPlan, ADMINS, VerifyObjects)
REBUILD_CATALOG = Operation("catalog.rebuild", RebuildCatalog, ADMINS, Rebuilt)
VERIFY_CATALOG = Operation("catalog.verify", VerifyCatalog, ADMINS, Findings)
SNAPSHOT_CATALOG = Operation("catalog.snapshot", SnapshotCatalog, ADMINS, Nothing)
CREATE_TOKEN = Operation("client.token", CreateToken, ADMINS, TokenMade)
