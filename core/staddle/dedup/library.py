"""The fingerprint library of one dedup domain on one agent.

Durability: a publish appends one record to the log and syncs it; then the rows enter the delta in memory.
When the delta is large against the run, the log is rotated and the frozen delta merged into the next run,
some partitions with each further publish. The manifest commits run, container table and log floor in one
rename. A crash at any moment leaves a manifest, its run, and logs to replay; the rest is swept at opening.

Threads: any number may look up, without waiting, on an immutable `View`. Writers wait for one another.

It is a cache: containers are the truth. What is lost or damaged answers `unknown` and is rebuilt from the
committed container directories; nothing here ever fails a backup.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from staddle.dedup.core import Core
from staddle.dedup.ownermap import OwnerMap
from staddle.dedup.publication import Publication, entries_of
from staddle.dedup.rows import PARTITIONS, U8Array, sound
from staddle.dedup.store import Store
from staddle.dedup.view import Hits, View
from staddle.errors import Conflict, DeadlineExceeded, Unavailable
from staddle.platform.durable import FILES, Files

MERGE_FLOOR_ROWS = 1 << 19
_WRITER_WAIT_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one library.

    Attributes:
        entries: rows, those of removed containers included until a merge drops them.
        delta_entries: rows of these in memory.
        containers: live containers known.
        partitions_held: partitions whose look-ups are answered.
        damaged: partitions that lost rows.
        runs: run files in use (0 or 1).
        disk_bytes: all files.
        memory_bytes: arrays held in memory; mapped files do not count.
        applied_lsn: as the property.
        torn_bytes: cut off the log at opening.
        merge_error: why the last merge failed, or empty.
    """

    entries: int
    delta_entries: int
    containers: int
    partitions_held: int
    damaged: tuple[int, ...]
    runs: int
    disk_bytes: int
    memory_bytes: int
    applied_lsn: int
    torn_bytes: int
    merge_error: str


