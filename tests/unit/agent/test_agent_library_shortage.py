"""A fingerprint library and its host's shortages: what can't be read now is waited for, and ends nothing."""

import asyncio
import threading
import types

import pytest
from agentkit import running

from staddle.daemon.agent import data
from staddle.daemon.agent.mending import Mender
from staddle.daemon.agent.publisher import DIRECTORY_TRIES, Publisher
from staddle.errors import Corrupt, Denied, MediumFailed, StaddleError, Unavailable
from staddle.wire.ops.agents import CommittedContainer, Located


def committed(media):
    place = Located(id=b"c" * 16, size_bytes=1, digest=bytes(32), copies=[(name, "x") for name in media])
    return CommittedContainer(lsn=1, object=place)


def publisher_that_reads(directory, names=("m1",)):
    context = types.SimpleNamespace(
        written=types.SimpleNamespace(get=lambda _: None),
        keys=lambda domain: None,
        media=types.SimpleNamespace(names=names),
    )
    return Publisher(context, types.SimpleNamespace(directory=directory), lambda: False)


def raising(error):
    def directory(*_):
        raise error

    return directory


async def publications(publisher, item, count):
    """None for left out, the error for another try."""
    results = []
    for _ in range(count):
        try:
            results.append(publisher._publication("default", item))
        except StaddleError as error:
            results.append(error)
    return results


@pytest.mark.parametrize(
    "error",
    [
        MediumFailed("not mounted", scope="path"),
        MediumFailed("gone"),
        Denied("no permission", scope="medium"),
        Unavailable("the agent ends", scope="agent"),
    ],
)
def test_a_container_on_a_medium_that_is_away_is_waited_for(error):
    async def main():
        publisher = publisher_that_reads(raising(error))
        assert await publications(publisher, committed(["m1"]), 10) == [error] * 10

    asyncio.run(main())


def test_a_container_whose_copies_are_bad_is_left_out(caplog):
    async def main():
        error = Corrupt("bad")
        publisher = publisher_that_reads(raising(error))
        wanted = [error] * (DIRECTORY_TRIES - 1) + [None]
        assert await publications(publisher, committed(["m1"]), DIRECTORY_TRIES) == wanted

    asyncio.run(main())
    assert "is left out of the library" in caplog.text


def test_a_container_on_no_medium_of_this_agent_is_not_waited_for():
    async def main():
        publisher = publisher_that_reads(raising(AssertionError("not to be read")))
        assert await publications(publisher, committed(["m9"]), 1) == [None]
        assert await publications(publisher, committed([]), 1) == [None]

    asyncio.run(main())


def test_mending_ends_soon_although_the_manager_does_not_answer():
    async def main():
        asked = asyncio.Event()

        async def call(*_, **__):
            asked.set()
            await asyncio.Event().wait()

        context = types.SimpleNamespace(manager=types.SimpleNamespace(call=call))
        library = types.SimpleNamespace(
            damaged=lambda: (1,), applied_lsn=7, rebuild=lambda lost, source: list(source)
        )
        mender = Mender(context, lambda *_: None)
        mender.look_at("default", library)
        await asked.wait()
        mender.stop()
        async with asyncio.timeout(20):
            await mender.ended(20)
        assert mender._task.done()

    asyncio.run(main())


def test_clients_are_told_goodbye_although_mending_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MENDING_STOP_S", 0.05)

    async def main():
        free = threading.Event()
        async with running(tmp_path / "home") as grid:
            mender = grid.agent.publisher._mender
            mender._task = asyncio.create_task(asyncio.to_thread(free.wait, 60))
            closed = []
            real = grid.agent.streams.close

            async def close():
                closed.append(mender._task.done())
                await real()

            grid.agent.streams.close = close
            await grid.agent.stop()
            assert closed == [False]
            assert not mender._task.done()
            free.set()
            await mender._task

    asyncio.run(main())
