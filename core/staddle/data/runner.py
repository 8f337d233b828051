"""Runs a segment's batches through the worker threads: fingerprint, look up, compress, seal."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.data.collect import Batch
from staddle.data.container import pack
from staddle.data.packer import ContainerTable, Packer, StoredContainer
from staddle.data.pipeline import Pipeline, StreamPlan
from staddle.errors import Cancelled, DeadlineExceeded, StaddleError

ZERO_ROW = -1
"""In `BatchRows.numbers`: a zero region. Below it: a chunk new in this segment, -2 - its claim."""
_FIRST_CLAIM = -2
_ORDINAL_BITS = 32


class BatchRows(msgspec.Struct, frozen=True, kw_only=True):
    """Chunk rows of one batch, in stream order.

    `fingerprints` (n, 32) u8, zeros for a zero region; `numbers` i64: container number, ZERO_ROW or a claim;
    `ordinals` u32; `lengths` u64, raw bytes.
    """

    fingerprints: NDArray[np.uint8]
    numbers: NDArray[np.int64]
    ordinals: NDArray[np.uint32]
    lengths: NDArray[np.uint64]


class Runner:
    """Batches of one segment. `submit` and `drain` are called by one thread, the work is done by others.

    A batch begins only while few containers are on their way: a slow medium holds up its own streams, not
    the threads that serve the others.

    Attributes:
        table: the containers that the rows refer to.
        hits: chunks that were not stored again.
        hit_bytes: their raw bytes.
    """

    def __init__(self, shared: Pipeline, plan: StreamPlan) -> None:
        self.table = ContainerTable()
        self.hits = 0
        self.hit_bytes = 0
        self._shared = shared
        self._plan = plan
        self._packer = Packer(shared, plan, self.table, self._store_ended)
        self._state = threading.Condition()
        self._queue: deque[tuple[int, Batch]] = deque()
        self._running = 0
        self._progress = 0
        self._error: Exception | None = None
        self._results: list[BatchRows | None] = []
        self._claim_lock = threading.Lock()
        self._claims: dict[bytes, int] = {}
        self._claimed: list[int] = []  # number << _ORDINAL_BITS | ordinal, once sealed

    def submit(self, batch: Batch) -> None:
        """Take over a batch; waits while too many are queued. Raises the first error of the segment."""
        settings = self._shared.settings
        try:
            self._wait(lambda: len(self._queue) < settings.queued_per_segment)
        except BaseException:
            self._free(batch)
            raise
        with self._state:
            self._queue.append((len(self._results), batch))
            self._results.append(None)
            self._pump()

    def check(self) -> None:
        """Raise the first error of the segment, if there is one."""
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Wait until every batch is packed and every container is stored. Raises as `submit`."""
        self._wait(lambda: not self._queue and not self._running)
        self._packer.flush()
        self._wait(lambda: not self._packer.storing)

    def rows(self) -> BatchRows:
        """All chunk rows; only after `drain`."""
        results = [result for result in self._results if result is not None]
        if not results:
            none = np.zeros(0, np.int64)
            return BatchRows(
                fingerprints=np.zeros((0, 32), np.uint8),
                numbers=none,
                ordinals=none.astype(np.uint32),
                lengths=none.astype(np.uint64),
            )
        numbers = np.concatenate([result.numbers for result in results])
        ordinals = np.concatenate([result.ordinals for result in results])
        new = numbers <= _FIRST_CLAIM
        if new.any():
            places = np.array(self._claimed, np.int64)[_FIRST_CLAIM - numbers[new]]
            numbers[new] = places >> _ORDINAL_BITS
            ordinals[new] = places & ((1 << _ORDINAL_BITS) - 1)
        return BatchRows(
            fingerprints=np.concatenate([result.fingerprints for result in results]),
            numbers=numbers,
            ordinals=ordinals,
            lengths=np.concatenate([result.lengths for result in results]),
        )

    def stored(self) -> list[StoredContainer]:
        """The containers of this segment; only after `drain`."""
        return sorted(self._packer.stored, key=lambda each: self.table.number(each.container_id))

    def batch_buffer(self) -> bytearray:
        """A buffer for the next batch. Raises as `submit`."""
        settings = self._shared.settings
        try:
            return self._shared.batches.acquire(settings.wait_s, lambda: self._error is not None)
        except Cancelled:
            self.check()
            raise

    def cancel(self) -> None:
        """From any thread: end the segment with Cancelled, unless another error came first."""
        with self._state:
            self._fail(Cancelled("the segment was given up", retry="elsewhere"))
            self._drop_queue()
            self._state.notify_all()
        self._packer.stop()

    def abort(self) -> None:
        """Stop, wait until no thread works for this segment, free all buffers; nothing of it stays known.

        Raises: DeadlineExceeded (a store hangs; its buffer is freed when it ends).
        """
        self.cancel()
        self._packer.drop()
        with self._state:
            ended = self._state.wait_for(self._idle, self._shared.settings.wait_s)
        self._plan.known.own.forget([each.container_id for each in self._packer.stored])
        if not ended:
            raise DeadlineExceeded("threads of a segment that was given up still hang", scope="agent")

    def close(self) -> None:
        """After `drain` or `abort`: what is kept of a segment, megabytes, goes with its last user.

        Else it would wait for a collection of cycles, and dozens of segments with it.
        """
        self._packer.close()

    # --- scheduling ---------------------------------------------------------------------------

    def _idle(self) -> bool:
        return not self._running and not self._packer.storing

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait, as long as a batch or a store ends now and then."""
        with self._state:
            while not ready():
                self.check()
                if not self._state.wait_for(self._moved_since(self._progress), self._shared.settings.wait_s):
                    raise DeadlineExceeded(
                        f"no batch and no store of this segment ended in {self._shared.settings.wait_s:g} s",
                        hint="the medium hangs, or the agent is overloaded",
                    )
            self.check()

    def _moved_since(self, seen: int) -> Callable[[], bool]:
        return lambda: self._progress != seen or self._error is not None

    def _pump(self) -> None:
        """Start what may start; the caller holds `_state`."""
        settings = self._shared.settings
        if self._error is not None:
            self._drop_queue()
        while (
            self._queue
            and self._running < settings.workers
            and self._packer.storing < settings.stores_per_segment
        ):
            index, batch = self._queue.popleft()
            self._running += 1
            self._shared.workers.submit(self._run, index, batch)

    def _drop_queue(self) -> None:
        while self._queue:
            self._free(self._queue.popleft()[1])

    def _free(self, batch: Batch) -> None:
        if batch.buffer is not None:
            self._shared.batches.release(batch.buffer)
            batch.buffer = None

    def _store_ended(self, error: Exception | None) -> None:
        with self._state:
            self._ended(error)

    def _ended(self, error: Exception | None) -> None:
        """A batch or a store has ended; the caller holds `_state`."""
        self._progress += 1
        if error is not None:
            self._fail(error)
        self._pump()
        self._state.notify_all()

    def _fail(self, error: Exception) -> None:
        """Note the first error; the caller holds `_state`."""
        if self._error is None:
            self._error = error if isinstance(error, StaddleError) else _unexpected(error)
            self._shared.batches.wake()

    # --- the work -----------------------------------------------------------------------------

    def _run(self, index: int, batch: Batch) -> None:
        error: Exception | None = None
        rows: BatchRows | None = None
        try:
            rows = self._work(batch)
        except Exception as caught:  # noqa: BLE001 - it crosses threads and is raised by submit or drain
            error = caught
        finally:
            self._free(batch)
            with self._state:
                self._results[index] = rows
                self._running -= 1
                self._ended(error)

    def _work(self, batch: Batch) -> BatchRows:
        """Fingerprint, look up, compress, seal."""
        starts, lengths = np.array(batch.rows.starts, np.int64), np.array(batch.rows.lengths, np.uint64)
        numbers = np.full(len(starts), ZERO_ROW, np.int64)
        ordinals = np.zeros(len(starts), np.uint32)
        fingerprints = np.zeros((len(starts), 32), np.uint8)
        data = np.flatnonzero(starts >= 0)
        if batch.buffer is not None and len(data):
            view = memoryview(batch.buffer)
            sizes = lengths[data].tolist()
            views = [view[at : at + size] for at, size in zip(starts[data].tolist(), sizes, strict=True)]
            prints = list(map(self._plan.keys.fingerprint, views))
            fingerprints[data] = np.frombuffer(b"".join(prints), np.uint8).reshape(-1, 32)
            numbers[data], ordinals[data] = self._place(prints, views, sizes)
        return BatchRows(fingerprints=fingerprints, numbers=numbers, ordinals=ordinals, lengths=lengths)

    def _place(
        self, prints: list[bytes], views: list[memoryview], sizes: list[int]
    ) -> tuple[list[int], list[int]]:
        """Where each chunk is or will be: container numbers or claims, and ordinals."""
        claims = self._claims
        ask = [i for i, each in enumerate(prints) if each not in claims]
        places = self._plan.known.find([prints[i] for i in ask], [sizes[i] for i in ask])
        known = {i: place for i, place in zip(ask, places, strict=True) if place is not None}
        numbers, ordinals = [0] * len(prints), [0] * len(prints)
        mine: list[int] = []
        with self._claim_lock:
            for i, each in enumerate(prints):
                place = known.get(i)
                if place is not None:
                    numbers[i], ordinals[i] = self.table.number(place[0]), place[1]
                    continue
                claim = claims.get(each)
                if claim is None:
                    claim = claims[each] = len(self._claimed)
                    self._claimed.append(0)
                    mine.append(i)
                numbers[i] = _FIRST_CLAIM - claim
            self.hits += len(prints) - len(mine)
            self.hit_bytes += sum(sizes) - sum([sizes[i] for i in mine])
        if mine:
            self._store(mine, prints, views, sizes)
        return numbers, ordinals

    def _store(self, mine: list[int], prints: list[bytes], views: list[memoryview], sizes: list[int]) -> None:
        """Compress the chunks that are new, and seal them in stream order."""
        compressor = self._shared.compressor(self._plan.level)
        bodies = []
        for i in mine:
            self.check()
            bodies.append(pack(views[i], compressor))
        new = [prints[i] for i in mine]
        places = self._packer.pack(new, bodies, [sizes[i] for i in mine])
        with self._claim_lock:
            for each, number, ordinal in zip(new, *places, strict=True):
                self._claimed[self._claims[each]] = number << _ORDINAL_BITS | ordinal


def _unexpected(error: Exception) -> StaddleError:
    wrapped = StaddleError(
        f"packing failed unexpectedly: {error!r}",
        hint="this is a defect or a lack of memory; another agent may succeed",
        code="INTERNAL",
        retry="elsewhere",
        scope="agent",
    )
    wrapped.__cause__ = error
    return wrapped
