"""The containers of one segment: seals chunks into the open one, stores full ones in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from staddle.api.types import Buffer, Receipt
from staddle.data.container import ContainerBuilder
from staddle.data.crypto import KEY_BYTES, NONCE_BYTES
from staddle.data.pipeline import Pipeline, StreamPlan
from staddle.errors import Cancelled


class StoredContainer(msgspec.Struct, frozen=True, kw_only=True):
    """A container that media have given receipts for; for COMMIT and for the fingerprint library.

    Attributes:
        container_id: 16 bytes.
        receipts: one for each copy.
        size_bytes: the whole object.
        digest: the one in its footer (`SealedContainer.content_digest`).
        fingerprints: (n, 32) u8, by ordinal.
        raw_lengths: (n,) u32, bytes.
    """

    container_id: bytes
    receipts: list[Receipt]
    size_bytes: int
    digest: bytes
    fingerprints: NDArray[np.uint8]
    raw_lengths: NDArray[np.uint32]


class ContainerTable:
    """Containers that a segment refers to, numbered in order of first use. Guarded by its own lock."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def number(self, container_id: bytes) -> int:
        """The container's number; a new one for a new container."""
        number = self._numbers.get(container_id)
        if number is not None:
            return number
        with self._lock:
            number = self._numbers.setdefault(container_id, len(self.ids))
            if number == len(self.ids):
                self.ids.append(container_id)
            return number


class Packer:
    """Seals in the callers' threads, one at a time; stores in the pipeline's store threads."""

    def __init__(
        self,
        shared: Pipeline,
        plan: StreamPlan,
        table: ContainerTable,
        changed: Callable[[Exception | None], None],
    ) -> None:
        """Begin without a container.

        Args:
            shared: buffers and threads.
            plan: of the stream.
            table: numbers the containers.
            changed: called from a store thread when a store has ended, with its error if it failed.
        """
        self._shared = shared
        self._plan = plan
        self._table = table
        self._changed = changed
        self._lock = threading.Lock()
        self._open: tuple[ContainerBuilder, bytearray, list[bytes]] | None = None
        self._count_lock = threading.Lock()
        self._aborted = False
        self.storing = 0
        self.stored: list[StoredContainer] = []

    def pack(
        self, fingerprints: Sequence[bytes], bodies: Sequence[Buffer], lengths: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Seal chunks one behind the other; (container number, ordinal) of each, in two lists.

        Raises: Unavailable (no container buffer became free), Cancelled.
        """
        numbers: list[int] = []
        ordinals: list[int] = []
        with self._lock:
            for fingerprint, body, length in zip(fingerprints, bodies, lengths, strict=True):
                if self._open is None or not self._open[0].fits(len(body)):
                    self._close()
                    self._open = self._begin()
                    number = self._table.number(self._open[0].container_id)
                elif not numbers:
                    number = self._table.number(self._open[0].container_id)
                builder, _, sealed = self._open
                ordinals.append(builder.add_packed(fingerprint, body, length))
                sealed.append(fingerprint)
                numbers.append(number)
        return numbers, ordinals

    def flush(self) -> None:
        """Hand over the open container as it is."""
        with self._lock:
            self._close()

    def stop(self) -> None:
        """Begin no further container and no further store."""
        self._aborted = True
        self._shared.containers.wake()

    def close(self) -> None:
        """Nothing is on its way any more: let go of who was told of it, who in turn holds this."""
        self._changed = _nobody

    def drop(self) -> None:
        """Free the open container; after `stop`, so that no other is begun."""
        with self._lock:
            if self._open is not None:
                self._shared.containers.release(self._open[1])
                self._open = None

    def _begin(self) -> tuple[ContainerBuilder, bytearray, list[bytes]]:
        if self._aborted:
            raise Cancelled("the segment was given up", retry="elsewhere")
        settings, ids = self._shared.settings, self._plan.ids
        buffer = self._shared.containers.acquire(settings.wait_s, lambda: self._aborted)
        builder = ContainerBuilder(
            self._plan.keys,
            ids.new_id(),
            ids.random(KEY_BYTES),
            ids.random(NONCE_BYTES),
            capacity_bytes=settings.container_bytes,
            buffer=buffer,
        )
        return builder, buffer, []

    def _close(self) -> None:
        if self._open is None:
            return
        builder, buffer, fingerprints = self._open
        self._open = None
        with self._count_lock:
            self.storing += 1
        self._shared.stores.submit(self._store, builder, buffer, fingerprints)

    def _store(self, builder: ContainerBuilder, buffer: bytearray, fingerprints: list[bytes]) -> None:
        error: Exception | None = None
        try:
            if not self._aborted:
                self._finish(builder, fingerprints)
        except Exception as caught:  # noqa: BLE001 - it crosses threads and is raised by the segment's owner
            error = caught
        finally:
            self._shared.containers.release(buffer)
            with self._count_lock:
                self.storing -= 1
            self._changed(error)

    def _finish(self, builder: ContainerBuilder, fingerprints: list[bytes]) -> None:
        sealed = builder.finish()
        receipts = list(self._plan.store(sealed))
        if self._aborted:
            return  # an orphan: nothing may refer to it
        self._plan.known.own.add(sealed.container_id, fingerprints)
        with self._count_lock:
            self.stored.append(
                StoredContainer(
                    container_id=sealed.container_id,
                    receipts=receipts,
                    size_bytes=sealed.size_bytes,
                    digest=sealed.content_digest,
                    fingerprints=sealed.fingerprints,
                    raw_lengths=sealed.raw_lengths,
                )
            )


def _nobody(_error: Exception | None) -> None:
    """Is told when a packer was closed."""
