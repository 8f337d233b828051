"""Restores a backup, or parts of it: contents are fetched ahead, and written while the next ones come."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from staddle.api.types import Buffer
from staddle.client.agents import may_pass
from staddle.client.connection import GridConnection
from staddle.client.contents import Batch, Piece, plan
from staddle.client.reader import BackupReader
from staddle.client.scan import Warn, join, split
from staddle.client.target import Target
from staddle.client.units import Tally
from staddle.client.writer import Writer
from staddle.data.manifest import EntryBatch, EntryType, Manifest
from staddle.errors import NotFound, StaddleError

IN_FLIGHT = 3
"""Requests for contents under way at once, of at most `contents.BATCH_BYTES` each."""
LOST_NAMED_MAX = 1000
_PROBES = 8
"""So many files in one container are tried one by one before the rest of it counts as lost too."""


@dataclass
class RestoreOptions:
    """What the user asked for. `backup` 0: the newest of `name`. No paths: all. `target` is absolute."""

    target: bytes
    backup: int = 0
    name: str = ""
    paths: list[bytes] = field(default_factory=list)


@dataclass
class RestoreSummary:
    """How the restore ended. `lost` names at most LOST_NAMED_MAX files whose content can't be had."""

    backup: int
    name: str
    state: str
    files: int
    dirs: int
    bytes_restored: int
    warnings: int
    lost: list[bytes]
    lost_count: int
    duration_s: float


class Selection:
    """Which entries of a backup are wanted: all, or the subtrees at some paths."""

    def __init__(self, paths: list[bytes]) -> None:
        self._paths = paths
        self._found: set[bytes] = set()
        self._above = {above for path in paths for above in _ancestors(path)}

    def wants(self, path: bytes) -> bool:
        """Is this path in one of the subtrees."""
        return not self._paths or any(_inside(path, top) for top in self._paths)

    def rows(self, entries: EntryBatch) -> list[int]:
        """The wanted rows, ascending, with the directories above them."""
        if not self._paths:
            return list(range(len(entries)))
        dirs = entries.columns["dir"]
        inside = np.zeros(len(entries.dirs), bool)
        for at, directory in enumerate(entries.dirs):
            tops = [top for top in self._paths if _inside(directory, top)]
            inside[at] = bool(tops)
            self._found.update(tops)
        mask: NDArray[np.bool_] = inside[dirs] if len(entries) else np.zeros(0, bool)
        names: list[bytes] = []
        for path in {*self._paths, *self._above}:
            directory, name = split(path)
            at = next((i for i, each in enumerate(entries.dirs) if each == directory), -1)
            if at < 0:
                continue
            names = names or entries.name_list()
            for row in np.flatnonzero(dirs == at).tolist():
                if names[row] != name:
                    continue
                if path in self._paths:
                    self._found.add(path)
                    mask[row] = True
                elif entries.columns["type"][row] == EntryType.DIRECTORY:
                    mask[row] = True
        rows: list[int] = np.flatnonzero(mask).tolist()
        return rows

    def missing(self) -> list[bytes]:
        """Paths of which nothing was found."""
        return [path for path in self._paths if path not in self._found]


