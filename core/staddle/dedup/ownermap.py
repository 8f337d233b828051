"""The owner map: which agent holds which partition of the fingerprint library."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from staddle import typed
from staddle.dedup.rows import PARTITIONS, BoolArray
from staddle.errors import Conflict, Corrupt

EVERYONE = ""
"""Owner name of a partition that every agent keeps for itself."""

OWNER_NAME_BYTES_MAX = 255


class OwnerMap(msgspec.Struct, frozen=True, kw_only=True):
    """Owner of each of the 256 partitions; immutable, each change is a new map with the next version.

    A partition that moves has a previous owner until it is settled: look-ups ask the owner, then, for what
    it does not know, the previous owner. Publishes go to the owner alone. So a move costs no new baseline.

    Attributes:
        version: grows by one with each change; the higher one is in force.
        owners: name by partition; `EVERYONE` means that each agent keeps its own.
        previous: name by partition while it moves, else None.
    """

    version: int
    owners: tuple[str, ...]
    previous: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError(f"owner map version {self.version}: versions start at 1")
        if len(self.owners) != PARTITIONS or len(self.previous) != PARTITIONS:
            raise ValueError(f"an owner map names {PARTITIONS} owners and previous owners")
        names = {*self.owners, *(name for name in self.previous if name is not None)}
        if any(len(name.encode()) > OWNER_NAME_BYTES_MAX for name in names):
            raise ValueError(f"owner names have at most {OWNER_NAME_BYTES_MAX} bytes")
        if any(now == before for now, before in zip(self.owners, self.previous, strict=True)):
            raise ValueError("a partition does not move from an owner to itself")

    @classmethod
    def everyone(cls) -> OwnerMap:
        """Make the first map of a grid: each agent keeps all partitions for itself."""
        return cls(version=1, owners=(EVERYONE,) * PARTITIONS, previous=(None,) * PARTITIONS)

    def owner(self, partition: int) -> str:
        """Who holds the partition now."""
        return self.owners[partition]

    def held_by(self, agent: str) -> tuple[int, ...]:
        """Partitions whose publishes the agent takes."""
        return tuple(number for number, name in enumerate(self.owners) if name in {EVERYONE, agent})

    def moving(self) -> tuple[int, ...]:
        """Partitions that have a previous owner still."""
        return tuple(number for number, name in enumerate(self.previous) if name is not None)

    def move(self, partition: int, to: str) -> OwnerMap:
        """Give the partition to another owner; the present one stays as previous until `settle`.

        Raises:
            Conflict: it moves already (only back to where it comes from is possible), or is there.
        """
        if to == self.owners[partition]:
            raise Conflict(
                f"partition {partition} belongs to {to or 'everyone'} already",
                hint="nothing to do; read the owner map again",
            )
        if self.previous[partition] not in {None, to}:
            raise Conflict(
                f"partition {partition} still moves from {self.previous[partition] or 'everyone'} to "
                f"{self.owners[partition] or 'everyone'}",
                hint="settle that move first, or move it back",
            )
        return self._changed(partition, to, self.owners[partition])

    def settle(self, partition: int) -> OwnerMap:
        """End a move: the owner has everything. The same map if the partition does not move."""
        if self.previous[partition] is None:
            return self
        return self._changed(partition, self.owners[partition], None)

    def to_bytes(self) -> bytes:
        """Encode for the log and the wire: JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> OwnerMap:
        """Decode what `to_bytes` made.

        Raises:
            Corrupt: it is no owner map.
        """
        try:
            return typed.from_json(data, cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Corrupt(f"not an owner map: {error}", hint="take it from the manager again") from error

    def masks(self, agent: str) -> Masks:
        """Return what the map means for one agent, as arrays over partitions."""
        return Masks(
            owned=_mask(name in {EVERYONE, agent} for name in self.owners),
            served=_mask(
                now in {EVERYONE, agent} or before in {EVERYONE, agent}
                for now, before in zip(self.owners, self.previous, strict=True)
            ),
            arriving=_mask(
                now in {EVERYONE, agent} and before not in {None, agent}
                for now, before in zip(self.owners, self.previous, strict=True)
            ),
        )

    def _changed(self, partition: int, owner: str, previous: str | None) -> OwnerMap:
        owners, before = list(self.owners), list(self.previous)
        owners[partition], before[partition] = owner, previous
        return OwnerMap(version=self.version + 1, owners=tuple(owners), previous=tuple(before))


class Masks(msgspec.Struct, frozen=True):
    """One agent's view of an owner map, each of shape (256,).

    Attributes:
        owned: publishes are taken.
        served: look-ups are answered (owned, or the previous owner of a moving partition).
        arriving: owned, but the previous owner may know more: a miss is `unknown`.
    """

    owned: BoolArray
    served: BoolArray
    arriving: BoolArray


def _mask(flags: Any) -> BoolArray:
    return np.fromiter(flags, np.bool_, PARTITIONS)
