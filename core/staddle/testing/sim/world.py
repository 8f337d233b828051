"""Virtual time, a hostile network, and actors that crash, pause and come back. One seed, one run."""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable
from typing import Any

MS = 1_000_000
S = 1000 * MS
WALL_0_NS = 1_700_000_000 * S

Call = Callable[..., None]
Backlog = list[tuple[Call, tuple[Any, ...]]]


class Violation(AssertionError):
    """A rule of the protocol was broken."""


class World:
    """Clock, event queue and randomness. Nothing else in the simulation has any of its own."""

    def __init__(self, seed: int, *, verbose: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now_ns = 0
        self.events = 0
        self.loss = 0.0
        self.doubles = 0.0
        self.delay_max_ns = 4 * MS
        self.ordered = True  # between two actors, as over one connection
        self.cut: set[frozenset[str]] = set()
        self.digest = 0
        self.verbose = verbose
        self._queue: list[tuple[int, int, Call, tuple[Any, ...]]] = []
        self._ids = 0
        self.last_ns: dict[tuple[str, str], int] = {}

    @property
    def wall_ns(self) -> int:
        """The wall clock; agents' clocks are apart by less than the skew that GC allows for."""
        return WALL_0_NS + self.now_ns

    def at(self, delay_ns: int, call: Call, *args: Any) -> None:
        """Call something later."""
        self.events += 1
        heapq.heappush(self._queue, (self.now_ns + delay_ns, self.events, call, args))

    def run(self, done: Callable[[], bool], until_ns: int, events_max: int) -> bool:
        """Run until `done`; False if time or events ran out first."""
        while self._queue and not done():
            for _ in range(min(8, len(self._queue))):
                when, _, call, args = heapq.heappop(self._queue)
                if when > until_ns or self.events > events_max:
                    return False
                self.now_ns = when
                call(*args)
        return done()

    def new_id(self) -> bytes:
        """16 bytes: the wall time in ms, as in a UUIDv7, and a counter."""
        self._ids += 1
        return (self.wall_ns // MS).to_bytes(6) + self._ids.to_bytes(10)

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return self.rng.random() < share

    def between(self, low: int, high: int) -> int:
        """A number in `[low, high]`."""
        return low + int(self.rng.random() * (high - low + 1))

    def trace(self, who: str, what: str, *facts: object) -> None:
        """Something worth telling has happened."""
        line = f"{self.now_ns / S:9.3f}  {who:<4} {what} " + " ".join(map(_short, facts))
        self.digest = zlib.crc32(line.encode(), self.digest)
        if self.verbose:
            print(line)  # noqa: T201 - the trace is what `-v` is for


def _short(fact: object) -> str:
    return fact.hex()[-6:] if isinstance(fact, bytes) else str(fact)


class Actor:
    """A process. Crashed, it forgets; paused, it does everything later: a zombie."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.paused = False
        self._life = 0
        self._backlog: Backlog = []
        self._armed_ns = 1 << 62

    def after(self, delay_ns: int, call: Call, *args: Any) -> None:
        """Call later, if this life lasts so long."""
        self.world.at(delay_ns, self._enter, self._life, call, args)

    def _enter(self, life: int, call: Call, args: tuple[Any, ...]) -> None:
        if life != self._life or not self.alive:
            return
        if self.paused:
            self._backlog.append((call, args))
            return
        call(*args)

    def receive(self, call: Call, args: tuple[Any, ...]) -> None:
        """A message has come over the network."""
        self._enter(self._life, call, args)

    def send(self, to: Actor, call: Call, *args: Any) -> None:
        """A message that may be lost, late, doubled, or overtake another."""
        world = self.world
        if frozenset((self.name, to.name)) in world.cut or world.chance(world.loss):
            return
        delay_ns = 1 + int(world.rng.random() * world.delay_max_ns)
        if world.ordered:
            pair = (self.name, to.name)
            delay_ns = max(delay_ns, world.last_ns.get(pair, 0) + 1 - world.now_ns)
            world.last_ns[pair] = world.now_ns + delay_ns
        world.at(delay_ns, to.receive, call, args)
        if world.doubles and world.chance(world.doubles):
            world.at(world.between(1, 20 * world.delay_max_ns), to.receive, call, args)

    def arm(self, when_ns: int, call: Call) -> None:
        """Call at a moment, unless it is to be called before that anyway."""
        if when_ns < self._armed_ns and when_ns < 1 << 61:
            self._armed_ns = when_ns
            self.after(max(0, when_ns - self.world.now_ns), self._ring, call, when_ns)

    def _ring(self, call: Call, when_ns: int) -> None:
        if when_ns == self._armed_ns:
            self._armed_ns = 1 << 62
            call()

    def crash(self) -> None:
        """Stop at once; what was in memory is gone."""
        self.world.trace(self.name, "crashes")
        self.alive, self.paused = False, False
        self._life += 1
        self._armed_ns = 1 << 62
        self._backlog.clear()
        self.forget()

    def restart(self) -> None:
        """A new life."""
        if not self.alive:
            self.world.trace(self.name, "restarts")
            self.alive = True
            self.wake()

    def pause(self) -> None:
        """Stop for a while without knowing it."""
        if self.alive:
            self.world.trace(self.name, "is paused")
            self.paused = True

    def resume(self) -> None:
        """Go on as if nothing had been."""
        if self.paused:
            self.world.trace(self.name, "goes on")
            self.paused = False
            backlog, self._backlog = self.in_order(self._backlog), []
            for call, args in backlog:
                self.after(0, call, *args)

    def in_order(self, backlog: Backlog) -> Backlog:
        """In which order a resumed process meets what has waited."""
        return backlog

    def forget(self) -> None:
        """Drop what a crash takes away."""

    def wake(self) -> None:
        """Begin, or begin again."""
