"""The door of a TCP server: TLS handshakes, of which only so many may be under way.

Whoever is still shaking hands has proved nothing. When too many do, the oldest gives way: an honest handshake
takes milliseconds, so it is the slow ones that are put out, and others get in however many there are.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from staddle.api.transport import ProtocolFactory

HANDSHAKES_MAX = 256
HANDSHAKE_S = 10.0
SHUTDOWN_S = 2.0


class Gate:
    """Takes connections, secures them, and hands them on. Belongs to its event loop.

    Args:
        context: of the server.
        make: gives the protocol of a connection that is secured.
    """

    def __init__(self, context: ssl.SSLContext, make: ProtocolFactory) -> None:
        self._context = context
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._pending: dict[asyncio.Transport, asyncio.Task[None]] = {}

    def protocol(self) -> asyncio.Protocol:
        """For `create_server`."""
        return _Arrival(self)

    def arrived(self, transport: asyncio.Transport) -> None:
        """A connection has come in; its reading is paused."""
        if len(self._pending) >= HANDSHAKES_MAX:
            oldest = next(iter(self._pending))
            self._pending.pop(oldest).cancel()
        self._pending[transport] = self._loop.create_task(self._secure(transport))

    async def close(self) -> None:
        """Put out those that are under way."""
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _secure(self, transport: asyncio.Transport) -> None:
        early = _Early()
        secured: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                secured = await self._loop.start_tls(
                    transport, early, self._context, server_side=True, ssl_shutdown_timeout=SHUTDOWN_S
                )
        except (OSError, TimeoutError):  # a peer without TLS, or with another grid's certificate: its affair
            pass
        finally:
            self._pending.pop(transport, None)
            if secured is None:
                transport.abort()
        if secured is None:
            return
        if early.over:
            secured.abort()
            return
        protocol = self._make()
        secured.set_protocol(protocol)
        protocol.connection_made(secured)


class _Arrival(asyncio.Protocol):
    """The moment between accepting a connection and its handshake."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is read before TLS reads it."""
        plain = cast("asyncio.Transport", transport)
        plain.pause_reading()
        self._gate.arrived(plain)


class _Early(asyncio.Protocol):
    """Until the handshake is reported: who speaks before he is greeted is no member (link.py)."""

    def __init__(self) -> None:
        self.over = False

    def data_received(self, data: bytes) -> None:
        """Not yet."""
        self.over = True

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone again."""
        self.over = True
