"""Reads a backup through any agent that reaches its data; when one fails another one goes on, in mid-file."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Self, TypeVar

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from staddle.api.types import Buffer
from staddle.client.agents import AgentLinks, may_pass, telling
from staddle.client.connection import GridConnection
from staddle.data.crypto import digest
from staddle.data.manifest import Chunks, Manifest, decode
from staddle.errors import Corrupt, Denied, StaddleError
from staddle.wire.calls import Reply
from staddle.wire.ops.base import Operation
from staddle.wire.ops.data import READ_CHUNKS, READ_MANIFEST, ReadChunks, ReadManifest
from staddle.wire.ops.reading import OPEN_BACKUP, OpenBackup, OpenedBackup

CHUNKS_BYTES_MAX = 32 << 20
"""Most raw bytes of one `chunks` call."""
CHUNKS_ROWS_MAX = 32_768
"""Most rows of one `chunks` call: their numbers travel in the request's meta."""
READ_AHEAD = 2
READ_AHEAD_ROWS = 20_000
"""After a manifest of more rows none is read ahead: some of that size would fill the memory."""
PATIENCE_S = 30.0
"""How long a read waits while no agent at all can be reached."""
_PAUSE_S = 1.0
_CALL_TIMEOUT_S = 120.0
_DISTRUST = "look at that agent's host: no medium's damage can do this"
_MANAGER_PATIENCE_S = 30.0

T = TypeVar("T")
Request = TypeVar("Request")
Answer = TypeVar("Answer")


