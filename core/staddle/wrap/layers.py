"""How cross-cutting work is put round a driver: one wrapper for media and volumes, many small layers.

A layer sees every call as a `Call` and a function that makes it; it may wait, measure, repeat or refuse. The
wrapper also keeps two promises of the contract for drivers that don't: what is no StaddleError becomes
MediumFailed in doubt, and a listing is fetched in pages, each an ordinary call, so that a page can be
repeated without a gap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec

from staddle.api.media import Deadline, Medium, Mode, Volume
from staddle.api.types import NAME_MAX, Buffer, Capability, Capacity, Health, Label, ObjectInfo, Receipt
from staddle.errors import Corrupt, MediumFailed, StaddleError

T = TypeVar("T")

LIST_PAGE = 4096
LABEL_BYTES_MAX = 64 * 1024

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
            except StaddleError:
                raise
            except Exception as error:
                raise MediumFailed(
                    f"{call.op} on medium {self.name}: the driver raised {type(error).__name__}: {error}",
                    code="DRIVER_ERROR",
                    outcome="in_doubt",
                    hint="report it to the plugin's author",
                ) from error

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
        return self._chain.call("probe", lambda: self.inner.probe(deadline), deadline)

    def initialize(self, label: Label, text: bytes, deadline: Deadline) -> None:
        """See Medium."""
        self._chain.call("initialize", lambda: self.inner.initialize(label, text, deadline), deadline)

    def read_label(self, deadline: Deadline) -> bytes:
        """See Medium."""
        text = self._chain.call("read_label", lambda: self.inner.read_label(deadline), deadline)
        if len(text) > LABEL_BYTES_MAX:
            raise MediumFailed(
                f"medium {self._chain.name} gives {len(text)} bytes as its label",
                code="WRONG_LABEL",
                hint="mount or insert the right volume; nothing was written to this one",
            )
        return text

    def open(self, label: Label, mode: Mode, epoch: int, deadline: Deadline) -> WrappedVolume:
        """See Medium."""
        opened = self._chain.call("open", lambda: self.inner.open(label, mode, epoch, deadline), deadline)
        return WrappedVolume(opened, self._chain)

    def health(self, deadline: Deadline) -> Health:
        """See Medium."""
        return self._chain.call("health", lambda: self.inner.health(deadline), deadline)

    def close(self) -> None:
        """Close the driver, then the layers."""
        try:
            self._chain.call("close", self.inner.close)
        finally:
            for layer in self._chain.layers:
                layer.close()


class WrappedVolume:
    """A volume whose every call goes through its medium's layers."""

    def __init__(self, inner: Volume, chain: _Chain) -> None:
        """Args: inner: the driver's volume. chain: the medium's."""
        self.inner = inner
        self.label = inner.label
        self._chain = chain

    def put(self, name: str, parts: Sequence[Buffer], digest: bytes, deadline: Deadline) -> Receipt:
        """See Volume."""
        size = sum(memoryview(part).nbytes for part in parts)
        call = Call(self._chain.name, "put", deadline, name, write_bytes=size)
        return self._chain.run(call, lambda: self.inner.put(name, parts, digest, deadline))

    def get(self, name: str, offset: int, length: int, deadline: Deadline) -> bytes:
        """See Volume."""
        call = Call(self._chain.name, "get", deadline, name, read_bytes=length)
        data = self._chain.run(call, lambda: self.inner.get(name, offset, length, deadline))
        if len(data) != length:
            raise Corrupt(
                f"{name} on medium {self._chain.name}: it gave {len(data)} bytes instead of {length}"
            )
        return data

    def stat(self, name: str, deadline: Deadline) -> ObjectInfo:
        """See Volume."""
        call = Call(self._chain.name, "stat", deadline, name)
        info = self._chain.run(call, lambda: self.inner.stat(name, deadline))
        if info.name != name or info.size_bytes < 0:
            raise self._lies(
                f"asked for {name!r} it tells of {info.size_bytes} bytes of {info.name[:NAME_MAX]!r}"
            )
        return info

    def list(self, after: str, deadline: Deadline, prefix: str = "") -> Iterator[ObjectInfo]:
        """See Volume. Each page is asked for anew, after the last name of the one before."""
        call = Call(self._chain.name, "list", deadline, prefix)
        while True:
            page = self._chain.run(call, lambda after=after: self._page(after, deadline, prefix))  # type: ignore[misc]
            for info in page:
                # Without an order a listing need not come to an end.
                if info.name <= after or not info.name.startswith(prefix) or len(info.name) > NAME_MAX:
                    raise self._lies(f"it lists {info.name[:NAME_MAX]!r} behind {after!r} under {prefix!r}")
                after = info.name
                yield info
            if len(page) < LIST_PAGE:
                return

    def _lies(self, what: str) -> MediumFailed:
        return MediumFailed(
            f"medium {self._chain.name}: {what}",
            code="DRIVER_ERROR",
            hint="report it to the plugin's author, or look at the backend",
        )

    def _page(self, after: str, deadline: Deadline, prefix: str) -> Sequence[ObjectInfo]:
        found = self.inner.list(after, deadline, prefix)
        try:
            return [*itertools.islice(found, LIST_PAGE)]
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
        return self._chain.call("capacity", self.inner.capacity)

    def close(self) -> None:
        """See Volume."""
        self._chain.call("close", self.inner.close)
