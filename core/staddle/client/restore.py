"""Restores a backup, or parts of it: contents are fetched ahead, and written while the next ones come."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from staddle.client.connection import GridConnection
from staddle.client.contents import Batch, plan
from staddle.client.ending import Folders
from staddle.client.extraneous import Extraneous
from staddle.client.making import slices
from staddle.client.metadata import Metadata
from staddle.client.onecontent import OneContent
from staddle.client.owners import OwnerOptions, Owners
from staddle.client.pipe import Pipe
from staddle.client.policy import Action, Item, Overwrite
from staddle.client.reader import BackupReader
from staddle.client.scan import Warn, absolute
from staddle.client.selection import Selection, ancestors, is_inside
from staddle.client.target import Target
from staddle.client.told import Told
from staddle.client.units import Tally
from staddle.client.work import Aliases, Work
from staddle.client.writer import Writer
from staddle.data.manifest import EntryBatch, Manifest
from staddle.errors import NotFound, StaddleError, UsageError
from staddle.wire.ops.reading import OpenedBackup

LOST_NAMED_MAX = 1000
SLICE_ROWS = 8192
"""Rows of a manifest that are worked on at once: a manifest may have millions."""


@dataclass
class RestoreOptions:
    """What the user asked for (docs/restore.md).

    Attributes:
        target: absolute; the full source paths appear below it. `/` for a restore in place.
        backup: its number; 0: the newest of `name` and `client`, as far as they are given.
        name, client: see `backup`.
        paths: subtrees to be restored; none: all.
        overwrite: what happens to what is there.
        in_place: `target` is the root of the system, and the backup's own places are meant.
        delete: remove from the restored directories what is not in the backup.
        dry_run: change nothing.
        include: patterns of what is restored; none: all.
        exclude: patterns of what is not.
        owners: whose everything becomes.
        onto: device or file that gets the content of one entry, absolute; `-`: standard output; else empty.
        protected: absolute paths; neither they nor what is in them is deleted, or the target of a restore.
    """

    target: bytes = b""
    backup: int = 0
    name: str = ""
    client: str = ""
    paths: list[bytes] = field(default_factory=list)
    overwrite: Overwrite = Overwrite.IF_CHANGED
    in_place: bool = False
    delete: bool = False
    dry_run: bool = False
    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    owners: OwnerOptions = field(default_factory=OwnerOptions)
    onto: bytes = b""
    protected: list[bytes] = field(default_factory=list)


@dataclass
class RestoreSummary:
    """How the restore ended.

    `files` counts what is now as it is in the backup, `unchanged` those of them that were there before,
    `kept` what `overwrite` left as it was. `lost` names at most LOST_NAMED_MAX files whose content can't be
    had. `notes`: what could not be set, and was not to be expected.
    """

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
    unchanged: int = 0
    bytes_unchanged: int = 0
    kept: int = 0
    deleted: int = 0
    dry_run: bool = False
    notes: list[str] = field(default_factory=list)


Choose = Callable[[EntryBatch], tuple[list[int], frozenset[int]]]
"""The wanted rows of a batch, ascending; which of them are directories that only lead to others."""


class _NoAliases:
    def get(self, path: bytes) -> bytes | None:
        return None


class Restore:
    """One restore."""

    def __init__(
        self,
        grid: GridConnection,
        options: RestoreOptions,
        tally: Tally,
        on_lost: Warn,
        on_item: Callable[[Item], None] | None = None,
    ) -> None:
        """Set it up.

        Args:
            grid: the connection.
            options: what the user asked for.
            tally: counts what is done, and tells warnings.
            on_lost: called for a file whose content can't be had, from any thread.
            on_item: called for each thing done, or that would be in a dry run, from any thread.

        Raises:
            UsageError: the options contradict each other, or name what can't be read.
        """
        check_options(options)
        self._grid = grid
        self._options = options
        self._selection = Selection(options.paths, options.include, options.exclude)
        self._owners = Owners(options.owners)
        self.tally = tally
        self._on_lost = on_lost
        self._on_item = on_item
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
        wanted = self._options
        async with await BackupReader.open(self._grid, wanted.backup, wanted.name, wanted.client) as reader:
            opened = reader.opened
            if opened.state not in {"complete", "warnings"}:
                message = f"backup {opened.backup} is {opened.state}: it may lack files, or their ends"
                self.tally.warn(b"", message)
            summary = self._summary(opened)
            if self._options.onto:
                await self._one(reader)
            else:
                await self._tree(reader, summary)
        if not self._options.onto:
            self._check_found(opened.backup)
        summary.files, summary.dirs = self.tally.files, self.tally.dirs
        summary.bytes_restored, summary.bytes_unchanged = self.tally.bytes_read, self.tally.bytes_unchanged
        summary.warnings, summary.lost_count = self.tally.warnings, self._lost_count
        summary.duration_s = time.monotonic() - started
        return summary

    def _check_found(self, backup: int) -> None:
        """Raises NotFound if something that was asked for is not in the backup."""
        hint = f"`staddle ls {backup}` shows it"
        if missing := self._selection.missing():
            named = _some([os.fsdecode(path) for path in missing])
            raise NotFound(f"backup {backup} has no {named}", hint=hint)
        if self._selection.took_nothing:
            named = _some(self._options.include)
            raise NotFound(f"backup {backup} has nothing that --include {named} takes", hint=hint)

    def _summary(self, opened: OpenedBackup) -> RestoreSummary:
        return RestoreSummary(
            opened.backup, opened.name, opened.state, 0, 0, 0, 0, self._lost, 0, 0.0,
            dry_run=self._options.dry_run,
        )  # fmt: skip

    # --- a tree -------------------------------------------------------------------------------------

    async def _tree(self, reader: BackupReader, summary: RestoreSummary) -> None:
        work = await asyncio.to_thread(self._work, reader.opened)
        writer = Writer(work)
        try:
            extraneous = None
            if self._options.delete:
                extraneous = Extraneous(work, self._selection, self._options.protected)
            await self._pass(reader, _Pass(writer, self._choose(extraneous), _NoAliases()))
            aliases = await asyncio.to_thread(writer.missing_contents)
            if aliases:
                # Hard links to what is not restored under its own name: the content is read for them.
                await self._pass(reader, _Pass(writer, _with_alias(aliases), aliases))
            await asyncio.to_thread(writer.finish, lambda folders: self._delete(extraneous, reader, folders))
            summary.notes = work.told.tell()
        finally:
            await asyncio.to_thread(writer.abort)
        summary.unchanged = work.counts[Action.SAME]
        summary.kept, summary.deleted = work.counts[Action.KEEP], work.counts[Action.DELETE]

    def _work(self, opened: OpenedBackup) -> Work:
        options = self._options
        privileged = sys.platform != "win32" and os.geteuid() == 0
        told = Told(self.tally.warn, privileged=privileged)
        metadata = Metadata(told, privileged=privileged)
        above = {each for root in opened.roots for each in ancestors(root)} if options.in_place else set()
        return Work(
            target=Target(
                options.target,
                metadata,
                make=not options.dry_run,
                replace=options.overwrite is not Overwrite.NEVER,
                follow=frozenset(above),
            ),
            metadata=metadata,
            owners=self._owners,
            overwrite=options.overwrite,
            dry_run=options.dry_run,
            in_place=options.in_place,
            tally=self.tally,
            told=told,
            warn=self.tally.warn,
            lose=self._lose,
            on_item=self._on_item,
        )

    def _choose(self, extraneous: Extraneous | None) -> Choose:
        if extraneous is None:
            return self._selection.rows

        def choose(entries: EntryBatch) -> tuple[list[int], frozenset[int]]:
            extraneous.know(entries)
            return self._selection.rows(entries)

        return choose

    def _delete(self, extraneous: Extraneous | None, reader: BackupReader, folders: Folders) -> None:
        if extraneous is None:
            return
        if self._lost_manifests or reader.opened.state not in {"complete", "warnings"}:
            self.tally.warn(b"", "nothing is deleted: not everything that the backup has is known")
            return
        if reader.opened.state == "warnings":
            # It may be a directory that could not be listed: the backup has it, and nothing of what is in it.
            self.tally.warn(
                b"", "nothing is deleted: the backup ended with warnings, and may lack what could not be read"
            )
            return
        extraneous.delete(folders)

    # --- one content --------------------------------------------------------------------------------

    async def _one(self, reader: BackupReader) -> None:
        opened = reader.opened
        paths = self._options.paths or opened.roots
        if len(paths) != 1:
            raise UsageError(
                f"{len(paths)} paths, and only the content of one file can go there",
                hint="give the path of one file",
            )
        output = OneContent(paths[0], opened.backup, self.tally, self._options.onto)
        try:
            while output.wanted:
                await self._pass(reader, _Pass(output, output.rows, _NoAliases()))
                await asyncio.to_thread(output.end_of_pass)
            await asyncio.to_thread(output.finish)
        finally:
            await asyncio.to_thread(output.abort)

    # --- both ---------------------------------------------------------------------------------------

    async def _pass(self, reader: BackupReader, one: _Pass) -> None:
        pipe = Pipe(reader, one.output)
        try:
            async with aclosing(reader.readable(self._lose_manifest)) as manifests:
                async for index, manifest in manifests:
                    for first, entries in slices(manifest.entries, SLICE_ROWS):
                        for batch in await asyncio.to_thread(one.plan, index, manifest, first, entries):
                            await pipe.push(batch)
            await pipe.drain()
        finally:
            await pipe.close()

    def _lose_manifest(self, index: int, error: StaddleError) -> None:
        if index not in self._lost_manifests:  # a second pass meets it again
            self._lost_manifests.add(index)
            self._lose(b"", f"part {index + 1} of the backup can't be read, nor what it names: {error}")

    def _lose(self, path: bytes, why: str) -> None:
        self._lost_count += 1
        if path and len(self._lost) < LOST_NAMED_MAX:
            self._lost.append(path)
        self._on_lost(path, why)


@dataclass
class _Pass:
    """One way through all manifests: what is chosen, and what makes it. `aliases`: as of `Maker.make`."""

    output: Writer | OneContent
    choose: Choose
    aliases: Aliases

    def plan(self, index: int, manifest: Manifest, first: int, entries: EntryBatch) -> list[Batch]:
        """Make what has no content of a part of a manifest, and say what is to be fetched. In a thread.

        Args:
            index: number of the manifest.
            manifest: the whole.
            first: row of the manifest with which the part begins.
            entries: the part.
        """
        rows, way = self.choose(entries)
        upto = first + len(entries)
        chunks = manifest.chunk_first[first:upto].tolist(), manifest.chunk_count[first:upto].tolist()
        files = self.output.entries(entries, rows, way, chunks, self.aliases)
        return list(plan(index, manifest.chunks, files))


def _some(names: list[str]) -> str:
    """The first of them, for a message."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def _with_alias(aliases: Aliases) -> Choose:
    def choose(entries: EntryBatch) -> tuple[list[int], frozenset[int]]:
        rows = [row for row, path in enumerate(entries.paths()) if aliases.get(path) is not None]
        return rows, frozenset()

    return choose


