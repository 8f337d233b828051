"""The restore side: verified raw chunks of manifest rows, from whichever copies of containers can be read.

Rows are taken in batches of bounded raw size. Within a batch each container is opened once and its chunks are
read in the order in which they lie there; the next batch is read in the background while the caller uses
this one. A copy that fails in the middle is reported and the next one goes on where it stopped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.api.media import Deadline, Volume
from staddle.data.container import ContainerReader
from staddle.data.crypto import DomainKeys
from staddle.data.manifest import ZERO_REGION, Chunks
from staddle.errors import Cancelled, Corrupt, DeadlineExceeded, MediumFailed, NotFound, StaddleError
from staddle.platform.shortage import is_shortage

BATCH_RAW_BYTES = 32 * 1024 * 1024
"""Raw bytes of one batch; two of them are in memory at a time."""

DIRECTORIES_BYTES_MAX = 16 << 20
"""Of the directories of containers that are kept; one of small files' chunks may have megabytes."""

_ROWS_MAX = 1 << 16  # of one batch: bounds what the caller's small files cost


class Copy(msgspec.Struct, frozen=True):
    """One copy of a container: the open volume, the object's name on it, its size in bytes."""

    volume: Volume
    name: str
    size_bytes: int


Locate = Callable[[bytes], Sequence[Copy]]
"""Copies of a container, the best first. Raises NotFound, or gives none, if there are none now."""

BadCopy = Callable[[bytes, Copy, StaddleError], None]
"""Told of each copy that failed: (container id, copy, error). Called from reading threads."""


_Found = dict[bytes, bytes]
"""Fingerprint -> raw bytes."""


class ChunkReader:
    """Reads chunks of one dedup domain. Used by one thread; a context manager that ends its threads."""

    def __init__(
        self,
        keys: DomainKeys,
        locate: Locate,
        bad_copy: BadCopy,
        *,
        batch_raw_bytes: int = BATCH_RAW_BYTES,
        threads: int = 3,
        get_timeout_s: float = 30.0,
        batch_timeout_s: float = 600.0,
        directories_bytes_max: int = DIRECTORIES_BYTES_MAX,
    ) -> None:
        """Begin without anything open.

        Args:
            keys: of the domain.
            locate: finds copies.
            bad_copy: is told of copies that failed.
            batch_raw_bytes: raw bytes read ahead; the peak is about twice that, and one chunk.
            threads: containers read at a time.
            get_timeout_s: deadline of one get.
            batch_timeout_s: longest wait for a batch, over all its copies.
            directories_bytes_max: of containers' directories kept between batches.
        """
        self._keys = keys
        self._locate = locate
        self._bad_copy = bad_copy
        self._batch_raw_bytes = batch_raw_bytes
        self._get_timeout_s = get_timeout_s
        self._batch_timeout_s = batch_timeout_s
        self._directories_bytes_max = directories_bytes_max
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="staddle-read")
        self._lock = threading.Lock()
        self._closed = False
        self._idle: OrderedDict[bytes, tuple[list[Copy], ContainerReader]] = OrderedDict()
        self._idle_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; gets that have begun end by their deadlines. Idempotent."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._idle.clear()

    def read(self, chunks: Chunks, rows: NDArray[np.integer]) -> Iterator[tuple[int, bytes | None]]:
        """(row, raw bytes) of each of `rows`, in that order; None for a zero region of the row's length.

        Args:
            chunks: of a manifest.
            rows: indexes into it, in any order, repeated as often as wanted.

        Raises: Corrupt or MediumFailed, with retry `elsewhere`, if a chunk can't be read from any copy;
        DeadlineExceeded.
        """
        ahead: tuple[list[int], list[Future[_Found]]] | None = None
        for batch in self._batches(chunks, rows):
            begun = batch, self._begin(chunks, batch)
            if ahead is not None:
                yield from self._results(chunks, *ahead)
            ahead = begun
        if ahead is not None:
            yield from self._results(chunks, *ahead)

    def _batches(self, chunks: Chunks, rows: NDArray[np.integer]) -> Iterator[list[int]]:
        """Rows whose different chunks together have at most the batch's raw size (or one row)."""
        at = np.asarray(rows, np.int64)
        columns = (at, chunks.container[at], chunks.ordinals[at], chunks.lengths[at])
        batch: list[int] = []
        seen: set[tuple[int, int]] = set()
        size = 0
        for row, container, ordinal, length in zip(*(column.tolist() for column in columns), strict=True):
            place = (container, ordinal)
            more = 0 if container == ZERO_REGION or place in seen else length
            if batch and (size + more > self._batch_raw_bytes or len(batch) >= _ROWS_MAX):
                yield batch
                batch, seen, size = [], set(), 0
                more = 0 if container == ZERO_REGION else length
            batch.append(row)
            seen.add(place)
            size += more
        if batch:
            yield batch

    def _begin(self, chunks: Chunks, batch: list[int]) -> list[Future[_Found]]:
        """Start to read what a batch needs, each container once, each chunk from one of them."""
        tasks: dict[bytes, dict[bytes, int]] = {}
        asked: set[bytes] = set()
        for row in batch:
            container = int(chunks.container[row])
            fingerprint = chunks.fingerprints[row].tobytes()
            if container != ZERO_REGION and fingerprint not in asked:
                asked.add(fingerprint)
                tasks.setdefault(chunks.containers[container], {})[fingerprint] = int(chunks.ordinals[row])
        return [self._pool.submit(self._container, *task) for task in tasks.items()]

    def _results(
        self, chunks: Chunks, batch: list[int], futures: list[Future[_Found]]
    ) -> Iterator[tuple[int, bytes | None]]:
        _, late = wait(futures, self._batch_timeout_s)
        if late:
            raise DeadlineExceeded(
                f"{len(late)} containers could not be read in {self._batch_timeout_s:g} s",
                hint="a medium hangs: restore through another agent",
            )
        data: _Found = {}
        for future in futures:
            data.update(future.result())
        for row in batch:
            container = int(chunks.container[row])
            if container == ZERO_REGION:
                yield row, None
                continue
            raw = data[chunks.fingerprints[row].tobytes()]
            if len(raw) != int(chunks.lengths[row]):
                raise Corrupt(
                    f"chunk row {row} has {int(chunks.lengths[row])} bytes in the manifest, "
                    f"{len(raw)} in container {chunks.containers[container].hex()}"
                )
            yield row, raw

    # --- one container, in a reading thread -----------------------------------------------------

    def _container(self, container_id: bytes, wanted: dict[bytes, int]) -> _Found:
        """Wanted chunks (fingerprint -> ordinal) of one container, from as many of its copies as it takes."""
        with self._lock:
            kept = self._idle.pop(container_id, None)
            self._idle_bytes -= _cost(kept[1]) if kept else 0
        copies, reader = kept or ([], None)
        asked_again = False
        found: _Found = {}
        said: dict[str, StaddleError] = {}  # by medium, since copies are asked for twice
        while True:
            if self._closed:
                raise Cancelled("the restore was given up", retry="elsewhere")
            if not copies:  # none kept; or those that worked for earlier batches have failed now
                if not asked_again:
                    copies = self._located(container_id, said)
                asked_again = True
                if not copies:
                    raise no_copy_left(f"container {container_id.hex()}", said)
            try:
                reader = reader or self._open(container_id, copies[0])
                _take(reader, container_id, wanted, found)
            except Exception as caught:  # noqa: BLE001 - a copy that fails in any way is left for the next
                error = caught if isinstance(caught, StaddleError) else _unexpected(caught)
                bad = copies.pop(0)
                said[bad.volume.label.medium] = error
                self._bad_copy(container_id, bad, error)
                reader = None
                continue
            self._keep(container_id, copies, reader)
            return found

    def _located(self, container_id: bytes, said: dict[str, StaddleError]) -> list[Copy]:
        try:
            return list(self._locate(container_id))
        except StaddleError as error:
            said[""] = error
            return []

    def _open(self, container_id: bytes, copy: Copy) -> ContainerReader:
        def get(offset: int, length: int) -> bytes:
            return copy.volume.get(copy.name, offset, length, Deadline(self._get_timeout_s))

        return ContainerReader(self._keys, get, copy.size_bytes, container_id)

    def _keep(self, container_id: bytes, copies: list[Copy], reader: ContainerReader) -> None:
        """Keep the directory for the next batches, the copy that works first."""
        with self._lock:
            before = self._idle.pop(container_id, None)  # kept by another thread meanwhile
            self._idle[container_id] = (copies, reader)
            self._idle_bytes += _cost(reader)
            self._idle_bytes -= _cost(before[1]) if before else 0
            while self._idle_bytes > self._directories_bytes_max:
                _, (_, last) = self._idle.popitem(last=False)
                self._idle_bytes -= _cost(last)


