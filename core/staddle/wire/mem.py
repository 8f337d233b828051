"""`mem://name`: links inside one process, for tests and simulation, with real flow control."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

from staddle.api.transport import Credentials, Peer, ProtocolFactory, StreamServer
from staddle.api.types import Buffer
from staddle.errors import ConfigError, Locked, PathLost
from staddle.wire.greeting import LOCAL
from staddle.wire.schemes import split_url

_HIGH_WATER_BYTES = 64 << 10

_lock = threading.Lock()
_served: dict[str, _MemServer] = {}
_numbers = itertools.count(1)


class MemTransport:
    """Stream transport in memory. The two ends may run in different event loops of the process."""

    async def connect(
        self, url: str, credentials: Credentials, make: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseTransport:
        """See StreamTransport. `credentials` are not used."""
        with _lock:
            server = _served.get(_name(url))
        if server is None:
            raise PathLost(f"nobody serves {url}")
        here = MemPipe(asyncio.get_running_loop(), make())
        there = MemPipe(server.loop)
        here.join(there)
        there.join(here)
        try:
            server.loop.call_soon_threadsafe(server.accept, there)
        except RuntimeError as error:  # its loop is closed
            raise PathLost(f"nobody serves {url} any more") from error
        here.start()
        return here

    async def serve(self, url: str, credentials: Credentials, make: ProtocolFactory) -> StreamServer:
        """See StreamTransport. An empty name takes a free one."""
        name = _name(url) or f"free-{next(_numbers)}"
        server = _MemServer(name, make)
        with _lock:
            if name in _served:
                raise Locked(f"mem://{name} is served already")
            _served[name] = server
        return server

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """See StreamTransport. The role is `LOCAL`: the greeting says it."""
        return Peer("", LOCAL, "in process")


class _MemServer:
    def __init__(self, name: str, make: ProtocolFactory) -> None:
        self._name = name
        self._make = make
        self.url = f"mem://{name}"
        self.loop = asyncio.get_running_loop()

    def accept(self, pipe: MemPipe) -> None:
        pipe.start(self._make())

    async def close(self) -> None:
        with _lock:
            if _served.get(self._name) is self:
                del _served[self._name]


class MemPipe(asyncio.Transport):
    """One end of a pair. What is written waits here until the other end has read it.

    Like a socket it pauses its protocol above the high water mark, delivers nothing to a protocol that has
    paused reading, and ends with `connection_lost` on both sides.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BufferedProtocol | None = None
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._other: MemPipe = self
        self._incoming: deque[memoryview] = deque()
        self._unread_bytes = 0
        self._high, self._low = _HIGH_WATER_BYTES, _HIGH_WATER_BYTES // 4
        self._paused = self._reading_paused = self._pumping = False
        self._closing = self._lost = False

    def join(self, other: MemPipe) -> None:
        """Set the other end."""
        self._other = other

    def start(self, protocol: asyncio.BufferedProtocol | None = None) -> None:
        """Begin: `connection_made`, then what has come in."""
        self._protocol = protocol or self._protocol
        self._made().connection_made(self)
        self._pump_soon()

    # --- asyncio's transport ------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """Pass `data` to the other end, by reference."""
        if self._closing or not data:
            return
        self._unread_bytes += len(data)
        self._tell(self._other, self._other.arrive, memoryview(data))
        if not self._paused and self._unread_bytes > self._high:
            self._paused = True
            self._made().pause_writing()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        """Write each."""
        for data in list_of_data:
            self.write(data)

    def close(self) -> None:
        """Close after what was written has been read."""
        if not self._closing:
            self._closing = True
            if not self._unread_bytes:
                self._finish(None)

    def abort(self) -> None:
        """Close at once; unread bytes are lost."""
        self._closing = True
        self._finish(None)

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`."""
        self._reading_paused = True

    def resume_reading(self) -> None:
        """Deliver again."""
        self._reading_paused = False
        self._pump_soon()

    def get_write_buffer_size(self) -> int:
        """Bytes that the other end has not read yet."""
        return self._unread_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks in bytes."""
        self._high = _HIGH_WATER_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known of a peer in the same process."""
        return default

    # --- from the other end -------------------------------------------------------------------

    def arrive(self, data: memoryview) -> None:
        """Bytes from the other end."""
        if not self._lost:
            self._incoming.append(data)
            self._pump_soon()

    def was_read(self, n_bytes: int) -> None:
        """The other end has read bytes of ours."""
        self._unread_bytes -= n_bytes
        if self._paused and self._unread_bytes <= self._low and not self._lost:
            self._paused = False
            self._made().resume_writing()
        if self._closing and not self._unread_bytes:
            self._finish(None)

    def other_ended(self) -> None:
        """The other end is gone; what it wrote before was read, unless it was aborted."""
        self._incoming.clear()
        self._closing = True
        self._finish(None)

    # ------------------------------------------------------------------------------------------

    def _made(self) -> asyncio.BufferedProtocol:
        return cast("asyncio.BufferedProtocol", self._protocol)

    def _tell(self, other: MemPipe, call: Callable[..., None], *args: object) -> None:
        # A plain hop inside one loop; across loops the other one must be woken.
        if other._loop is self._loop:
            self._loop.call_soon(call, *args)
        elif not other._loop.is_closed():
            other._loop.call_soon_threadsafe(call, *args)

    def _pump_soon(self) -> None:
        if not self._pumping and self._incoming:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._lost or self._reading_paused or self._protocol is None:
            return
        read = 0
        # One message per turn of the loop, as a socket would be read, so that timers and others run too.
        data = self._incoming.popleft() if self._incoming else memoryview(b"")
        while data and not self._lost:
            slot = memoryview(self._protocol.get_buffer(-1))
            n_bytes = min(len(slot), len(data))
            slot[:n_bytes] = data[:n_bytes]
            data = data[n_bytes:]
            read += n_bytes
            self._protocol.buffer_updated(n_bytes)
        if read:
            self._tell(self._other, self._other.was_read, read)
        self._pump_soon()

    def _finish(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._made().connection_lost, error)
            self._tell(self._other, self._other.other_ended)


def _name(url: str) -> str:
    parts = split_url(url)
    if parts.scheme != "mem" or parts.path:
        raise ConfigError(f"{url!r} is not an address", hint="write mem://name")
    return parts.netloc