def check_options(options: RestoreOptions) -> None:
    """Raises UsageError for options that contradict each other."""
    if options.onto:
        if _means_a_tree(options):
            raise UsageError(
                "the content of one file goes to one place, over what is there: other options of a restore "
                "do not fit",
                hint=(
                    "leave out --in-place, --delete, --dry-run, --include, --exclude, --overwrite "
                    "and maps of owners"
                ),
            )
        if options.onto != b"-":
            _check_protected(options.onto, options.protected)
        return
    if options.in_place and sys.platform == "win32":
        raise UsageError(
            "--in-place is not there on Windows yet", hint="restore with --to, and move the files"
        )
    if options.in_place and options.target != b"/":
        raise UsageError("--in-place and --to contradict each other", hint="give one of them")
    if not options.in_place:
        _check_protected(options.target, options.protected)


def _means_a_tree(options: RestoreOptions) -> bool:
    """Is there an option that one content would ignore. `--no-owner` it always does."""
    owners = options.owners
    return bool(
        (options.dry_run or options.delete or options.in_place or options.include or options.exclude)
        or options.overwrite in {Overwrite.NEVER, Overwrite.IF_NEWER}
        or (owners.user_map or owners.group_map or owners.numeric)
    )


def _check_protected(path: bytes, protected: list[bytes]) -> None:
    """Raises UsageError for what is, or leads, into one of these directories."""
    for place in protected:
        if is_inside(path, place) or is_inside(_resolved(path), _resolved(place)):
            raise UsageError(
                f"{os.fsdecode(path)!r} is inside a grid's own directory {os.fsdecode(place)!r}",
                hint="name a place elsewhere",
            )


def _resolved(path: bytes) -> bytes:
    return absolute(os.path.realpath(path))
