"""What an agent tells the manager of its media is looked at, and has an end."""

import asyncio

import msgspec
import pytest
from agentkit import running

from staddle.api.types import Kind, object_name
from staddle.config_model import MediumSettings
from staddle.daemon.agent import media as agent_media
from staddle.daemon.manager import orphans
from staddle.daemon.manager.allowance import AGENT_BURST_BYTES, Allowance
from staddle.daemon.manager.listing import check_page, listed
from staddle.daemon.manager.orphans import OrphanSweeper
from staddle.daemon.manager.repairing import check_whole
from staddle.data.crypto import digest
from staddle.errors import Corrupt, MediumFailed, ProtocolError, StaddleError, Unavailable
from staddle.wire.calls import Reply
from staddle.wire.ops.admin import VerifyObject
from staddle.wire.ops.agents import AgentReport
from staddle.wire.ops.data import (
    DELETE_OBJECT,
    PUT_OBJECT,
    DeleteObject,
    ScanMedium,
    Scanned,
    ScannedObject,
)

PAGE = ScanMedium(medium="m1", kind="c0", after="c0/05", limit=3)


def at(name, **changes):
    return msgspec.structs.replace(ScannedObject(name, 10, bytes(32), 5, 1, "default"), **changes)


@pytest.mark.parametrize(
    "names", [[], ["c0/06"], ["c0/050", "c0/06", "c0/07"], ["c0/05/00"]], ids=lambda names: str(len(names))
)
def test_a_page_in_order_is_taken(names):
    check_page([at(name) for name in names], PAGE)


@pytest.mark.parametrize(
    "objects",
    [
        [at("c0/05")],
        [at("c0/04")],
        [at("c0/07"), at("c0/06")],
        [at("c0/06"), at("c0/06")],
        [at("f0/06")],
        [at("/etc/passwd")],
        [at("c0/" + "6" * 1000)],
        [at(f"c0/06/{number}") for number in range(4)],
        [at("c0/06", size_bytes=-1)],
        [at("c0/06", size_bytes=1 << 63)],
        [at("c0/06", raw_bytes=-5)],
        [at("c0/06", chunks=1 << 80)],
        [at("c0/06", digest=b"short")],
    ],
)
def test_a_page_that_makes_no_sense_is_none(objects):
    with pytest.raises(ProtocolError, match="m1"):
        check_page(objects, PAGE)


@pytest.mark.parametrize(
    "args",
    [
        {"size_bytes": "much", "digest": b"", "copies": []},
        {"size_bytes": 1},
        {"size_bytes": 1, "digest": b"", "copies": [["m1"]]},
        {"size_bytes": 1, "digest": b"", "copies": 5},
        {"size_bytes": None, "digest": None, "copies": None},
    ],
)
def test_an_answer_of_other_types_is_an_error_of_the_protocol(args):
    with pytest.raises(ProtocolError):
        PUT_OBJECT.decode(Reply(args, b""))
    with pytest.raises(ProtocolError):
        PUT_OBJECT.decode(Reply({}, msgspec.msgpack.encode(args)))


class Session:
    """An agent that gives one answer to everything."""

    def __init__(self, name, answer):
        self.name, self.answer, self.media = name, answer, {}

    def data_link(self):
        return self

    async def request(self, op, args, payload=None, *, timeout_s):
        if isinstance(self.answer, StaddleError):
            raise self.answer
        return Reply({}, msgspec.msgpack.encode(self.answer))


def test_an_agent_whose_answer_makes_no_sense_is_passed_over(tmp_path, monkeypatch):
    async def main():
        async with running(tmp_path / "home") as grid:
            good = Scanned([at("c0/06")])
            for bad in ({"objects": 5}, Scanned([at("c0/04")]), MediumFailed("it hangs")):
                sessions = [Session("a1", bad), Session("a2", good)]
                monkeypatch.setattr(grid.presence, "serving", lambda medium="", found=sessions: found)
                assert await listed(grid.presence, PAGE, 5.0) == good.objects
                monkeypatch.setattr(grid.presence, "serving", lambda medium="", found=sessions[:1]: found)
                with pytest.raises(StaddleError):
                    await listed(grid.presence, PAGE, 5.0)
            monkeypatch.undo()

    asyncio.run(main())


