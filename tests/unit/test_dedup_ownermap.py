"""The owner map: every partition has one owner at any time, and moves lose nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.dedup.ownermap import EVERYONE, OwnerMap
from staddle.errors import Conflict, Corrupt

names = st.sampled_from([EVERYONE, "a", "b", "ü"])
changes = st.lists(st.tuples(st.sampled_from(["move", "settle"]), st.integers(0, 2), names), max_size=30)


@settings(max_examples=200, deadline=None)
@given(changes)
def test_who_may_know_more_is_always_named(script):
    owner_map = OwnerMap.everyone()
    for what, partition, name in script:
        before = owner_map
        if what == "settle":
            owner_map = owner_map.settle(partition)
            assert owner_map.previous[partition] is None
        else:
            try:
                owner_map = owner_map.move(partition, name)
            except Conflict:
                assert name == before.owner(partition) or before.previous[partition] not in {None, name}
                assert owner_map is before
                continue
            assert owner_map.owner(partition) == name
            assert owner_map.previous[partition] == before.owner(partition)
        assert owner_map.version == before.version + (owner_map is not before)
        assert OwnerMap.from_bytes(owner_map.to_bytes()) == owner_map
        for agent in ("a", "b", "c"):
            masks, held = owner_map.masks(agent), owner_map.held_by(agent)
            for p in range(3):
                now, previous = owner_map.owner(p), owner_map.previous[p]
                assert masks.owned[p] == (p in held) == (now in {EVERYONE, agent})
                assert masks.served[p] == (masks.owned[p] or previous in {EVERYONE, agent})
                # Who owns it and was not there before must not call a miss a miss.
                assert masks.arriving[p] == (masks.owned[p] and previous not in {None, agent})
        assert owner_map.moving() == tuple(p for p in range(256) if owner_map.previous[p] is not None)


def test_a_moving_partition_moves_nowhere_but_back():
    moving = OwnerMap.everyone().move(9, "a").settle(9).move(9, "b")
    with pytest.raises(Conflict, match="still moves from a to b"):
        moving.move(9, "c")
    back = moving.move(9, "a")
    assert (back.owner(9), back.previous[9]) == ("a", "b")


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"version":1,"owners":[],"previous":[]}'])
def test_what_is_no_map_is_corrupt(data):
    with pytest.raises(Corrupt):
        OwnerMap.from_bytes(data)


def test_invalid_maps_cannot_be_made():
    with pytest.raises(ValueError, match="256"):
        OwnerMap(version=1, owners=("a",), previous=(None,))
    with pytest.raises(ValueError, match="start at 1"):
        OwnerMap(version=0, owners=("",) * 256, previous=(None,) * 256)
    with pytest.raises(ValueError, match="itself"):
        OwnerMap(version=1, owners=("a",) * 256, previous=("a",) * 256)
