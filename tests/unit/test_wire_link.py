"""Links over the in-memory transport: requests, errors, payloads, channels, credit, events, liveness."""

from __future__ import annotations

import asyncio
import errno
import logging
import random

import msgspec
import pytest

from staddle import errors
from staddle.errors import Denied, InDoubt, MediumFull, ProtocolError, StaddleError, Unavailable
from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve
from staddle.wire.handlers import Handlers
from staddle.wire.limits import LinkLimits
from staddle.wire.messages import Hello

MANAGER = Hello(name="m", role="manager", grid=bytes(16), release="0.1.0")
CLIENT = Hello(name="c1", role="client")
MIB = 1 << 20


class Add(msgspec.Struct):
    left: int
    right: int = 1


def standard_handlers():
    handlers = Handlers()

    async def add(call):
        return {"sum": call.args.left + call.args.right, "who": call.peer.name}

    async def echo(call):
        return call.args, call.payload

    async def full(call):
        raise MediumFull("shelf is full", hint="add a disk", scope="medium")

    async def broken(call):
        raise RuntimeError("secret detail")

    async def no_room(call):
        raise OSError(errno.ENOSPC, "No space left on device", "/var/lib/secret place")

    async def nothing(call):
        return None

    async def sleep(call):
        await asyncio.sleep(call.args["s"])

    for name, function in {
        "echo": echo,
        "full": full,
        "broken": broken,
        "no_room": no_room,
        "nothing": nothing,
        "sleep": sleep,
    }.items():
        handlers.add(name, function, roles={"client", "agent"})
    handlers.add("add", add, roles=["client"], args=Add)
    handlers.add("agents_only", nothing, roles=["agent"])
    return handlers


class Pair:
    """A server and one connected client over `mem`."""

    def __init__(
        self,
        handlers=None,
        *,
        hello=CLIENT,
        limits=None,
        server_limits=None,
        client_handlers=None,
        url="mem://",
    ):
        self.args = handlers or standard_handlers(), hello, limits, server_limits, client_handlers, url

    async def __aenter__(self):
        handlers, hello, limits, server_limits, client_handlers, url = self.args
        self.accepted = []
        self.server = await serve(
            url, NO_CREDENTIALS, MANAGER, handlers, self.accepted.append, limits=server_limits
        )
        self.link = await connect(
            self.server.url, NO_CREDENTIALS, hello, client_handlers, expect_role="manager", limits=limits
        )
        return self

    async def __aexit__(self, *exc):
        await self.link.close(0.2)
        await self.server.close(0.2)

    @property
    def there(self):
        return self.accepted[0]


def run(work, timeout_s=20):
    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


def test_a_request_is_answered_with_typed_args():
    class Sum(msgspec.Struct):
        sum: int
        who: str

    async def work():
        async with Pair() as pair:
            assert pair.link.peer.name == "m"
            assert pair.there.peer.role == "client"
            reply = await pair.link.request("add", Add(2, 3))
            assert reply.args == {"sum": 5, "who": "c1"}
            assert len(reply.payload) == 0
            assert (await pair.link.request("add", {"left": 2}, reply=Sum)).args == Sum(3, "c1")
            assert (await pair.link.request("nothing")).args == {}
            with pytest.raises(ProtocolError):
                await pair.link.request("nothing", reply=Sum)
            assert (await pair.link.request("nothing")).args == {}

    run(work())


@pytest.mark.parametrize("size", [0, 1, 65_536, MIB, MIB + 1, 3 * MIB + 17, 64 * MIB])
def test_payloads_of_any_size_arrive_unchanged(size):
    async def work():
        payload = random.Random(size).randbytes(min(size, MIB)) * (size // MIB + 1)
        payload = payload[:size]
        async with Pair() as pair:
            reply = await pair.link.request("echo", {"n": size}, memoryview(payload))
            assert reply.args == {"n": size}
            assert reply.payload == payload

    run(work())


def test_many_requests_at_once_keep_their_answers_apart():
    async def work():
        async with Pair() as pair:
            sizes = [random.Random(7).randrange(0, 3 * MIB) for _ in range(20)]
            replies = await asyncio.gather(
                *(
                    pair.link.request("echo", {"n": n}, bytes([n % 251]) * size)
                    for n, size in enumerate(sizes)
                )
            )
            for n, (reply, size) in enumerate(zip(replies, sizes, strict=True)):
                assert reply.args == {"n": n}
                assert reply.payload == bytes([n % 251]) * size

    run(work())


def test_errors_cross_the_wire_as_they_are(caplog):
    async def work():
        async with Pair() as pair:
            with pytest.raises(MediumFull) as caught:
                await pair.link.request("full")
            assert (caught.value.message, caught.value.hint, caught.value.scope) == (
                "shelf is full",
                "add a disk",
                "medium",
            )
            assert caught.value.outcome == "not_done"
            with caplog.at_level(logging.ERROR), pytest.raises(StaddleError) as caught:
                await pair.link.request("broken")
            assert caught.value.code == "INTERNAL"
            assert "secret detail" not in str(caught.value)
            assert caught.value.outcome == "in_doubt"
            with pytest.raises(StaddleError) as caught:
                await pair.link.request("no_such_thing")
            assert caught.value.code == "UNKNOWN_OP"
            with pytest.raises(StaddleError) as caught:
                await pair.link.request("add", {"left": "two"})
            assert caught.value.code == "BAD_REQUEST"
            with pytest.raises(Denied):
                await pair.link.request("agents_only")
            with pytest.raises(ValueError, match="at most"):
                await pair.link.request("echo", payload=bytes(64 * MIB + 1))
            assert (await pair.link.request("nothing")).args == {}

    run(work())
    assert "secret detail" in caplog.text


def test_what_the_host_is_short_of_is_told_as_that(caplog):
    async def work():
        async with Pair() as pair:
            with pytest.raises(
                Unavailable, match=r"no_room failed inside .*: No space left on device"
            ) as caught:
                await pair.link.request("no_room")
            assert caught.value.outcome == "in_doubt"
            assert "secret" not in str(caught.value)

    run(work())
    assert "secret place" in caplog.text


def test_a_late_answer_is_a_deadline_in_doubt_and_harms_nothing():
    async def work():
        async with Pair() as pair:
            with pytest.raises(errors.DeadlineExceeded) as caught:
                await pair.link.request("sleep", {"s": 0.2}, timeout_s=0.05)
            assert caught.value.outcome == "in_doubt"
            await asyncio.sleep(0.3)
            assert (await pair.link.request("nothing")).args == {}

    run(work())


def test_giving_up_cancels_a_cancellable_handler_and_lets_others_finish():
    ends = []

    async def wait(call):
        try:
            await asyncio.sleep(0.2)
            ends.append((call.op, "done"))
        except asyncio.CancelledError:
            ends.append((call.op, "cancelled"))
            raise

    handlers = Handlers()
    handlers.add("state_change", wait, roles=["client"])
    handlers.add("long_poll", wait, roles=["client"], cancellable=True)

    async def work():
        async with Pair(handlers) as pair:
            for op in ("state_change", "long_poll"):
                task = asyncio.create_task(pair.link.request(op))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0.3)

    run(work())
    assert sorted(ends) == [("long_poll", "cancelled"), ("state_change", "done")]


