"""A grid in one process: the manager's own core, desks and op-log, a real data process, a real client."""

import asyncio
import contextlib
import os

import numpy as np

from staddle.catalog.oplog import OpLog
from staddle.client.base import BaseIndex
from staddle.client.exclude import Excludes
from staddle.client.scan import scan
from staddle.client.source import Source
from staddle.client.stream import StreamDriver
from staddle.client.units import Tally, Units
from staddle.config import home_paths, load
from staddle.daemon.agent import media as agent_media
from staddle.daemon.agent.data import DataProcess
from staddle.daemon.agent.store import MediaSet
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.jobs import JobDesk
from staddle.daemon.manager.placing import Placer
from staddle.daemon.manager.presence import Presence
from staddle.daemon.manager.reads import ReadDesk
from staddle.daemon.manager.sealing import Sealer
from staddle.data import manifest as manifest_format
from staddle.data.crypto import ChunkerSpec, DomainKeys
from staddle.data.manifest import ZERO_REGION
from staddle.engine import ops
from staddle.engine.health import Health, HealthLimits
from staddle.engine.lease import ManagerLease
from staddle.engine.manager import ManagerCore
from staddle.engine.messages import CreateJob, FinishJob
from staddle.engine.sender import SenderLimits, StreamSender
from staddle.engine.state import GridState
from staddle.ids import Ids
from staddle.platform.clock import lease_clock_ns
from staddle.plugins import PluginRegistry
from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.ops.agents import LocatedList
from staddle.wire.ops.data import (
    READ_CHUNKS,
    READ_MANIFEST,
    ReadChunks,
    ReadManifest,
)
from staddle.wire.ops.jobs import CREATE_JOB, FINISH_JOB
from staddle.wire.ops.reading import OPEN_BACKUP, OpenBackup
from staddle.wire.redial import Redial
from staddle.wire.tickets import TicketSigner

GRID = bytes(range(16))
SESSION = b"s" * 16
CONFIG = """
[grid]
id = "{grid}"
[manager]
listen = "tcp://127.0.0.1:1"
[agent.a1]
listen = "tcp://127.0.0.1:2"
[medium.m1]
plugin = "directory"
path = "media/m1"
deadline_s = {deadline_s}
[medium.m2]
plugin = "directory"
path = "media/m2"
deadline_s = {deadline_s}
[pool.default]
media = ["m1", "m2"]
copies = 2
min_copies = {min_copies}
segment_bytes = {segment_bytes}
"""


class NoCatalog:
    """Stands where the manager's catalog is; keeps the manifests that came with COMMIT."""

    def __init__(self):
        self.manifests = []

    def add_manifest(self, backup, manifest, plain):
        self.manifests.append((backup, manifest, plain))

    async def ask(self, method, **arguments):
        return []


class Reads(ReadDesk):
    """Answers `objects.locate` with a backup too."""

    async def _locate(self, call):
        if not call.args.backup:
            return await super()._locate(call)
        state = self._manager.state
        rows = sorted(state.backups[call.args.backup].segments, key=lambda row: (row.stream, row.ordinal))
        return LocatedList([self._located(state.objects[row.manifest]) for row in rows])


class Grid:
    """A home with one agent and two directory media."""

    def __init__(self, home, *, min_copies=1, segment_bytes=1 << 20, deadline_s=5):
        self.home = str(home)
        for name in ("run", "pki", "manager", "media/m1", "media/m2"):
            os.makedirs(os.path.join(self.home, name), mode=0o700, exist_ok=True)
        text = CONFIG.format(
            grid=GRID.hex(), min_copies=min_copies, segment_bytes=segment_bytes, deadline_s=deadline_s
        )
        with open(os.path.join(self.home, "staddle.toml"), "w") as file:
            file.write(text)
        self.settings = load(self.home)
        self.keys = DomainKeys(
            domain="default",
            domain_id=b"d" * 16,
            fingerprint_key=b"f" * 32,
            wrapping_keys={1: b"w" * 32},
            current=1,
            chunker=ChunkerSpec(seed=7),
            grid=GRID,
        )
        self.catalog = NoCatalog()
        self.manager_url = f"unix://{self.home}/run/m.sock"
        self.agent_url = f"unix://{self.home}/run/a.sock"
        self.term = 0
        self.spoil = lambda name, medium: medium
        self.signer = TicketSigner(b"k" * 32)

    async def start_manager(self):
        self.term += 1
        path = home_paths(self.home).oplog
        os.makedirs(path, exist_ok=True)
        self.oplog = await asyncio.to_thread(OpLog, path, GRID, self.term)
        state = GridState()
        for record in self.oplog.replay(0):
            state.apply(record)
        lease = ManagerLease(self.term, int(3600e9), int(1e9))
        lease.renewed(lease_clock_ns())
        core = ManagerCore(state, lease, Health(HealthLimits(), lease_clock_ns()))
        manager = self.manager = Manager(self.settings, self.oplog, core, Ids())
        await manager.begin()
        if not manager.state.grid:
            await manager.change(lambda _: [ops.GridCreated(grid=GRID)])
        adoption = self.adoption = Adoption(manager)
        await adoption.begin()
        domains = {"default": self.keys}
        presence = self.presence = Presence(manager, adoption, self.signer, domains, b"the keyring")
        self.sealer = Sealer(manager, Placer(manager, presence), domains)
        jobs = self.jobs = JobDesk(
            manager=manager,
            adoption=adoption,
            presence=presence,
            catalog=self.catalog,
            signer=self.signer,
            domains=domains,
            sealer=self.sealer,
        )
        handlers = Handlers()
        for desk in (presence, jobs, Reads(manager, adoption, presence, self.signer)):
            desk.install(handlers)
        self.server = await serve(
            self.manager_url, NO_CREDENTIALS, Hello(name="manager", role="manager", grid=GRID), handlers
        )
        self.alive = asyncio.create_task(self._keep_seen())

    async def _keep_seen(self):
        """What the control process's reports do."""
        while True:
            self.manager.core.health.agent_seen("a1", lease_clock_ns())
            await asyncio.sleep(0.2)

    async def stop_manager(self):
        self.alive.cancel()
        await asyncio.gather(self.alive, return_exceptions=True)
        await self.server.close()
        await asyncio.to_thread(self.oplog.close)

    async def start_agent(self):
        built = agent_media.build(self.settings, "a1", PluginRegistry())
        assert not built.problems
        media = {name: self.spoil(name, medium) for name, medium in built.media.items()}
        self.agent = DataProcess(
            "a1",
            home_paths(self.home).agent("a1"),
            MediaSet(media, built.deadlines_s, Ids()),
            manager=[self.manager_url],
            listen=[self.agent_url],
            credentials=NO_CREDENTIALS,
            grid=GRID,
        )
        await self.agent.start()

    def hello(self, name="c1", role="client"):
        return Hello(name=name, role=role, grid=GRID)

    async def dial(self, agent, urls, hello=None):
        return await connect(
            urls[0],
            NO_CREDENTIALS,
            hello or self.hello(),
            expect_role="agent",
            expect_name=agent,
            timeout_s=5.0,
        )

    def redial(self):
        return Redial([self.manager_url], NO_CREDENTIALS, self.hello(), expect_role="manager")


