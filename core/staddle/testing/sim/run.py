"""One seed, or many."""

from __future__ import annotations

import gc

import msgspec

from staddle.testing.sim.checks import check
from staddle.testing.sim.faults import plan
from staddle.testing.sim.grid import Grid
from staddle.testing.sim.mutants import mutant
from staddle.testing.sim.world import Violation


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended. `digest` is of its trace: equal for equal seeds."""

    seed: int
    violation: str
    digest: int
    events: int
    failovers: int
    backups: int


def run_seed(seed: int, *, mutant_name: str = "", verbose: bool = False) -> Outcome:
    """Simulate one seed and judge it. An error in the engine is a violation as well."""
    with mutant(mutant_name) as kit:
        grid = Grid(seed, kit, verbose=verbose)
        plan(grid)
        violation, failovers, backups = "", 0, 0
        try:
            grid.run()
            state = check(grid)
            failovers = sum(len(job.failovers) for job in state.jobs.values())
            backups = len(state.backups)
        except Violation as error:
            violation = str(error)
        except Exception as error:
            if verbose:
                raise
            violation = f"{type(error).__name__}: {error}"
    return Outcome(
        seed=seed,
        violation=violation,
        digest=grid.world.digest,
        events=grid.world.events,
        failovers=failovers,
        backups=backups,
    )


def run_seeds(start: int, count: int, *, mutant_name: str = "", stop_at: int = 10) -> list[Outcome]:
    """Simulate a range of seeds; the failures, at most `stop_at`."""
    failures: list[Outcome] = []
    for seed in range(start, start + count):
        outcome = run_seed(seed, mutant_name=mutant_name)
        if seed % 50 == 0:
            gc.collect()  # grids are rings of references
        if outcome.violation:
            failures.append(outcome)
            if len(failures) >= stop_at:
                break
    return failures
