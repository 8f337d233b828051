"""Channels over the in-memory transport: order, credit, back-pressure, cancel, close."""

from __future__ import annotations

import asyncio

import pytest

from staddle import errors
from staddle.errors import MediumFull, StaddleError
from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve
from staddle.wire.frames import FRAME_COST_BYTES
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello

MANAGER = Hello(name="m", role="manager", grid=bytes(16), release="0.1.0")
CLIENT = Hello(name="c1", role="client")
MIB = 1 << 20


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
        self.args = handlers, hello, limits, server_limits, client_handlers, url

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


def channel_handlers(on_open):
    handlers = Handlers()
    handlers.add("stream", on_open, roles=["client"], opens_channel=True)
    return handlers


def test_a_channel_keeps_order_and_ends_with_none():
    async def work():
        opened = []

        async def stream(call):
            call.channel.grant(8 * MIB)
            opened.append(call.channel)

        async with Pair(channel_handlers(stream)) as pair:
            channel, _ = await pair.link.open_channel("stream")
            for seq in range(50):
                await channel.send(seq, b"m%d" % seq if seq % 2 else None, bytes([seq]) * seq)
            channel.close()
            there = opened[0]
            for seq in range(50):
                data = await there.receive(1)
                assert (data.seq, data.meta, bytes(data.payload)) == (
                    seq,
                    b"m%d" % seq if seq % 2 else None,
                    bytes([seq]) * seq,
                )
            assert await there.receive(1) is None
            there.close()
            await asyncio.sleep(0.02)
            with pytest.raises(errors.Cancelled):
                await channel.send(51)
            assert not pair.link.channels._channels
            assert not pair.there.channels._channels

    run(work())


def test_a_sender_waits_for_credit_and_the_receivers_memory_is_what_it_granted():
    async def work():
        opened = []
        grant = 3 * (MIB + FRAME_COST_BYTES)

        async def stream(call):
            opened.append(call.channel)
            call.channel.grant(grant)

        async with Pair(channel_handlers(stream)) as pair:
            channel, _ = await pair.link.open_channel("stream")
            sent = []

            async def sender():
                for seq in range(10):
                    await channel.send(seq, None, bytes(MIB), timeout_s=5)
                    sent.append(seq)

            task = asyncio.create_task(sender())
            await asyncio.sleep(0.2)
            assert sent == [0, 1, 2]
            there = opened[0]
            assert len(there._queue) == 3
            with pytest.raises(errors.DeadlineExceeded) as caught:
                await channel.send(99, None, bytes(MIB), timeout_s=0.1)
            assert caught.value.outcome == "not_done"
            for seq in range(10):
                data = await there.receive(1)
                assert data.seq == seq
                there.grant(data.cost_bytes)
                assert len(there._queue) <= 3
            await task

    run(work())


def test_a_link_that_is_not_read_holds_the_sender_back():
    async def work():
        opened = []

        async def stream(call):
            opened.append(call.channel)
            call.channel.grant(512 * MIB)

        async with Pair(channel_handlers(stream)) as pair:
            channel, _ = await pair.link.open_channel("stream")
            pair.there._transport.pause_reading()
            payload, sent = bytes(MIB), []

            async def flood():
                for seq in range(100):
                    await channel.send(seq, None, payload, timeout_s=0.2)
                    sent.append(seq)

            with pytest.raises(errors.DeadlineExceeded):
                await flood()
            assert len(sent) <= 3
            assert pair.link._transport.get_write_buffer_size() <= 3 * MIB
            pair.there._transport.resume_reading()
            await channel.send(len(sent), None, payload, timeout_s=2)

    run(work())


def test_a_cancel_ends_both_sides_with_its_reason_in_either_direction():
    async def work():
        opened = []

        async def stream(call):
            call.channel.grant(MIB)
            opened.append(call.channel)

        async with Pair(channel_handlers(stream)) as pair:
            for by_server in (False, True):
                channel, _ = await pair.link.open_channel("stream")
                there = opened[-1]
                ender, other = (there, channel) if by_server else (channel, there)
                waiting = asyncio.create_task(other.receive(5))
                await asyncio.sleep(0)
                ender.cancel(MediumFull("no room"))
                for call in (waiting, other.send(1), ender.receive(1)):
                    with pytest.raises(MediumFull, match="no room"):
                        await call
                await asyncio.sleep(0.02)
                assert not pair.link.channels._channels
                assert not pair.there.channels._channels

    run(work())


def test_a_refused_open_ends_the_channel_on_both_sides():
    async def work():
        async def stream(call):
            raise errors.Fenced("stale ticket")

        async with Pair(channel_handlers(stream)) as pair:
            for _ in range(3):
                with pytest.raises(errors.Fenced):
                    await pair.link.open_channel("stream")
            await asyncio.sleep(0.02)
            assert not pair.link.channels._channels
            assert not pair.there.channels._channels
            with pytest.raises(StaddleError):
                await pair.link.open_channel("unknown")
            with pytest.raises(StaddleError, match="opens a channel"):
                await pair.link.request("stream")
            assert pair.link.error is None

    run(work())


def test_both_sides_may_open_channels_and_their_number_is_bounded():
    async def work():
        async def stream(call):
            return None

        async with Pair(channel_handlers(stream)) as pair:
            await asyncio.gather(*(pair.link.open_channel("stream") for _ in range(512)))
            with pytest.raises(errors.Unavailable):
                await pair.link.open_channel("stream")
            ids = set(pair.link.channels._channels)
            assert ids == set(pair.there.channels._channels)
            assert all(number % 2 == 1 for number in ids)

    run(work())


def test_a_listener_gets_what_waits_then_all_then_the_end_once():
    async def work():
        opened, heard = [], []

        async def stream(call):
            call.channel.grant(MIB)
            opened.append(call.channel)

        async with Pair(channel_handlers(stream)) as pair:
            channel, _ = await pair.link.open_channel("stream")
            await channel.send(0)
            await asyncio.sleep(0.02)
            opened[0].listen(heard.append)
            await channel.send(1)
            channel.close()
            await asyncio.sleep(0.02)
            opened[0].close()
            assert [item and item.seq for item in heard] == [0, 1, None]

    run(work())


def test_a_waiting_send_writes_nothing_after_its_channel_was_cancelled():
    async def work():
        opened = []

        async def stream(call):
            call.channel.grant(64 * MIB)
            opened.append(call.channel)

        async with Pair(channel_handlers(stream)) as pair:
            channel, _ = await pair.link.open_channel("stream")
            pair.there._transport.pause_reading()
            sends = [asyncio.create_task(channel.send(seq, None, bytes(MIB))) for seq in range(6)]
            await asyncio.sleep(0.05)
            channel.cancel(errors.Cancelled("enough"))
            pair.there._transport.resume_reading()
            got = await asyncio.gather(*sends, return_exceptions=True)
            assert any(isinstance(answer, errors.Cancelled) for answer in got)
            await asyncio.sleep(0.05)
            assert pair.link.error is None
            assert pair.there.error is None

    run(work())
