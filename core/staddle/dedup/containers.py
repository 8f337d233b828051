"""Container ids by small index, so that a row names its container in 4 bytes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from staddle.dedup.rows import CONTAINER_ID_BYTES, BoolArray, IndexArray, U8Array

_CAPACITY_MIN = 256
_FREE = bytes(CONTAINER_ID_BYTES)  # no UUID of any version but nil


class ContainerTable:
    """Container ids by index, and which of them are dead (removed, rows not yet merged away).

    Readers hold `ids` and `dead` as they were: a used index is never changed in place, the arrays are
    replaced instead. Written by one thread at a time.

    Attributes:
        ids: shape (capacity, 16).
        dead: shape (capacity,).
    """

    def __init__(self, packed: bytes = b"") -> None:
        count = len(packed) // CONTAINER_ID_BYTES
        self.ids: U8Array = np.zeros((max(count, _CAPACITY_MIN), CONTAINER_ID_BYTES), np.uint8)
        self.ids[:count] = np.frombuffer(packed, np.uint8).reshape(-1, CONTAINER_ID_BYTES)
        self.dead: BoolArray = np.zeros(len(self.ids), np.bool_)
        self._count = count
        self._free: list[int] = []
        self._index: dict[bytes, int] = {}
        for index in range(count):
            container_id = packed[index * CONTAINER_ID_BYTES : (index + 1) * CONTAINER_ID_BYTES]
            if container_id == _FREE:
                self._free.append(index)
            else:
                self._index[container_id] = index

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, container_id: bytes) -> bool:
        return container_id in self._index

    def index_of(self, container_id: bytes) -> int:
        """Index of a live container; a new one is given an index."""
        index = self._index.get(container_id)
        if index is not None:
            return index
        if self._free:
            index = self._free.pop()
        else:
            index = self._count
            self._count += 1
            if index == len(self.ids):
                self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)])
                self.dead = np.concatenate([self.dead, np.zeros_like(self.dead)])
        self.ids[index] = np.frombuffer(container_id, np.uint8)
        self._index[container_id] = index
        return index

    def remove(self, container_ids: Iterable[bytes]) -> None:
        """Mark live containers dead; unknown ids are passed over. The same id later is a new container."""
        self.dead = self.dead.copy()
        for container_id in container_ids:
            index = self._index.pop(container_id, None)
            if index is not None:
                self.dead[index] = True

    def pack_live(self) -> bytes:
        """Ids by index, free where dead: the table once the rows of the dead are gone."""
        ids = self.ids[: self._count].copy()
        ids[self.dead[: self._count]] = 0
        return ids.tobytes()

    def release(self, indices: IndexArray) -> None:
        """Free dead indices that no row names any more."""
        if not len(indices):
            return
        self.ids, self.dead = self.ids.copy(), self.dead.copy()
        self.ids[indices] = 0
        self.dead[indices] = False
        self._free.extend(indices.tolist())

    @property
    def memory_bytes(self) -> int:
        """Bytes held, the dictionary estimated."""
        return self.ids.nbytes + self.dead.nbytes + 150 * len(self._index)