class Endless:
    """A medium that lists names without end, as old orphans have them; counts what is asked."""

    def __init__(self):
        self.pages = self.deleted = 0

    async def call(self, operation, request, payload=None, *, medium="", timeout_s=60.0, accept=None):
        if isinstance(request, DeleteObject):
            self.deleted += len(request.names)
            return DELETE_OBJECT.reply()
        self.pages += 1
        begin = int(request.after[6:18], 16) + 1 if request.after else 1
        answer = Scanned(
            [
                at(object_name(Kind(request.kind), number.to_bytes(6) + bytes(10), bytes(8)))
                for number in range(begin, begin + request.limit)
            ]
        )
        accept(answer)
        return answer


@pytest.mark.parametrize("old", [True, False])
def test_a_medium_that_makes_names_up_fills_neither_the_log_nor_the_time(tmp_path, monkeypatch, old):
    monkeypatch.setattr(orphans, "DOOMED_MAX", 2500)
    monkeypatch.setattr(orphans, "NAMES_PER_ROUND", 20_000)

    async def main():
        async with running(tmp_path / "home") as grid:
            presence, state = Endless(), grid.manager.state
            if old:  # younger than the log, so that they are orphans
                monkeypatch.setattr(state, "began_ns", 0)
            sweeper = OrphanSweeper(grid.manager, grid.adoption, presence, age_ns=0, skew_ns=0)
            for _ in range(10):
                await sweeper.step()
            pages, deleted, lsn = presence.pages, presence.deleted, state.lsn
            for _ in range(10):
                await sweeper.step()
            assert (presence.pages, presence.deleted, state.lsn) == (pages, deleted, lsn), "it rests"
            media = len(state.media)
            assert pages <= 21 * media
            assert deleted == (3000 * media if old else 0)
            assert not any(state.doomed.values())

    asyncio.run(main())


def test_bytes_that_one_agent_hands_over_for_another_are_looked_at():
    blob = bytes(range(256)) * 8
    manifest = VerifyObject(
        Kind.MANIFEST.value, bytes(16), "m1", "f0/00", len(blob), digest([blob]), "default", []
    )
    container = VerifyObject(
        Kind.CONTAINER.value, bytes(16), "m1", "c0/00", len(blob), digest([blob[:-80]]), "default", []
    )
    for source in (manifest, container):
        check_whole(blob, source)
        for other in (blob[:-1], blob + b"x", bytes(len(blob)), b"x" + blob[1:], b""):
            with pytest.raises(Corrupt) as caught:
                check_whole(other, source)
            assert caught.value.scope == "agent", "it says nothing about the copy"


def test_an_agent_that_floods_the_manager_is_told_to_wait():
    class Peer:
        def __init__(self, role, name):
            self.role, self.name = role, name

    now = [0.0]
    bucket = Allowance(lambda: now[0])
    report = AgentReport(media=[], pids=[1])
    taken = []

    def flood():
        while len(taken) < AGENT_BURST_BYTES:
            bucket.take(Peer("agent", "a1"), report)
            taken.append(1)

    with pytest.raises(Unavailable, match="agent 'a1' asks for more"):
        flood()
    assert len(taken) > 3600, "an hour of reports is no flood"
    bucket.take(Peer("agent", "a2"), report)
    bucket.take(Peer("client", "a1"), report)
    bucket.take(Peer("admin", "a1"), report)
    now[0] += 1.0
    bucket.take(Peer("agent", "a1"), report)


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), RuntimeError("bad"), BaseException("x")])
@pytest.mark.parametrize("when", ["load", "make"])
def test_a_plugin_that_can_not_be_made_costs_its_medium_and_no_other(error, when):
    def fail(*_):
        raise error

    class Type:
        @staticmethod
        def load():
            return fail() if when == "load" else fail

    class Settings:
        medium = {"m1": MediumSettings(name="m1", plugin="x")}  # noqa: RUF012 - never changed

        def media_of(self, agent):
            return ["m1"]

        def medium_config(self, name, registry):
            return None

    class Registry:
        def media_type(self, name):
            return Type

    built = agent_media.build(Settings(), "a1", Registry())
    assert not built.media
    assert set(built.problems) == {"m1"}
