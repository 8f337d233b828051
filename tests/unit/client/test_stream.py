"""One stream over real links: whatever agents do, all records become durable once, in order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.client.stream import StreamFailed
from staddle.client.units import Record
from staddle.engine.messages import (
    Cause,
    Exclude,
)
from staddle.errors import StaddleError

from .streamkit import SEGMENT, Grid, backup


def test_all_records_become_durable_in_order():
    grid = Grid()
    sender = backup([100] * 500, grid)
    assert [len(payload) for _, payload in grid.committed] == [100] * 500
    assert sender.bytes_resent == 0
    assert sender.failovers == []


def test_a_stream_without_records_is_closed():
    grid = Grid()
    backup([], grid)
    assert grid.closed == 0


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("cut", Cause.AGENT_LOST),
        ("commit, then cut", Cause.AGENT_LOST),
        ("refuse to open", Cause.AGENT_LOST),
        ("nonsense", Cause.AGENT_LOST),
        ("silence", Cause.AGENT_SILENT),
        ("medium", Cause.MEDIUM_LOST),
    ],
)
def test_a_path_that_fails_is_left_and_the_window_goes_over_another(fault, cause):
    grid = Grid([(fault, 45)])
    sender = backup([200] * 100, grid)
    assert grid.bit == [fault]
    assert [each.cause for each in sender.failovers] == [cause]
    assert grid.asked[-1].cause == cause
    assert sender.bytes_resent <= sender.limits.window_bytes_max + 300
    assert [report.epoch for report in grid.reports] == [2]
    if fault == "medium":
        assert grid.asked[-1].exclude == [Exclude("", "m")]


def test_a_gap_is_sent_again_on_the_same_path():
    grid = Grid([("nack", 20)])
    sender = backup([200] * 100, grid)
    assert grid.bit == ["nack"]
    assert len(grid.asked) == 1
    assert sender.failovers == []
    assert sender.bytes_resent > 0


def test_refused_containers_make_the_window_anew():
    grid = Grid([("refuse", 20)])
    sender = backup([200] * 100, grid)
    assert grid.bit == ["refuse"]
    assert grid.bad == [bytes([1]) * 16]
    assert sender.failovers == [], "a refusal is no failover"
    assert 100 in {len(payload) for _, payload in grid.committed}


def test_progress_is_a_sign_of_life_and_waits_are_waited():
    grid = Grid([("progress", 3)], waits=3)
    backup([200] * 50, grid)
    assert grid.bit == ["progress"]
    assert len(grid.asked) == 4


def test_a_lost_answer_to_an_assignment_is_asked_for_again():
    grid = Grid([("lost answer", 0)])
    sender = backup([200] * 50, grid)
    assert len(grid.asked) >= 2
    assert sender.failovers == []


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 900), max_size=60),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["cut", "nack", "medium", "refuse", "commit, then cut", "nonsense", "lost answer"]
            ),
            st.integers(0, 30),
        ),
        max_size=5,
    ),
)
def test_whatever_happens_the_content_is_durable_once_and_in_order(sizes, script):
    backup(sizes, Grid(script), window=2 * SEGMENT + 500, silence_s=5)


def test_a_job_that_was_cancelled_ends_the_stream():
    with pytest.raises(StreamFailed, match="by an operator"):
        backup([10], Grid(ended="cancelled"))


def test_a_stream_that_ends_says_what_its_last_path_died_of():
    with pytest.raises(StreamFailed, match=r"by an operator; the last path failed: EIO"):
        backup([200] * 50, Grid([("medium", 3)], ended="incomplete", ends_after=1))


def test_an_error_of_the_scan_ends_the_stream():
    def records():
        yield Record(b"m", b"x")
        raise StaddleError("the root is gone")

    with pytest.raises(StaddleError, match="root is gone"):
        backup([], Grid(), records=records())
