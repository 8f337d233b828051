"""The receiver, event by event, and both back to back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamends import Rec, ticket

from staddle.engine.effects import (
    Accept,
    CloseSegment,
    Send,
    SendCommit,
    SendFlush,
    SendRecord,
    Stop,
)
from staddle.engine.messages import (
    Cause,
    CommitOk,
    CopyOf,
    Durable,
    Exclude,
    Gone,
    Nack,
    Opened,
    Refused,
    Short,
    Stale,
    StoredObject,
)
from staddle.engine.receiver import Failure, ReceiverLimits, Stored, StreamReceiver, blame
from staddle.engine.sender import SenderState, StreamSender
from staddle.engine.window import SenderLimits
from staddle.errors import DeadlineExceeded, MediumFailed, MediumFull, StaddleError

LIMITS = SenderLimits(window_bytes_max=4, silence_ns=100, ask_repeat_ns=50, flush_repeat_ns=30)
PATIENCE = ReceiverLimits(segment_age_ns=1000, commit_repeat_ns=20, progress_ns=10)


def opened(**changes):
    sender = StreamSender(1, 0, LIMITS, session=b"s")
    sender.start(0)
    sender.on_assigned(ticket(**changes), 0)
    sender.on_message(Opened(epoch=10, next_seq=0), 0)
    return sender


def drain(sender, now=0):
    items = []
    while (item := sender.poll(now)) is not None:
        items.append(item)
    return items


def only(effects, kind):
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


# --- receiver -----------------------------------------------------------------------------------


def stored(first, **changes):
    manifest = StoredObject(id=b"f" * 16, size_bytes=1, digest=b"d" * 32, copies=[CopyOf("m", "x")])
    return Stored(first=first, manifest=manifest, containers=[], refs=[], **changes)


def fill(receiver, count=3):
    effects = []
    for seq in range(receiver.expected, receiver.expected + count):
        effects += receiver.on_data(seq, 1, 0)
    return effects


def test_only_the_expected_record_is_taken():
    receiver = StreamReceiver(ticket(next_seq=5), PATIENCE, 0)
    assert receiver.on_data(4, 1, 0) == []
    assert only(receiver.on_data(6, 1, 0), Send).message == Nack(epoch=10, expected=5)
    assert receiver.on_data(7, 1, 0) == []
    assert receiver.on_data(5, 1, 0) == [Accept(5)]


def test_one_segment_fills_while_another_is_stored():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    segment = only(fill(receiver), CloseSegment).segment
    assert (segment.first, segment.next, segment.ordinal) == (0, 3, 0)
    assert not [effect for effect in fill(receiver) if isinstance(effect, CloseSegment)]
    commit = only(receiver.on_stored(stored(0), 1), SendCommit).commit
    assert (commit.first, commit.next, commit.epoch) == (0, 3, 10)
    effects = receiver.on_commit_reply(0, CommitOk(next_seq=3, lsn=1), 2)
    assert effects[0] == Send(Durable(epoch=10, upto=3))
    following = only(effects, CloseSegment).segment
    assert (following.first, following.next, following.previous_manifest) == (3, 6, b"f" * 16)


def test_credit_stops_while_a_whole_segment_waits():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    assert receiver.wants_data
    fill(receiver)
    assert receiver.wants_data
    fill(receiver)
    assert not receiver.wants_data
    receiver.on_stored(stored(0), 1)
    receiver.on_commit_reply(0, CommitOk(next_seq=3, lsn=1), 2)
    assert receiver.wants_data


def test_a_reply_to_another_commit_acknowledges_nothing():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    fill(receiver)
    receiver.on_stored(stored(0), 1)
    assert receiver.on_commit_reply(3, CommitOk(next_seq=6, lsn=1), 2) == []
    assert receiver.durable == 0


def test_an_unanswered_commit_is_repeated_unchanged():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    fill(receiver)
    commit = only(receiver.on_stored(stored(0), 0), SendCommit).commit
    assert only(receiver.tick(20), SendCommit).commit is commit
    assert only(receiver.on_manager_back(21), SendCommit).commit is commit


def test_a_flush_closes_answers_or_asks_for_what_is_missing():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    receiver.on_data(0, 1, 0)
    assert only(receiver.on_flush(2, True, 0), Send).message == Nack(epoch=10, expected=1)
    assert only(receiver.on_flush(1, True, 0), CloseSegment).segment.next == 1
    receiver.on_stored(stored(0), 0)
    receiver.on_commit_reply(0, CommitOk(next_seq=1, lsn=1), 0)
    assert only(receiver.on_flush(1, True, 0), Send).message == Durable(epoch=10, upto=1)


def test_an_old_segment_is_closed_by_time():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    receiver.on_data(0, 1, 5)
    assert not any(isinstance(effect, CloseSegment) for effect in receiver.tick(1004))
    assert any(isinstance(effect, CloseSegment) for effect in receiver.tick(1005))


def test_a_failed_copy_is_committed_first_and_left_afterwards():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    fill(receiver)
    failed = Failure.of("n", MediumFailed("broken"))
    only(receiver.on_stored(stored(0, failed=[failed]), 1), SendCommit)
    effects = receiver.on_commit_reply(0, CommitOk(next_seq=3, lsn=1), 2)
    said = [effect.message for effect in effects if isinstance(effect, Send)]
    assert said[0] == Durable(epoch=10, upto=3)
    assert said[1].exclude == [Exclude(medium="n")]
    only(effects, Stop)
    assert receiver.on_data(3, 1, 3) == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Gone(containers=[b"c" * 16]), Refused(epoch=10, containers=[b"c" * 16])),
        (Stale(epoch=11, next_seq=0), None),
    ],
)
def test_a_refused_commit_ends_the_receiver(reply, said):
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    fill(receiver)
    receiver.on_stored(stored(0), 1)
    effects = receiver.on_commit_reply(0, reply, 2)
    assert only(effects, Stop).fenced == isinstance(reply, Stale)
    assert [effect.message for effect in effects if isinstance(effect, Send)] == ([said] if said else [])
    assert receiver.tick(10**9) == []


def test_receipts_that_no_longer_count_move_the_stream():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    fill(receiver)
    receiver.on_stored(stored(0), 1)
    effects = receiver.on_commit_reply(0, Short(objects=[b"f" * 16], media=["m"]), 2)
    assert only(effects, Send).message.exclude == [Exclude(medium="m")]


class MyOwnError(StaddleError):
    default_scope = "medium"
    default_retry = "elsewhere"


@pytest.mark.parametrize(
    ("error", "cause", "exclude"),
    [
        (MyOwnError("x"), Cause.MEDIUM_LOST, Exclude(medium="m")),
        (MediumFull("x"), Cause.MEDIUM_FULL, Exclude(medium="m")),
        (DeadlineExceeded("x"), Cause.PATH_SLOW, Exclude(agent="a", medium="m")),
        (StaddleError("x", scope="agent"), Cause.AGENT_LOST, Exclude(agent="a")),
        (StaddleError("x"), Cause.MEDIUM_LOST, Exclude(agent="a", medium="m")),
    ],
)
def test_the_cause_is_read_from_the_errors_fields(error, cause, exclude):
    assert blame("a", Failure.of("m", error)) == (cause, exclude)


def test_a_flush_that_does_not_cut_closes_nothing_but_tells_what_is_durable():
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    receiver.on_data(0, 1, 0)
    assert receiver.on_flush(1, False, 0) == []
    assert only(receiver.on_flush(2, False, 0), Send).message == Nack(epoch=10, expected=1)
    receiver.on_data(1, 2, 0)
    receiver.on_stored(stored(0), 0)
    receiver.on_commit_reply(0, CommitOk(next_seq=2, lsn=1), 0)
    receiver.on_data(2, 1, 0)
    # The word that the first two are durable is lost; the window is full, and this is all that is asked.
    assert only(receiver.on_flush(3, False, 0), Send).message == Durable(epoch=10, upto=2)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=30), pace=st.lists(st.integers(0, 6), min_size=1)
)
def test_where_segments_end_depends_on_the_records_alone(sizes, pace):
    """Whatever time storing takes, a segment ends with the record that fills it."""
    receiver = StreamReceiver(ticket(), PATIENCE, 0)
    ends, filled = [], 0
    for seq, size in enumerate(sizes):
        filled += size
        if filled >= receiver.ticket.segment_bytes:
            ends, filled = [*ends, seq + 1], 0
    found, seq, storing, left = [], 0, None, 0
    for step in range(1000):
        effects = []
        if storing is not None and left == 0:
            receiver.on_stored(stored(storing), 0)
            effects = receiver.on_commit_reply(storing, CommitOk(next_seq=found[-1], lsn=1), 0)
            storing = None
        elif seq < len(sizes) and receiver.wants_data:
            effects = receiver.on_data(seq, sizes[seq], 0)
            seq += 1
        left = max(left - 1, 0)
        for effect in effects:
            if isinstance(effect, CloseSegment):
                found.append(effect.segment.next)
                storing, left = effect.segment.first, pace[step % len(pace)]
    assert found == ends


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    lost=st.lists(st.booleans(), min_size=1, max_size=40),
)
def test_everything_arrives_in_order_whatever_is_lost(sizes, lost):
    """Sender and receiver back to back; records are lost by a pattern, everything else arrives."""
    sender, receiver = opened(), StreamReceiver(ticket(), PATIENCE, 0)
    todo, taken, drops = list(enumerate(sizes)), [], list(lost)
    for now in range(1, 2000):
        while todo and sender.may_push:
            sender.push(Rec(todo.pop(0)[1]))
        if not todo and not sender.finished:
            sender.finish(now)
        if sender.state is SenderState.CLOSING:
            break
        item = sender.poll(now)
        effects = receiver.tick(now)
        if isinstance(item, SendRecord):
            if not (drops and drops.pop(0)):
                effects += receiver.on_data(item.seq, item.record.size, now)
                taken += [item.record.size for effect in effects if isinstance(effect, Accept)]
        elif isinstance(item, SendFlush):
            effects += receiver.on_flush(item.upto, item.cut, now)
        while effects:
            match effects.pop(0):
                case Send(message):
                    sender.on_message(message, now)
                case CloseSegment(segment):
                    effects += receiver.on_stored(stored(segment.first), now)
                case SendCommit(commit):
                    effects += receiver.on_commit_reply(
                        commit.first, CommitOk(next_seq=commit.next, lsn=1), now
                    )
        sender.tick(now)
    assert sender.state is SenderState.CLOSING
    assert taken == sizes