@contextlib.asynccontextmanager
async def running(home, **options):
    spoil = options.pop("spoil", None)
    grid = Grid(home, **options)
    if spoil:
        grid.spoil = spoil
    await grid.start_manager()
    await grid.start_agent()
    grid.client = grid.redial()
    try:
        yield grid
    finally:
        await grid.client.close()
        await grid.agent.stop()
        await grid.stop_manager()


async def create(grid, number=1, root=b"/"):
    request = CreateJob(
        request=bytes([number]) * 16, session=SESSION, client="c1", name="x", roots=[root], pool="default"
    )
    return await grid.client.call_patiently(CREATE_JOB, request, patience_s=5.0)


async def back_up(grid, root, number=1, *, base=None, between=None):
    opened = await create(grid, number, root)
    tally = Tally()
    source = Source(base or BaseIndex(0), tally)
    units = Units(scan([root], Excludes([]), tally.warn))
    limits = SenderLimits(window_bytes_max=2 * opened.segment_bytes + (8 << 20))
    sender = StreamSender(opened.created.job, 0, limits, session=SESSION)
    driver = StreamDriver(sender, source, source.records(units), grid.client, grid.dial)
    async with asyncio.timeout(60.0):
        await asyncio.gather(driver.run(), *([between()] if between else []))
        finished = await grid.client.call_patiently(
            FINISH_JOB, FinishJob(job=opened.created.job, session=SESSION), patience_s=5.0
        )
    return opened, finished, driver


async def restore(grid, backup):
    """Path -> content of every file of a backup, read through the agent."""
    opened = await grid.client.call(OPEN_BACKUP, OpenBackup(backup=backup))
    link = await grid.dial("a1", [grid.agent_url])
    files = {}
    try:
        for ref in opened.manifests:
            reply = await link.request(
                READ_MANIFEST.name, ReadManifest(signed=opened.signed, manifest=ref.id), timeout_s=30.0
            )
            manifest = manifest_format.decode(bytes(reply.payload))
            for row, path in enumerate(manifest.entries.paths()):
                first, count = int(manifest.chunk_first[row]), int(manifest.chunk_count[row])
                rows = np.arange(first, first + count, dtype="<u4")
                stored = rows[manifest.chunks.container[rows] != ZERO_REGION]
                request = ReadChunks(signed=opened.signed, manifest=ref.id, rows=stored.tobytes())
                got = await link.request(READ_CHUNKS.name, request, timeout_s=30.0) if len(stored) else None
                data, at = [], 0
                for chunk in rows.tolist():
                    length = int(manifest.chunks.lengths[chunk])
                    if manifest.chunks.container[chunk] == ZERO_REGION:
                        data.append(bytes(length))
                    else:
                        data.append(bytes(got.payload[at : at + length]))
                        at += length
                offset = int(manifest.entries.columns["offset"][row])
                files.setdefault(path, {})[offset] = b"".join(data)
    finally:
        await link.close()
    return {path: b"".join(parts[at] for at in sorted(parts)) for path, parts in files.items()}


def make_tree(path, seed, files=30, big=5 << 20):
    rng = np.random.default_rng(seed)
    want = {}
    os.makedirs(path / "sub")
    for number in range(files):
        data = rng.bytes(int(rng.integers(0, 60_000)))
        name = path / "sub" / f"f{number}"
        name.write_bytes(data)
        want[os.fsencode(name)] = data
    blob = rng.bytes(big // 2) + bytes(big // 4) + b"text " * (big // 20)
    (path / "big").write_bytes(blob)
    want[os.fsencode(path / "big")] = blob
    return want


def check(files, want):
    for path, data in want.items():
        same = files[path] == data  # no diff of megabytes
        assert same, f"{path}: {len(files[path])} of {len(data)} bytes"


async def until(ready, limit_s=10.0):
    """Wait until `ready()` is true. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not ready():  # noqa: ASYNC110 - what is waited for has no event for tests
            await asyncio.sleep(0.02)