class BackupReader:
    """One backup, opened for reading. Belongs to one event loop; `close` it.

    Attributes:
        opened: what the manager said of the backup. It holds the ids of all manifests, never the manifests.
    """

    def __init__(self, grid: GridConnection, opened: OpenedBackup) -> None:
        self.opened = opened
        self._grid = grid
        self._links = AgentLinks(grid, opened.agents)
        self._renewing = asyncio.Lock()

    @classmethod
    async def open(cls, grid: GridConnection, backup: int = 0, name: str = "", client: str = "") -> Self:
        """Open a backup by number, or the newest one of a name and client. Raises NotFound, UsageError."""
        request = OpenBackup(backup=backup, name=name, client=client)
        opened = await grid.manager.call_patiently(OPEN_BACKUP, request, patience_s=_MANAGER_PATIENCE_S)
        return cls(grid, opened)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the links to agents. Idempotent."""
        await self._links.close()

    async def manifests(self) -> AsyncGenerator[Manifest, None]:
        """All manifests in the order of (stream, ordinal), a few read ahead. Raises as `manifest` does."""
        async with contextlib.aclosing(self.readable(None)) as found:
            async for _, manifest in found:
                yield manifest

    async def readable(
        self, on_lost: Callable[[int, StaddleError], None] | None
    ) -> AsyncGenerator[tuple[int, Manifest], None]:
        """Manifests with their numbers; `on_lost` is told of one that nobody can give, and the rest follows.

        Raises: as `manifest` does, without `on_lost`, or when the error says nothing about the manifest but
            that no agent can be reached.
        """
        count = len(self.opened.manifests)
        ahead: deque[asyncio.Task[Manifest]] = deque()

        def fill(upto: int) -> None:
            for index in range(at + len(ahead), min(upto, count)):
                ahead.append(asyncio.create_task(self.manifest(index)))

        try:
            for index in range(count):
                at = index
                fill(index + 1)
                try:
                    manifest = await ahead.popleft()
                except StaddleError as error:
                    if on_lost is None or may_pass(error):
                        raise
                    on_lost(index, error)
                    continue
                at = index + 1
                fill(at + (READ_AHEAD if len(manifest.entries) <= READ_AHEAD_ROWS else 0))
                yield index, manifest
                del manifest
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def manifest(self, index: int) -> Manifest:
        """Manifest number `index` of `opened.manifests`.

        Raises: what the last agent said when none can give it: Corrupt, NotFound, PathLost, …
        """
        ref = self.opened.manifests[index]
        what = f"manifest {ref.id.hex()} of backup {self.opened.backup}"

        async def accept(reply: Reply) -> Manifest:
            if ref.plain_digest and await asyncio.to_thread(digest, [reply.payload]) != ref.plain_digest:
                raise Corrupt(f"{what}: an agent gave another one than was committed", hint=_DISTRUST)
            manifest = await asyncio.to_thread(decode, reply.payload, what)
            if (manifest.head.backup, manifest.head.stream, manifest.head.ordinal) != (
                self.opened.backup,
                ref.stream,
                ref.ordinal,
            ):
                raise Corrupt(f"{what} is of another place in the backups")
            return manifest

        return await self._ask(
            READ_MANIFEST, lambda signed: ReadManifest(signed=signed, manifest=ref.id), accept
        )

    async def chunks(self, index: int, chunks: Chunks, rows: NDArray[np.uint32], size_bytes: int) -> Buffer:
        """The bytes of some chunks, one behind the other.

        Args:
            index: number of the manifest.
            chunks: its chunk rows.
            rows: numbers of its chunk rows, at most CHUNKS_ROWS_MAX, zero regions left out.
            size_bytes: the sum of their lengths, at most CHUNKS_BYTES_MAX.

        Raises: as `manifest`.
        """
        assert len(rows) <= CHUNKS_ROWS_MAX, f"{len(rows)} rows in one call"
        assert size_bytes <= CHUNKS_BYTES_MAX, f"{size_bytes} bytes in one call"
        if not len(rows):
            return b""
        manifest = self.opened.manifests[index].id
        packed = rows.astype("<u4", copy=False).tobytes()

        async def accept(reply: Reply) -> Buffer:
            if len(reply.payload) != size_bytes:
                raise Corrupt(
                    f"an agent sent {len(reply.payload)} bytes for {size_bytes} of manifest {manifest.hex()}"
                )
            if key := self.opened.fingerprint_key:
                await asyncio.to_thread(_check_chunks, reply.payload, chunks, rows, key)
            return reply.payload

        return await self._ask(
            READ_CHUNKS, lambda signed: ReadChunks(signed=signed, manifest=manifest, rows=packed), accept
        )

    async def _ask(
        self,
        operation: Operation[Request, Answer],
        request: Callable[[bytes], Request],
        accept: Callable[[Reply], Awaitable[T]],
    ) -> T:
        """Ask one agent after the other. Reading changes nothing, so any error may be answered by another."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + PATIENCE_S
        renewed = False
        while True:
            errors: list[StaddleError] = []
            signed = self.opened.signed
            for name in self._links.order():
                try:
                    reply = await self._links.ask(name, operation, request(signed), timeout_s=_CALL_TIMEOUT_S)
                except StaddleError as error:
                    errors.append(error)
                    continue
                try:
                    return await accept(reply)
                except StaddleError as error:
                    self._links.distrust(name)
                    errors.append(error)
            if not renewed and any(isinstance(error, Denied) for error in errors):
                renewed = True
                await self._renew(signed)
                continue
            last = telling(errors)
            if not may_pass(last) or loop.time() >= end_s:
                raise last
            await asyncio.sleep(_PAUSE_S)
            await self._renew(signed)

    async def _renew(self, signed: bytes) -> None:
        """A new ticket, and the agents as they are now; an old one may have run out in a long restore."""
        async with self._renewing:
            if self.opened.signed is not signed:
                return  # somebody else has just done it
            request = OpenBackup(backup=self.opened.backup)
            opened = await self._grid.manager.call_patiently(
                OPEN_BACKUP, request, patience_s=_MANAGER_PATIENCE_S
            )
            if [ref.id for ref in opened.manifests] != [ref.id for ref in self.opened.manifests]:
                raise StaddleError(
                    f"backup {opened.backup} has changed while it was read",
                    hint="it was still running: read it again when its job is over",
                )
            self.opened = opened
            self._links.update(opened.agents)


def _check_chunks(data: Buffer, chunks: Chunks, rows: NDArray[np.uint32], key: bytes) -> None:
    """Is every chunk what its fingerprint says. Raises Corrupt."""
    view, at = memoryview(data), 0
    fingerprints, lengths = chunks.fingerprints[rows], chunks.lengths[rows].tolist()
    for number, length in enumerate(lengths):
        if blake3(view[at : at + length], key=key).digest() != fingerprints[number].tobytes():
            raise Corrupt("an agent gave other data than was backed up", hint=_DISTRUST)
        at += length
