"""Hostile agents against a manager's own desks, over local sockets.

Each ends with the same verdict: the others are still served, and nothing of theirs was shown or changed.
"""

import contextlib
import os

import msgspec
from agentkit import GRID, SESSION, create, running
from hostilekit import BOMB, as_peer, in_loop, refused, still_backs_up

from staddle.api.types import Kind, object_name
from staddle.engine.messages import (
    Assign,
    Cause,
    Commit,
    CommitOk,
    CopyOf,
    Short,
    Stale,
    StoredObject,
)
from staddle.errors import Fenced, StaddleError
from staddle.wire.ops import agents as agent_ops
from staddle.wire.ops.jobs import (
    ASSIGN,
    COMMIT,
)


def stored(kind, number, media, **changes):
    object_id = bytes([number]) * 16
    fields = {
        "id": object_id,
        "size_bytes": 10,
        "digest": bytes(32),
        "copies": [CopyOf(medium, object_name(kind, object_id, bytes(8))) for medium in media],
    }
    return StoredObject(**{**fields, **changes})


class Lies:
    """A sound COMMIT of agent a1, for what goes wrong with it, and its link."""

    def __init__(self, grid, link, ticket):
        self.grid, self.link, self.media = grid, link, ticket.media
        self.sound = Commit(
            job=ticket.job,
            stream=0,
            epoch=ticket.epoch,
            agent="a1",
            first=0,
            next=3,
            manifest=self.manifest(1),
            containers=[self.container()],
            refs=[],
            files=1,
        )

    def manifest(self, number, **changes):
        return stored(Kind.MANIFEST, number, self.media, **changes)

    def container(self, number=2, **changes):
        return stored(Kind.CONTAINER, number, self.media, **changes)

    def changed(self, **changes):
        return msgspec.structs.replace(self.sound, **changes)

    def later(self, number, **changes):
        """The segment behind it."""
        return self.changed(first=3, next=4, manifest=self.manifest(number), containers=[], **changes)

    async def say(self, commit, payload=None):
        return COMMIT.decode(await self.link.request(COMMIT.name, commit, payload)).reply


@contextlib.asynccontextmanager
async def lying(home):
    async with running(home) as grid:
        opened = await create(grid)
        asked = Assign(job=opened.created.job, stream=0, expected_epoch=0, cause=Cause.START, session=SESSION)
        ticket = (await grid.client.call(ASSIGN, asked)).reply.ticket
        link = await as_peer(grid, "a1", "agent")
        try:
            yield Lies(grid, link, ticket)
        finally:
            await link.close()


@in_loop
async def test_a_commit_that_makes_no_sense_is_refused(tmp_path):
    async with lying(tmp_path / "h") as lies:
        foreign = [CopyOf("m1", object_name(Kind.CONTAINER, bytes([77]) * 16, bytes(8)))]
        state, changed, container = lies.grid.manager.state, lies.changed, lies.container
        lsn = state.lsn
        for commit in (
            changed(manifest=lies.manifest(1, id=b"short")),
            changed(manifest=lies.manifest(1, digest=b"")),
            changed(containers=[container(size_bytes=-1)]),
            changed(containers=[container(raw_bytes=2**63)]),
            changed(containers=[container(copies=[CopyOf("m1", "n" * 5000)])]),
            changed(containers=[container(copies=foreign)]),
            changed(containers=[lies.manifest(2)]),
            changed(containers=[container(), container()]),
            changed(containers=[container(1)]),
            changed(refs=[b"abc"]),
            changed(stream=-1),
            changed(files=2**64 - 1),
        ):
            await refused(lies.link, COMMIT, commit, StaddleError, "BAD_REQUEST")
        assert state.lsn == lsn


