"""Runs a workload once, cuts its tape everywhere, and looks at what each cut leaves."""

import os
import random
import shutil

import pytest

from staddle.errors import StaddleError
from staddle.testing.crashfs import crash_states, no_syncs, record

FULL = os.environ.get("STADDLE_CRASH_FULL") == "1"
RECOVERY_STATES = 40
KILLS = 40
CAUGHT = (AssertionError, StaddleError, OSError, ValueError)
"""How a check tells that something was lost."""


class Scenario:
    """One durable structure: how it is used, and what has to hold after a power cut.

    Attributes:
        seed: of the states.
        exhaustive: operations under way up to which every subset is tried.
        samples: random states for each cut.
        states: at least so many states must have been looked at: a workload that does nothing proves nothing.
        recovery_every: of so many states, one's recovery is itself cut everywhere.
    """

    seed = 20261122
    exhaustive = 5
    samples = 6
    states = 100
    recovery_every = 40

    def work(self, root, tape):
        """Use it below `root`; `tape.mark` what was acknowledged."""
        raise NotImplementedError

    def again(self, root, tape):
        """After a kill without a power cut: open it, do something more, `tape.mark` it."""
        raise NotImplementedError

    def recover(self, root):
        """Open it and close it, as after a restart."""
        raise NotImplementedError

    def check(self, root, marks):
        """Assert that it recovers alone, has what was marked, has nothing half, and can be used on."""
        raise NotImplementedError


def tape_of(scenario, directory):
    os.makedirs(directory)
    with record(str(directory)) as tape:
        scenario.work(str(directory), tape)
    return tape


def cut_everywhere(scenario, tape, place):
    """Look at every state of a tape. Returns (states, states of cut recoveries)."""
    states, more = 0, 0
    every = max(1, scenario.recovery_every // (10 if FULL else 1))
    samples = 8 * scenario.samples if FULL else scenario.samples
    exhaustive = scenario.exhaustive + (3 if FULL else 0)
    for state in crash_states(tape, seed=scenario.seed, exhaustive_units=exhaustive, samples=samples):
        if states % every == 0:
            more += cut_recovery(scenario, state, place)
        look(scenario, state, place)
        states += 1
    return states, more


def notices(scenario, tape, place):
    """Assert that the check fails for the tape of a mutant. In random order, since most show late."""
    states = list(crash_states(tape, seed=scenario.seed, exhaustive_units=scenario.exhaustive, samples=4))
    random.Random(scenario.seed).shuffle(states)
    with pytest.raises(CAUGHT):
        look_at_all(scenario, states, place)


def look_at_all(scenario, states, place):
    for state in states:
        look(scenario, state, place)


def kill_everywhere(scenario, tape, place):
    """Kill the process at each operation (a sample, if there are many), start another, then cut the power."""
    cuts, count = range(1, len(tape.ops)), 0
    if not FULL and len(cuts) > KILLS:
        renames = {number for number, op in enumerate(tape.ops, 1) if op.kind == "rename"} & set(cuts)
        cuts = sorted({*renames, *random.Random(scenario.seed).sample(cuts, KILLS)})
    for cut in cuts:
        directory = fresh(place)
        tape.everything_after(cut).write(directory)
        with record(directory) as later:
            scenario.again(directory, later)
        both = tape.killed(cut, later)
        # Before the end the new process has promised nothing: only its end is looked at.
        for state in crash_states(both, seed=scenario.seed, samples=2, first=len(both.ops)):
            with told(f"killed after {cut} operations ({tape.ops[cut - 1]})"):
                look(scenario, state, place)
            count += 1
    return count


def cut_recovery(scenario, state, place):
    """A second power cut while the first one is being mended."""
    directory = fresh(place)
    state.write(directory)
    with record(directory) as tape:
        scenario.recover(directory)
    seconds = list(crash_states(tape, seed=scenario.seed, exhaustive_units=3, samples=1))
    if not FULL and len(seconds) > RECOVERY_STATES:
        seconds = random.Random(scenario.seed).sample(seconds, RECOVERY_STATES)
    count = 0
    for second in seconds:
        again = fresh(place)
        second.write(again)
        with no_syncs(), told(f"{state.where}; in recovery: {second.where}"):
            scenario.check(again, state.marks)
        count += 1
    return count


def look(scenario, state, place):
    directory = fresh(place)
    state.write(directory)
    with no_syncs(), told(state.where):
        scenario.check(directory, state.marks)


class told:  # noqa: N801 - reads as a sentence
    """Adds where the power was cut to whatever a check raises."""

    def __init__(self, where):
        self.where = where

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            error.add_note(f"power cut: {self.where}")


def fresh(place):
    """An empty directory, always the same."""
    directory = os.path.join(place, "image")
    if os.path.isdir(directory):
        shutil.rmtree(directory)
    os.makedirs(directory)
    return directory


def forgets(kind, part=""):
    """A mutant: it leaves out the operations of a kind on paths that contain `part`."""
    return lambda tape: tape.without(lambda op: op.kind == kind and part in op.path)


def syncs_late(part, after="rename"):
    """A mutant: it syncs a file's bytes only after the name was given."""
    return lambda tape: tape.delayed(
        lambda op: op.kind == "sync" and part in op.path, lambda op: op.kind == after
    )
