"""Which agent and which media serve a stream: a pure function of what is known.

A choice is one agent and one medium per copy, each in a failure domain of its own. Choices with more copies
come first, then those whose media have room, then the pool's policy decides; `seed` only breaks ties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from staddle.api.types import MediumState


class PathInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A data path as placement sees it.

    Attributes:
        agent_rank: place of the agent in the pool's order, from 0.
        medium_rank: place of the medium in the pool's order, from 0.
        state: suspect = it failed somebody lately and is avoided until `suspect_until_ns`.
        agent_load: streams that the agent serves now.
        medium_load: streams that write to the medium now.
        low: the medium has said that it is nearly full (M9): it is taken where no other one is.
    """

    agent: str
    medium: str
    failure_domain: str
    state: MediumState
    agent_rank: int = 0
    medium_rank: int = 0
    suspect_until_ns: int = 0
    agent_load: int = 0
    medium_load: int = 0
    low: bool = False


class PlacementRule(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool asks of a placement. `policy` is priority, round_robin or least_loaded."""

    policy: str
    copies: int
    min_copies: int


class Choice(msgspec.Struct, frozen=True):
    """A placement that can be taken now: one medium per copy, in order of preference."""

    agent: str
    media: list[str]


class NoPath(msgspec.Struct, frozen=True):
    """No placement now. `until_ns` is when a suspect path may be tried again; 0 = unknown."""

    busy: bool
    until_ns: int


POLICIES = ("priority", "round_robin", "least_loaded")


def rank_paths(
    rule: PlacementRule, paths: Sequence[PathInfo], seed: int
) -> tuple[list[Choice], NoPath | None]:
    """Rank what can be taken now, the best first; or say why there is nothing.

    Args:
        rule: copies and policy.
        paths: every data path of the pool.
        seed: number of the stream plus its assignments so far; what `round_robin` turns by.

    Returns:
        (choices, None), or ([], the reason). A suspect path is used only as a further copy beside enough good
        ones never; alone it is waited for: a job with a single path goes on when its back-off has passed.
    """
    if rule.policy not in POLICIES:
        raise ValueError(f"unknown placement policy {rule.policy!r}: one of {', '.join(POLICIES)}")
    usable = [path for path in paths if path.state is MediumState.UP]
    ranked = _rank(rule, usable, seed)
    if ranked:
        return ranked, None
    later = [path for path in paths if path.state in {MediumState.UP, MediumState.SUSPECT}]
    if _rank(rule, later, seed):
        return [], NoPath(busy=False, until_ns=_enough_at_ns(rule, later))
    busy = [*later, *(path for path in paths if path.state is MediumState.BUSY)]
    return [], NoPath(busy=bool(_rank(rule, busy, seed)), until_ns=0)


def _enough_at_ns(rule: PlacementRule, paths: Sequence[PathInfo]) -> int:
    """The first moment at which the back-offs that have passed leave a placement."""
    for moment in sorted({path.suspect_until_ns for path in paths}):
        ready = [path for path in paths if path.state is MediumState.UP or path.suspect_until_ns <= moment]
        if _rank(rule, ready, 0):
            return moment
    return 0


def _rank(rule: PlacementRule, paths: Sequence[PathInfo], seed: int) -> list[Choice]:
    by_agent: dict[str, list[PathInfo]] = {}
    for path in paths:
        by_agent.setdefault(path.agent, []).append(path)
    media = sorted({(path.medium_rank, path.medium) for path in paths})
    turn = {medium: at for at, (_, medium) in enumerate(media)}
    order = _order(rule.policy, seed, len(turn), turn)
    ranked: list[tuple[tuple[int, ...], str, Choice]] = []
    agents = sorted(by_agent, key=lambda name: (by_agent[name][0].agent_rank, name))
    for at, agent in enumerate(agents):
        chosen = _pick(sorted(by_agent[agent], key=order), rule.copies)
        if len(chosen) < rule.min_copies:
            continue
        first = by_agent[agent][0]
        key = {
            "priority": (at,),
            "round_robin": ((at - seed) % len(agents),),
            "least_loaded": (first.agent_load, (at - seed) % len(agents)),
        }[rule.policy]
        choice = Choice(agent, [path.medium for path in chosen])
        low = sum(path.low for path in chosen)
        ranked.append(((-len(chosen), low, *key), agent, choice))
    return [choice for _, _, choice in sorted(ranked, key=lambda item: item[:2])]


def _order(policy: str, seed: int, count: int, turn: dict[str, int]) -> Callable[[PathInfo], tuple[int, ...]]:
    """How one agent's media are preferred."""
    match policy:
        case "priority":
            return lambda path: (path.low, turn[path.medium])
        case "round_robin":
            return lambda path: (path.low, (turn[path.medium] - seed) % count)
        case _:
            return lambda path: (path.low, path.medium_load, (turn[path.medium] - seed) % count)


def _pick(paths: Sequence[PathInfo], copies: int) -> list[PathInfo]:
    """One medium per copy, no two in one failure domain."""
    chosen: list[PathInfo] = []
    for path in paths:
        if len(chosen) < copies and all(path.failure_domain != other.failure_domain for other in chosen):
            chosen.append(path)
    return chosen
