"""Frozen value types shared by all contracts. No behaviour beyond validation.

Identifiers: grid, volume, container and object ids are 16-byte UUIDv7 (RFC 9562 clause 5.7), passed in
and shown as 32 lower-case hex digits. Jobs and backups are small integers. All times are UTC nanoseconds
since the epoch (`*_ns`), all sizes are bytes (`*_bytes`).
"""

from __future__ import annotations

import re
from enum import Flag, StrEnum, auto
from typing import Annotated

import msgspec

API_VERSION = 1
"""The hook contract's major. A plugin built for another major is refused."""

NAME_SEGMENT_MAX = 64
NAME_MAX = 160
Buffer = bytes | bytearray | memoryview
"""Anything whose bytes can be stored or sent without a copy."""

HomePath = Annotated[str, msgspec.Meta(extra={"staddle": "home_path"})]
"""An option that is a path: where it is relative, the configuration reads it from the grid's home."""

_SEGMENT = re.compile(r"[0-9a-f]{1,64}")


class Kind(StrEnum):
    """First segment of an object's name: what the object is (docs/format.md)."""

    CONTAINER = "c0"
    MANIFEST = "f0"
    SEAL = "5e"
    KEYRING = "4e"
    JOURNAL = "e0"


def check_object_name(name: str) -> str:
    """Return `name` if every `/`-separated segment is 1-64 lower-case hex digits, else raise ValueError.

    The one rule for names on media: valid on every file system, share, bucket and cartridge.
    """
    if len(name) > NAME_MAX or not name or any(not _SEGMENT.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"object name {name!r}: segments of 1-64 lower-case hex digits joined by '/'")
    return name


def object_name(kind: Kind, object_id: bytes, placement: bytes) -> str:
    """Name of one placement of an object: `kind/last id byte/id + placement`, all hex (M4).

    Args:
        kind: what the object is.
        object_id: 16 bytes, UUIDv7.
        placement: 8 random bytes, drawn for this one put on this one medium and never used again.
    """
    if len(object_id) != 16 or len(placement) != 8:
        raise ValueError("object_name wants a 16-byte id and an 8-byte placement")
    return f"{kind.value}/{object_id[-1]:02x}/{object_id.hex()}{placement.hex()}"


def parse_object_name(name: str) -> tuple[Kind, bytes, bytes]:
    """Inverse of `object_name`: (kind, id, placement). Raises ValueError for any other name."""
    check_object_name(name)
    parts = name.split("/")
    if len(parts) != 3 or len(parts[2]) != 48:
        raise ValueError(f"not the name of a Staddle object: {name!r}")
    kind, object_id = Kind(parts[0]), bytes.fromhex(parts[2][:32])
    if parts[1] != f"{object_id[-1]:02x}":
        raise ValueError(f"object in the wrong directory: {name!r}")
    return kind, object_id, bytes.fromhex(parts[2][32:])


class Cap(Flag):
    """What a medium can do. Each is declared by the plugin or probed on the very backend."""

    RANDOM_READ = auto()
    SEQUENTIAL = auto()
    REMOVABLE = auto()
    MULTI_WRITER = auto()
    CONDITIONAL_PUT = auto()
    FENCE = auto()
    WORM = auto()
    EXTEND_LOCK = auto()
    SNAPSHOT = auto()
    CAPACITY = auto()
    EARLY_WARNING = auto()
    LIST_LAG = auto()


class Surety(StrEnum):
    """How a capability is known."""

    DECLARED = "declared"
    PROBED = "probed"


class Durability(StrEnum):
    """What a receipt survives (M2). A medium says which class it gives."""

    MEMORY = "memory"  # the process: for tests only
    HOST = "host"  # a crash of the process, not of the host
    POWER_LOSS = "power_loss"  # loss of power at any moment


class Capability(msgspec.Struct, frozen=True):
    """One capability and how it is known; `source` names the plugin clause or the probe's finding.

    A probe that disproves a capability reports it with `holds=False`.
    """

    name: str
    surety: Surety
    source: str = ""
    holds: bool = True


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a medium. `object_bytes_max` is at least 64 MiB for any usable medium."""

    object_bytes_max: int = 1 << 40
    parallel_puts: int = 2
    parallel_gets: int = 4


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """Identity of a volume: binds grid, medium and volume together (M10)."""

    grid: bytes
    medium: str
    volume: bytes
    created_ns: int
    manager_epoch: int = 0
    version: int = 1


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A medium's word that an object is durable and visible to every agent (M2, M3).

    Attributes:
        name: the object's name on the volume.
        size_bytes: its whole size.
        digest: unkeyed BLAKE3-256 of all its bytes.
        volume: id of the volume that holds it.
        durability: what it survives.
        durable: False while the object only waits on a stage; a copy record replaces it later.
    """

    name: str
    size_bytes: int
    digest: bytes
    volume: bytes
    durability: Durability
    durable: bool = True


class ObjectInfo(msgspec.Struct, frozen=True):
    """What `stat` and `list` know of an object."""

    name: str
    size_bytes: int


class Capacity(msgspec.Struct, frozen=True):
    """Room on a medium. `low` is the early warning of M9: finish the open object, start no other."""

    total_bytes: int
    free_bytes: int
    low: bool


class MediumState(StrEnum):
    """A medium's health, as shown to users."""

    UP = "up"
    BUSY = "busy"
    SUSPECT = "suspect"
    OFFLINE = "offline"
    FENCED = "fenced"


class Health(msgspec.Struct, frozen=True):
    """Answer of a health check; `message` says what is wrong and what to do."""

    state: MediumState
    message: str = ""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster lease. `epoch` is the fencing number (K1); `ttl_s` counts from the start of the renewal."""

    name: str
    holder: str
    epoch: int
    ttl_s: float


class Member(msgspec.Struct, frozen=True):
    """A node that the cluster manager knows."""

    name: str
    alive: bool


class FenceProof(msgspec.Struct, frozen=True):
    """What confirms that a node can no longer write."""

    node: str
    method: str
    detail: str = ""
