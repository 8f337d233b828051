"""Hostile clients against a manager's own desks, over local sockets.

Each ends with the same verdict: the others are still served, and nothing of theirs was shown or changed.
"""

import asyncio
import os
import random
import threading
import time
from types import SimpleNamespace

import msgspec
import pytest
from agentkit import GRID, SESSION, back_up, check, create, make_tree, restore, running
from hostilekit import as_peer, at_agent, in_loop, refused, still_backs_up

from staddle.api.transport import Peer
from staddle.daemon.agent import reads
from staddle.daemon.manager import admin, allowance
from staddle.daemon.manager.admin import AdminDesk
from staddle.engine.messages import (
    Assign,
    CancelJob,
    Cause,
    CloseStream,
    CreateJob,
    FailoverDone,
    FinishJob,
)
from staddle.errors import Denied, Fenced, InDoubt, ProtocolError, StaddleError
from staddle.wire.handlers import Call
from staddle.wire.ops import agents as agent_ops
from staddle.wire.ops.data import (
    OPEN_STREAM,
    READ_CHUNKS,
    READ_MANIFEST,
    OpenStream,
    ReadChunks,
    ReadManifest,
)
from staddle.wire.ops.jobs import (
    ASSIGN,
    CANCEL_JOB,
    CLOSE_STREAM,
    CREATE_JOB,
    FINISH_JOB,
    LIST_JOBS,
    RENEW_JOB,
    REPORT_FAILOVER,
    ListJobs,
    Renew,
)
from staddle.wire.ops.reading import (
    LIST_BACKUPS,
    OPEN_BACKUP,
    Find,
    ListBackups,
    OpenBackup,
    ReadTicket,
    check_find,
)


@in_loop
async def test_a_client_gets_at_nothing_of_another_client(tmp_path):
    async with running(tmp_path / "h") as grid:
        tree = tmp_path / "tree"
        tree.mkdir()
        want = make_tree(tree, 1, files=5, big=1 << 20)
        opened, _, _ = await back_up(grid, os.fsencode(tree))
        job, backup = opened.created.job, opened.created.backup
        open_job = (await create(grid, 2)).created.job
        lsn = grid.manager.state.lsn
        thief = await as_peer(grid, "c2")
        try:
            await refused(thief, OPEN_BACKUP, OpenBackup(backup=backup))
            assert LIST_BACKUPS.decode(await thief.request(LIST_BACKUPS.name, ListBackups())).rows == []
            assert LIST_JOBS.decode(await thief.request(LIST_JOBS.name, ListJobs(limit=1))).jobs == []
            for number in (job, open_job):
                await refused(thief, LIST_JOBS, ListJobs(job=number))
                await refused(thief, CANCEL_JOB, CancelJob(job=number))
                await refused(thief, RENEW_JOB, Renew(job=number, session=SESSION))
                await refused(thief, FINISH_JOB, FinishJob(job=number, session=SESSION))
                await refused(thief, CLOSE_STREAM, CloseStream(job=number, stream=0, epoch=1, total=0))
                report = FailoverDone(job=number, stream=0, epoch=1, gap_ns=1, bytes_resent=0)
                await refused(thief, REPORT_FAILOVER, report)
                asked = Assign(job=number, stream=0, expected_epoch=0, cause=Cause.START, session=SESSION)
                await refused(thief, ASSIGN, asked)
            forged = CreateJob(
                request=b"n" * 16, session=SESSION, client="c1", name="x", roots=[b"/"], pool="default"
            )
            await refused(thief, CREATE_JOB, forged)
            taken = msgspec.structs.replace(forged, request=bytes([1]) * 16, client="c2", resume=True)
            await refused(thief, CREATE_JOB, taken)
            for operation, request in (
                (agent_ops.LOCATE, agent_ops.Locate(kind="container", ids=[], backup=backup)),
                (agent_ops.COMMITTED, agent_ops.Committed(after_lsn=0, domain="default")),
                (agent_ops.AGENT_HELLO, agent_ops.AgentHello(part="data", pid=1)),
            ):
                await refused(thief, operation, request)
            assert grid.manager.state.lsn == lsn
        finally:
            await thief.close()
        check(await restore(grid, backup), want)


@in_loop
async def test_tickets_serve_their_client_at_their_agent_once(tmp_path):
    async with running(tmp_path / "h") as grid:
        opened = await create(grid)
        asked = Assign(job=opened.created.job, stream=0, expected_epoch=0, cause=Cause.START, session=SESSION)
        answer = await grid.client.call(ASSIGN, asked)
        ticket = answer.reply.ticket
        thief, owner = await at_agent(grid), await at_agent(grid, "c1")

        async def opens(link, signed, kind):
            with pytest.raises(kind):
                await link.open_channel(OPEN_STREAM.name, OpenStream(signed=signed))

        def signed_as(**changes):
            return grid.signer.sign(msgspec.msgpack.encode(msgspec.structs.replace(ticket, **changes)))

        try:
            await opens(thief, answer.signed, Denied)
            rng = random.Random(5)
            for _ in range(60):
                forged = bytearray(answer.signed)
                forged[rng.randrange(len(forged))] ^= 1 << rng.randrange(8)
                await opens(owner, bytes(forged), Denied)
            for junk in (b"", b"x", bytes(64), bytes(200), grid.signer.sign(b"\x91" * 5000)):
                await opens(owner, junk, Denied)
            await opens(owner, signed_as(agent="a2"), Denied)
            await opens(owner, signed_as(grid=bytes(16)), Denied)
            await opens(owner, signed_as(domain="secret"), Denied)
            await opens(owner, signed_as(manager_epoch=0), Fenced)
            channel, _ = await owner.open_channel(OPEN_STREAM.name, OpenStream(signed=answer.signed))
            await opens(owner, answer.signed, Fenced)
            channel.close()
        finally:
            await thief.close()
            await owner.close()
        await still_backs_up(grid, tmp_path)


