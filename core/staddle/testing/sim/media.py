"""Media of the simulation: objects by name, puts that fail, hang in doubt or land late, rot, total loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from staddle.engine.messages import CopyOf, SealNeeded, StoredObject
from staddle.errors import (
    DeadlineExceeded,
    InDoubt,
    MediumFailed,
    MediumFull,
    StaddleError,
)
from staddle.testing.sim.world import MS, World


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What an object says. `rows` are (content, container); in a container the latter is its own id."""

    id: bytes
    kind: str
    rows: tuple[tuple[int, bytes], ...] = ()
    head: Any = None  # of a manifest: its FoundManifest without copies
    seal: SealNeeded | None = None
    pruned: tuple[int, ...] = ()

    @property
    def digest(self) -> bytes:
        """Stands for the digest of its bytes."""
        return b"digest" + self.id[6:]

    def stored(self, copies: list[CopyOf]) -> StoredObject:
        """As a COMMIT names it."""
        return StoredObject(
            id=self.id,
            size_bytes=100 + len(self.rows),
            digest=self.digest,
            copies=copies,
            raw_bytes=len(self.rows) if self.kind == "container" else 0,
            chunks=len(self.rows) if self.kind == "container" else 0,
        )


class Medium:
    """One medium, in a failure domain of its own."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.objects: dict[str, Body] = {}
        self.rotten: set[str] = set()  # names of objects that are there, and can't be read
        self.errors = False
        self.full = False
        self.slow = False
        self.lost = False
        self.doubt = 0.0
        self.put_ms_max = 6

    @property
    def works(self) -> bool:
        """Does it take and give objects now?"""
        return not (self.errors or self.lost)

    def put(self, name: str, body: Body, done: Callable[[StaddleError | None], None]) -> None:
        """Store an object; `done(None)` stands for the receipt. It may land after its caller is dead."""
        world = self.world
        delay = world.between(1, self.put_ms_max) * MS
        if self.errors or self.lost:
            world.at(delay, done, MediumFailed(f"{self.name} answers with errors"))
        elif self.full:
            world.at(delay, done, MediumFull(f"{self.name} is full"))
        elif self.slow and world.chance(0.5):
            world.at(world.between(50, 900) * MS, self._land, name, body, None)
            world.at(30 * MS, done, DeadlineExceeded(f"{self.name}: a put passed its deadline"))
        elif self.doubt and world.chance(self.doubt):
            if world.chance(0.5):
                world.at(world.between(1, 50) * MS, self._land, name, body, None)
            world.at(delay, done, InDoubt(f"{self.name}: the answer was lost"))
        else:
            world.at(delay, self._land, name, body, done)

    def _land(self, name: str, body: Body, done: Callable[[StaddleError | None], None] | None) -> None:
        if self.errors or self.lost:
            if done is not None:
                done(MediumFailed(f"{self.name} failed in a put"))
            return
        known = self.objects.setdefault(name, body)
        assert known == body, f"{name}: a name was used for two bodies (M4)"
        if done is not None:
            done(None)

    def delete(self, name: str, done: Callable[[bool], None]) -> None:
        """Remove a placement, sometimes much later."""
        delay = self.world.between(100, 1500) if self.world.chance(0.2) else self.world.between(1, 8)
        self.world.at(delay * MS, self._remove, name, done)

    def _remove(self, name: str, done: Callable[[bool], None]) -> None:
        if self.works:
            self.objects.pop(name, None)
            self.rotten.discard(name)
        done(self.works)

    def readable(self, name: str) -> Body | None:
        """An object that is there and whole."""
        return self.objects.get(name) if self.works and name not in self.rotten else None

    def rot(self, name: str) -> None:
        """One object's bytes are no longer what was written."""
        self.world.trace(self.name, "bit rot in", name)
        self.rotten.add(name)

    def lose(self) -> None:
        """Everything on it is gone, for good."""
        self.world.trace(self.name, "is lost")
        self.lost = True
        self.objects.clear()
        self.rotten.clear()
