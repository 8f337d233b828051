"""A manager and agents in this process over real links, and a store that does what an agent does."""

import asyncio
import os
import stat
from contextlib import AsyncExitStack

import msgspec
import numpy as np

from staddle.client.base import BaseIndex
from staddle.client.connection import ClientSettings, GridConnection
from staddle.client.exclude import Excludes
from staddle.client.restore import Restore, RestoreOptions
from staddle.client.scan import scan
from staddle.client.source import Source
from staddle.client.units import Tally, Units
from staddle.data.entries import EntryFlag
from staddle.data.manifest import ZERO_REGION, ManifestBuilder, ManifestHead, decode
from staddle.data.records import FilesRecord, decode_record
from staddle.errors import NotFound
from staddle.wire.endpoint import NO_CREDENTIALS, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.ops.base import register
from staddle.wire.ops.data import READ_CHUNKS, READ_MANIFEST
from staddle.wire.ops.reading import OPEN_BACKUP, AgentRef, ManifestRef, OpenedBackup

CHUNK = 64 * 1024
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


class Stored:
    """A backup as an agent would store it: fixed chunks, zero regions found, segments of some records."""

    def __init__(self, records_per_segment=1000, chunks_per_container=8):
        self.per_segment = records_per_segment
        self.per_container = chunks_per_container
        self.manifests = []  # (id, stream, ordinal, plain)
        self.chunks = {}  # (manifest id, row) -> bytes
        self.state = "complete"
        self.roots = []
        self._containers = 0

    def add_stream(self, stream, records):
        records = list(records)
        for ordinal, at in enumerate(range(0, len(records), self.per_segment)):
            self._segment(stream, ordinal, records[at : at + self.per_segment])

    def _segment(self, stream, ordinal, records):
        manifest = bytes([stream, ordinal % 256, ordinal // 256]) + bytes(13)
        head = ManifestHead(
            grid=bytes(16), domain=bytes(16), client="c", name="n", job=1, backup=1, stream=stream, epoch=1,
            ordinal=ordinal, first=0,
        )  # fmt: skip
        builder = ManifestBuilder(head)
        part = None
        for record in records:
            decoded, payload = decode_record(record.meta, len(record.payload)), bytes(record.payload)
            if isinstance(decoded, FilesRecord):
                assert not part
                first, count, at = [], [], 0
                for length in decoded.content_lengths.tolist():
                    first.append(builder.chunk_rows)
                    self._cut(builder, manifest, payload[at : at + length])
                    count.append(builder.chunk_rows - first[-1])
                    at += length
                builder.add_entries(decoded.batch, first, count)
                continue
            if part is None:
                part = [decoded, decoded.offset, builder.chunk_rows]
            part[0] = decoded
            self._cut(builder, manifest, payload)
            if decoded.last:
                self._end_part(builder, part)
                part = None
        if part is not None:
            self._end_part(builder, part)
        self.manifests.append((manifest, stream, ordinal, builder.build(0)))

    @staticmethod
    def _end_part(builder, part):
        record, offset, first = part
        bits = 0 if record.last and not offset else EntryFlag.PART | (EntryFlag.LAST if record.last else 0)
        columns = dict(record.batch.columns)
        columns["offset"] = np.array([offset], columns["offset"].dtype)
        columns["flags"] = columns["flags"] | np.uint16(bits)
        batch = msgspec.structs.replace(record.batch, columns=columns)
        builder.add_entries(batch, [first], [builder.chunk_rows - first])

    def _cut(self, builder, manifest, data):
        for at in range(0, len(data), CHUNK):
            chunk = data[at : at + CHUNK]
            number = ZERO_REGION
            if any(chunk):
                self.chunks[manifest, builder.chunk_rows] = chunk
                number = builder.container_index((len(self.chunks) // self.per_container).to_bytes(16, "big"))
            builder.add_chunks(np.zeros((1, 32), np.uint8), [number], [0], [len(chunk)])

    def container(self, manifest, row):
        plain = next(each[3] for each in self.manifests if each[0] == manifest)
        chunks = decode(plain).chunks
        return chunks.containers[int(chunks.container[row])]


class FakeGrid:
    """A manager and some agents. `faults[agent]` is called with (operation, request) before each answer."""

    def __init__(self, stored, names=("a1", "a2")):
        self.stored = stored
        self.names = names
        self.faults = {}
        self.asked = []
        self.opened = 0
        self.running = {}

    async def __aenter__(self):
        self.stack = AsyncExitStack()
        handlers = Handlers()
        register(handlers, OPEN_BACKUP, self._open)
        manager = await serve("mem://", NO_CREDENTIALS, Hello(name="m", role="manager"), handlers)
        self.stack.push_async_callback(manager.close, 0.2)
        for name in self.names:
            agent = Handlers()
            register(agent, READ_MANIFEST, self._answer(name, self._manifest))
            register(agent, READ_CHUNKS, self._answer(name, self._chunks))
            self.running[name] = await serve(
                f"mem://agent-{name}", NO_CREDENTIALS, Hello(name=name, role="agent"), agent
            )
            self.stack.push_async_callback(self.running[name].close, 0.2)
        client = ClientSettings(
            name="c",
            host="c",
            role="client",
            grid=b"",
            manager_urls=[manager.url],
            credentials=NO_CREDENTIALS,
        )
        return await self.stack.enter_async_context(GridConnection(client))

    async def __aexit__(self, *exc):
        await self.stack.aclose()

    async def _open(self, call):
        if call.args.backup > 1 or call.args.name == "other":
            raise NotFound("there is no such backup")
        self.opened += 1
        return OpenedBackup(
            backup=1,
            name="n",
            client="c",
            state=self.stored.state,
            started_ns=0,
            roots=self.stored.roots,
            manifests=[ManifestRef(*each[:3]) for each in self.stored.manifests],
            agents=[AgentRef(name, [f"mem://agent-{name}"]) for name in self.names],
            signed=b"ticket %d" % self.opened,
        )

    def _answer(self, name, serve_it):
        async def answer(call):
            self.asked.append((name, call.op))
            fault = self.faults.get(name)
            if fault is not None:
                await fault(call.op, call.args)
            return {}, serve_it(call.args)

        return answer

    def _manifest(self, args):
        return next(each[3] for each in self.stored.manifests if each[0] == args.manifest)

    def _chunks(self, args):
        rows = np.frombuffer(args.rows, "<u4").tolist()
        return b"".join(self.stored.chunks[args.manifest, row] for row in rows)


def run(work, timeout_s=30):
    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


def store(root, streams=1, **options):
    """Back a tree up with the client's own scan and source."""
    tally = Tally()
    stored = Stored(**options)
    source, units = Source(BaseIndex(0), tally), Units(scan([os.fsencode(root)], Excludes([]), tally.warn))
    feeds = [source.records(units) for _ in range(streams)]
    records = [[] for _ in feeds]
    live = list(range(streams))
    while live:
        for number in list(live):
            record = next(feeds[number], None)
            if record is None:
                live.remove(number)
            else:
                records[number].append(record)
    for number, each in enumerate(records):
        stored.add_stream(number, each)
    return stored, tally


class Outcome:
    def __init__(self):
        self.warnings, self.lost, self.items = [], [], []
        self.tally = Tally(lambda path, why: self.warnings.append((path, why)))
        self.summary = None


def restored(stored, target, *, paths=(), faults=None, names=("a1", "a2"), grid=None, **more):
    outcome = Outcome()
    grid = grid or FakeGrid(stored, names)
    grid.faults = faults or {}

    async def work():
        async with grid as connection:
            options = RestoreOptions(
                target=os.fsencode(target), backup=1, paths=[os.fsencode(path) for path in paths], **more
            )
            lost = lambda path, why: outcome.lost.append((path, why))  # noqa: E731
            restore = Restore(connection, options, outcome.tally, lost, outcome.items.append)
            outcome.summary = await restore.run()

    run(work())
    return outcome


def picture(root):
    """Everything about a tree that a restore must bring back."""
    root = os.fsencode(root)
    seen = {}
    first = {}
    for directory, names, files in os.walk(root):
        for name in [b"", *names, *files]:
            path = os.path.join(directory, name) if name else directory
            status = os.lstat(path)
            facts = [stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_mtime_ns]
            facts += [status.st_uid, status.st_gid]
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    facts.append(file.read())
                facts.append(first.setdefault(status.st_ino, os.path.relpath(path, root)))
            elif stat.S_ISLNK(status.st_mode):
                facts[1] = 0
                facts.append(os.readlink(path))
            seen[os.path.relpath(path, root)] = facts
    return seen


def below(target, source):
    return os.path.join(os.fsdecode(target), os.fsdecode(source).lstrip("/"))


def manifest_of(rows, chunk_first=None, chunk_count=None, ordinal=0):
    batch = rows.build()
    none = [0] * len(batch)
    head = ManifestHead(
        grid=bytes(16), domain=bytes(16), client="c", name="n", job=1, backup=1, stream=0, epoch=1,
        ordinal=ordinal, first=0,
    )  # fmt: skip
    builder = ManifestBuilder(head)
    builder.add_entries(batch, chunk_first or none, chunk_count or none)
    return builder.build(0)


def files_with(stored, gone):
    """Paths of the files that have one of these chunks."""
    hit = set()
    for manifest, _, _, plain in stored.manifests:
        decoded = decode(plain)
        for row, path in enumerate(decoded.entries.paths()):
            first = int(decoded.chunk_first[row])
            if any((manifest, at) in gone for at in range(first, first + int(decoded.chunk_count[row]))):
                hit.add(path)
    return hit