def test_a_lost_link_leaves_sent_requests_in_doubt_and_later_ones_not_done():
    async def work():
        async with Pair() as pair:
            channel_side = []
            tasks = [asyncio.create_task(pair.link.request("sleep", {"s": 5})) for _ in range(3)]
            await asyncio.sleep(0.05)
            pair.there.abort(StaddleError("maintenance"))
            for task in tasks:
                with pytest.raises(InDoubt) as caught:
                    await task
                assert "maintenance" in caught.value.message
            with pytest.raises(StaddleError) as late:
                await pair.link.request("nothing")
            assert late.value.outcome == "not_done"
            with pytest.raises(StaddleError):
                await pair.link.open_channel("nothing")
            assert channel_side == []

    run(work())


def test_too_many_requests_at_once_are_refused_by_the_server_and_queued_by_the_client():
    async def work():
        few = LinkLimits(calls_max=3)
        async with Pair(server_limits=few) as pair:
            got = await asyncio.gather(
                *(pair.link.request("sleep", {"s": 0.1}) for _ in range(8)), return_exceptions=True
            )
            assert sorted(getattr(answer, "code", "ok") for answer in got) == ["BUSY"] * 5 + ["ok"] * 3
        async with Pair(limits=few) as pair:
            got = await asyncio.gather(*(pair.link.request("sleep", {"s": 0.02}) for _ in range(8)))
            assert len(got) == 8
            stuck = [asyncio.create_task(pair.link.request("sleep", {"s": 0.3})) for _ in range(3)]
            await asyncio.sleep(0.05)
            with pytest.raises(errors.DeadlineExceeded) as caught:
                await pair.link.request("nothing", timeout_s=0.05)
            assert caught.value.outcome == "not_done"
            await asyncio.gather(*stuck)

    run(work())


def test_payload_memory_of_a_link_is_bounded_on_both_sides():
    async def work():
        tight = LinkLimits(payload_bytes_max=4 * MIB)
        async with Pair(server_limits=tight) as pair:
            with pytest.raises(errors.Unavailable) as caught:
                await pair.link.request("echo", payload=bytes(5 * MIB))
            assert (caught.value.code, caught.value.outcome) == ("BUSY", "not_done")
            assert len((await pair.link.request("echo", payload=bytes(4 * MIB))).payload) == 4 * MIB
        async with Pair(limits=tight) as pair:
            with pytest.raises(errors.Unavailable) as caught:
                await pair.link.request("echo", payload=bytes(5 * MIB))
            assert caught.value.outcome == "in_doubt"
            for _ in range(3):
                assert len((await pair.link.request("echo", payload=bytes(4 * MIB))).payload) == 4 * MIB

    run(work())


def test_events_arrive_in_order_and_a_flood_ends_the_link():
    async def work():
        heard, gate = [], asyncio.Event()

        async def note(call):
            heard.append(call.args["n"])
            await gate.wait()

        async def flood(link):
            for n in range(3000):
                await link.event("note", {"n": n})
                await asyncio.sleep(0)

        handlers = standard_handlers()
        handlers.add("note", note, roles=["client"])
        async with Pair(handlers) as pair:
            gate.set()
            for n in range(100):
                await pair.link.event("note", {"n": n})
            await pair.link.event("not_there")
            await pair.link.request("nothing")
            await asyncio.sleep(0.02)
            assert heard == list(range(100))
            gate.clear()
            with pytest.raises(ProtocolError):
                await flood(pair.link)
            gate.set()

    run(work())