class Library:
    """Look-ups and publishes of the partitions that one agent holds. Made by `open`; a context manager."""

    def __init__(self, core: Core, owner: str, owner_map: OwnerMap) -> None:
        self._core = core
        self._owner = owner
        self._owner_map = owner_map
        self._masks = owner_map.masks(owner)
        self._writer = threading.Lock()
        self._view_lock = threading.Lock()  # guards the exchange of `_view` only
        self._view: View | None = core.view(self._masks)
        self._removed_in_rebuild: set[bytes] | None = None

    @classmethod
    def open(
        cls,
        directory: str,
        owner: str,
        owner_map: OwnerMap,
        *,
        merge_floor_rows: int = MERGE_FLOOR_ROWS,
        verify: bool = False,
        files: Files = FILES,
    ) -> Library:
        """Open or make the library in `directory`, recovering from whatever a crash or damage left.

        Args:
            directory: of this library alone; made if missing.
            owner: this agent's name in the owner map.
            owner_map: the map in force.
            merge_floor_rows: the delta may always hold this many rows before a merge.
            verify: check every row of the run now, not only when it is used.
            files: the file system.

        Raises:
            Locked: another process has it open.
            NewerFormat: a newer release wrote it; its files were not changed.
            OSError: the file system refuses.
        """
        store = Store.open(directory, files)
        try:
            library = cls(Core(store, merge_floor_rows), owner, owner_map)
        except BaseException:
            store.unlock()
            raise
        if verify:
            library.verify()
        return library

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading ------------------------------------------------------------------------------

    def lookup(self, fingerprints: U8Array) -> Hits:
        """Look up fingerprints of shape (n, 32), uint8. Of several entries the first published one counts.

        Safe from any thread at any time; never waits for a writer.

        Raises:
            ValueError: another shape or type.
            Unavailable: the library is closed.
        """
        view = self._view
        if view is None:
            raise _closed()
        hits, damaged = view.lookup(fingerprints)
        if len(damaged):
            self._note_damage(damaged.tolist())
        return hits

    @property
    def applied_lsn(self) -> int:
        """The highest lsn whose publish, and all before it, are durable here; 0 if none."""
        return self._core.applied_lsn

    @property
    def refused(self) -> str:
        """Why nothing is published until `reopen`; empty as long as the disk takes it."""
        return self._core.refused

    @property
    def owner_map(self) -> OwnerMap:
        """The owner map in force."""
        return self._owner_map

    def damaged(self) -> tuple[int, ...]:
        """Partitions that lost rows: their misses are `unknown` until `rebuild`."""
        return self._core.incomplete.numbers()

    def stats(self) -> Stats:
        """Figures of now. Raises DeadlineExceeded, Unavailable as a writer does."""
        with self._writing():
            core = self._core
            layers = (*core.frozen_layers, *core.delta.layers)
            delta = sum(len(layer) for layer in layers)
            return Stats(
                entries=delta + (len(core.run) if core.run else 0),
                delta_entries=delta,
                containers=len(core.containers),
                partitions_held=int(self._masks.served.sum()),
                damaged=self.damaged(),
                runs=int(core.run is not None),
                disk_bytes=core.store.disk_bytes(),
                memory_bytes=core.containers.memory_bytes + sum(layer.memory_bytes for layer in layers),
                applied_lsn=core.applied_lsn,
                torn_bytes=core.store.torn_bytes,
                merge_error=core.merge_error,
            )

    def verify(self) -> tuple[int, ...]:
        """Check every row of the run; the partitions found damaged, from now on in `damaged()` too."""
        run = self._core.run
        if run is None:
            return ()
        found = tuple(number for number in range(PARTITIONS) if not sound(run.partition(number)).all())
        if found:
            self._note_damage(found)
        return found

    # --- writing ------------------------------------------------------------------------------

    def publish(
        self, lsn: int, container_id: bytes, fingerprints: U8Array, raw_lengths: NDArray[Any]
    ) -> None:
        """Publish one container's directory, the only one of its lsn; see `publish_many`."""
        self.publish_many([Publication(lsn, container_id, fingerprints, raw_lengths)])

    def publish_many(self, batch: Iterable[Publication], *, upto_lsn: int = 0) -> None:
        """Publish committed containers, in the order of the manager's log; durable on return, all or none.

        What is at or below `applied_lsn` is passed over, so a replay is harmless. All containers of one
        lsn belong into one call. Rows of partitions that this agent does not own are left out.

        Args:
            batch: at most `PUBLICATION_ROWS_MAX` rows in all; lsns do not fall.
            upto_lsn: the log has been read up to here: `applied_lsn` grows to it even without rows.

        Raises:
            ValueError: wrong shapes, too many rows, falling lsns, an id that is not 16 bytes.
            Unavailable: the disk refuses, now (in doubt) or since then. `reopen`, and publish from
                `applied_lsn`.
            DeadlineExceeded: another writer does not finish; nothing was done.
        """
        with self._writing() as core:
            core.check_writable(self._masks)
            items = list(batch)
            lsns = [item.lsn for item in items]
            if lsns != sorted(lsns) or (lsns and lsns[0] < 1):
                raise ValueError("publications come in the order of their lsn, which starts at 1")
            fresh = [item for item in items if item.lsn > core.applied_lsn]
            lsn = max(core.applied_lsn, upto_lsn, fresh[-1].lsn if fresh else 0)
            if lsn == core.applied_lsn:
                return
            core.publish(entries_of(fresh, self._masks.owned), lsn)
            self._merge_some()

    def remove_containers(self, container_ids: Collection[bytes], *, lsn: int = 0) -> None:
        """Forget containers: from now on nothing hits into them. Durable on return; unknown ids are fine.

        Their rows go at the next merge. An id published again afterwards is a new container.

        Args:
            container_ids: 16 bytes each.
            lsn: of the log record that deletes them; passed over if applied already. 0: of none.

        Raises:
            Unavailable, DeadlineExceeded: as `publish_many`.
        """
        with self._writing() as core:
            core.check_writable(self._masks)
            if 0 < lsn <= core.applied_lsn:
                return
            if self._removed_in_rebuild is not None:
                self._removed_in_rebuild.update(container_ids)
            known = [container_id for container_id in container_ids if container_id in core.containers]
            lsn = max(lsn, core.applied_lsn)
            if known or lsn > core.applied_lsn:
                core.remove(known, lsn)
                self._merge_some()

    def set_owner_map(self, owner_map: OwnerMap) -> None:
        """Follow a newer owner map; an older or equal one changes nothing.

        Rows of partitions that are no longer served stay until the next merge.
        """
        with self._writing():
            if owner_map.version > self._owner_map.version:
                self._owner_map = owner_map
                self._masks = owner_map.masks(self._owner)
                self._refresh()

    def rebuild(
        self, partitions: Collection[int], source: Iterable[Publication], *, upto_lsn: int = 0
    ) -> None:
        """Fill partitions again from the directories of all live committed containers.

        Publishes and look-ups go on meanwhile. At the end the partitions are complete: their misses are
        misses. Interrupted, they stay `unknown`, and rebuilding may start over.

        Args:
            partitions: numbers, say those of `damaged()`.
            source: all live committed containers; their lsns are not looked at.
            upto_lsn: the log position that `source` shows; given only when all held partitions are rebuilt.

        Raises:
            Conflict: a rebuild is running.
            OSError, MemoryError: the last merge or commit failed.
            Unavailable, DeadlineExceeded, ValueError: as `publish_many`.
        """
        chosen = np.zeros(PARTITIONS, np.bool_)
        chosen[list(partitions)] = True
        with self._writing():
            if self._removed_in_rebuild is not None:
                raise Conflict("a rebuild is running", hint="wait until it ends", retry="after")
            removed = self._removed_in_rebuild = set()
        try:
            for item in source:
                with self._writing() as core:
                    core.check_writable(self._masks)
                    if item.container_id not in removed:
                        core.publish(entries_of([item], self._masks.owned & chosen), core.applied_lsn)
                        self._merge_some()
            with self._writing() as core:
                core.publish(entries_of([], chosen), max(core.applied_lsn, upto_lsn))
                core.merge_all(self._masks)
                core.incomplete.unset(np.flatnonzero(chosen).tolist())
                core.save_incomplete()
                self._refresh()
        finally:
            self._removed_in_rebuild = None

    def merge(self) -> None:
        """Merge all of the delta into the run now. Raises OSError, MemoryError: not done, nothing lost."""
        with self._writing() as core:
            try:
                core.merge_all(self._masks)
            finally:
                self._refresh()

    def clear(self) -> None:
        """Forget everything, `applied_lsn` and damage included. Durable on return.

        Raises:
            Unavailable: the disk refuses; in doubt, `reopen`.
        """
        with self._writing() as core:
            core.clear()
            self._refresh()

    def reopen(self) -> None:
        """Read the files again after the disk refused: then it is known what they hold.

        `applied_lsn` may be lower or higher afterwards. Look-ups go on meanwhile; if it fails they do as
        before, nothing is published, and it may be tried again.

        Raises:
            Unavailable: the library is closed.
            DeadlineExceeded: another writer does not finish; nothing was done.
            Locked, NewerFormat, OSError: as `open`.
        """
        with self._writing(also_released=True) as core:
            core.release()
            store = Store.open(core.store.directory, core.store.files)
            try:
                self._core = Core(store, core.merge_floor_rows)
            except BaseException:
                store.unlock()
                raise
            self._refresh()

    def close(self) -> None:
        """Close; a merge under way is dropped, and done again later. Twice is fine."""
        if self._view is None:
            return
        with self._writing(also_released=True) as core, self._view_lock:
            self._view = None
            core.close()

    # --- inside -------------------------------------------------------------------------------

    @contextmanager
    def _writing(self, *, also_released: bool = False) -> Iterator[Core]:
        if not self._writer.acquire(timeout=_WRITER_WAIT_S):
            raise DeadlineExceeded(
                f"another writer held the fingerprint library for {_WRITER_WAIT_S:.0f} s",
                hint="see whether the agent's disk answers",
                scope="agent",
                outcome="not_done",
            )
        try:
            if self._view is None:
                raise _closed()
            core = self._core
            if core.released and not also_released:
                raise core.unavailable(core.refused, "not_done")
            yield core
        finally:
            self._writer.release()

    def _merge_some(self) -> None:
        """Show what was just written, then do the merging that is due, and show that."""
        self._refresh()
        self._core.merge_some(self._masks)
        self._refresh()

    def _refresh(self) -> None:
        with self._view_lock:
            self._view = self._core.view(self._masks)

    def _note_damage(self, partitions: Collection[int]) -> None:
        """Called by readers too: builds on the present view, never on the writer's half-made state."""
        self._core.incomplete.set(partitions)
        with self._view_lock:
            if self._view is not None:
                partial = self._view.partial.copy()
                partial[list(partitions)] = True
                self._view = dataclasses.replace(self._view, partial=partial)


def _closed() -> Unavailable:
    return Unavailable("the fingerprint library is closed", hint="open it again", scope="agent")
