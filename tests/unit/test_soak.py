"""The soak and the plans of its nemesis: what is played and counted, and that enough stays whole."""

import collections
import importlib.util
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def soak():
    spec = importlib.util.spec_from_file_location("staddle_soak_under_test", TESTS / "soak.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS / "system"))
    from faults import plan

    return plan


def scene(*, with_ground=True):
    """As much of one as a plan looks at; its ground has everything that there may be."""
    ground = SimpleNamespace(
        far="a1", disks=["m2"], states=["a3", "manager", "client"], groups=["a2"], cages=None
    )
    agents, media = ["a1", "a2", "a3"], ["m1", "m2", "m3"]
    return SimpleNamespace(agents=agents, media=media, grid=None, ground=ground if with_ground else None)


def said(words, code):
    return [sys.executable, "-c", f"print({words!r}); raise SystemExit({code})"]


def test_every_scenario_of_the_soak_exists(soak):
    assert {*soak.SCENARIOS, soak.NEMESIS} <= {*soak.available()}
    assert len(set(soak.SCENARIOS)) == len(soak.SCENARIOS)


def test_with_a_nemesis_no_scenario_is_played_unless_it_is_asked_for(soak):
    assert soak.options([]).rounds == 20
    assert soak.options(["--nemesis", "10"]).rounds == 0
    assert soak.options(["--nemesis", "10", "--only", "agent_killed"]).rounds == 20
    assert soak.options(["--nemesis", "10", "--rounds", "3"]).rounds == 3


def test_what_failed_is_told_with_its_replay_line_and_the_soak_stops_at_the_third(soak, monkeypatch, capsys):
    monkeypatch.setattr(soak, "command", lambda scenario: said("the trouble", 1))
    assert soak.main(["--rounds", "9", "--only", "agent_killed", "--seed", "7"]) == 1
    out = capsys.readouterr().out
    assert out.count("the trouble") == 3
    assert "replay: STADDLE_SEED=9 " in out
    assert "NOT all is well" in out


def test_the_faults_of_all_grids_of_the_nemesis_are_counted(soak, monkeypatch, capsys):
    counts = json.dumps({"AgentKilled": 2, "MediumGone": 1})
    monkeypatch.setattr(
        soak, "command", lambda scenario: said(f"rounds with 2 faults or more: 10; faults: {counts}", 0)
    )
    assert soak.main(["--nemesis", "30", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "nemesis: 30 rounds in which two faults or more had begun" in out
    assert "     6 AgentKilled\n     3 MediumGone\n" in out


def test_a_round_without_end_is_ended_and_has_failed(soak, monkeypatch, capsys):
    endless = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]
    monkeypatch.setattr(soak, "command", lambda scenario: endless)
    monkeypatch.setattr(soak, "ROUND_LIMIT_S", 1.0)
    assert soak.main(["--rounds", "1", "--only", "agent_killed"]) == 1
    assert "no end in 1 s" in capsys.readouterr().out


def test_a_plan_leaves_one_agent_and_one_medium_whole_and_hurts_no_part_twice(plan, seed):
    rng = random.Random(seed)
    seen = collections.Counter()
    for _ in range(3000):
        on = scene()
        faults = plan.Plan(on, rng).faults
        parts = [fault.part for _, _, fault in faults]
        assert len(parts) >= 2
        assert len(set(parts)) == len(parts)
        assert sum(part in on.agents for part in parts) <= 2
        assert sum(part in on.media for part in parts) <= 2
        assert sum(begin <= plan.FIRST_TWO_S for begin, _, _ in faults) >= 2
        assert all(type(fault).possible(on, fault.part) for _, _, fault in faults)
        seen.update(type(fault) for _, _, fault in faults)
    everything = {
        *(*plan.AGENT_FAULTS, *plan.MANAGER_FAULTS, *plan.CLIENT_FAULTS, *plan.CLOCK_FAULTS),
        *(*plan.MEDIUM_FAULTS, *plan.DAMAGES),
    }
    assert set(seen) == everything


def test_without_any_ground_the_faults_are_those_that_need_none(plan, seed):
    rng = random.Random(seed)
    for _ in range(500):
        on = scene(with_ground=False)
        for _, _, fault in plan.Plan(on, rng).faults:
            assert type(fault).possible(on, fault.part)


def test_one_seed_gives_one_plan(plan, seed):
    first, second = (str(plan.Plan(scene(), random.Random(seed))) for _ in range(2))
    assert first == second


def test_what_could_not_begin_is_mended_at_once_and_does_not_count(plan):
    class Refused(plan.media.Fault):
        mended = 0

        def begin(self):
            raise subprocess.CalledProcessError(32, ["mount"])

        def heal(self):
            self.mended += 1

    made = plan.Plan(scene(), random.Random(1))
    fault = Refused(scene(), random.Random(1), "m1")
    made.faults = [(0.0, 60.0, fault)]
    playing = plan.Playing(made)
    end = time.monotonic() + 30.0
    while not fault.mended and time.monotonic() < end:
        time.sleep(0.01)
    playing.stop()
    assert made.begun == []
    assert fault.mended == 1


def test_a_fault_that_can_not_be_mended_is_told(plan):
    class Stays(plan.media.Fault):
        def begin(self):
            return

        def heal(self):
            raise AssertionError("a volume of another label was written to")

    made = plan.Plan(scene(), random.Random(1))
    made.faults = [(0.0, 60.0, Stays(scene(), random.Random(1), "m1"))]
    playing = plan.Playing(made)
    with pytest.raises(AssertionError, match="another label"):
        playing.stop()
