"""The library's state and its writes, for one thread at a time: log, delta, merge round, commit."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from staddle.api.types import Buffer
from staddle.dedup.containers import ContainerTable
from staddle.dedup.log import (
    LOG_VERSION,
    PUBLISH,
    REMOVE,
    Entries,
    decode_entries,
    encode_entries,
    split_ids,
)
from staddle.dedup.manifest import Manifest
from staddle.dedup.merge import Delta, MergeRound
from staddle.dedup.ownermap import Masks
from staddle.dedup.rows import PARTITIONS, BoolArray, Table, pack, sort_rows
from staddle.dedup.runs import open_run
from staddle.dedup.store import Store
from staddle.dedup.view import View
from staddle.errors import Corrupt, NewerFormat, Outcome, Unavailable

_MERGE_SHARE = 8  # the delta may grow to 1/8 of the run
_BACKLOG_MAX = 4  # thresholds' worth of delta without a merge, then publishing stops


class Incomplete:
    """Which partitions lost rows. The only state that readers write, so it has its own short lock."""

    def __init__(self, partitions: Collection[int]) -> None:
        self._lock = threading.Lock()
        self.mask: BoolArray = np.zeros(PARTITIONS, np.bool_)
        self.mask[list(partitions)] = True

    def set(self, partitions: Collection[int]) -> None:
        """Add partitions."""
        self._change(partitions, to=True)

    def unset(self, partitions: Collection[int]) -> None:
        """Take partitions out."""
        self._change(partitions, to=False)

    def numbers(self) -> tuple[int, ...]:
        """Return the partitions."""
        return tuple(np.flatnonzero(self.mask).tolist())

    def _change(self, partitions: Collection[int], *, to: bool) -> None:
        with self._lock:
            mask = self.mask.copy()  # readers of a view keep theirs
            mask[list(partitions)] = to
            self.mask = mask


@dataclass(slots=True)
class _Frozen:
    """The delta under merge, with the state that the next manifest will state."""

    layers: tuple[Table, ...]
    applied_lsn: int
    log_floor: int
    containers: bytes
    dead: BoolArray


class Core:
    """State of an open library. Its owner serialises all calls."""

    def __init__(self, store: Store, merge_floor_rows: int) -> None:
        self.store = store
        self.delta = Delta()
        self.merge_error = ""
        self.merge_floor_rows = merge_floor_rows
        self.released = False
        self._frozen: _Frozen | None = None
        self._round: MergeRound | None = None
        self._retry_rows = 0
        self._removed = 0
        self.refused = ""
        manifest = store.manifest
        self.applied_lsn = manifest.applied_lsn
        self.containers = ContainerTable(manifest.containers)
        self.incomplete = Incomplete(manifest.incomplete)
        self.run: Table | None = None
        try:
            self.run = store.open_run()
        except Corrupt:
            self.incomplete.set(range(PARTITIONS))
        for record in store.replay():
            self._replay(record.type, record.payload)
            self.applied_lsn = record.lsn
        store.sweep()
        self._log = store.resume_log()

    def view(self, masks: Masks) -> View:
        """Take the picture for readers."""
        tables = () if self.run is None else (self.run,)
        return View(
            tables=(*tables, *self.frozen_layers, *self.delta.layers),
            ids=self.containers.ids,
            dead=self.containers.dead,
            served=masks.served,
            partial=masks.arriving | self.incomplete.mask,
        )

    @property
    def frozen_layers(self) -> tuple[Table, ...]:
        """Layers under merge."""
        return self._frozen.layers if self._frozen else ()

    # --- changes ------------------------------------------------------------------------------

    def check_writable(self, masks: Masks) -> None:
        """Raise Unavailable if the disk refused before, or merging fails still and the delta is too large."""
        if self.refused:
            raise self.unavailable(self.refused, "not_done")
        if self.merge_error and len(self.delta) > _BACKLOG_MAX * self._threshold():
            self._retry_rows = 0
            self.merge_some(masks)
            if self.merge_error:
                raise self.unavailable(f"merging fails: {self.merge_error}", "not_done")

    def publish(self, entries: Entries, lsn: int) -> None:
        """Log entries and add them; durable on return."""
        self._append(PUBLISH, lsn, encode_entries(entries))
        self._absorb(entries)
        self.applied_lsn = lsn

    def remove(self, container_ids: list[bytes], lsn: int) -> None:
        """Log the removal of known containers and forget them; durable on return."""
        self._append(REMOVE, lsn, [b"".join(container_ids)])
        self._forget(container_ids)
        self.applied_lsn = lsn

    def save_incomplete(self) -> None:
        """Commit the incomplete partitions as they are now. Raises OSError."""
        old = self.store.manifest
        self.store.commit(
            Manifest(
                applied_lsn=old.applied_lsn,
                log_floor=old.log_floor,
                containers=old.containers,
                run=old.run,
                incomplete=self.incomplete.numbers(),
            )
        )

    def clear(self) -> None:
        """Forget everything, durably."""
        self._abort_round()
        with self._refusing():
            log = self.store.new_log(self._log.generation + 1)
            self._log.close()
            self._log = log
            self.store.commit(
                Manifest(applied_lsn=0, log_floor=log.generation, containers=b"", run=None, incomplete=())
            )
        self._frozen, self.run, self.delta = None, None, Delta()
        self.containers, self.applied_lsn, self._removed = ContainerTable(), 0, 0
        self.incomplete.unset(range(PARTITIONS))
        self.store.sweep()

    def release(self) -> None:
        """Drop a round under way and close the files; what views show stays. Twice is fine."""
        if self.released:
            return
        self.released = True
        self.refused = self.refused or "its files are closed"
        try:
            self._abort_round()
            with suppress(OSError):  # all that was acknowledged was synced
                self._log.close()
        finally:
            self.store.close()

    def close(self) -> None:
        """Release, and forget everything."""
        self._abort_round()
        self.run, self._frozen, self.delta = None, None, Delta()
        self.release()

    # --- merging ------------------------------------------------------------------------------

    def merge_some(self, masks: Masks) -> None:
        """Do the share of merging that is due: so much that the round ends before the next one begins.

        A failure is kept in `merge_error` and tried again later: what was published is durable anyway.
        """
        threshold = self._threshold()
        if self._frozen is None and self._pending() < threshold:
            return
        if self.merge_error and len(self.delta) < self._retry_rows:
            return
        try:
            if self._frozen is None:
                self._freeze()
            due = min(PARTITIONS, 1 + 2 * PARTITIONS * len(self.delta) // threshold)
            self._advance(masks, due)
            self.merge_error = ""
        except (OSError, MemoryError, Corrupt) as error:  # Corrupt: the new run cannot be mapped
            self.merge_error = str(error) or "out of memory"
            self._retry_rows = len(self.delta) + threshold // 16

    def merge_all(self, masks: Masks) -> None:
        """Merge the frozen delta, if any, then all the rest.

        Raises:
            OSError, MemoryError: not done, nothing lost.
        """
        if self._frozen is not None:
            self._advance(masks, PARTITIONS)
        if len(self.delta) or self._removed:
            self._freeze()
            self._advance(masks, PARTITIONS)
        self.merge_error = ""

    def _threshold(self) -> int:
        return max(self.merge_floor_rows, (len(self.run) if self.run else 0) // _MERGE_SHARE)

    def _pending(self) -> int:
        """Rows that a merge would move or drop: those of removed containers are estimated by the mean."""
        total = len(self.delta) + (len(self.run) if self.run else 0)
        return len(self.delta) + self._removed * total // (len(self.containers) + self._removed + 1)

    def _freeze(self) -> None:
        """Begin a new log; what the delta holds now is the next round's."""
        containers = self.containers.pack_live()
        log, old = self.store.new_log(self._log.generation + 1), self._log
        self._log = log
        self._frozen = _Frozen(
            layers=self.delta.layers,
            applied_lsn=self.applied_lsn,
            log_floor=log.generation,
            containers=containers,
            dead=self.containers.dead,
        )
        self.delta, self._removed = Delta(), 0
        old.close()

    def _advance(self, masks: Masks, due: int) -> None:
        assert self._frozen is not None, "a round merges what was frozen"
        if self._round is None:
            self._round = MergeRound(
                self.run,
                self._frozen.layers,
                self._frozen.dead,
                masks.served,
                directory=self.store.directory,
                generation=self.store.next_run_generation(),
                files=self.store.files,
            )
        try:
            while self._round.done < due:
                self._round.step()
            if due == PARTITIONS:
                self._commit_round(self._round, self._frozen)
        except BaseException:
            self._abort_round()  # a step that ended half way can't be taken again
            raise

    def _commit_round(self, merged: MergeRound, frozen: _Frozen) -> None:
        ref = merged.finish()
        self.incomplete.set(merged.damaged)
        # From here on the file may be named by the manifest on disk, whatever an error says: no abort.
        self._round = None
        self.store.commit(
            Manifest(
                applied_lsn=frozen.applied_lsn,
                log_floor=frozen.log_floor,
                containers=frozen.containers,
                run=ref,
                incomplete=self.incomplete.numbers(),
            )
        )
        self.run = open_run(self.store.directory, ref)
        self._frozen = None
        self.containers.release(np.flatnonzero(frozen.dead))
        self.store.sweep()

    def _abort_round(self) -> None:
        aborted, self._round = self._round, None
        if aborted is not None:
            aborted.abort()

    # --- the log ------------------------------------------------------------------------------

    def _append(self, kind: int, lsn: int, payload: list[Buffer]) -> None:
        with self._refusing():
            self._log.append(kind, lsn, payload)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """After an OSError here nobody knows what is on disk: no writes until the library is opened again."""
        try:
            yield
        except OSError as error:
            self.refused = str(error)
            raise self.unavailable(self.refused, "in_doubt") from error

    def unavailable(self, why: str, outcome: Outcome) -> Unavailable:
        """The error of a library that takes no changes now."""
        return Unavailable(
            f"fingerprint library {self.store.directory} takes no changes: {why}",
            hint="mend or free the disk: it is tried again; jobs go on meanwhile and store such chunks again",
            scope="agent",
            outcome=outcome,
        )

    def _replay(self, kind: int, payload: memoryview) -> None:
        if kind == PUBLISH:
            self._absorb(decode_entries(payload))
        elif kind == REMOVE:
            self._forget(split_ids(payload))
        else:
            raise NewerFormat(
                f"{self.store.directory}: log record of type {kind}, unknown to log version {LOG_VERSION}",
                hint="run the release that wrote it, or a newer one",
            )

    def _absorb(self, entries: Entries) -> None:
        index = np.array([self.containers.index_of(i) for i in entries.container_ids], np.uint32)
        container = np.repeat(index, entries.counts)
        rows = pack(entries.hi, entries.lo, container, entries.ordinal, entries.raw_length)
        self.delta.add(sort_rows(rows))

    def _forget(self, container_ids: list[bytes]) -> None:
        self.containers.remove(container_ids)
        self._removed += len(container_ids)
