"""An agent whose host runs short of threads, descriptors or memory for a moment is whole again afterwards."""

import asyncio
import logging
import os
import pathlib
import threading
import types

import msgspec
import pytest
from agentkit import back_up, check, make_tree, restore, running, until
from test_agent_streams import assigned, try_open

from staddle.api.types import Kind
from staddle.daemon.agent import greeter
from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.reads import ReadDesk
from staddle.daemon.agent.store import MediaSet
from staddle.daemon.agent.streams import STREAMS_MAX
from staddle.errors import Denied, MediumFailed, StaddleError, Unavailable
from staddle.ids import Ids


class Threads:
    """Those whose name begins so can't be started, after the first `spare` and `most` times at all."""

    def __init__(self, monkeypatch, prefix, *, spare=0, most=10_000):
        self.refused, self.lifted = 0, False
        started = []
        real = threading.Thread.start

        def start(thread):
            if thread.name.startswith(prefix) and not self.lifted:
                started.append(thread)
                if len(started) > spare and self.refused < most:
                    self.refused += 1
                    raise RuntimeError("can't start new thread")
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)


# --- streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["no thread", "no plan"])
def test_streams_that_can_not_begin_give_their_places_back(tmp_path, monkeypatch, fault):
    async def main():
        async with running(tmp_path / "home") as grid:
            ticket, _ = await assigned(grid)

            def signed(number):
                later = msgspec.structs.replace(ticket, epoch=ticket.epoch + number)
                return grid.signer.sign(msgspec.msgpack.encode(later))

            desk = grid.agent.streams
            with monkeypatch.context() as patch:
                if fault == "no thread":
                    Threads(patch, "stream-")
                else:
                    patch.setattr(desk, "_plan", _denied, raising=False)
                for number in range(STREAMS_MAX + 1):
                    with pytest.raises(StaddleError) as caught:
                        await try_open(grid, signed(number))
                    assert caught.value.code != "BUSY"
                    assert not desk.busy
            await try_open(grid, signed(STREAMS_MAX + 1))

    asyncio.run(main())


def _denied(*_):
    raise Denied("no keys any more")


def test_a_segment_without_a_thread_to_store_it_is_given_up_whole_and_sent_again(tmp_path, seed, monkeypatch):
    async def main():
        want = make_tree(tmp_path / "src", seed)
        threads = Threads(monkeypatch, "store-", most=1)
        async with running(tmp_path / "home") as grid:
            opened, finished, _ = await back_up(grid, os.fsencode(tmp_path / "src"))
            assert threads.refused, "the fault did not bite"
            assert finished.state == "complete"
            check(await restore(grid, opened.created.backup), want)
            await until(lambda: not grid.agent.streams.busy)
            pipeline = grid.agent.context.pipeline
            assert (pipeline._segments, pipeline.batches.in_use, pipeline.containers.in_use) == (0, 0, 0)

    asyncio.run(main())


# --- media ----------------------------------------------------------------------------------------------


class Volume:
    closed = False

    def __init__(self, put=None):
        self._put = put

    def put(self, name, parts, digest, deadline):
        return self._put(name)

    def close(self):
        self.closed = True


def media_set(volumes):
    media = {
        name: types.SimpleNamespace(open=lambda *_, volume=volume: volume, close=lambda: None)
        for name, volume in volumes.items()
    }
    made = MediaSet(media, {}, Ids())
    made.set_labels(dict.fromkeys(volumes, object()), 1)
    return made


def test_a_put_without_a_thread_fails_that_copy_and_ends_when_all_others_have(monkeypatch):
    Threads(monkeypatch, "put", spare=1)
    ended, late = [], threading.Event()

    def slow(name):
        late.wait(0.3)
        ended.append("m1")
        return "receipt"

    media = media_set({"m1": Volume(slow), "m2": Volume(lambda name: ended.append("m2"))})
    result = media.put(Kind.CONTAINER, bytes(16), [b"x"], bytes(32), ["m1", "m2"])
    assert (result.receipts, ended) == ({"m1": "receipt"}, ["m1"])
    assert result.failed["m2"].scope == "agent", "it says nothing of the medium"
    media.put(Kind.CONTAINER, bytes(16), [b"x"], bytes(32), ["m1"])
    assert ended == ["m1", "m1"], "what was given up reads no buffer later"
    media.close()


def test_a_medium_is_opened_anew_although_no_thread_can_close_the_old_volume(monkeypatch):
    threads = Threads(monkeypatch, "close-")
    old, new = Volume(), Volume()
    media = media_set({"m1": old})
    assert media.volume("m1") is old
    media.forget("m1")
    assert threads.refused
    media.medium("m1").open = lambda *_: new
    assert media.volume("m1") is new
    assert not old.closed
    media.close()
    assert old.closed


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError(), MediumFailed("x")])
def test_a_reader_that_has_failed_is_closed_and_not_kept(error):
    desk = object.__new__(ReadDesk)
    desk._lock, desk._readers = threading.Lock(), []
    closed = []
    reader = types.SimpleNamespace(close=lambda: closed.append(1))
    desk._new_reader = lambda keys: reader
    with pytest.raises(type(error)), desk._reader("default", None):
        raise error
    assert closed
    assert not desk._readers