@in_loop
async def test_a_read_ticket_opens_its_own_backup_for_its_own_client_in_time(tmp_path):
    async with running(tmp_path / "h") as grid:
        ids = []
        for number in (1, 2):
            tree = tmp_path / f"t{number}"
            tree.mkdir()
            make_tree(tree, number, files=3, big=1 << 20)
            done, _, _ = await back_up(grid, os.fsencode(tree), number)
            ids.append(await grid.client.call(OPEN_BACKUP, OpenBackup(backup=done.created.backup)))
        first, second = ids
        foreign = second.manifests[0].id
        owner, thief = await at_agent(grid, "c1"), await at_agent(grid, "c2")
        expired = ReadTicket(
            grid=GRID,
            backup=first.backup,
            client="c1",
            domain="default",
            manager_epoch=1,
            expires_ns=time.time_ns() - 1,
        )
        try:
            own = ReadManifest(signed=first.signed, manifest=first.manifests[0].id)
            await refused(thief, READ_MANIFEST, own)
            await refused(owner, READ_MANIFEST, ReadManifest(signed=first.signed, manifest=foreign))
            rows = ReadChunks(signed=first.signed, manifest=foreign, rows=bytes(4))
            await refused(owner, READ_CHUNKS, rows)
            late = grid.signer.sign(msgspec.msgpack.encode(expired))
            await refused(owner, READ_MANIFEST, ReadManifest(signed=late, manifest=first.manifests[0].id))
            for bad in (b"\1\2\3", b"\xff" * 4, bytes(4) * 60_000):
                asked = ReadChunks(signed=first.signed, manifest=first.manifests[0].id, rows=bad)
                await refused(owner, READ_CHUNKS, asked, StaddleError)
            assert len((await owner.request(READ_MANIFEST.name, own)).payload) > 0
        finally:
            await owner.close()
            await thief.close()


MALFORMED = {
    "a negative stream": (ASSIGN, {"job": 1, "stream": -1, "expected_epoch": 0, "cause": "start"}),
    "a number that no catalog holds": (FINISH_JOB, {"job": 1, "session": b"s", "warnings": 2**64 - 1}),
    "a name of 200 KB": (CREATE_JOB, {"name": "n" * 200_000}),
    "a name with an escape": (CREATE_JOB, {"name": "\x1b[2Jgone"}),
    "a name with a line end": (CREATE_JOB, {"name": "a\nb"}),
    "a session of 100 KB": (RENEW_JOB, {"job": 1, "session": bytes(100_000)}),
    "a path of 200 KB": (CREATE_JOB, {"roots": [bytes(200_000)]}),
    "a detail of 200 KB": (
        ASSIGN,
        {"job": 1, "stream": 0, "expected_epoch": 0, "cause": "start", "detail": "d" * 200_000},
    ),
    "short ids": (ASSIGN, {"job": 1, "stream": 0, "expected_epoch": 0, "cause": "start", "bad": [b"x"]}),
    "a page of everything": (LIST_JOBS, {"limit": 2**40}),
    "a negative page": (LIST_JOBS, {"limit": -1}),
    "no text": (CANCEL_JOB, {"job": 1, "reason": msgspec.Raw(b"\xa2\xff\xfe")}),
}


@in_loop
async def test_what_is_out_of_proportion_is_refused_before_anything_is_logged(tmp_path):
    async with running(tmp_path / "h") as grid:
        await create(grid)
        lsn = grid.manager.state.lsn
        link = await as_peer(grid, "c1")
        sound = {
            "request": b"r" * 16,
            "session": SESSION,
            "client": "c1",
            "name": "x",
            "roots": [b"/"],
            "pool": "default",
        }
        try:
            for what, (operation, fields) in MALFORMED.items():
                asked = {**sound, **fields} if operation is CREATE_JOB else fields
                error = await refused(link, operation, asked, StaddleError)
                assert error.code == "BAD_REQUEST", (what, error)
                assert link.error is None, what
            deep = {"job": 1, "more": msgspec.Raw(b"\x91" * 9000 + b"\xc0")}
            await refused(link, CANCEL_JOB, deep, InDoubt)
            assert isinstance(link.error, ProtocolError)
            assert grid.manager.state.lsn == lsn
        finally:
            await link.close()
        await still_backs_up(grid, tmp_path)


