"""How cross-cutting work is put round a driver: one wrapper for media and volumes, many small layers.

A layer sees every call as a `Call` and a function that makes it; it may wait, measure, repeat or refuse. The
wrapper also keeps promises of the contract for drivers that don't: what they say is checked (`answers`), and
a listing is fetched in pages, each an ordinary call, so that a page can be repeated without a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec

from staddle.api.media import Deadline, Medium, Mode, Relabels, Volume
from staddle.api.types import Buffer, Capability, Capacity, Health, Label, ObjectInfo, Receipt
from staddle.errors import MediumFailed
from staddle.wrap import answers

T = TypeVar("T")

LIST_PAGE = 4096

OPS = (
    "put",
    "get",
    "stat",
    "list",
    "delete",
    "open",
    "capacity",
    "health",
    "probe",
    "initialize",
    "read_label",
    "close",
)
"""Every operation that a layer sees."""


class Call(msgspec.Struct, frozen=True):
    """One call to a driver.

    Attributes:
        medium: the medium's name.
        op: one of OPS.
        deadline: by which it has ended.
        target: the object's name, or "".
        write_bytes: what is sent with it.
        read_bytes: what is asked for.
    """

    medium: str
    op: str
    deadline: Deadline
    target: str = ""
    write_bytes: int = 0
    read_bytes: int = 0


class Layer(Protocol):
    """One concern. Safe for use by several threads."""

    def around(self, call: Call, make: Callable[[], T]) -> T:
        """Make the call, once, several times or not at all; its result or error is the caller's."""

    def close(self) -> None:
        """Free what the layer holds. Idempotent."""


class _Chain:
    """Layers in order, the first outermost, round the functions of a driver."""

    def __init__(self, name: str, layers: Sequence[Layer], deadline_s: float) -> None:
        self.name = name
        self.layers = tuple(layers)
        self.deadline_s = deadline_s

    def run(self, call: Call, driver: Callable[[], T]) -> T:
        """Run one call through all layers."""

        def innermost() -> T:
            try:
                return driver()
            # SystemExit too: the call runs in a thread, and no driver ends the agent. What stops the process
            # comes to the main thread, never here.
            except BaseException as error:  # noqa: BLE001 - it is raised again, made sound
                # In no variable: its traceback has this frame, and such a circle keeps the driver's buffers.
                raise answers.sound_error(self.name, call.op, error)  # noqa: B904 - it has its cause

        make: Callable[[], T] = innermost
        for layer in reversed(self.layers):
            make = _bind(layer, call, make)
        return make()

    def call(self, op: str, driver: Callable[[], T], deadline: Deadline | None = None) -> T:
        """Run a call that carries no object."""
        return self.run(Call(self.name, op, deadline or Deadline(self.deadline_s)), driver)


def _bind(layer: Layer, call: Call, make: Callable[[], T]) -> Callable[[], T]:
    return lambda: layer.around(call, make)


class WrappedMedium:
    """A medium whose every call, and every call of its volumes, goes through layers."""

    def __init__(self, inner: Medium, name: str, layers: Sequence[Layer], deadline_s: float = 30.0) -> None:
        """Wrap a medium.

        Args:
            inner: the driver.
            name: the medium's name.
            layers: outermost first.
            deadline_s: for the calls that take no deadline.
        """
        self.inner = inner
        self._chain = _Chain(name, layers, deadline_s)

    def probe(self, deadline: Deadline) -> Sequence[Capability]:
        """See Medium."""
        name = self._chain.name
        return self._chain.call(
            "probe", lambda: answers.checked_capabilities(name, self.inner.probe(deadline)), deadline
        )

    def initialize(self, label: Label, text: bytes, deadline: Deadline) -> None:
        """See Medium."""
        self._chain.call("initialize", lambda: self.inner.initialize(label, text, deadline), deadline)

    def read_label(self, deadline: Deadline) -> bytes:
        """See Medium."""
        name = self._chain.name
        return self._chain.call(
            "read_label", lambda: answers.checked_text(name, self.inner.read_label(deadline)), deadline
        )

    def relabel(self, label: Label, text: bytes, found: bytes, deadline: Deadline) -> None:
        """See Relabels. Raises MediumFailed for a driver that can't."""
        able = self._relabelling()
        self._chain.call("initialize", lambda: able.relabel(label, text, found, deadline), deadline)

    def open(self, label: Label, mode: Mode, epoch: int, deadline: Deadline) -> WrappedVolume:
        """See Medium."""
        return self._opened(label, lambda: self.inner.open(label, mode, epoch, deadline), deadline)

    def open_unlabelled(self, label: Label, deadline: Deadline) -> WrappedVolume:
        """See Relabels. Raises MediumFailed for a driver that can't."""
        able = self._relabelling()
        return self._opened(label, lambda: able.open_unlabelled(label, deadline), deadline)

    def _relabelling(self) -> Relabels:
        if isinstance(self.inner, Relabels):
            return self.inner
        raise MediumFailed(
            f"medium {self._chain.name}: its plugin can't write a label again",
            hint="replace the medium: what lies on it is made again from other copies",
        )

    def _opened(self, label: Label, open_: Callable[[], Volume], deadline: Deadline) -> WrappedVolume:
        def opened() -> Volume:
            volume = open_()
            answers.checked_volume(self._chain.name, volume, label)
            return volume

        return WrappedVolume(self._chain.call("open", opened, deadline), label, self._chain)

    def health(self, deadline: Deadline) -> Health:
        """See Medium."""
        name = self._chain.name
        return self._chain.call(
            "health", lambda: answers.checked_health(name, self.inner.health(deadline)), deadline
        )

    def close(self) -> None:
        """Close the driver, then the layers."""
        try:
            self._chain.call("close", self.inner.close)
        finally:
            for layer in self._chain.layers:
                layer.close()


