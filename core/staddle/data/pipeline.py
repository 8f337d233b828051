"""What all streams of one agent process share: buffers, worker threads, and their bounds.

Threads: the caller's own thread copies records into a buffer and cuts them; `workers` threads fingerprint,
look up, compress and seal; store threads put containers on media. Every native call of weight (cutting,
BLAKE3, zstd, AES) works on 32 KiB and more and releases the interpreter lock.

Why nothing can block for ever: an unfinished segment keeps at most one batch buffer and one container buffer
to itself, and there are more of either than segments; every other buffer is on its way through a worker or a
store, which end by their deadlines.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import zstandard

from staddle.api.types import Receipt
from staddle.data.base import BaseRows
from staddle.data.buffers import BATCH_BYTES, BufferPool
from staddle.data.chunker import Chunker
from staddle.data.container import SealedContainer
from staddle.data.crypto import DomainKeys
from staddle.data.known import KnownChunks
from staddle.data.records import PAYLOAD_BYTES_MAX
from staddle.errors import Unavailable
from staddle.platform.threads import started_pool

CONTAINER_BYTES = 16 * 1024 * 1024
"""A full container. Half of the format's largest: storing overlaps with packing within a segment of 64 MiB,
and four streams fit into the agent's memory."""

_CORES = max(2, os.cpu_count() or 1)

Store = Callable[[SealedContainer], Sequence[Receipt]]
"""Puts a container on every medium of the stream, by its own deadline, and gives the receipts."""


class Ids(Protocol):
    """Where ids and keys come from: the system's generator, or a seeded one in tests."""

    def new_id(self) -> bytes:
        """A fresh UUIDv7, 16 bytes."""

    def random(self, length: int) -> bytes:
        """`length` unpredictable bytes."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of an agent's data plane. Peak memory is about the sum of both kinds of buffers.

    Attributes:
        workers: threads that hash and compress.
        segments_max: unfinished segments at once, over all streams (two a stream).
        batch_bytes: size of the buffers that collect records; at least one payload.
        batches_max: how many of them, over all streams.
        container_bytes: size of a full container.
        containers_max: how many may be open or on their way to media, over all streams.
        queued_per_segment: full batches of one segment that may wait for a worker.
        stores_per_segment: containers of one segment on their way before its packing pauses.
        wait_s: longest wait for a buffer, a worker or a store without any progress.
    """

    workers: int = _CORES
    segments_max: int = 8
    batch_bytes: int = BATCH_BYTES
    batches_max: int = 10 + _CORES
    container_bytes: int = CONTAINER_BYTES
    containers_max: int = 8 + _CORES
    queued_per_segment: int = 3
    stores_per_segment: int = 2
    wait_s: float = 120.0

    def __post_init__(self) -> None:
        if min(self.batches_max, self.containers_max) <= self.segments_max:
            raise ValueError(
                "more batches and containers than segments are needed, or streams block each other"
            )
        if self.batch_bytes < PAYLOAD_BYTES_MAX:
            raise ValueError("a batch must have room for a record's payload")
        if min(self.workers, self.segments_max, self.queued_per_segment, self.stores_per_segment) < 1:
            raise ValueError("every bound of the pipeline is at least 1")


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the segments of one (stream, epoch) have in common.

    Attributes:
        keys: of the dedup domain.
        ids: where ids and keys come from.
        store: puts a container on the stream's media.
        known: finds chunks that need not be stored.
        base: chunk rows of the base backup, None where there is none.
        level: of zstd.
    """

    keys: DomainKeys
    ids: Ids
    store: Store
    known: KnownChunks
    base: BaseRows | None = None
    level: int = 1


class Pipeline:
    """The shared part. One for each data process; `close` ends all its threads."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Args: settings: bounds; the defaults suit four streams in 384 MiB."""
        self.settings = settings or Settings()
        s = self.settings
        self.batches = BufferPool(s.batch_bytes, s.batches_max)
        self.containers = BufferPool(s.container_bytes, s.containers_max)
        self.workers = started_pool(s.workers, "staddle-pack")
        self.stores = started_pool(s.containers_max, "staddle-store")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._segments = 0

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """This thread's compressor of that level: they are not thread-safe, and costly to make."""
        made: dict[int, zstandard.ZstdCompressor] | None = getattr(self._local, "compressors", None)
        if made is None:
            made = self._local.compressors = {}
        if level not in made:
            made[level] = zstandard.ZstdCompressor(level=level)
        return made[level]

    def enter(self, plan: StreamPlan) -> Chunker:
        """A segment begins; `leave` must follow. Raises Unavailable if too many are unfinished."""
        chunker = Chunker(plan.keys.chunker)
        if 2 * chunker.carry_bytes_max > self.settings.batch_bytes:
            raise ValueError("the domain's chunks are too long for the batches of this pipeline")
        if 2 * chunker.max_bytes > self.settings.container_bytes:
            raise ValueError("the domain's chunks are too long for the containers of this pipeline")
        with self._lock:
            if self._segments >= self.settings.segments_max:
                raise Unavailable(
                    f"this agent already works on {self._segments} segments",
                    hint="wait for one to be committed, or use another agent",
                    retry="elsewhere",
                    scope="agent",
                )
            self._segments += 1
        return chunker

    def leave(self) -> None:
        """A segment is finished or given up."""
        with self._lock:
            self._segments -= 1

    def close(self) -> None:
        """End all threads and free all buffers. Segments must have been finished or aborted. Idempotent."""
        self.batches.close()
        self.containers.close()
        self.workers.shutdown(wait=True, cancel_futures=True)
        self.stores.shutdown(wait=True, cancel_futures=True)
