"""What ends a manager, loudly, and what does not: a shortage in its log, its snapshot, its start."""

import asyncio
import errno
import os
from concurrent.futures import Future

import pytest

from staddle.api.catalog import Record
from staddle.daemon.manager import main
from staddle.daemon.manager.core import Manager
from staddle.engine.manager import Append, Publish, Reply
from staddle.errors import StaddleError, Unavailable

NO_THREAD = RuntimeError("can't start new thread")


class Core:
    """Gives one record, then says that it is durable, with an answer."""

    durable_lsn = 0
    state = None

    def __init__(self, tag=None):
        self.tag = tag

    def begin(self, _):
        return [Append([Record(1, 1, "op", {})])]

    def change(self, *_, tag, now_ns):
        self.tag = tag
        return self.begin(0)

    def on_durable(self, lsn, now_ns):
        return [Publish([Record(1, 1, "op", {})]), Reply(self.tag, "fine")]


class OpLog:
    """Takes records and resolves at once; or raises, at once or later."""

    def __init__(self, now=None, later=None):
        self.now, self.later = now, later

    def append(self, records):
        if self.now is not None:
            raise self.now
        done = Future()
        if self.later is None:
            done.set_result(1)
        else:
            done.set_exception(self.later)
        return done


def played(play):
    return asyncio.run(asyncio.wait_for(play(), 20))


def test_a_subscriber_that_fails_ends_the_manager_whose_answers_are_lost():
    async def play():
        manager = Manager(None, OpLog(), Core(), None)

        def fail(_):
            raise NO_THREAD

        manager.subscribe(fail)
        asked = asyncio.create_task(manager.change(lambda _: []))
        with pytest.raises(StaddleError, match="start new thread") as caught:
            await asyncio.shield(manager.failed)
        assert caught.value.code == "INTERNAL"
        asked.cancel()
        with pytest.raises(StaddleError, match="start new thread"):
            await manager.change(lambda _: [])

    played(play)


@pytest.mark.parametrize("error", [MemoryError(), TypeError("can't be encoded"), Unavailable("too slow")])
def test_a_log_that_does_not_take_what_the_state_has_ends_the_manager(error):
    async def play():
        manager = Manager(None, OpLog(now=error), Core(), None)
        with pytest.raises(type(error)):
            await manager.change(lambda _: [])
        assert manager.failed.done()
        expected = error.code if isinstance(error, StaddleError) else "INTERNAL"
        assert manager.failed.exception().code == expected

    played(play)


@pytest.mark.parametrize("error", [MemoryError(), StaddleError("write failed", code="LOG_FAILED")])
def test_a_manager_whose_first_record_can_not_be_written_ends(error):
    async def play():
        manager = Manager(None, OpLog(later=error), Core(), None)
        with pytest.raises(StaddleError) as caught:
            await main._unless_failed(manager, manager.begin())
        assert caught.value.code == getattr(error, "code", "INTERNAL")

    played(play)


def test_a_beginning_that_succeeds_or_fails_by_itself_says_so():
    async def play():
        manager = Manager(None, OpLog(), Core(), None)
        await main._unless_failed(manager, manager.begin())

        async def fail():
            raise Unavailable("the catalog's process did not start")

        with pytest.raises(Unavailable, match="catalog"):
            await main._unless_failed(manager, fail())
        assert not manager.failed.done()

    played(play)


@pytest.mark.parametrize("where", ["dump", "to_thread", "write_snapshot"])
@pytest.mark.parametrize(
    "error",
    [NO_THREAD, MemoryError(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ValueError("unheard of")],
)
def test_a_snapshot_that_can_not_be_written_ends_nothing_and_is_told(monkeypatch, caplog, where, error):
    def fail(*_):
        raise error

    class State:
        lsn = 7

        def dump(self):
            return b"state" if where != "dump" else fail()

    class Managing:
        state = State()

        class core:  # noqa: N801 - an attribute of that name
            durable_lsn = 7

        class oplog:  # noqa: N801 - an attribute of that name
            @staticmethod
            def write_snapshot(lsn, data):
                fail()

    if where == "to_thread":
        monkeypatch.setattr(asyncio, "to_thread", fail)
    played(lambda: main._snapshot(Managing))
    (line,) = caplog.records
    assert "no snapshot of record 7" in line.getMessage()
    assert bool(line.exc_info) == isinstance(error, ValueError), "the lines of code of a shortage help nobody"
