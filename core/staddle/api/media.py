"""The media contract. A medium is one configured backend instance; it stores immutable objects.

Drivers are plain blocking calls, run in threads by the core, which wraps retry, throttling, metrics and
deadlines round them. Every call takes a `Deadline`: seconds on the caller's monotonic clock by which it has
ended, one way or another. The clauses, each checked by the conformance kit:

- **M1** An object is visible whole or not at all.
- **M2** A Receipt means that the object survives power loss, to the declared durability class.
- **M3** After the Receipt every agent sees it by `get`, `stat` and `list`.
- **M4** A name is used once: the same bytes under the same name again succeed with the same Receipt; other
  bytes raise `Conflict` and the old ones are kept.
- **M5** A fenced holder can never change, hide or delete what a later holder wrote.
- **M6** `list` is complete, in ascending order of names; or LIST_LAG is declared with its bound.
- **M7** Reads are checked as far as the backend can; damage is `Corrupt`, never wrong bytes. A range that
  ends beyond the object is `Corrupt` too: containers say how long they are.
- **M8** Every call ends by its deadline: done, not done (an error with outcome `not_done`), or `InDoubt`.
- **M9** `capacity().low` turns true while there is still room to finish the open objects.
- **M10** The first bytes of a volume are a plain-text label that says what it is and how to read it.

Any exception that is not a `StaddleError` is taken for `MediumFailed(retry=elsewhere, outcome=in_doubt)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from staddle.api.types import (
    Buffer,
    Cap,
    Capability,
    Capacity,
    Durability,
    Health,
    Label,
    Limits,
    ObjectInfo,
    Receipt,
)
from staddle.errors import MediumFailed

Mode = Literal["read", "write"]


class Deadline:
    """A moment on the monotonic clock by which a call has ended."""

    __slots__ = ("at_s",)

    def __init__(self, seconds: float) -> None:
        """Args: seconds: from now."""
        self.at_s = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds that remain, never below zero."""
        return max(0.0, self.at_s - time.monotonic())


def check_label(text: bytes, label: Label, where: str) -> None:
    """Make sure that a volume's label text names the grid and the volume that `label` names.

    The text of every label carries both ids as 32 lower-case hex digits, so that a driver can tell its own
    volume without knowing the label's format.

    Args:
        text: what `read_label` returned.
        label: the volume that is wanted.
        where: the place, for the message.

    Raises: MediumFailed.
    """
    if label.volume.hex().encode() in text and label.grid.hex().encode() in text:
        return
    raise MediumFailed(
        f"{where} holds another volume than {label.volume.hex()} of medium {label.medium!r}",
        code="WRONG_LABEL",
        hint="mount or insert the right volume; nothing was written to this one",
    )


@runtime_checkable
class Volume(Protocol):
    """An open volume: what holds the objects. Safe for use by several threads at once."""

    label: Label

    def put(self, name: str, parts: Sequence[Buffer], digest: bytes, deadline: Deadline) -> Receipt:
        """Store the concatenation of `parts` under `name`, durably, and say so (M1-M4).

        `digest` is the unkeyed BLAKE3-256 of the whole. The buffers are not kept after the return.

        Raises: Conflict, MediumFull, MediumFailed, Fenced, InDoubt, DeadlineExceeded.
        """

    def get(self, name: str, offset: int, length: int, deadline: Deadline) -> bytes:
        """Exactly `length` bytes from `offset`. Raises NotFound, Corrupt (short or damaged)."""

    def stat(self, name: str, deadline: Deadline) -> ObjectInfo:
        """Size of an object. Raises NotFound."""

    def list(self, after: str, deadline: Deadline, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose names begin with `prefix` and are greater than `after`, in ascending order (M6)."""

    def delete(self, name: str, deadline: Deadline) -> None:
        """Remove exactly this placement, durably. Deleting what is not there is no error (M5)."""

    def capacity(self) -> Capacity:
        """Room now (M9)."""

    def close(self) -> None:
        """Give up the volume. Idempotent."""


@runtime_checkable
class Medium(Protocol):
    """One configured backend instance."""

    def probe(self, deadline: Deadline) -> Sequence[Capability]:
        """Find out on this very backend what it can do. Leaves nothing behind."""

    def initialize(self, label: Label, text: bytes, deadline: Deadline) -> None:
        """Write the label as the first bytes of a new volume (M10).

        `text` is the whole plain-text label. Raises Conflict if the place holds anything but an empty volume
        or the very same label.
        """

    def read_label(self, deadline: Deadline) -> bytes:
        """The label's plain text. Raises NotFound where there is none."""

    def open(self, label: Label, mode: Mode, epoch: int, deadline: Deadline) -> Volume:
        """Open the volume that `label` names; another label there is `MediumFailed`.

        `epoch` fences: where the medium can (Cap.FENCE), an open with a higher one shuts out lower ones.
        """

    def health(self, deadline: Deadline) -> Health:
        """Is it usable now, and if not, what is to be done."""

    def close(self) -> None:
        """Free every resource. Idempotent."""


@runtime_checkable
class Relabels(Protocol):
    """What a medium may be able to do besides: have the label of a volume written again.

    Whether a place without a sound label is that volume is the core's to prove, by the objects in it.
    """

    def open_unlabelled(self, label: Label, deadline: Deadline) -> Volume:
        """Open the place for reading as the volume of `label`, whatever label it has, if it has one."""

    def relabel(self, label: Label, text: bytes, found: bytes, deadline: Deadline) -> None:
        """Put `text` in the place of the label `found` (empty: there is none), whole and durably.

        Raises Conflict if by now another label than these two is there.
        """


class MediumFactory(Protocol):
    """Makes a medium from its configuration; does no I/O yet."""

    def __call__(self, name: str, config: object) -> Medium:
        """Args: name: the medium's name in the grid. config: an instance of the type's `config_type`."""


class MediaType(msgspec.Struct, frozen=True, kw_only=True):
    """What a media plugin returns from its hook.

    Attributes:
        name: the word in `plugin = "…"`.
        version: of the plugin.
        api_version: the contract's major it was built for.
        config_type: a msgspec Struct; its fields are the options in `[medium.NAME]`.
        capabilities: what it declares; `probe` confirms or denies on the backend.
        durability: the class that its receipts give.
        limits: bounds.
        load: returns the factory; the SDK is imported here, not before.
        summary: one line for `plugin list`.
    """

    name: str
    version: str
    api_version: int
    config_type: type[msgspec.Struct]
    capabilities: Cap
    durability: Durability
    load: Callable[[], MediumFactory]
    limits: Limits = Limits()
    summary: str = ""
