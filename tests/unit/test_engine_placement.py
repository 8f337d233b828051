"""Placement as a pure function."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.api.types import MediumState
from staddle.engine.placement import POLICIES, PathInfo, PlacementRule, rank_paths

UP, BUSY, SUSPECT, OFFLINE = MediumState.UP, MediumState.BUSY, MediumState.SUSPECT, MediumState.OFFLINE


def paths(states=None, loads=None, domains=None):
    states, loads, domains = states or {}, loads or {}, domains or {}
    return [
        PathInfo(
            agent=agent,
            medium=medium,
            failure_domain=domains.get(medium, medium),
            state=states.get(agent, states.get(medium, states.get(agent + medium, UP))),
            agent_rank=agent_rank,
            medium_rank=medium_rank,
            suspect_until_ns=50 if SUSPECT in states.values() else 0,
            agent_load=loads.get(agent, 0),
            medium_load=loads.get(medium, 0),
        )
        for agent_rank, agent in enumerate("ab")
        for medium_rank, medium in enumerate("mno")
    ]


def rule(policy="priority", copies=2, min_copies=1):
    return PlacementRule(policy=policy, copies=copies, min_copies=min_copies)


def test_priority_takes_the_first_that_is_up():
    choices, _ = rank_paths(rule(), paths(), 7)
    assert (choices[0].agent, choices[0].media) == ("a", ["m", "n"])
    choices, _ = rank_paths(rule(), paths({"a": OFFLINE, "m": OFFLINE}), 7)
    assert (choices[0].agent, choices[0].media) == ("b", ["n", "o"])


def test_round_robin_turns_with_the_seed():
    firsts = [rank_paths(rule("round_robin", 1), paths(), seed)[0][0] for seed in range(6)]
    assert [choice.agent for choice in firsts] == ["a", "b"] * 3
    assert [choice.media for choice in firsts] == [["m"], ["n"], ["o"]] * 2


def test_least_loaded_goes_where_the_fewest_streams_are():
    choices, _ = rank_paths(rule("least_loaded", 1), paths(loads={"a": 2, "b": 1, "m": 3, "o": 1}), 0)
    assert (choices[0].agent, choices[0].media) == ("b", ["n"])


def test_copies_lie_in_distinct_failure_domains():
    choices, _ = rank_paths(rule(), paths(domains={"m": "rack", "n": "rack"}), 0)
    assert choices[0].media == ["m", "o"]


def test_an_agent_that_reaches_too_few_media_is_no_choice():
    states = {"am": OFFLINE, "an": OFFLINE}
    choices, _ = rank_paths(rule(min_copies=2), paths(states), 0)
    assert [choice.agent for choice in choices] == ["b"]


def test_a_suspect_path_is_waited_for_only_if_nothing_else_is_left():
    assert rank_paths(rule(), paths({"a": SUSPECT}), 0)[0][0].agent == "b"
    choices, reason = rank_paths(rule(), paths({"a": SUSPECT, "b": OFFLINE}), 0)
    assert choices == []
    assert (reason.busy, reason.until_ns) == (False, 50)


@pytest.mark.parametrize(("state", "busy"), [(BUSY, True), (OFFLINE, False)])
def test_busy_and_offline_are_told_apart(state, busy):
    choices, reason = rank_paths(rule(), paths({"a": state, "b": state}), 0)
    assert choices == []
    assert reason.busy is busy


def test_an_unknown_policy_is_a_programming_error():
    with pytest.raises(ValueError, match="policy"):
        rank_paths(rule("best"), paths(), 0)


@given(
    policy=st.sampled_from(POLICIES),
    states=st.dictionaries(st.sampled_from("abmno"), st.sampled_from([UP, BUSY, SUSPECT, OFFLINE])),
    copies=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_every_choice_can_be_taken(policy, states, copies, seed):
    known = paths(states)
    choices, reason = rank_paths(rule(policy, copies), known, seed)
    assert bool(choices) != (reason is not None)
    usable = {(path.agent, path.medium) for path in known if path.state is UP}
    for choice in choices:
        assert 1 <= len(choice.media) <= copies
        assert len(set(choice.media)) == len(choice.media)
        assert all((choice.agent, medium) in usable for medium in choice.media)
    assert rank_paths(rule(policy, copies), known, seed) == (choices, reason)


def nearly_full(*media):
    return [msgspec.structs.replace(path, low=path.medium in media) for path in paths()]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_medium_that_is_nearly_full_is_taken_where_no_other_one_is(policy):
    for seed in range(6):
        choices, _ = rank_paths(rule(policy), nearly_full("m"), seed)
        assert set(choices[0].media) == {"n", "o"}, "two others have room"
        choices, _ = rank_paths(rule(policy), nearly_full("m", "n"), seed)
        assert choices[0].media[0] == "o", "the one with room comes first"
        assert len(choices[0].media) == 2, "and a second copy is worth more than the room"
        choices, _ = rank_paths(rule(policy), nearly_full("m", "n", "o"), seed)
        assert len(choices[0].media) == 2
