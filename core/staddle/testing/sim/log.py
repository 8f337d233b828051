"""What managers share: the op-log with one file per epoch, and the service that grants the lease."""

from __future__ import annotations

from collections.abc import Callable

from staddle.api.catalog import Record
from staddle.testing.sim.world import MS, World


class SimLog:
    """Durable files of records. A takeover seals the files of earlier epochs where they stand.

    With `fences`, an append of an earlier epoch is then refused, as replicas do. Without (a plain shared
    directory) it seems to succeed, and counts for nobody: the worst case for a deposed manager.
    """

    def __init__(self, world: World, *, fences: bool) -> None:
        self.world = world
        self.fences = fences
        self.slow_ms, self.hangs = world.rng.choice(((3, 0.0), (3, 0.01), (30, 0.01), (3, 0.05)))
        self.files: dict[int, list[Record]] = {}
        self.sealed: dict[int, int] = {}
        self._pending: dict[int, list[list[Record]]] = {}
        self._next_ns: dict[int, int] = {}

    def append(self, epoch: int, records: list[Record], done: Callable[[bool], None]) -> None:
        """Write; `done(True)` when durable. Appends land in their order."""
        world = self.world
        slow = world.between(0, 600) if world.chance(self.hangs) else world.between(0, self.slow_ms)
        when_ns = max(self._next_ns.get(epoch, 0) + 1, world.now_ns + slow * MS + 1000)
        self._next_ns[epoch] = when_ns
        self._pending.setdefault(epoch, []).append(records)
        world.at(when_ns - world.now_ns, self._land, epoch, records, done)

    def hang(self, epoch: int, for_ns: int) -> None:
        """The disk of this epoch's manager answers nothing for a while."""
        self._next_ns[epoch] = max(self._next_ns.get(epoch, 0), self.world.now_ns + for_ns)

    def _land(self, epoch: int, records: list[Record], done: Callable[[bool], None]) -> None:
        pending = self._pending.get(epoch, [])
        if not any(item is records for item in pending):
            return  # cut off by a crash
        pending.remove(records)
        if self.fences and epoch in self.sealed:
            done(False)
            return
        self.files.setdefault(epoch, []).extend(records)
        done(True)

    def cut(self, epoch: int) -> None:
        """A crash of the writer: what is under way lands up to a random point."""
        pending = self._pending.get(epoch, [])
        del pending[self.world.between(0, len(pending)) :]

    def take_over(self, epoch: int) -> list[Record]:
        """Seal everything before `epoch` and read it."""
        for old, records in self.files.items():
            if old < epoch:
                self.sealed.setdefault(old, len(records))
        for old in range(max([epoch - 3, 0]), epoch):
            self.sealed.setdefault(old, 0)
        return self.read()

    def read(self) -> list[Record]:
        """All records that count."""
        return [
            record
            for epoch, records in sorted(self.files.items())
            for record in records[: self.sealed.get(epoch)]
        ]


class LeaseService:
    """Grants one lease at a time, with an epoch that only grows (K1)."""

    def __init__(self, world: World, ttl_ns: int) -> None:
        self.world = world
        self.ttl_ns = ttl_ns
        self.holder = ""
        self.epoch = 0
        self.until_ns = 0

    def acquire(self, name: str) -> int:
        """A new epoch, or 0 while another holds the lease."""
        if self.world.now_ns < self.until_ns:
            return 0
        self.holder, self.epoch = name, self.epoch + 1
        self.until_ns = self.world.now_ns + self.ttl_ns
        return self.epoch

    def renew(self, name: str, epoch: int) -> bool:
        """Hold on; False if it is lost."""
        if (self.holder, self.epoch) != (name, epoch) or self.world.now_ns >= self.until_ns:
            return False
        self.until_ns = self.world.now_ns + self.ttl_ns
        return True
