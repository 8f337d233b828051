"""A stream does not stay for ever with an agent that takes it and gets nowhere, whatever that agent says."""

import itertools

import msgspec
import pytest
from streamends import Rec, ticket

from staddle.engine.effects import AskAssign, Failed
from staddle.engine.messages import (
    Cause,
    Durable,
    Exclude,
    Nack,
    Opened,
    PathFailed,
    Progress,
    Refused,
)
from staddle.engine.sender import SenderState, StreamSender
from staddle.engine.window import Fruitless, SenderLimits

LIMITS = SenderLimits(window_bytes_max=8, silence_ns=100, stall_ns=1000)


def sending(*, records=4):
    sender = StreamSender(1, 0, LIMITS, session=b"s")
    sender.start(0)
    assigned(sender, 1, 0)
    for _ in range(records):
        sender.push(Rec())
    while sender.poll(0) is not None:
        pass
    return sender


def assigned(sender, epoch, now, **changes):
    effects = sender.on_assigned(ticket(epoch=epoch, **changes), now)
    sender.on_message(Opened(epoch=epoch, next_seq=0), now)
    return effects


def asked(effects):
    return next((effect.request for effect in effects if isinstance(effect, AskAssign)), None)


SAID = {
    "refused": lambda epoch: Refused(epoch=epoch, containers=[b"c" * 16]),
    "failed, by others": lambda epoch: PathFailed(
        epoch=epoch, cause=Cause.MEDIUM_LOST, exclude=[Exclude(agent="b"), Exclude(medium="m")]
    ),
    "failed, without blame": lambda epoch: PathFailed(epoch=epoch, cause=Cause.PATH_SLOW, exclude=[]),
}


@pytest.mark.parametrize("said", SAID)
def test_an_agent_that_gives_a_stream_up_again_and_again_is_gone_round(said):
    sender = sending()
    seen = []
    for epoch in range(1, Fruitless.TIMES + 3):
        request = asked(sender.on_message(SAID[said](epoch), epoch))
        seen.append(Exclude(agent="a") in request.exclude)
        assigned(sender, epoch + 1, epoch)
        if sender.window.base == sender.window.end:  # refused records are made again
            sender.push(Rec())
    assert seen == [False] * (Fruitless.TIMES - 1) + [True] * 3


def test_two_agents_that_get_nowhere_are_both_gone_round():
    sender = sending()
    for epoch, agent in enumerate("abababab", 2):
        request = asked(sender.on_message(SAID["failed, without blame"](epoch - 1), epoch))
        assigned(sender, epoch, epoch, agent=agent)
    assert request.exclude == [Exclude(agent="a"), Exclude(agent="b")]


def test_what_the_manager_calls_durable_makes_an_agent_welcome_again():
    sender = sending(records=8)
    for epoch, next_seq in enumerate([1, 1, 2, 2, 3, 3, 4, 4], 1):
        request = asked(sender.on_message(SAID["failed, without blame"](epoch), epoch))
        assert request.exclude == []
        assigned(sender, epoch + 1, epoch, next_seq=next_seq)


def test_an_agents_own_word_does_not_count_for_that():
    sender = sending()
    for epoch in range(1, 4):
        sender.on_message(Durable(epoch=epoch, upto=0), epoch)
        request = asked(sender.on_message(SAID["failed, without blame"](epoch), epoch))
        assigned(sender, epoch + 1, epoch)
    assert request.exclude == [Exclude(agent="a")]


@pytest.mark.parametrize(
    "message",
    [Progress(epoch=1), Nack(epoch=1, expected=0), Opened(epoch=1, next_seq=0), Durable(epoch=1, upto=0)],
)
def test_signs_of_life_without_anything_durable_do_not_last_for_ever(message):
    sender = sending()
    for now in itertools.count(50, 50):
        effects = sender.on_message(message, now) + sender.tick(now)
        if effects:
            break
        assert now < 10 * LIMITS.stall_ns
        while sender.poll(now) is not None:
            pass
    request = asked(effects)
    assert (request.cause, request.exclude) == (Cause.AGENT_SILENT, [Exclude(agent="a")])
    assert "nothing durable" in request.detail
    assert now >= LIMITS.stall_ns


def test_an_agent_that_gets_on_may_take_as_long_as_it_likes():
    sender = sending(records=8)
    for now in range(50, 8000, 50):
        assert asked(sender.on_message(Progress(epoch=1), now) + sender.tick(now)) is None
        if now % 900 == 0:
            sender.on_message(Durable(epoch=1, upto=now // 900), now)
        if now == 7200:
            break


def test_with_nothing_to_make_durable_nobody_stalls():
    sender = sending(records=0)
    for now in range(50, 5000, 50):
        assert asked(sender.on_message(Progress(epoch=1), now) + sender.tick(now)) is None
        assert sender.next_wake_ns > now


def test_the_first_record_after_a_long_rest_is_given_its_time_too():
    sender = sending(records=0)
    for now in range(50, LIMITS.stall_ns, 50):
        sender.on_message(Progress(epoch=1), now)
    sender.push(Rec())
    while sender.poll(now) is not None:
        pass
    sender.on_message(Progress(epoch=1), now)
    assert asked(sender.tick(LIMITS.stall_ns)) is None
    for now in range(LIMITS.stall_ns, 2 * LIMITS.stall_ns, 50):
        sender.on_message(Nack(epoch=1, expected=0), now)  # asked for again and again: no new rest
        while sender.poll(now) is not None:
            pass
        if request := asked(sender.tick(now)):
            break
    assert "nothing durable" in request.detail


def test_an_acknowledgement_that_was_a_lie_is_found_out_before_the_stream_is_closed():
    sender = sending()
    sender.finish(1)
    sender.on_message(Durable(epoch=1, upto=4), 2)
    assert sender.state is SenderState.CLOSING
    sender.on_stale(3)
    [_, failed] = sender.on_assigned(ticket(epoch=2), 4)
    assert isinstance(failed, Failed)
    assert "acknowledged what was never committed" in failed.message


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ([Exclude(agent="a")], [Exclude(agent="a")]),
        (
            [Exclude(agent="a", medium="m"), Exclude(medium="n")],
            [Exclude(agent="a", medium="m"), Exclude(medium="n")],
        ),
        ([Exclude(agent="b"), Exclude(agent="b", medium="m"), Exclude(medium="o"), Exclude()], []),
        ([Exclude(medium="m")] * 10_000, [Exclude(medium="m")] * 64),
    ],
)
def test_an_agent_blames_itself_and_the_media_of_its_ticket_and_nobody_else(said, kept):
    sender = sending()
    failed = PathFailed(epoch=1, cause=Cause.MEDIUM_LOST, exclude=said, message="x" * 100_000)
    request = asked(sender.on_message(failed, 1))
    assert request.exclude == kept
    assert len(request.detail) <= 1000


@pytest.mark.parametrize("cause", [Cause.START, Cause.REFUSED, Cause.RESUME])
def test_a_failure_that_is_called_something_else_is_a_failure(cause):
    sender = sending()
    request = asked(sender.on_message(PathFailed(epoch=1, cause=cause, exclude=[]), 1))
    assert request.cause is Cause.AGENT_LOST
    assert len(sender.failovers) == 1


def test_a_refusal_names_containers_that_can_be_and_not_too_many():
    sender = sending()
    ids = [bytes([number]) * 16 for number in range(200)] * 100
    request = asked(sender.on_message(Refused(epoch=1, containers=[b"x", *ids, b"y" * 17]), 1))
    assert request.bad == ids[:4095]
    assert len(msgspec.msgpack.encode(request)) < 256 << 10