@in_loop
async def test_a_flood_of_jobs_is_stopped_and_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(allowance, "JOBS_ACTIVE_MAX", 20)
    monkeypatch.setattr(allowance, "BURST_BYTES", 400_000)
    async with running(tmp_path / "h") as grid:
        link = await as_peer(grid, "c2")

        def job(number, size):
            return CreateJob(
                request=number.to_bytes(16, "big"),
                session=SESSION,
                client="c2",
                name="flood",
                roots=[bytes([65]) * size],
                pool="default",
            )

        try:
            for number in range(20):
                await link.request(CREATE_JOB.name, job(number, 10))
            with pytest.raises(StaddleError, match="runs 20 jobs already"):
                await link.request(CREATE_JOB.name, job(20, 10))
            # A job that exists may be asked for again.
            await link.request(CREATE_JOB.name, job(3, 10))
            for number in range(20):
                await link.request(CANCEL_JOB.name, CancelJob(job=number + 1))
            lsn = grid.manager.state.lsn
            flood = [link.request(CREATE_JOB.name, job(number, 60_000)) for number in range(200, 230)]
            with pytest.raises(StaddleError, match="more than the manager's log") as caught:
                await asyncio.gather(*flood)
            assert caught.value.retry == "after"
            assert grid.manager.state.lsn - lsn < 20
        finally:
            await link.close()
        await still_backs_up(grid, tmp_path)


def test_the_allowance_refills_and_forgets_old_clients(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(allowance, "BURST_BYTES", 10_000)
    bucket = allowance.Allowance(lambda: now[0])
    peer = Peer("c1", "client")

    def taken():
        for count in range(1000):
            try:
                bucket.take(peer, CancelJob(job=1))
            except StaddleError:
                return count
        return 1000

    assert 5 < taken() < 10
    assert taken() == 0
    now[0] += 10_000 / allowance.REFILL_BYTES_PER_S
    assert 5 < taken() < 10
    for number in range(allowance.CLIENTS_MAX + 10):
        bucket.take(Peer(f"n{number}", "client"), CancelJob(job=1))
    assert len(bucket._buckets) == allowance.CLIENTS_MAX
    for _ in range(1000):
        bucket.take(Peer("admin", "admin"), CancelJob(job=1))


@in_loop
async def test_questions_to_the_catalog_are_counted_by_client():
    asked, go = [], asyncio.Event()

    class Catalog:
        async def ask(self, method, **arguments):
            asked.append(method)
            await go.wait()
            return []

    manager = SimpleNamespace(state=SimpleNamespace(backups={}))
    desk = AdminDesk(
        manager=manager,
        adoption=None,
        presence=None,
        labels=None,
        catalog=Catalog(),
        collector=None,
        stop=None,
    )

    def call(name, role="client"):
        return Call(Peer(name, role), "catalog.find", Find(pattern="*x*"), b"", None)

    waiting = [asyncio.create_task(desk._find(call("c2"))) for _ in range(admin.ASKS_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(StaddleError, match="things already"):
        await desk._find(call("c2"))
    others = [asyncio.create_task(desk._find(call(*who))) for who in (("c1",), ("admin", "admin"))]
    await asyncio.sleep(0)
    assert len(asked) == admin.ASKS_MAX + 2
    go.set()
    await asyncio.gather(*waiting, *others)
    assert not desk._asking
    with pytest.raises(StaddleError, match="stars"):
        check_find(Find(pattern="*" * 100))


@in_loop
async def test_a_client_that_asks_to_read_without_end_does_not_keep_others_waiting(monkeypatch):
    monkeypatch.setattr(reads, "READ_WAIT_S", -reads.BATCH_TIMEOUT_S + 5.0)
    go = threading.Event()
    context = SimpleNamespace(
        opened=lambda signed, kind: ReadTicket(
            grid=GRID, backup=1, client=signed.decode(), domain="d", manager_epoch=1, expires_ns=1 << 62
        ),
        role=SimpleNamespace(grid=GRID),
        keys=lambda domain: None,
    )
    desk = reads.ReadDesk(context, None)
    monkeypatch.setattr(desk, "_manifest", lambda ticket, manifest: go.wait(60.0) and b"plain")

    def read(name):
        args = ReadManifest(signed=name.encode(), manifest=bytes(16))
        return asyncio.create_task(desk._read_manifest(Call(Peer(name, "client"), "read", args, b"", None)))

    try:
        many = [read("greedy") for _ in range(1000)]
        done, waiting = await asyncio.wait(many, timeout=1.0)
        assert len(waiting) == reads.PEER_READS_MAX
        assert {each.exception().code for each in done} == {"BUSY"}
        # Who waits too long is told so in words that it can act on.
        late, _ = await asyncio.wait([read("honest")])
        assert (late.pop().exception().code, desk._waiting["honest"]) == ("BUSY", 0)
        go.set()
        assert (await read("honest"))[1] == b"plain"
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not +desk._waiting
    finally:
        go.set()
        await asyncio.to_thread(desk.close)