class WrappedVolume:
    """A volume whose every call goes through its medium's layers."""

    def __init__(self, inner: Volume, label: Label, chain: _Chain) -> None:
        """Args: inner: the driver's volume. label: the one that was asked for. chain: the medium's."""
        self.inner = inner
        self.label = label
        self._chain = chain

    def put(self, name: str, parts: Sequence[Buffer], digest: bytes, deadline: Deadline) -> Receipt:
        """See Volume."""
        size = sum(memoryview(part).nbytes for part in parts)
        medium = self._chain.name
        call = Call(medium, "put", deadline, name, write_bytes=size)

        def put() -> Receipt:
            receipt = self.inner.put(name, parts, digest, deadline)
            return answers.checked_receipt(
                medium, receipt, name=name, size_bytes=size, digest=digest, volume=self.label.volume
            )

        return self._chain.run(call, put)

    def get(self, name: str, offset: int, length: int, deadline: Deadline) -> bytes:
        """See Volume."""
        medium = self._chain.name
        call = Call(medium, "get", deadline, name, read_bytes=length)

        def get() -> bytes:
            return answers.checked_bytes(medium, name, self.inner.get(name, offset, length, deadline), length)

        return self._chain.run(call, get)

    def stat(self, name: str, deadline: Deadline) -> ObjectInfo:
        """See Volume."""
        medium = self._chain.name

        def stat() -> ObjectInfo:
            info = answers.checked_info(medium, self.inner.stat(name, deadline))
            if info.name != name:
                raise answers.lies(medium, f"asked for {name!r} it tells of {info.name!r}")
            return info

        return self._chain.run(Call(medium, "stat", deadline, name), stat)

    def list(self, after: str, deadline: Deadline, prefix: str = "") -> Iterator[ObjectInfo]:
        """See Volume. Each page is asked for anew, after the last name of the one before."""
        call = Call(self._chain.name, "list", deadline, prefix)
        while True:
            page = self._chain.run(call, lambda after=after: self._page(after, deadline, prefix))  # type: ignore[misc]
            yield from page
            if len(page) < LIST_PAGE:
                return
            after = page[-1].name

    def _page(self, after: str, deadline: Deadline, prefix: str) -> Sequence[ObjectInfo]:
        found = self.inner.list(after, deadline, prefix)
        try:
            return [*answers.checked_page(self._chain.name, found, after, prefix, LIST_PAGE)]
        finally:
            # A generator that is left in its middle holds a directory open.
            if hasattr(found, "close"):
                found.close()

    def delete(self, name: str, deadline: Deadline) -> None:
        """See Volume."""
        call = Call(self._chain.name, "delete", deadline, name)
        self._chain.run(call, lambda: self.inner.delete(name, deadline))

    def capacity(self) -> Capacity:
        """See Volume."""
        name = self._chain.name
        return self._chain.call("capacity", lambda: answers.checked_capacity(name, self.inner.capacity()))

    def close(self) -> None:
        """See Volume."""
        self._chain.call("close", self.inner.close)
