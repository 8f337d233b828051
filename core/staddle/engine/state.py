"""The manager's tier-1 state. It is changed by `GridState.apply` and by nothing else.

Commands are the pure `decide_*` functions of the modules beside this one: they look at the state and say
which ops to log and what to answer. `staddle.engine.manager` puts the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from staddle import typed
from staddle.api.catalog import Record
from staddle.engine import assign, commit, configure, gc, importing, jobs, marks, ops
from staddle.engine.tables import (
    Agent,
    Backup,
    Client,
    Job,
    Medium,
    Object,
    PlannedCopy,
    Pool,
    Tables,
)
from staddle.errors import Corrupt, Fenced, NewerFormat

SNAPSHOT_VERSION = 1

_MODULES = (configure, jobs, marks, assign, commit, gc, importing)

APPLIERS: dict[str, Callable[[Tables, Any], None]] = {
    name: getattr(module, "apply_" + name)
    for name in ops.TYPES
    for module in _MODULES
    if hasattr(module, "apply_" + name)
}


class Snapshot(msgspec.Struct, kw_only=True):
    """All tables, as `dump` writes them."""

    version: int
    grid: bytes
    epoch: int
    lsn: int
    next_job: int
    next_backup: int
    owner_map: bytes
    owner_map_version: int
    agents: dict[str, Agent]
    media: dict[str, Medium]
    pools: dict[str, Pool]
    clients: dict[str, Client]
    jobs: dict[int, Job]
    active: dict[int, bool]
    requests: dict[bytes, int]
    backups: dict[int, Backup]
    objects: dict[bytes, Object]
    doomed: dict[str, list[str]]
    planned: dict[str, dict[str, PlannedCopy]]
    began_ns: int = 0
    unread: list[str] = []


_FIELDS = tuple(name for name in Snapshot.__struct_fields__ if name != "version")


class GridState(Tables):
    """The tables, made from the log. Equal logs make equal states, with or without a snapshot on the way."""

    def apply(self, record: Record) -> None:
        """Apply the next record.

        Raises:
            Fenced: the record is of an earlier manager's term than one already applied.
            Corrupt: a record is missing, or an op is unknown or malformed.
        """
        if record.epoch < self.epoch:
            raise Fenced(f"record {record.lsn} of epoch {record.epoch}, but epoch {self.epoch} has begun")
        if record.lsn != self.lsn + 1:
            raise Corrupt(f"record {record.lsn} follows {self.lsn}", hint="the log has a gap")
        self.lsn = record.lsn
        self.apply_op(self._decode(record))

    def apply_op(self, op: ops.Op) -> None:
        """Apply the op of the record whose LSN was just taken."""
        APPLIERS[ops.NAMES[type(op)]](self, op)

    @staticmethod
    def _decode(record: Record) -> ops.Op:
        try:
            return ops.from_args(record.op, record.args)
        except (KeyError, msgspec.ValidationError) as error:
            raise Corrupt(
                f"record {record.lsn}: no op {record.op!r} of this release: {error}",
                hint="the log was written by a newer release, or is damaged",
            ) from error

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return msgspec.msgpack.encode(Snapshot(version=SNAPSHOT_VERSION, **fields))

    @classmethod
    def load(cls, data: bytes) -> GridState:
        """Inverse of `dump`. Raises NewerFormat, Corrupt."""
        try:
            version = typed.unpack(data, _Version).version
            if version > SNAPSHOT_VERSION:
                raise NewerFormat(f"a snapshot of version {version}; this release reads {SNAPSHOT_VERSION}")
            snapshot = typed.unpack(data, Snapshot)
        except msgspec.DecodeError as error:
            raise Corrupt(f"the snapshot of the manager's state can't be read: {error}") from error
        state = cls()
        for name in _FIELDS:
            setattr(state, name, getattr(snapshot, name))
        state.damaged = {item.id: True for item in state.objects.values() if item.bad}
        return state


class _Version(msgspec.Struct):
    version: int
