"""Fetches contents ahead, and has them written while the next ones come."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Protocol

from staddle.api.types import Buffer
from staddle.client.agents import may_pass
from staddle.client.contents import Batch, Piece
from staddle.client.reader import BackupReader
from staddle.errors import StaddleError

IN_FLIGHT = 3
"""Requests for contents under way at once, of at most `contents.BATCH_BYTES` each."""
_PROBES = 8
"""So many files in one container are tried one by one before the rest of it counts as lost too."""


class Output(Protocol):
    """What takes contents; called in threads, one call at a time."""

    def write(self, batch: Batch, payload: Buffer) -> None:
        """Write the pieces of a batch; the payload is their bytes in order."""

    def lost(self, piece: Piece, why: str) -> None:
        """The content of a piece can't be had."""


class Pipe:
    """Fetches batches ahead and has them written in order. Bounded: IN_FLIGHT batches."""

    def __init__(self, reader: BackupReader, output: Output) -> None:
        self._reader = reader
        self._output = output
        self._ahead: deque[tuple[Batch, asyncio.Task[Buffer | StaddleError]]] = deque()
        self._failures: Counter[bytes] = Counter()

    async def push(self, batch: Batch) -> None:
        """Begin to fetch a batch; waits, writing, while too many are under way."""
        while len(self._ahead) >= IN_FLIGHT:
            await self._write_first()
        self._ahead.append((batch, asyncio.create_task(self._fetch(batch))))

    async def drain(self) -> None:
        """Write all that was pushed."""
        while self._ahead:
            await self._write_first()

    async def close(self) -> None:
        """Give up what is under way. Idempotent."""
        tasks = [task for _, task in self._ahead]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ahead.clear()

    async def _fetch(self, batch: Batch) -> Buffer | StaddleError:
        try:
            return await self._reader.chunks(batch.index, batch.chunks, batch.rows(), batch.size_bytes)
        except StaddleError as error:
            return error

    async def _write_first(self) -> None:
        batch, task = self._ahead[0]
        got = await task
        self._ahead.popleft()
        if isinstance(got, StaddleError):
            await self._salvage(batch, got)
        else:
            await asyncio.to_thread(self._output.write, batch, got)

    async def _salvage(self, batch: Batch, error: StaddleError) -> None:
        """Some chunk of a batch can't be had: find out whose it is by halves, and restore the others.

        Raises: the error, when it says nothing about the data but that no agent can be reached.
        """
        rest: list[tuple[list[Piece], StaddleError | None]] = [(batch.pieces, error)]
        while rest:
            pieces, known = rest.pop()
            if known is None:
                if gone := self._given_up(batch, pieces[0]):
                    await asyncio.to_thread(self._output.lost, pieces[0], gone)
                    rest += [(pieces[1:], None)] if pieces[1:] else []
                    continue
                # In order, since a file's pieces follow each other: up to the next that is given up.
                upto = next(
                    (at for at, each in enumerate(pieces) if self._given_up(batch, each)), len(pieces)
                )
                rest += [(pieces[upto:], None)] if pieces[upto:] else []
                pieces = pieces[:upto]
                part = batch.part(pieces)
                got = await self._fetch(part)
                if not isinstance(got, StaddleError):
                    await asyncio.to_thread(self._output.write, part, got)
                    for piece in pieces:
                        for container in batch.containers(piece):
                            self._failures.pop(container, None)
                    continue
                known = got
            if may_pass(known):
                raise known
            if len(pieces) == 1:
                self._failures.update(batch.containers(pieces[0]))
                await asyncio.to_thread(self._output.lost, pieces[0], known.message)
            else:
                half = len(pieces) // 2
                rest += [(pieces[half:], None), (pieces[:half], None)]

    def _given_up(self, batch: Batch, piece: Piece) -> str:
        """Is the piece in a container of which nothing could be read; says so, else empty."""
        for container in batch.containers(piece):
            if self._failures[container] >= _PROBES:
                return f"container {container.hex()} can't be read"
        return ""