# --- the manager ------------------------------------------------------------------------------------------


def test_a_question_that_is_cancelled_with_the_loop_says_that_the_agent_goes_down():
    async def main():
        asked = []

        async def call_patiently(*_, **__):
            asked.append(asyncio.current_task())
            await asyncio.Event().wait()

        context = object.__new__(AgentContext)
        context._closing, context.loop = False, asyncio.get_running_loop()
        context.manager = types.SimpleNamespace(call_patiently=call_patiently)
        asking = asyncio.create_task(asyncio.to_thread(context.ask, types.SimpleNamespace(name="x"), None))
        await until(lambda: asked)
        asked[0].cancel()
        with pytest.raises(Unavailable, match="the agent is going down"):
            await asking

    asyncio.run(main())


def test_libraries_are_closed_even_if_the_disk_refuses_one():
    def refuse():
        raise OSError(24, "Too many open files")

    closed = []
    context = object.__new__(AgentContext)
    context.libraries = {
        "a": types.SimpleNamespace(close=refuse),
        "b": types.SimpleNamespace(close=lambda: closed.append("b")),
    }
    context.close()
    assert closed == ["b"]


class Medium:
    def read_label(self, deadline):
        return b"label"


def greeter_for(link, names=("m1",)):
    async def dial():
        return link

    media = types.SimpleNamespace(names=names, medium=lambda name: Medium())
    context = types.SimpleNamespace(
        name="a1",
        media=media,
        manager=types.SimpleNamespace(link=dial),
        manager_epoch=0,
        epoch_proof=b"",
        libraries={},
        role=types.SimpleNamespace(domains=()),
    )
    return greeter.Greeter(context)


def test_a_medium_whose_news_did_not_reach_the_manager_is_told_again(monkeypatch):
    async def main():
        told, again = [], asyncio.Event()

        class Link:
            async def request(self, op, request, **_):
                told.append(dict(request.labels))
                if len(told) < 3:
                    raise Unavailable("busy")
                again.set()

            async def wait_closed(self):
                await asyncio.sleep(0.02)

        hello = types.SimpleNamespace(name="agent.hello", decode=lambda reply: reply)
        monkeypatch.setattr(greeter, "AGENT_HELLO", hello)
        monkeypatch.setattr(greeter, "AGAIN_S", 0.01)
        made = greeter_for(Link())
        made._follow = lambda welcome: None
        task = asyncio.create_task(made.run())
        async with asyncio.timeout(20):
            await again.wait()
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert told == [{"m1": b"label"}] * 3, "until it was heard, and not once more"
        made.close()

    asyncio.run(main())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_a_shortage_in_greeting_is_told_as_one(error, caplog):
    said = failed_greeting(error)
    assert "make room" in said.hint
    assert not caplog.records


def test_a_defect_in_greeting_is_told_with_its_lines(caplog):
    said = failed_greeting(RecursionError("maximum recursion depth exceeded"))
    assert "make room" not in said.hint
    assert [record.exc_info[0] for record in caplog.records if record.levelno == logging.ERROR] == [
        RecursionError
    ]


def failed_greeting(error):
    async def main():
        made = greeter_for(None)

        async def greet(link):
            raise error

        made._greet = greet
        with pytest.raises(StaddleError) as caught:
            await made.on_connected(None)
        made.close()
        return caught.value

    return asyncio.run(main())


class WithoutKeyring:
    """A medium that takes no keyring the first few times."""

    def __init__(self, inner, errors):
        self.inner, self.errors = inner, errors

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def open(self, *given):
        opened = self.inner.open(*given)
        real = opened.stat

        def stat(name, deadline):
            if name.startswith("4e/") and self.errors:
                raise self.errors.pop(0)
            return real(name, deadline)

        opened.stat = stat
        return opened


def test_a_medium_that_refused_the_keyring_gets_it_later_over_the_same_link(tmp_path, monkeypatch):
    monkeypatch.setattr(greeter, "LOOK_AGAIN_S", 0.05)
    errors = [MediumFailed("full"), RuntimeError("can't start new thread"), ValueError("a driver's defect")]

    async def main():
        def spoil(name, inner):
            return WithoutKeyring(inner, errors) if name == "m2" else inner

        async with running(tmp_path / "home", spoil=spoil) as grid:
            link = await grid.agent.context.manager.link()
            place = pathlib.Path(tmp_path / "home", "media", "m2", "4e")
            await until(lambda: any(path.is_file() for path in place.rglob("*")), 30.0)
            assert not errors
            assert await grid.agent.context.manager.link() is link

    asyncio.run(main())
