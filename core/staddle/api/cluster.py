"""The cluster manager contract: who may be the manager, and with which epoch.

- **K1** At most one holder. The epoch is max(store, log header, labels) + 1 and durable before use.
- **K2** No promotion without quorum, and on a shared volume also a confirmed fence.
- **K3** A holder stops serving before its lease can have run out, on a clock that counts suspend, from the
  start of its last renewal; it checks again after a record is durable and before it replies.
- **K4** Wall clocks decide retention and schedules only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from staddle.api.types import FenceProof, Lease, Member


class ClusterManager(Protocol):
    """Grants the manager's lease."""

    def acquire(self, name: str, holder: str, ttl_s: float, epoch_floor: int) -> Lease:
        """Take the lease with an epoch above every earlier one and above `epoch_floor`.

        Raises Locked while another holds it.
        """

    def renew(self, lease: Lease) -> Lease:
        """Hold on. Raises Fenced if it is lost, OSError if that can't be told now: it is tried again."""

    def release(self, lease: Lease) -> None:
        """Give it back. Idempotent."""

    def holder(self, name: str) -> Lease | None:
        """Who holds it now, if anybody."""

    def watch(self, name: str, timeout_s: float) -> Iterator[Lease | None]:
        """Changes of the holder, until `timeout_s` has passed without one."""

    def members(self) -> list[Member]:
        """The nodes of the cluster."""

    def fence(self, node: str) -> FenceProof:
        """Make sure that a node can no longer write. Raises when that can't be confirmed."""


class ClusterType(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster plugin returns from its hook. `load()` returns `make(config) -> ClusterManager`."""

    name: str
    version: str
    api_version: int
    config_type: type[msgspec.Struct]
    load: Callable[[], Callable[[object], ClusterManager]]
    summary: str = ""
