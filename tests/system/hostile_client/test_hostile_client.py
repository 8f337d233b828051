"""A client with a certificate of the grid attacks manager and agent over TLS, while another one backs up."""

import asyncio
import contextlib
import os
import random
import shutil

import msgspec
import pytest
from leaks import peak_bytes

from staddle.config import load
from staddle.demo.compare import differences
from staddle.demo.grid import grid
from staddle.engine.messages import CancelJob, CreateJob
from staddle.errors import Denied, StaddleError
from staddle.wire.endpoint import connect
from staddle.wire.frames import FrameType, encode_head
from staddle.wire.messages import Hello
from staddle.wire.ops.data import READ_CHUNKS, ReadChunks
from staddle.wire.ops.jobs import CREATE_JOB, LIST_JOBS, ListJobs
from staddle.wire.ops.reading import (
    FIND,
    LIST_BACKUPS,
    LIST_DIRECTORY,
    OPEN_BACKUP,
    QUERY,
    Find,
    ListBackups,
    ListDirectory,
    OpenBackup,
    Query,
)
from staddle.wire.pki import CertificateAuthority, write_credentials
from staddle.wire.tcp import parse_tcp_url

RSS_BYTES_MAX = {"manager": 600 << 20, "agent-a1": 512 << 20}
LOG_BYTES_MAX = 64 << 20
SILENT = 400
LINKS = 12
HANGS = "*a" * 30 + "b"


