"""The short way to a medium: over any store of keys that creates a key once and never replaces it.

Derive from `StoreMedium`, write five methods, and it makes the whole media contract of them: label, names,
digests, ranges, conflicts, deadlines, health. Such a medium can declare RANDOM_READ, CONDITIONAL_PUT and
CAPACITY, and MULTI_WRITER if several processes may use the store at once. It does not fence: M5 holds since
names are never used again. An object is held in memory once more while it is put. Who needs more than that
implements the protocols of `staddle.api.media`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import blake3

from staddle import errors
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
    check_object_name,
)

LABEL_KEY = "staddle-volume.txt"
"""The key of the label (M10): no object's name, and greater than any."""

LABEL_BYTES_MAX = 64 * 1024


class StoreMedium(ABC):
    """A medium of one volume, whose objects are keys with values.

    Yours are `durability`, `create`, `read`, `page`, `remove`, `capacity`; `prepare` and `close` if they have
    something to do. `load` of your MediaType returns your class, and `self.config` is an instance of its
    `config_type`. Several threads call at once. Keys are ASCII, up to 160 characters (`c0/7f/0192…`).

    - End each call by its deadline, `deadline.left_s()` seconds from now, or raise `DeadlineExceeded`.
    - Raise `MediumFull` where there is no room, `MediumFailed` where the backend is broken or gone; with
      `outcome="in_doubt"` if the call may have taken effect. All errors are in `staddle.errors`.
    - Only `prepare` makes the place that holds the keys. It may be missing since a disk is not mounted: then
      `create` fails, and leaves nothing.
    """

    durability: ClassVar[Durability]
    """What a value survives once `create` has returned: the same as in your MediaType."""

    def __init__(self, name: str, config: Any) -> None:
        """Args: name: of the medium. config: of your `config_type`. No I/O yet."""
        self.name, self.config = name, config
        self._opened: Label | None = None

    # -- what you write

    def prepare(self, deadline: Deadline) -> None:  # noqa: B027 - most places are there already
        """Make the place (directory, bucket, table) where it is missing. Raises Conflict if it is another's.

        Called before a volume is labelled, and at no other time; perhaps again after a crash.
        """

    @abstractmethod
    def create(self, key: str, body: bytes, deadline: Deadline) -> bool:
        """Store a new key, whole or not at all. False: the key exists, and its value stays as it is.

        The step that makes it visible must itself refuse to replace; to look first and write then is not
        enough. Look at the deadline just before that step. After the return, True or False, the value that is
        there survives what `durability` says, and everybody sees it.
        """

    @abstractmethod
    def read(self, key: str, offset: int, length: int, deadline: Deadline) -> tuple[int, bytes] | None:
        """Size of the whole value, and `value[offset : offset + length]`. None: no such key, or no place.

        The range may be empty, or end far beyond the value.
        """

    @abstractmethod
    def page(self, after: str, deadline: Deadline) -> Sequence[ObjectInfo]:
        """The next keys greater than `after`, ascending, none left out, some or all. Empty: no more."""

    @abstractmethod
    def remove(self, key: str, deadline: Deadline) -> None:
        """Remove a key, durably. One that does not exist is no error."""

    @abstractmethod
    def capacity(self) -> Capacity:
        """Room now; `low` once only the objects that are being written still find room (M9)."""

    def close(self) -> None:  # noqa: B027 - what opens a connection for each call holds nothing
        """Free what you hold. Idempotent."""

    # -- the contract of a Medium

    def initialize(self, label: Label, text: bytes, deadline: Deadline) -> None:
        """Write the label. Raises Conflict unless the store is empty or has this very label."""
        self.prepare(deadline)
        held = self._label_text(deadline)
        if held is None and (others := self.page("", deadline)):
            raise errors.Conflict(
                f"medium {self.name} is not empty (it holds {others[0].name!r}) and has no label of ours",
                hint="give the medium an empty place",
            )
        if held is None and not self.create(LABEL_KEY, text, deadline):
            held = self.read_label(deadline)  # somebody was quicker
        if held not in (None, text):
            raise errors.Conflict(
                f"medium {self.name} is labelled already, as another volume",
                hint="give the medium another place, or remove the old volume by hand",
            )

    def read_label(self, deadline: Deadline) -> bytes:
        """The label's text. Raises NotFound."""
        if (text := self._label_text(deadline)) is None:
            raise errors.NotFound(f"medium {self.name} has no label", scope="volume", hint="is it mounted?")
        return text

    def open(self, label: Label, mode: Mode, epoch: int, deadline: Deadline) -> StoreVolume:
        """Open the volume. `epoch` is not used: there is no fence, and none is claimed."""
        self.check(label, deadline)
        self._opened = label
        return StoreVolume(self, label, mode)

    def probe(self, deadline: Deadline) -> Sequence[Capability]:
        """Create a key twice, read a range of it, remove it. For a place that has been prepared."""
        key = f"staddle-probe-{os.urandom(8).hex()}"
        try:
            created = [self.create(key, body, deadline) for body in (b"first", b"other")]
            whole, middle = self.read(key, 0, 5, deadline), self.read(key, 1, 2, deadline)
        finally:
            self.remove(key, deadline)
        once = created == [True, False] and whole == (5, b"first")
        return [
            Capability("CONDITIONAL_PUT", Surety.PROBED, "a key was created twice", holds=once),
            Capability("RANDOM_READ", Surety.PROBED, "a range was read", holds=middle == (5, b"ir")),
        ]

    def health(self, deadline: Deadline) -> Health:
        """UP if there is a label, and if it is that of the volume that was opened last."""
        try:
            if self._opened is None:
                self.read_label(deadline)
            else:
                self.check(self._opened, deadline)
        except errors.StaddleError as error:
            return Health(MediumState.OFFLINE, str(error))
        return Health(MediumState.UP)

    def check(self, label: Label, deadline: Deadline) -> None:
        """Make sure that the volume of `label` is there. Raises MediumFailed."""
        if (text := self._label_text(deadline)) is None:
            message = f"medium {self.name} has no label now"
            raise errors.MediumFailed(message, code="LABEL_GONE", hint="is it mounted?")
        check_label(text, label, f"medium {self.name}")

    def _label_text(self, deadline: Deadline) -> bytes | None:
        check_deadline(deadline, f"look at the label of medium {self.name}")
        found = self.read(LABEL_KEY, 0, LABEL_BYTES_MAX, deadline)
        return found and found[1]


