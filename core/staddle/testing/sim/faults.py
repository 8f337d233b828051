"""What goes wrong: a few faults per seed, at random moments, each healed again, but for a lost medium."""

from __future__ import annotations

from collections.abc import Callable

from staddle.testing.sim.grid import Grid
from staddle.testing.sim.world import MS, Actor

FAULTS_UNTIL_MS = 1800


def plan(grid: Grid) -> None:
    """Put the faults of this seed into the queue."""
    world = grid.world
    if world.chance(0.4):
        world.loss, world.doubles = world.rng.choice((0.01, 0.04)), world.rng.choice((0.0, 0.05))
        world.ordered = False
        world.delay_max_ns = world.rng.choice((2, 6, 12)) * MS
    faults = [_crash, _crash, _pause, _pause, _medium, _medium, _partition, _no_lease, _zombie, _rot]
    if world.chance(0.25):
        _lose(grid)
    for _ in range(world.between(1, 6)):
        world.rng.choice(faults)(grid)
    world.at((FAULTS_UNTIL_MS + 1500) * MS, _calm, grid)


def _when(grid: Grid) -> int:
    return grid.world.between(20, FAULTS_UNTIL_MS) * MS


def _lasts(grid: Grid) -> int:
    return grid.world.between(20, 1400) * MS


def _actor(grid: Grid) -> Actor:
    return grid.world.rng.choice((*grid.managers, *grid.managers, *grid.agents, *grid.agents, *grid.clients))


def _crash(grid: Grid) -> None:
    actor, when = _actor(grid), _when(grid)
    grid.world.at(when, actor.crash)
    grid.world.at(when + _lasts(grid), actor.restart)


def _pause(grid: Grid) -> None:
    actor, when = _actor(grid), _when(grid)
    grid.world.at(when, actor.pause)
    grid.world.at(when + _lasts(grid), actor.resume)


def _medium(grid: Grid) -> None:
    medium, when = grid.world.rng.choice(list(grid.media.values())), _when(grid)
    kind = grid.world.rng.choice(("errors", "full", "slow", "doubt"))

    def turn(value: float) -> Callable[[], None]:
        def act() -> None:
            grid.world.trace(medium.name, kind, value)
            setattr(medium, kind, value)

        return act

    grid.world.at(when, turn(0.5 if kind == "doubt" else True))
    grid.world.at(when + _lasts(grid), turn(0.0))


def _partition(grid: Grid) -> None:
    one, other = _actor(grid), _actor(grid)
    pair, when = frozenset((one.name, other.name)), _when(grid)
    grid.world.at(when, grid.world.cut.add, pair)
    grid.world.at(when + _lasts(grid), grid.world.cut.discard, pair)


def _no_lease(grid: Grid) -> None:
    """A manager that serves on, cut off from the service that grants its lease."""
    when, lasts = _when(grid), grid.world.between(800, 2000) * MS
    hangs = grid.world.chance(0.5)

    def act() -> None:
        pair = frozenset((grid.lease.holder, "lease"))
        grid.world.trace(grid.lease.holder, "can't renew")
        grid.world.cut.add(pair)
        grid.world.at(lasts, grid.world.cut.discard, pair)
        if hangs:  # its writes land when another has taken over
            grid.world.at(600 * MS, grid.log.hang, grid.lease.epoch, lasts)

    grid.world.at(when, act)


def _zombie(grid: Grid) -> None:
    """The manager in office stops with writes under way; they land when another has taken over.

    Half the time nobody can reach the other manager meanwhile, so the zombie's word is the first they hear.
    """
    lasts, hangs = grid.world.between(1100, 1900) * MS, grid.world.between(900, 1500) * MS
    alone = grid.world.chance(0.5)

    def act() -> None:
        node = next((node for node in grid.managers if node.name == grid.lease.holder), grid.managers[0])
        grid.log.hang(grid.lease.epoch, hangs)
        pause_ns = grid.world.between(1, 60) * MS
        grid.world.at(pause_ns, node.pause)
        grid.world.at(pause_ns + lasts, node.resume)
        others = [other for other in grid.managers if other is not node]
        for actor in (*grid.agents, *grid.clients) if alone else ():
            pair = frozenset((actor.name, others[0].name))
            grid.world.cut.add(pair)
            grid.world.at(pause_ns + lasts + 30 * MS, grid.world.cut.discard, pair)

    grid.world.at(_when(grid), act)


def _rot(grid: Grid) -> None:
    """Damage that nobody notices until somebody reads: of a few objects on one medium, or on all of them."""

    def act() -> None:
        rng = grid.world.rng
        media = list(grid.media.values())
        for medium in rng.sample(media, grid.world.between(1, len(media))):
            # A prune's journal is on every medium for the case that others are lost.
            names = sorted(name for name, body in medium.objects.items() if body.kind != "journal")
            for name in rng.sample(names, min(len(names), grid.world.between(1, 4))):
                medium.rot(name)

    grid.world.at(_when(grid), act)


def _lose(grid: Grid) -> None:
    grid.world.at(_when(grid), grid.world.rng.choice(list(grid.media.values())).lose)


def _calm(grid: Grid) -> None:
    """From here on everything works, and everything must come to its end."""
    grid.world.trace("--", "calm")
    grid.world.loss = grid.world.doubles = 0.0
    grid.world.cut.clear()
    for medium in grid.media.values():
        medium.errors = medium.full = medium.slow = False
        medium.doubt = 0.0
    for actor in (*grid.managers, *grid.agents, *grid.clients):
        actor.resume()
        actor.restart()
