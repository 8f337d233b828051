"""Peers of other releases on one link: what one does not know of the other costs nothing but that."""

import asyncio

import msgspec
import pytest

from staddle.errors import NewerFormat, StaddleError
from staddle.wire.endpoint import connect, serve
from staddle.wire.frames import FrameType
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello, RequestMeta, pack
from staddle.wire.ops.base import CLIENTS, Operation, register


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    job: int
    detail: str = "default"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    job: int
    detail: str


ASK = Operation("test.ask", Ask, CLIENTS, Told)


async def _tell(call):
    return Told(job=call.args.job, detail=call.args.detail)


async def with_link(work, **hello):
    handlers, where = Handlers(), f"mem://upgrade-{id(work)}"
    register(handlers, ASK, _tell)
    server = await serve(where, None, Hello(name="manager", role="manager"), handlers)
    try:
        greeting = Hello(name="laptop", role="client", **hello)
        link = await connect(server.url, None, greeting, expect_role="manager")
        try:
            await work(link)
        finally:
            await link.close()
    finally:
        await server.close()


def test_further_fields_are_ignored_and_missing_ones_have_their_default():
    async def work(link):
        reply = await link.request(ASK.name, {"job": 3, "future": {"deep": [1]}})
        assert ASK.decode(reply) == Told(job=3, detail="default")

    asyncio.run(with_link(work))


def test_an_operation_that_nobody_knows_is_answered_clearly_and_the_link_lives_on():
    async def work(link):
        for _ in range(3):
            with pytest.raises(StaddleError) as caught:
                await link.request("test.of_the_future", {"x": 1}, b"payload")
            assert caught.value.code == "UNKNOWN_OP"
            assert "test.of_the_future" in caught.value.message
            assert "staddle --version" in caught.value.hint
        assert ASK.decode(await link.request(ASK.name, Ask(job=4))).job == 4

    asyncio.run(with_link(work))


def test_an_event_that_nobody_knows_is_dropped_and_the_link_lives_on():
    async def work(link):
        meta = pack(RequestMeta("test.event_of_the_future", 0, msgspec.Raw(pack({"x": 1}))))
        link._writer.now(FrameType.EVENT, meta=meta)
        assert ASK.decode(await link.request(ASK.name, Ask(job=5))).job == 5

    asyncio.run(with_link(work))


def test_a_request_without_what_is_required_is_a_bad_request_and_the_link_lives_on():
    async def work(link):
        with pytest.raises(StaddleError) as caught:
            await link.request(ASK.name, {"detail": "no job"})
        assert caught.value.code == "BAD_REQUEST"
        assert ASK.decode(await link.request(ASK.name, Ask(job=6))).job == 6

    asyncio.run(with_link(work))


def test_a_newer_minor_talks_and_another_major_is_refused_with_one_clear_message():
    async def nothing(link):
        assert ASK.decode(await link.request(ASK.name, Ask(job=1))).job == 1

    asyncio.run(with_link(nothing, versions=(1, 2), features=("telepathy",), release="1.9"))
    with pytest.raises(NewerFormat) as caught:
        asyncio.run(with_link(nothing, versions=(2, 3), release="2.0"))
    assert "[2, 3]" in str(caught.value)
    assert "\n" not in str(caught.value)