class Restore:
    """One restore.

    Args:
        grid: the connection.
        options: what the user asked for.
        tally: counts what is done, and tells warnings.
        on_lost: called for a file whose content can't be had, from any thread.
    """

    def __init__(
        self,
        grid: GridConnection,
        options: RestoreOptions,
        tally: Tally,
        on_lost: Warn,
    ) -> None:
        self._grid = grid
        self._options = options
        self._selection = Selection(options.paths)
        self.tally = tally
        self._on_lost = on_lost
        self._lost: list[bytes] = []
        self._lost_count = 0
        self._lost_manifests: set[int] = set()

    async def run(self) -> RestoreSummary:
        """To the end; single files that can't be restored do not stop it.

        Raises:
            NotFound: no such backup; or a path is not in it, after everything else was restored.
            StaddleError: no agent can be reached, or the target can't be written at all.
        """
        started = time.monotonic()
        async with await BackupReader.open(self._grid, self._options.backup, self._options.name) as reader:
            opened = reader.opened
            if opened.state not in {"complete", "warnings"}:
                message = f"backup {opened.backup} is {opened.state}: it may lack files, or their ends"
                self.tally.warn(b"", message)
            target = await asyncio.to_thread(Target, self._options.target, self.tally.warn)
            writer = Writer(target, self.tally, self.tally.warn, self._lose)
            try:
                await self._run(reader, writer)
            finally:
                await asyncio.to_thread(writer.abort)
        if missing := self._selection.missing():
            named = ", ".join(repr(os.fsdecode(path)) for path in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise NotFound(
                f"backup {opened.backup} has no {named}{more}", hint=f"`staddle ls {opened.backup}` shows it"
            )
        return RestoreSummary(
            backup=opened.backup,
            name=opened.name,
            state=opened.state,
            files=self.tally.files,
            dirs=self.tally.dirs,
            bytes_restored=self.tally.bytes_read,
            warnings=self.tally.warnings,
            lost=self._lost,
            lost_count=self._lost_count,
            duration_s=time.monotonic() - started,
        )

    async def _run(self, reader: BackupReader, writer: Writer) -> None:
        await self._pass(reader, writer, self._selection.rows, {})
        aliases = writer.missing_contents(self._selection.wants)
        if aliases:
            # Hard links into a part that is not restored: their content is read under its other name.
            contents = Selection(list(aliases))
            await self._pass(
                reader, writer, lambda entries: _exactly(entries, contents.rows(entries), aliases), aliases
            )
        await asyncio.to_thread(writer.finish)

    async def _pass(
        self,
        reader: BackupReader,
        writer: Writer,
        choose: Callable[[EntryBatch], list[int]],
        aliases: dict[bytes, bytes],
    ) -> None:
        """Once over all manifests. `aliases`: contents that are restored under another path."""
        pipe = _Pipe(reader, writer)
        try:
            async with aclosing(reader.readable(self._lose_manifest)) as manifests:
                async for index, manifest in manifests:
                    batches = await asyncio.to_thread(_plan, index, manifest, choose, writer, aliases)
                    for batch in batches:
                        await pipe.push(batch)
            await pipe.drain()
        finally:
            await pipe.close()

    def _lose_manifest(self, index: int, error: StaddleError) -> None:
        if index not in self._lost_manifests:  # a second pass meets it again
            self._lost_manifests.add(index)
            self._lose(
                b"", f"part {index + 1} of the backup can't be read, nor what it names: {error.message}"
            )

    def _lose(self, path: bytes, why: str) -> None:
        self._lost_count += 1
        if path and len(self._lost) < LOST_NAMED_MAX:
            self._lost.append(path)
        self._on_lost(path, why)


def _plan(
    index: int,
    manifest: Manifest,
    choose: Callable[[EntryBatch], list[int]],
    writer: Writer,
    aliases: dict[bytes, bytes],
) -> list[Batch]:
    """Make a manifest's entries without content, and say what is to be fetched. Runs in a thread."""
    first, count = manifest.chunk_first.tolist(), manifest.chunk_count.tolist()

    def chunk_rows(row: int) -> tuple[int, int]:
        return first[row], count[row]

    rows = choose(manifest.entries)
    files = writer.entries(manifest.entries, rows, chunk_rows, aliases)
    return list(plan(index, manifest.chunks, files))


class _Pipe:
    """Fetches batches ahead and has them written in order. Bounded: IN_FLIGHT batches."""

    def __init__(self, reader: BackupReader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
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
            return await self._reader.chunks(batch.index, batch.rows(), batch.size_bytes)
        except StaddleError as error:
            return error

    async def _write_first(self) -> None:
        batch, task = self._ahead[0]
        got = await task
        self._ahead.popleft()
        if isinstance(got, StaddleError):
            await self._salvage(batch, got)
        else:
            await asyncio.to_thread(self._writer.write, batch, got)

    async def _salvage(self, batch: Batch, error: StaddleError) -> None:
        """Some chunk of a batch can't be had: find out whose it is by halves, and restore the others.

        Raises: the error, when it says nothing about the data but that no agent can be reached.
        """
        rest: list[tuple[list[Piece], StaddleError | None]] = [(batch.pieces, error)]
        while rest:
            pieces, known = rest.pop()
            if known is None:
                if gone := self._given_up(batch, pieces[0]):
                    await asyncio.to_thread(self._writer.lost, pieces[0], gone)
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
                    await asyncio.to_thread(self._writer.write, part, got)
                    for piece in pieces:
                        for container in batch.containers(piece):
                            self._failures.pop(container, None)
                    continue
                known = got
            if may_pass(known):
                raise known
            if len(pieces) == 1:
                self._failures.update(batch.containers(pieces[0]))
                await asyncio.to_thread(self._writer.lost, pieces[0], known.message)
            else:
                half = len(pieces) // 2
                rest += [(pieces[half:], None), (pieces[:half], None)]

    def _given_up(self, batch: Batch, piece: Piece) -> str:
        """Is the piece in a container of which nothing could be read; says so, else empty."""
        for container in batch.containers(piece):
            if self._failures[container] >= _PROBES:
                return f"container {container.hex()} can't be read"
        return ""


def _inside(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top.rstrip(b"/") + b"/")


def _ancestors(path: bytes) -> list[bytes]:
    above = []
    while path != b"/":
        path = split(path)[0]
        above.append(path)
    return above


def _exactly(entries: EntryBatch, rows: list[int], wanted: dict[bytes, bytes]) -> list[int]:
    """Of these rows those with exactly one of the wanted paths."""
    names, dirs = entries.name_list(), entries.columns["dir"]
    return [row for row in rows if join(entries.dirs[dirs[row]], names[row]) in wanted]