@in_loop
async def test_an_agent_commits_its_own_stream_to_its_tickets_media_alone(tmp_path):
    async with lying(tmp_path / "h") as lies:
        state = lies.grid.manager.state
        other = await as_peer(lies.grid, "a2", "agent")
        await refused(other, COMMIT, lies.sound)
        reply = COMMIT.decode(await other.request(COMMIT.name, lies.changed(agent="a2"))).reply
        assert isinstance(reply, Stale)
        await other.close()
        elsewhere = stored(Kind.CONTAINER, 2, ["m9"])
        assert isinstance(await lies.say(lies.changed(containers=[elsewhere])), Short)
        more = [*lies.container().copies, *elsewhere.copies]
        committed = lies.changed(containers=[lies.container(copies=more)])
        assert isinstance(await lies.say(committed), CommitOk)
        kept = state.objects[bytes([2]) * 16]
        assert {copy.medium for copy in kept.copies} == set(lies.media)
        await refused(lies.link, COMMIT, lies.later(6, files=2**63 - 1))
        await refused(lies.link, COMMIT, lies.later(2))
        assert state.objects[bytes([2]) * 16] is kept


@in_loop
async def test_a_manifest_that_is_none_or_a_bomb_costs_no_memory_and_no_segment(tmp_path):
    async with lying(tmp_path / "h") as lies:
        for number, junk in enumerate((os.urandom(5000), BOMB, b"\x28\xb5\x2f\xfd")):
            at = {"first": number, "next": number + 1}
            bomb = lies.changed(manifest=lies.manifest(3 + number), containers=[], **at)
            assert isinstance(await lies.say(bomb, junk), CommitOk)
        assert lies.grid.catalog.manifests == []


@in_loop
async def test_an_agent_says_nothing_of_media_that_it_does_not_reach(tmp_path):
    async with running(tmp_path / "h") as grid:
        grid.settings.agent["a2"] = msgspec.structs.replace(grid.settings.agent["a1"], media=["m2"])
        link = await as_peer(grid, "a2", "agent")
        try:
            hello = agent_ops.AgentHello(part="data", pid=2, urls=("tcp://[::1:1",), labels={"m1": b"junk"})
            await link.request(agent_ops.AGENT_HELLO.name, hello)
            assert grid.adoption.problem("m1") == ""
            media = [
                agent_ops.MediumReport(name=name, state="offline", message="x" * 5000)
                for name in ("m1", "m2", "m9")
            ]
            report = agent_ops.AgentReport(media=media, pids=[2])
            await link.request(agent_ops.AGENT_REPORT.name, report)
            assert set(grid.presence.sessions["a2"].media) == {"m2"}
            assert grid.manager.state.media["m1"].state.value == "up"
            for wrong in (
                {"media": [{"name": "m2", "state": "on fire"}], "pids": []},
                {"media": [], "pids": list(range(1000))},
                {"media": [{"name": f"m{n}", "state": "up"} for n in range(3000)], "pids": []},
            ):
                await refused(link, agent_ops.AGENT_REPORT, wrong, StaddleError, "BAD_REQUEST")
            for wrong in ({"part": "x", "pid": 1}, {"part": "data", "pid": 1, "urls": ["u"] * 99}):
                await refused(link, agent_ops.AGENT_HELLO, wrong, StaddleError, "BAD_REQUEST")
        finally:
            await link.close()


@in_loop
async def test_a_higher_epoch_ends_a_manager_only_if_that_manager_says_so(tmp_path):
    async with running(tmp_path / "h") as grid:
        link = await as_peer(grid, "a1", "agent")

        def hello(epoch, proof):
            return agent_ops.AgentHello(part="control", pid=1, manager_epoch=epoch, epoch_proof=proof)

        def proof(**fields):
            said = agent_ops.EpochProof(**{"grid": GRID, "manager_epoch": 1 << 40, **fields})
            return grid.signer.sign(msgspec.msgpack.encode(said))

        try:
            for lie in (b"", b"x" * 100, proof(grid=bytes(16)[:15] + b"z"), proof(manager_epoch=2)):
                await refused(link, agent_ops.AGENT_HELLO, hello(1 << 40, lie))
            assert not grid.manager.failed.done()
            await still_backs_up(grid, tmp_path)
            # The proof that an agent keeps is what every manager gives it.
            kept = tmp_path / "h" / "agents" / "a1" / "manager-epoch-proof"
            mine = hello(grid.manager.state.epoch, kept.read_bytes())
            await link.request(agent_ops.AGENT_HELLO.name, mine)
            await refused(link, agent_ops.AGENT_HELLO, hello(1 << 40, proof()), Fenced)
            assert isinstance(grid.manager.failed.exception(), Fenced)
        finally:
            await link.close()
            grid.manager.failed.exception()
