"""The sender, event by event."""

import msgspec
import pytest
from streamends import Rec, ticket

from staddle.engine.effects import (
    AskAssign,
    AskClose,
    CloseLink,
    Done,
    Failed,
    OpenLink,
    Regenerate,
    Report,
    SendFlush,
    SendRecord,
)
from staddle.engine.messages import (
    Cause,
    Durable,
    Exclude,
    Nack,
    Opened,
    PathFailed,
    Progress,
    Refused,
    Wait,
)
from staddle.engine.receiver import ReceiverLimits
from staddle.engine.sender import SenderState, StreamSender
from staddle.engine.window import SenderLimits

LIMITS = SenderLimits(window_bytes_max=4, silence_ns=100, ask_repeat_ns=50, flush_repeat_ns=30)
PATIENCE = ReceiverLimits(segment_age_ns=1000, commit_repeat_ns=20, progress_ns=10)


def opened(limits=LIMITS, **changes):
    sender = StreamSender(1, 0, limits, session=b"s")
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


# --- sender -------------------------------------------------------------------------------------


def test_the_first_request_expects_no_epoch_and_is_repeated_unchanged():
    sender = StreamSender(1, 0, LIMITS)
    first = only(sender.start(0), AskAssign).request
    assert (first.expected_epoch, first.cause) == (0, Cause.START)
    assert sender.tick(49) == []
    assert only(sender.tick(50), AskAssign).request == first


def test_a_full_window_takes_no_more_and_flushes_once():
    sender = opened()
    for _ in range(4):
        sender.push(Rec())
    assert not sender.may_push
    items = drain(sender)
    assert [item.seq for item in items[:4]] == [0, 1, 2, 3]
    assert items[4] == SendFlush(10, 4, cut=True)
    assert drain(sender) == []
    sender.tick(30)
    assert drain(sender, 30) == [SendFlush(10, 4, cut=True)]


def test_a_window_of_two_segments_is_cut_only_at_the_end():
    sender = opened(SenderLimits(window_bytes_max=6, silence_ns=100, ask_repeat_ns=50, flush_repeat_ns=30))
    for _ in range(6):
        sender.push(Rec())
    assert drain(sender)[6:] == [SendFlush(10, 6, cut=False)]
    sender.finish(1)
    assert drain(sender, 1) == [SendFlush(10, 6, cut=True)]


def test_one_record_larger_than_the_window_is_taken_when_the_window_is_empty():
    sender = opened()
    sender.push(Rec(100))
    assert not sender.may_push
    assert isinstance(drain(sender)[-1], SendFlush)


def test_only_the_current_epoch_frees_the_window():
    sender = opened()
    sender.push(Rec())
    drain(sender)
    assert sender.on_message(Durable(epoch=9, upto=1), 1) == []
    assert sender.window.bytes_held == 1
    sender.on_message(Durable(epoch=10, upto=1), 1)
    assert sender.window.bytes_held == 0


def test_an_acknowledgement_of_what_was_never_sent_is_a_broken_agent():
    sender = opened()
    sender.push(Rec())
    ask = only(sender.on_message(Durable(epoch=10, upto=1), 1), AskAssign).request
    assert ask.exclude == [Exclude(agent="a")]
    assert sender.window.bytes_held == 1


def test_a_failed_path_is_left_and_the_window_is_sent_again_from_the_ticket():
    sender = opened()
    for _ in range(3):
        sender.push(Rec())
    drain(sender)
    failed = PathFailed(epoch=10, cause=Cause.MEDIUM_FULL, exclude=[Exclude(medium="m")])
    effects = sender.on_message(failed, 5)
    assert effects[0] == CloseLink(10)
    ask = only(effects, AskAssign).request
    assert (ask.expected_epoch, ask.cause, ask.exclude) == (10, Cause.MEDIUM_FULL, [Exclude(medium="m")])
    only(sender.on_assigned(ticket(epoch=11, agent="b", next_seq=1), 7), OpenLink)
    assert sender.window.base == 1
    sender.on_message(Opened(epoch=11, next_seq=1), 8)
    assert [item.seq for item in drain(sender)] == [1, 2]
    assert sender.bytes_resent == 2
    report = only(sender.on_message(Durable(epoch=11, upto=3), 25), Report).report
    assert (report.epoch, report.gap_ns, report.bytes_resent) == (11, 20, 2)
    assert [item.to_agent for item in sender.failovers] == ["b"]


def test_silence_is_a_failure_but_progress_is_not():
    sender = opened()
    sender.on_message(Progress(epoch=10), 90)
    assert sender.tick(150) == []
    ask = only(sender.tick(190), AskAssign).request
    assert ask.cause is Cause.AGENT_SILENT


def test_a_lost_opened_is_made_up_for_by_any_sign_of_life():
    sender = StreamSender(1, 0, LIMITS)
    sender.start(0)
    sender.on_assigned(ticket(), 0)
    sender.push(Rec())
    assert sender.poll(0) is None
    sender.on_message(Progress(epoch=10), 5)
    assert isinstance(sender.poll(5), SendRecord)


