"""The `memory` medium: the contract in its shortest form, for tests and as a model for the others.

Stores are named and belong to the process, so that several openers (the agents of a simulation) share one.
It can fence: an open for writing with a higher epoch shuts out lower ones, under one lock.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator, Sequence
from typing import ClassVar

import blake3

from staddle.api.checks import check_deadline, check_range, checked_name
from staddle.api.media import Deadline, Mode, check_label
from staddle.api.types import (
    Buffer,
    Capability,
    Capacity,
    Durability,
    Health,
    Label,
    MediumState,
    ObjectInfo,
    Receipt,
    Surety,
)
from staddle.errors import Conflict, Corrupt, Denied, Fenced, MediumFailed, MediumFull, NotFound
from staddle.media.options import MemoryConfig


class Store:
    """What is shared by all openers of one store."""

    _all: ClassVar[dict[str, Store]] = {}
    _all_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.text = b""
        self.objects: dict[str, bytes] = {}
        self.names: list[str] = []
        self.used_bytes = 0
        self.epoch = 0

    @classmethod
    def named(cls, name: str) -> Store:
        """The store of that name, made if it is new."""
        with cls._all_lock:
            return cls._all.setdefault(name, cls())

    @classmethod
    def forget(cls, name: str) -> None:
        """Drop a store: its openers keep it, new ones get an empty one."""
        with cls._all_lock:
            cls._all.pop(name, None)


class MemoryMedium:
    """A medium in the memory of this process."""

    def __init__(self, name: str, config: object) -> None:
        """Args: name: also the store's, unless the config says otherwise. config: a MemoryConfig."""
        assert isinstance(config, MemoryConfig)
        self.name = name
        self._config = config
        self._store = Store.named(config.store or name)

    def initialize(self, label: Label, text: bytes, deadline: Deadline) -> None:
        """Write the label. Raises Conflict if there is another, or anything else."""
        with self._store.lock:
            if self._store.text != text and (self._store.text or self._store.objects):
                raise Conflict(f"memory store of {self.name} is labelled already, as another volume")
            self._store.text = bytes(text)

    def read_label(self, deadline: Deadline) -> bytes:
        """The label's text."""
        if not self._store.text:
            raise NotFound(f"memory store of {self.name} has no label", scope="volume")
        return self._store.text

    def open(self, label: Label, mode: Mode, epoch: int, deadline: Deadline) -> MemoryVolume:
        """Open the volume; for writing, lower epochs are shut out from now on."""
        try:
            check_label(self.read_label(deadline), label, f"memory store of {self.name}")
        except NotFound as error:
            raise MediumFailed(error.message, code="LABEL_GONE") from None
        volume = MemoryVolume(label, self._store, self._config, mode, epoch)
        if mode == "write":
            with self._store.lock:
                volume.check_epoch()
                self._store.epoch = epoch
        return volume

    def probe(self, deadline: Deadline) -> list[Capability]:
        """All of it is known by construction."""
        names = ("RANDOM_READ", "CONDITIONAL_PUT", "FENCE", "CAPACITY")
        return [Capability(name, Surety.PROBED, "a dictionary under a lock") for name in names]

    def health(self, deadline: Deadline) -> Health:
        """Always up."""
        return Health(MediumState.UP)

    def close(self) -> None:
        """Nothing is held."""


class MemoryVolume:
    """An open store."""

    def __init__(self, label: Label, store: Store, config: MemoryConfig, mode: Mode, epoch: int) -> None:
        """Args: as `MemoryMedium.open`, with the store that holds the objects."""
        self.label = label
        self._store = store
        self._config = config
        self._mode = mode
        self._epoch = epoch

    def check_epoch(self) -> None:
        """Raises Fenced if a later holder has opened the store. Call it under the store's lock."""
        if self._epoch < self._store.epoch:
            raise Fenced(f"epoch {self._epoch} is fenced: the store is held by epoch {self._store.epoch}")

    def put(self, name: str, parts: Sequence[Buffer], digest: bytes, deadline: Deadline) -> Receipt:
        """Keep a copy of the bytes."""
        checked_name(name)
        data = b"".join(parts)
        if blake3.blake3(data).digest() != digest:
            raise Corrupt(f"object {name}: the bytes to be written don't have the digest that was given")
        with self._store.lock:
            self._check_writable()
            check_deadline(deadline, f"put {name}")
            held = self._store.objects.get(name)
            if held is None:
                self._insert(name, data)
            elif held != data:
                raise Conflict(f"object {name} holds other bytes; they were kept")
        return Receipt(
            name=name,
            size_bytes=len(data),
            digest=bytes(digest),
            volume=self.label.volume,
            durability=Durability.MEMORY,
        )

    def _insert(self, name: str, data: bytes) -> None:
        if self._store.used_bytes + len(data) > self._config.capacity_bytes:
            raise MediumFull(
                f"no room for the {len(data)} bytes of object {name}", hint="raise capacity_bytes"
            )
        self._store.objects[name] = data
        self._store.used_bytes += len(data)
        bisect.insort(self._store.names, name)

    def get(self, name: str, offset: int, length: int, deadline: Deadline) -> bytes:
        """A range of an object."""
        check_deadline(deadline, f"get {name}")
        data = self._held(name)
        check_range(name, offset, length, len(data))
        return data[offset : offset + length]

    def stat(self, name: str, deadline: Deadline) -> ObjectInfo:
        """Size of an object."""
        check_deadline(deadline, f"stat {name}")
        return ObjectInfo(name, len(self._held(name)))

    def list(self, after: str, deadline: Deadline, prefix: str = "") -> Iterator[ObjectInfo]:
        """Names in order; the lock is held for one step at a time."""
        while True:
            check_deadline(deadline, "list")
            with self._store.lock:
                names = self._store.names
                at = max(bisect.bisect_right(names, after), bisect.bisect_left(names, prefix))
                if at == len(names) or not names[at].startswith(prefix):
                    return
                after = names[at]
                found = ObjectInfo(after, len(self._store.objects[after]))
            yield found

    def delete(self, name: str, deadline: Deadline) -> None:
        """Remove one placement."""
        checked_name(name)
        check_deadline(deadline, f"delete {name}")
        with self._store.lock:
            self._check_writable()
            data = self._store.objects.pop(name, None)
            if data is not None:
                self._store.used_bytes -= len(data)
                del self._store.names[bisect.bisect_left(self._store.names, name)]

    def capacity(self) -> Capacity:
        """Room left."""
        total = self._config.capacity_bytes
        free = max(0, total - self._store.used_bytes)
        return Capacity(total, free, low=free < self._config.reserve_bytes)

    def close(self) -> None:
        """Nothing is held."""

    def _held(self, name: str) -> bytes:
        data = self._store.objects.get(checked_name(name))
        if data is None:
            raise NotFound(f"no object {name}")
        return data

    def _check_writable(self) -> None:
        if self._mode != "write":
            raise Denied("the store was opened for reading", code="READ_ONLY", retry="never")
        self.check_epoch()
