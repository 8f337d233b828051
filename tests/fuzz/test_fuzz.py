"""The part of the fuzzer that CI runs: a seeded subset of every parser, and every finding there ever was.

`python tests/fuzz/run.py` runs as many as there is time for; see its help.
"""

import os
import random

import msgspec
import pytest
from engines import judge, run_mutator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutate import INPUT_BYTES_MAX, Node, NotMsgpack, encode, mutate, parse
from targets import all_targets

TARGETS = all_targets()
REGRESSIONS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "regressions")
INPUTS = 400
SLOW = {
    "cli": 100,
    "restore": 100,
    "restore-one": 200,
    "rescue-manifest": 200,
    "rescue-object-inside": 100,
    "sql": 150,
}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
    max_leaves=20,
)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_sound_inputs(name):
    """A mutation of what is refused at once tests nothing; `link` and the like accept all."""
    target = TARGETS[name]
    outcomes = {judge(target, data) for data in target.seeds()}
    assert all(found is None for _, found in outcomes), outcomes
    if name not in {"cli", "certificate"}:
        assert any(outcome.startswith("accepted") for outcome, _ in outcomes), outcomes


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_are_taken_as_documented(name, seed):
    report = run_mutator(TARGETS[name], SLOW.get(name, INPUTS), seed)
    for finding in report.findings:
        print(finding.what, finding.data[:2000].hex(), finding.trace, sep="\n")
    assert not report.findings, report.findings[0].what


@pytest.mark.parametrize("name", sorted(os.listdir(REGRESSIONS)))
def test_no_finding_comes_back(name):
    with open(os.path.join(REGRESSIONS, name), "rb") as file:
        data = file.read()
    _, found = judge(TARGETS[name.split("--")[0]], data)
    assert found is None, f"{found.what}\n{found.trace}"


@pytest.mark.parametrize(
    "name", ["requests", "replies", "hello", "error", "record", "manifest", "seal", "extra", "op"]
)
@given(value=values, prefix=st.binary(min_size=1, max_size=1))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_msgpack_is_taken_as_documented(name, value, prefix):
    target = TARGETS[name]
    front = {"tagged": prefix, "sized": bytes(4)}.get(target.kind, b"")
    _, found = judge(target, front + msgspec.msgpack.encode(value))
    assert found is None, f"{found.what}\n{found.trace}"


@given(value=values)
def test_the_tree_of_the_mutator_keeps_msgpack_as_it_is(value):
    packed = msgspec.msgpack.encode(value)
    assert msgspec.msgpack.decode(encode(parse(packed))) == msgspec.msgpack.decode(packed)


def test_what_is_multiplied_again_and_again_is_cut_before_it_fills_the_memory():
    tree = Node("bin", bytes(100))
    for _ in range(6):
        tree = Node("seq", [tree] * 200)
    assert INPUT_BYTES_MAX <= len(encode(tree)) < INPUT_BYTES_MAX + 200


@given(data=st.binary(max_size=60))
def test_the_mutator_takes_anything(data):
    for kind in ("binary", "text", "msgpack", "tagged", "sized"):
        for number in range(3):
            assert isinstance(mutate(data, random.Random(number), [data], kind, [b"word"]), bytes)
    try:
        parse(data)
    except NotMsgpack:
        return