class Attacker:
    """The member `c2`, from this very process."""

    def __init__(self, home, directory, rng):
        settings = load(home)
        authority = CertificateAuthority.load(os.path.join(home, "pki", "ca"))
        self.credentials = write_credentials(directory, authority.cert_pem, authority.issue("c2", "client"))
        self.hello = Hello(name="c2", role="client", grid=bytes.fromhex(settings.grid.id))
        self.urls = {"manager": settings.manager.listen, "agent": settings.agent["a1"].listen}
        self.rng = rng
        self.rounds = {"manager": 0, "agent": 0}

    async def link(self, whom):
        return await connect(self.urls[whom], self.credentials, self.hello, expect_role=whom, timeout_s=60.0)

    async def peek(self, backup):
        """Whatever may be asked about another's backup."""
        link = await self.link("manager")
        for operation, request in (
            (OPEN_BACKUP, OpenBackup(backup=backup)),
            (LIST_DIRECTORY, ListDirectory(backup=backup, path=b"/")),
            (QUERY, Query(sql="SELECT * FROM v_backups")),
            (LIST_JOBS, ListJobs(job=1)),
        ):
            with pytest.raises(Denied):
                await link.request(operation.name, request, timeout_s=60.0)
        found = FIND.decode(await link.request(FIND.name, Find(pattern="secret"), timeout_s=60.0))
        assert found.rows == []
        listed = LIST_BACKUPS.decode(await link.request(LIST_BACKUPS.name, ListBackups(), timeout_s=60.0))
        assert listed.rows == []
        assert FIND.decode(await link.request(FIND.name, Find(pattern=HANGS), timeout_s=60.0)).rows == []
        await link.close()

    async def storm(self, stop):
        """All at once, until `stop`; the errors that came back."""
        silent = [await self.silent(whom) for whom in ("manager", "agent") for _ in range(SILENT // 2)]
        self.rounds = dict.fromkeys(("manager", "agent"), 0)
        work = [self.annoy(whom, stop) for whom in ("manager", "agent") for _ in range(LINKS // 2)]
        told = await asyncio.gather(*work, self.jobs(stop))
        for writer in silent:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return [code for codes in told for code in codes]

    async def silent(self, whom):
        _, writer = await asyncio.open_connection(*parse_tcp_url(self.urls[whom]))
        return writer

    async def annoy(self, whom, stop):
        codes = []
        while not stop.is_set():
            try:
                link = await self.link(whom)
                try:
                    codes += await self.round(link)
                finally:
                    await link.close()
                self.rounds[whom] += 1
            except StaddleError as error:
                codes.append(error.code)
            await asyncio.sleep(0.05)
        return codes

    async def round(self, link):
        ping = encode_head(FrameType.PING) * 500
        junk = encode_head(
            FrameType(self.rng.randrange(2, 11)), channel=self.rng.randrange(3), meta=b"\x91" * 99
        )
        requests = [
            link.request("no.such.thing", {"x": "y" * 100_000}),
            link.request(
                READ_CHUNKS.name, ReadChunks(signed=bytes(300), manifest=bytes(16), rows=bytes(4000))
            ),
            link.request(LIST_JOBS.name, {"limit": 2**50}),
            link.request(LIST_JOBS.name, ListJobs(limit=10_000)),
            link.request(LIST_BACKUPS.name, None, bytes(20 << 20)),
            *(link.open_channel("stream.open", {"signed": os.urandom(200)}) for _ in range(100)),
        ]
        self.raw(link, ping)
        results = await asyncio.gather(*requests, return_exceptions=True)
        self.raw(link, junk)
        with contextlib.suppress(StaddleError):
            await link.request(CREATE_JOB.name, msgspec.Raw(b"\x81\xa4name" + b"\xdb\xff\xff\xff\xff"))
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, (StaddleError, ValueError)):
                raise result
        return [result.code for result in results if isinstance(result, StaddleError)]

    @staticmethod
    def raw(link, data):
        """Bytes that no honest link would send."""
        if link.error is None and not link._transport.is_closing():
            link._transport.write(data)

    async def jobs(self, stop):
        """As many jobs as it can get."""
        codes, number = [], 0
        link = await self.link("manager")
        while not stop.is_set():
            number += 1
            request = CreateJob(
                request=number.to_bytes(16, "big"),
                session=b"s",
                client="c2",
                name="n" * 200,
                roots=[b"/" + b"x" * 50_000],
                pool="",
            )
            try:
                made = CREATE_JOB.decode(await link.request(CREATE_JOB.name, request, timeout_s=60.0))
                await link.request("job.cancel", CancelJob(job=made.created.job), timeout_s=60.0)
            except StaddleError as error:
                codes.append(error.code)
                await asyncio.sleep(0.05)
                if link.error is not None:
                    link = await self.link("manager")
        await link.close()
        return codes


def test_a_hostile_client_keeps_nobody_from_his_backup(tmp_path, seed):
    source = tmp_path / "secret"
    source.mkdir()
    rng = random.Random(seed)
    for number in range(20):
        (source / f"{'a' * 60}{number}").write_bytes(rng.randbytes(rng.randrange(600_000)))
    with grid(str(tmp_path / "grid"), 1) as home:
        home.run("backup", str(source), "--name", "first")
        pids = {part: home.pids(part) for part in RSS_BYTES_MAX}
        attacker = Attacker(home.home, str(tmp_path / "c2"), rng)

        async def attack():
            await attacker.peek(1)
            stop = asyncio.Event()
            storm = asyncio.create_task(attacker.storm(stop))
            try:
                while not all(attacker.rounds.values()):  # it rages
                    assert not storm.done()
                    await asyncio.sleep(0.05)
                for number in range(3):
                    (source / f"more-{number}").write_bytes(rng.randbytes(2 << 20))
                    done = await asyncio.to_thread(
                        home.run, "backup", str(source), "--name", f"stormy-{number}", check=False
                    )
                    assert done.returncode == 0, done.stderr
            finally:
                stop.set()
            return await storm

        codes = set(asyncio.run(asyncio.wait_for(attack(), 240)))
        print("what came back:", sorted(codes))
        assert {"BAD_REQUEST", "DENIED", "UNKNOWN_OP"} <= codes
        for part, most in RSS_BYTES_MAX.items():
            peak = peak_bytes(pids[part])
            print(part, peak >> 20, "MiB at most")
            assert home.pids(part) == pids[part], f"{part} was started again"
            assert peak < most
        logs = os.path.join(home.home, "log")
        assert sum(os.path.getsize(os.path.join(logs, name)) for name in os.listdir(logs)) < LOG_BYTES_MAX
        target = tmp_path / "restored"
        home.run("restore", "latest", "--name", "stormy-2", "--to", str(target))
        restored = os.path.join(os.fsencode(target), os.fsencode(source).lstrip(b"/"))
        assert list(differences(os.fsencode(source), restored)) == []
        assert home.run("catalog", "verify", check=False).returncode == 0
    shutil.rmtree(target)