def test_a_gap_goes_back_to_what_the_agent_expects():
    sender = opened()
    for _ in range(3):
        sender.push(Rec())
    drain(sender)
    sender.on_message(Nack(epoch=10, expected=1), 1)
    assert [item.seq for item in drain(sender)] == [1, 2]


def test_refused_records_leave_the_window_and_are_numbered_anew():
    sender = opened()
    records = [Rec(), Rec()]
    for record in records:
        sender.push(record)
    drain(sender)
    sender.finish(0)
    ask = only(sender.on_message(Refused(epoch=10, containers=[b"c" * 16]), 1), AskAssign).request
    assert (ask.cause, ask.bad) == (Cause.REFUSED, [b"c" * 16])
    effects = sender.on_assigned(ticket(epoch=11, bad=[b"c" * 16]), 2)
    again = only(effects, Regenerate)
    assert (again.from_seq, again.dropped, again.bad) == (0, records, [b"c" * 16])
    assert sender.may_push
    assert sender.push(Rec()) == 0
    assert not sender.failovers


def test_waiting_ends_at_the_pools_limit():
    sender = StreamSender(1, 0, LIMITS)
    sender.start(0)
    wait = Wait(why="offline", retry_after_ns=10, limit_ns=60)
    sender.on_wait(wait, 5)
    assert sender.next_wake_ns == 15
    only(sender.tick(15), AskAssign)
    sender.on_wait(wait, 20)
    sender.tick(30)
    assert "no data path" in only(sender.on_wait(wait, 65), Failed).message


def test_waits_add_up_until_something_is_durable():
    """The only medium is full: it is tried again and again, and never gets on."""
    sender = opened()
    sender.push(Rec())
    sender.push(Rec())
    drain(sender)
    wait = Wait(why="offline", retry_after_ns=10, limit_ns=60)
    full = PathFailed(epoch=10, cause=Cause.MEDIUM_FULL, exclude=[], message="full")

    def fails_and_waits(epoch, at, upto=0):
        sender.on_message(msgspec.structs.replace(full, epoch=epoch), at)
        assert sender.on_wait(wait, at) == []
        only(sender.tick(at + 25), AskAssign)
        sender.on_assigned(ticket(epoch=epoch + 1, next_seq=upto), at + 25)

    fails_and_waits(10, 0)
    fails_and_waits(11, 500)
    fails_and_waits(12, 1000, upto=1)  # after 50; but now one record was durable
    fails_and_waits(13, 1500, upto=1)
    fails_and_waits(14, 2000, upto=1)
    sender.on_message(msgspec.structs.replace(full, epoch=15), 2500)
    assert sender.on_wait(wait, 2500) == []
    sender.tick(2510)
    assert "no data path" in only(sender.on_wait(wait, 2510), Failed).message


def test_a_stream_without_records_is_closed_at_once():
    sender = opened()
    ask = only(sender.finish(3), AskClose).request
    assert (ask.total, ask.epoch) == (0, 10)
    only(sender.tick(53), AskClose)
    assert sender.on_closed(0) == [Done(0)]
    assert sender.over


def test_a_ticket_behind_the_window_means_that_the_log_has_lost_something():
    sender = opened()
    sender.push(Rec())
    drain(sender)
    sender.on_message(Durable(epoch=10, upto=1), 1)
    sender.on_link_lost(10, "", 2)
    failed = only(sender.on_assigned(ticket(epoch=11, next_seq=0), 3), Failed)
    assert "lost" in failed.message


def test_a_resumed_sender_takes_no_assignment_that_it_did_not_ask_for_by_number():
    sender = StreamSender(1, 0, LIMITS, resume=True)
    sender.start(0)
    assert not sender.may_push
    ask = only(sender.on_assigned(ticket(epoch=10, next_seq=5), 1), AskAssign).request
    assert (ask.expected_epoch, ask.cause) == (10, Cause.RESUME)
    link = only(sender.on_assigned(ticket(epoch=11, next_seq=6), 2), OpenLink)
    assert link.ticket.next_seq == sender.window.base == 6
    assert sender.may_push


def test_a_stream_that_an_earlier_process_has_closed_is_done():
    sender = StreamSender(1, 0, LIMITS, resume=True)
    sender.start(0)
    assert sender.on_ended("done", "") == [Done(0)]
    assert sender.state is SenderState.DONE


def test_a_stream_that_cannot_be_closed_asks_for_its_assignment():
    sender = opened()
    sender.finish(1)
    assert only(sender.on_stale(2), AskAssign).request.expected_epoch == 10
    closing = sender.on_assigned(ticket(epoch=12), 3)
    assert only(closing, AskClose).request.epoch == 12


@pytest.mark.parametrize("state", ["done", "cancelled", "incomplete"])
def test_the_end_of_the_job_ends_the_sender(state):
    sender = opened()
    assert only(sender.on_ended(state, "why"), Failed) == Failed(state, "why")
    assert sender.on_ended(state, "why") == []
    assert sender.state is SenderState.FAILED
