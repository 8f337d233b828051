"""What readers ask of an agent: manifests and chunks of one backup, under a ticket of the manager."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from staddle import typed
from staddle.api.transport import Peer
from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.locator import Locator
from staddle.data.crypto import DomainKeys
from staddle.data.manifest import ZERO_REGION, ManifestHead
from staddle.data.reader import ChunkReader
from staddle.errors import Corrupt, Denied, Unavailable, UsageError
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops.base import Nothing, register
from staddle.wire.ops.data import READ_CHUNKS, READ_MANIFEST, ReadChunks, ReadManifest
from staddle.wire.ops.reading import ReadTicket

CHUNKS_RAW_BYTES_MAX = 32 << 20
CHUNK_ROWS_MAX = 1 << 16
READS_MAX = 2
"""Answers made at once; each takes about 50 MiB."""
PEER_READS_MAX = 32
"""Answers that one client may wait for: others wait behind them."""
READ_WAIT_S = 60.0
BATCH_RAW_BYTES = 4 << 20
BATCH_TIMEOUT_S = 90.0
READERS_KEPT = 2


class _OnlyHead(msgspec.Struct, frozen=True):
    head: ManifestHead


class ReadDesk:
    """Answers `read.manifest` and `read.chunks`."""

    def __init__(self, context: AgentContext, locator: Locator) -> None:
        self._context = context
        self._locator = locator
        self._pool = ThreadPoolExecutor(READS_MAX, thread_name_prefix="read")
        self._turns = asyncio.Semaphore(READS_MAX)
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._readers: list[tuple[str, ChunkReader]] = []

    def install(self, handlers: Handlers) -> None:
        """Add the operations."""
        register(handlers, READ_MANIFEST, self._read_manifest, cancellable=True)
        register(handlers, READ_CHUNKS, self._read_chunks, cancellable=True)

    def close(self) -> None:
        """End the threads. Call from a thread, after the links are closed."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            readers, self._readers = self._readers, []
        for _, reader in readers:
            reader.close()

    def _ticket(self, signed: bytes, call: Call) -> ReadTicket:
        ticket = self._context.opened(signed, ReadTicket)
        if ticket.grid != self._context.role.grid:
            raise Denied("the ticket is of another grid", retry="never")
        if call.peer.role != "admin" and ticket.client != call.peer.name:
            raise Denied(f"the ticket is client {ticket.client!r}'s, not {call.peer.name!r}'s", retry="never")
        if ticket.expires_ns < time.time_ns():
            raise Denied("the ticket to read this backup has run out", hint="open the backup again")
        return ticket

    async def _run(self, peer: Peer, function: Any, *args: Any) -> Any:
        """In a thread, a few at a time: the answers are large. Raises Unavailable."""
        busy = Unavailable("this agent reads for others", hint="ask again", code="BUSY", scope="agent")
        if peer.role == "client" and self._waiting[peer.name] >= PEER_READS_MAX:
            raise busy
        self._waiting[peer.name] += 1
        try:
            async with asyncio.timeout(READ_WAIT_S + BATCH_TIMEOUT_S), self._turns:
                return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        except TimeoutError:
            raise busy from None
        finally:
            self._waiting[peer.name] -= 1
            if not self._waiting[peer.name]:
                del self._waiting[peer.name]

    # --- manifests ------------------------------------------------------------------------------------

    async def _read_manifest(self, call: Call) -> tuple[Nothing, bytes]:
        args: ReadManifest = call.args
        ticket = self._ticket(args.signed, call)
        return Nothing(), await self._run(call.peer, self._manifest, ticket, args.manifest)

    def _manifest(self, ticket: ReadTicket, manifest_id: bytes) -> bytes:
        plain = self._locator.plain_manifest(manifest_id, self._context.keys(ticket.domain))
        try:
            head = typed.unpack(plain, _OnlyHead).head
        except msgspec.DecodeError as error:
            raise Corrupt(f"manifest {manifest_id.hex()}: {error}") from None
        _check_backup(head, ticket, manifest_id)
        return plain

    # --- chunks ---------------------------------------------------------------------------------------

    async def _read_chunks(self, call: Call) -> tuple[Nothing, bytearray]:
        args: ReadChunks = call.args
        ticket = self._ticket(args.signed, call)
        return Nothing(), await self._run(call.peer, self._chunks, ticket, args)

    def _chunks(self, ticket: ReadTicket, args: ReadChunks) -> bytearray:
        keys = self._context.keys(ticket.domain)
        manifest = self._locator.manifest(args.manifest, keys)
        _check_backup(manifest.head, ticket, args.manifest)
        chunks = manifest.chunks
        if len(args.rows) % 4 or len(args.rows) > 4 * CHUNK_ROWS_MAX:
            raise UsageError(f"{len(args.rows)} bytes of row numbers: whole u32, at most {CHUNK_ROWS_MAX}")
        rows = np.frombuffer(args.rows, "<u4")
        if len(rows) and int(rows.max()) >= len(chunks):
            raise UsageError(f"row {int(rows.max())} of a manifest with {len(chunks)} chunks")
        rows = rows[chunks.container[rows] != ZERO_REGION]
        size_bytes = int(chunks.lengths[rows].sum(dtype=np.uint64))
        if size_bytes > CHUNKS_RAW_BYTES_MAX:
            raise UsageError(f"{size_bytes} bytes were asked for, at most {CHUNKS_RAW_BYTES_MAX} at once")
        out, at = bytearray(size_bytes), 0
        with self._reader(ticket.domain, keys) as reader:
            for _, raw in reader.read(chunks, rows):
                assert raw is not None, "zero regions were left out"
                out[at : at + len(raw)] = raw
                at += len(raw)
        return out

    @contextmanager
    def _reader(self, domain: str, keys: DomainKeys) -> Iterator[ChunkReader]:
        """A reader for one call; kept afterwards, for the directories that it knows."""
        with self._lock:
            found = next((item for item in self._readers if item[0] == domain), None)
            if found is not None:
                self._readers.remove(found)
        reader = found[1] if found is not None else self._new_reader(keys)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._lock:
            self._readers.append((domain, reader))
            old = self._readers.pop(0) if len(self._readers) > READERS_KEPT else None
        if old is not None:
            old[1].close()

    def _new_reader(self, keys: DomainKeys) -> ChunkReader:
        return ChunkReader(
            keys,
            self._locator.copies,
            self._locator.bad_copy,
            batch_raw_bytes=BATCH_RAW_BYTES,
            threads=2,
            batch_timeout_s=BATCH_TIMEOUT_S,
        )


def _check_backup(head: ManifestHead, ticket: ReadTicket, manifest_id: bytes) -> None:
    if head.backup != ticket.backup:
        raise Denied(f"manifest {manifest_id.hex()} is not of backup {ticket.backup}", retry="never")
