"""What a stream may refer to instead of storing it again: its own chunks, and usable hits of the library.

- S2: chunks that are not committed yet are visible only to the (stream, epoch) that stored them.
- G1: a hit of the library counts only if its container now meets the pool's copies, media and lock time; the
  manager is asked once per container, in batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

U8Array = NDArray[np.uint8]

OWN_CHUNKS_MAX = 100_000
"""Bound of the chunks one (stream, epoch) remembers as its own: about 20 MB."""

Place = tuple[bytes, int]
"""(container id, ordinal): where a chunk is stored."""


class LibraryHits(Protocol):
    """Answer of the fingerprint library to n fingerprints, in columns.

    Attributes:
        found: bool[n].
        container: index[n] into `containers`; meaningless where not found.
        containers: table of ids, shape (m, 16).
        ordinal: u32[n].
        raw_length: u32[n], bytes.
    """

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which fingerprints are in the library."""

    @property
    def container(self) -> NDArray[np.integer]:
        """Index into `containers`."""

    @property
    def containers(self) -> U8Array:
        """Container ids."""

    @property
    def ordinal(self) -> NDArray[np.uint32]:
        """Ordinal in the container."""

    @property
    def raw_length(self) -> NDArray[np.uint32]:
        """Raw length in bytes."""


Lookup = Callable[[U8Array], LibraryHits]
"""Looks up fingerprints of shape (n, 32)."""

Usable = Callable[[Sequence[bytes]], Collection[bytes]]
"""Says which of these containers now meet the pool's rules (G1)."""


class OwnChunks:
    """Chunks stored by one (stream, epoch), until the library has them. Thread-safe; bounded."""

    def __init__(self, chunks_max: int = OWN_CHUNKS_MAX) -> None:
        """Bound the memory.

        Args:
            chunks_max: beyond it the oldest containers are forgotten; their chunks may be stored twice.
        """
        self._chunks_max = chunks_max
        self._lock = threading.Lock()
        self._places: dict[bytes, Place] = {}
        self._containers: dict[bytes, list[bytes]] = {}  # in the order they were stored

    def __len__(self) -> int:
        return len(self._places)

    def get(self, fingerprint: bytes) -> Place | None:
        """Where this stream stored a chunk, if it did and remembers."""
        return self._places.get(fingerprint)

    def add(self, container_id: bytes, fingerprints: list[bytes]) -> None:
        """A container of this stream is stored; ordinals are the positions in `fingerprints`."""
        with self._lock:
            self._containers[container_id] = fingerprints
            for ordinal, fingerprint in enumerate(fingerprints):
                self._places[fingerprint] = (container_id, ordinal)
            while len(self._places) > self._chunks_max and len(self._containers) > 1:
                self._drop(next(iter(self._containers)))

    def forget(self, container_ids: Iterable[bytes]) -> None:
        """These containers are published in the library, or will never be committed."""
        with self._lock:
            for container_id in container_ids:
                self._drop(container_id)

    def _drop(self, container_id: bytes) -> None:
        for fingerprint in self._containers.pop(container_id, ()):
            if self._places.get(fingerprint, (b"", 0))[0] == container_id:
                del self._places[fingerprint]


class KnownChunks:
    """Finds places of known chunks for one (stream, epoch). Thread-safe."""

    def __init__(self, lookup: Lookup, usable: Usable, own: OwnChunks | None = None) -> None:
        """Args: lookup: of the fingerprint library. usable: the manager's word on containers."""
        self.own = own if own is not None else OwnChunks()
        self._lookup = lookup
        self._usable = usable
        self._verdicts: dict[bytes, bool] = {}
        self._refused: frozenset[bytes] = frozenset()

    def refuse(self, container_ids: Iterable[bytes]) -> None:
        """COMMIT was refused for these (G2, Gone): never refer to them again in this epoch."""
        ids = frozenset(container_ids)
        self._refused |= ids
        self.own.forget(ids)

    def usable(self, container_ids: Iterable[bytes]) -> set[bytes]:
        """The subset that may be referred to; asks for those not asked before."""
        ids = set(container_ids)
        if ask := [container_id for container_id in ids if container_id not in self._verdicts]:
            good = self._usable(ask)
            self._verdicts.update({container_id: container_id in good for container_id in ask})
        verdicts, refused = self._verdicts, self._refused
        return {
            container_id for container_id in ids if verdicts[container_id] and container_id not in refused
        }

    def find(self, fingerprints: Sequence[bytes], lengths: Sequence[int]) -> list[Place | None]:
        """Places of chunks, None for those that must be stored.

        Args:
            fingerprints: 32 bytes each.
            lengths: raw lengths in bytes; a hit of another length is no hit.
        """
        places = list(map(self.own.get, fingerprints))
        ask = [i for i, place in enumerate(places) if place is None]
        if not ask:
            return places
        keys = np.frombuffer(b"".join([fingerprints[i] for i in ask]), np.uint8).reshape(-1, 32)
        hits = self._lookup(keys)
        found = hits.found & (hits.raw_length == np.array([lengths[i] for i in ask], np.uint32))
        at = np.flatnonzero(found)
        if not len(at):
            return places
        ids = {index: hits.containers[index].tobytes() for index in np.unique(hits.container[at]).tolist()}
        good = self.usable(ids.values())
        numbers, ordinals = hits.container[at].tolist(), hits.ordinal[at].tolist()
        for row, number, ordinal in zip(at.tolist(), numbers, ordinals, strict=True):
            if ids[number] in good:
                places[ask[row]] = (ids[number], ordinal)
        return places
