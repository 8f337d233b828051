"""Hostile clients against a real data process, over local sockets.

Each ends with the same verdict: the others are still served, and nothing of theirs was shown or changed.
"""

import asyncio

import msgspec
import pytest
from agentkit import SESSION, create, running, until
from hostilekit import at_agent, in_loop, still_backs_up
from test_agent_streams import assigned

from staddle.daemon.agent import streams
from staddle.daemon.agent.streams import STREAMS_MAX
from staddle.engine.messages import (
    Assign,
    Cause,
)
from staddle.errors import ProtocolError, StaddleError
from staddle.wire.ops.data import (
    FLUSH_SEQ,
    OPEN_STREAM,
    READ_MANIFEST,
    OpenStream,
    ReadManifest,
)
from staddle.wire.ops.jobs import (
    ASSIGN,
)


async def drained(channel):
    """All that comes, until the end."""
    async with asyncio.timeout(30.0):
        while await channel.receive(30.0) is not None:
            pass


JUNK_RECORDS = {
    "no msgpack": b"\xc1\xc1",
    "nested too deep": b"\x91" * 5000 + b"\xc0",
    "no text": b"\x81\xa4kind\xa2\xff\xfe",
    "an empty map": b"\x80",
}


@pytest.mark.parametrize("what", [*JUNK_RECORDS, "a flush that is none", "no credit", "a gap without end"])
@in_loop
async def test_a_stream_of_junk_ends_itself_alone(tmp_path, what, caplog):
    async with running(tmp_path / "h") as grid:
        opened = await create(grid)
        asked = Assign(job=opened.created.job, stream=0, expected_epoch=0, cause=Cause.START, session=SESSION)
        answer = await grid.client.call(ASSIGN, asked)
        link = await at_agent(grid, "c1")
        try:
            channel, _ = await link.open_channel(OPEN_STREAM.name, OpenStream(signed=answer.signed))
            channel.grant(1 << 20)
            assert (await channel.receive(10.0)) is not None
            if what in JUNK_RECORDS:
                await channel.send(0, JUNK_RECORDS[what])
            elif what == "a flush that is none":
                for junk in JUNK_RECORDS.values():
                    await channel.send(FLUSH_SEQ, junk)
            elif what == "a gap without end":
                for number in range(3000):
                    await channel.send(5 + number, b"\x80", timeout_s=20.0)
            else:
                channel.credit_bytes = 1 << 40
                for number in range(40):
                    await channel.send(number + 7, None, bytes(1 << 20), timeout_s=20.0)
            if what != "a gap without end":
                with pytest.raises(ProtocolError):
                    await drained(channel)
        except StaddleError:
            assert what in {"no credit", "a gap without end"}
        finally:
            await link.close()
        await until(lambda: not grid.agent.streams.busy, 30.0)
        await still_backs_up(grid, tmp_path)
    assert "Traceback" not in caplog.text


@in_loop
async def test_floods_of_requests_at_an_agent_keep_nobody_out(tmp_path):
    async with running(tmp_path / "h") as grid:
        link = await at_agent(grid)
        flood = [
            asyncio.create_task(
                link.request(READ_MANIFEST.name, ReadManifest(signed=bytes(200), manifest=bytes(16)))
            )
            for _ in range(2000)
        ]
        try:
            await still_backs_up(grid, tmp_path)
            results = await asyncio.gather(*flood, return_exceptions=True)
            assert all(isinstance(result, StaddleError) for result in results)
        finally:
            await link.close()


@in_loop
async def test_streams_that_send_nothing_make_room_for_another_client(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "SILENT_S", 0.2)
    async with running(tmp_path / "h") as grid:
        ticket, _ = await assigned(grid)
        desk, links = grid.agent.streams, []

        async def opened(client, job):
            changed = msgspec.structs.replace(ticket, job=job, client=client)
            signed = grid.signer.sign(msgspec.msgpack.encode(changed))
            links.append(await at_agent(grid, client))
            await links[-1].open_channel(OPEN_STREAM.name, OpenStream(signed=signed), timeout_s=5.0)

        try:
            for job in range(100, 100 + STREAMS_MAX):
                await opened("c2", job)
            await until(lambda: all(stream.silent_s > 0.2 for stream in desk._all))
            await opened("c3", 200)
            held = sorted(stream.ticket.client for stream in desk._all)
            assert held == ["c2"] * (STREAMS_MAX - 1) + ["c3"]
            monkeypatch.setattr(streams, "SLOT_WAIT_S", 0.2)
            await until(lambda: all(stream.silent_s > 0.2 for stream in desk._all))
            with pytest.raises(StaddleError) as caught:
                await opened("c2", 300)
            assert caught.value.code == "BUSY"
            assert sorted(stream.ticket.client for stream in desk._all) == held
        finally:
            for link in links:
                await link.close(0.5)