class StoreVolume:
    """The volume of a `StoreMedium`: keys are the names of objects."""

    def __init__(self, medium: StoreMedium, label: Label, mode: Mode) -> None:
        """Args: as `StoreMedium.open`, which has checked the label."""
        self.label, self._medium, self._mode = label, medium, mode

    def put(self, name: str, parts: Sequence[Buffer], digest: bytes, deadline: Deadline) -> Receipt:
        """Join, check, create. The digest is that of the copy: the caller may take its buffers back."""
        body = b"".join(parts)
        found = blake3.blake3(body).digest()
        if found != digest:
            raise errors.Corrupt(
                f"object {name}: the bytes to be written don't have the digest that was given"
            )
        with self._change(name, deadline):
            if not self._medium.create(name, body, deadline):
                held = self._medium.read(name, 0, len(body), deadline)
                if held is None:
                    raise errors.InDoubt(f"object {name} on medium {self._medium.name} came and went")
                if held != (len(body), body):
                    raise errors.Conflict(f"object {name} holds other bytes; they were kept")
        volume, durability = self.label.volume, self._medium.durability
        return Receipt(name=name, size_bytes=len(body), digest=found, volume=volume, durability=durability)

    def get(self, name: str, offset: int, length: int, deadline: Deadline) -> bytes:
        """A range of an object."""
        size_bytes, piece = self._read(name, offset, length, deadline)
        check_range(name, offset, length, size_bytes)
        if len(piece) != length:
            raise errors.Corrupt(f"object {name}: {len(piece)} of {length} bytes were read")
        return piece

    def stat(self, name: str, deadline: Deadline) -> ObjectInfo:
        """Size of an object."""
        return ObjectInfo(name, self._read(name, 0, 0, deadline)[0])

    def list(self, after: str, deadline: Deadline, prefix: str = "") -> Iterator[ObjectInfo]:
        """Page by page, less the keys that are no objects'."""
        self._medium.check(self.label, deadline)
        # '/' sorts before every digit: what follows "c0/7f" begins with "c0/7f/".
        last = max(after, prefix[:-1])
        while page := self._medium.page(last, deadline):
            for info in page:
                if info.name <= last:
                    raise errors.MediumFailed(
                        f"medium {self._medium.name} lists {info.name!r} after {last!r}"
                    )
                last = info.name
                if last.startswith(prefix) and _is_object(last):
                    yield info
            if last > prefix and not last.startswith(prefix):
                break
            check_deadline(deadline, f"list of medium {self._medium.name}")
        # A store that vanished in mid-list looks like one with fewer keys.
        self._medium.check(self.label, deadline)

    def delete(self, name: str, deadline: Deadline) -> None:
        """Remove one placement."""
        with self._change(name, deadline):
            self._medium.remove(name, deadline)

    def capacity(self) -> Capacity:
        """Room in the store."""
        return self._medium.capacity()

    def close(self) -> None:
        """All that is held is the medium's."""

    @contextmanager
    def _change(self, name: str, deadline: Deadline) -> Iterator[None]:
        """Round a change: the volume is there before it, else nothing is done, and still is after it."""
        checked_name(name)
        if self._mode != "write":
            text = f"medium {self._medium.name} was opened for reading"
            raise errors.Denied(text, code="READ_ONLY", retry="never")
        self._medium.check(self.label, deadline)
        check_deadline(deadline, f"change of object {name}")
        yield
        try:
            self._medium.check(self.label, deadline)
        except errors.StaddleError as error:
            error.outcome = "in_doubt"
            raise

    def _read(self, name: str, offset: int, length: int, deadline: Deadline) -> tuple[int, bytes]:
        check_range(checked_name(name), offset, length, offset + length)
        check_deadline(deadline, f"read of object {name}")
        found = self._medium.read(name, offset, length, deadline)
        if found is None:
            self._medium.check(self.label, deadline)  # of a place that is gone nothing can be said
            raise errors.NotFound(f"no object {name} on medium {self._medium.name}")
        return found


def _is_object(key: str) -> bool:
    with suppress(ValueError):
        return bool(check_object_name(key))
    return False
