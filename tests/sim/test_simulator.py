"""The whole grid in a seeded simulation: clean with the real rules, broken by every mutant."""

import os
import subprocess
import sys

import pytest

import staddle.testing.sim.grid as sim_grid
from staddle.engine import manager, receiver, sender
from staddle.engine.lease import ManagerLease
from staddle.testing.sim.grid import Kit
from staddle.testing.sim.mutants import MUTANTS, mutant
from staddle.testing.sim.run import run_seed, run_seeds

SEEDS = int(os.environ.get("STADDLE_SIM_SEEDS", "2000"))
START = int(os.environ.get("STADDLE_SIM_START", "0"))
MUTANT_SEEDS = 600  # each mutant is caught within so many
BLOCKS = 10


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_seed_breaks_a_rule(block):
    size = -(-SEEDS // BLOCKS)
    failures = run_seeds(START + block * size, size)
    told = [f"python -m staddle.testing.sim --seed {item.seed} -v: {item.violation}" for item in failures]
    assert not failures, "\n".join(told)


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_the_mutant_is_caught(name):
    caught = run_seeds(0, MUTANT_SEEDS, mutant_name=name, stop_at=1)
    assert caught, f"{MUTANT_SEEDS} seeds did not notice the mutant {name}"
    assert not run_seed(caught[0].seed).violation, "the seed fails without the mutant, too"
    print(f"{name}: seed {caught[0].seed}: {caught[0].violation}")


@pytest.mark.parametrize("seed", [4952, 7213, 3_099_748, 5_022_955])
def test_what_once_broke_a_rule_is_mended(seed):
    assert not run_seed(seed).violation


def test_the_same_seed_gives_the_same_run():
    for seed in range(START, START + 5):
        assert run_seed(seed) == run_seed(seed)


def test_another_process_replays_a_seed_from_one_line():
    def play(hash_seed):
        command = [sys.executable, "-m", "staddle.testing.sim", "--seed", "7", "-v"]
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout

    trace = play("1")
    assert "takes office" in trace
    assert trace == play("2")


def test_the_faults_bite():
    outcomes = [run_seed(seed) for seed in range(60)]
    assert sum(item.failovers for item in outcomes) > 20
    assert sum(item.backups for item in outcomes) > 150


def test_the_classes_under_test_are_those_of_the_engine():
    assert Kit.sender is sender.StreamSender
    assert Kit.receiver is receiver.StreamReceiver
    assert Kit.core is manager.ManagerCore
    assert Kit.lease is ManagerLease
    with mutant("") as kit:
        assert kit is Kit
    assert sim_grid.GridState is manager.GridState


def test_a_mutant_leaves_nothing_behind():
    before = manager.decide_commit
    with mutant("no-fence"):
        assert manager.decide_commit is not before
    assert manager.decide_commit is before