def _cost(reader: ContainerReader) -> int:
    """What an open container takes in memory, about."""
    return 4096 + 49 * len(reader.directory)


def _take(reader: ContainerReader, container_id: bytes, wanted: dict[bytes, int], found: _Found) -> None:
    """Add to `found` what it does not have yet, in the order in which it lies in the container.

    The fingerprint is the reference and the ordinal a hint, which repacking may have made stale.
    """
    prints = reader.directory.fingerprints
    index: dict[bytes, int] | None = None
    places: dict[int, bytes] = {}
    for fingerprint, hint in wanted.items():
        if fingerprint in found:
            continue
        if hint < len(prints) and prints[hint].tobytes() == fingerprint:
            places[hint] = fingerprint
            continue
        if index is None:
            index = {each.tobytes(): place for place, each in enumerate(prints)}
        if fingerprint not in index:
            raise Corrupt(
                f"container {container_id.hex()} does not hold the chunk {fingerprint.hex()}",
                hint="the manifest and the container do not belong together",
            )
        places[index[fingerprint]] = fingerprint
    for place, raw in reader.read(sorted(places)):
        found[places[place]] = raw


def _unexpected(error: Exception) -> StaddleError:
    wrapped = MediumFailed(f"reading failed unexpectedly: {error!r}")
    if is_shortage(error):
        wrapped.scope, wrapped.retry = "path", "after"
    wrapped.__cause__ = error
    return wrapped


def no_copy_left(what: str, said: Mapping[str, StaddleError]) -> StaddleError:
    """The one error after every copy of an object has failed; says what is wrong with it on which medium.

    Args:
        what: the object, for people.
        said: the last error by medium; that of looking for copies has none.
    """
    damaged = said and all(isinstance(error, Corrupt | NotFound) for error in said.values())
    parts = [
        f"{f'on medium {medium}: ' if medium else ''}{error.code}: {error.message}"
        for medium, error in said.items()
    ]
    if not damaged:
        return MediumFailed(
            f"{what} can't be read from any copy: {'; '.join(parts) or 'no copy is known here'}",
            hint="bring a medium with another copy back, or restore through an agent that reaches one",
            retry="after" if any(error.retry in {"now", "after"} for error in said.values()) else "elsewhere",
            scope="object",
        )
    return Corrupt(
        f"{what} is damaged in every copy: {'; '.join(parts)}",
        hint="the next backup of the same files stores it again; `staddle verify` names what is hit",
    )
