"""Connect to an address, or serve one: the door to staddle.wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

from staddle.api.transport import Credentials, StreamServer, StreamTransport
from staddle.errors import ConfigError, PathLost
from staddle.platform.shortage import is_shortage
from staddle.wire.admission import Admission
from staddle.wire.handlers import Handlers
from staddle.wire.limits import LinkLimits
from staddle.wire.link import Link
from staddle.wire.messages import Hello
from staddle.wire.schemes import SCHEMES, split_url

NO_CREDENTIALS = Credentials(ca_file="", cert_file="", key_file="")
"""For transports that need none: `unix` and `mem`."""


def transport_for(url: str) -> StreamTransport:
    """A new built-in transport for the URL's scheme. Raises ConfigError for any other scheme."""
    scheme = split_url(url).scheme
    if scheme not in SCHEMES:
        raise ConfigError(f"no built-in transport for {url!r}", hint=f"schemes: {', '.join(sorted(SCHEMES))}")
    return SCHEMES[scheme].load()()


async def connect(
    url: str,
    credentials: Credentials,
    hello: Hello,
    handlers: Handlers | None = None,
    *,
    expect_role: str | None,
    expect_name: str | None = None,
    timeout_s: float = 10.0,
    limits: LinkLimits | None = None,
    transport: StreamTransport | None = None,
) -> Link:
    """Open a link; when it returns, each side has accepted the other.

    Args:
        url: `tcp://host:port`, `unix:///path` or `mem://name`.
        credentials: own certificate for `tcp`; `NO_CREDENTIALS` for the others.
        hello: own name and role.
        handlers: operations that the peer may call over this link.
        expect_role: what the peer must be. A client's certificate must not pass for the manager's: give None
            only where any member will do.
        expect_name: its name, if known.
        timeout_s: for connecting and the greeting together.
        limits: bounds of the link.
        transport: for schemes that are not built in.

    Raises: PathLost, Denied, DeadlineExceeded, NewerFormat, ConfigError. In all cases nothing was done.
    """
    api = transport or transport_for(url)
    bounds = limits or LinkLimits()
    end_s = asyncio.get_running_loop().time() + timeout_s
    made: list[Link] = []

    def make() -> Link:
        made.append(
            Link(
                api,
                hello,
                handlers or Handlers(),
                accepting=False,
                limits=bounds,
                expect_role=expect_role,
                expect_name=expect_name,
            )
        )
        return made[-1]

    try:
        await api.connect(url, credentials, make, timeout_s)
    except Exception as error:
        if not is_shortage(error):
            raise
        # No descriptor for a certificate, no thread for a name: as lost as any way, and tried again.
        raise PathLost(f"cannot reach {url}: {error}", hint="see the limits of this host") from error
    link = made[-1]
    try:
        async with asyncio.timeout(end_s - asyncio.get_running_loop().time()):
            await link.wait_ready()
    except BaseException as error:
        link.abort(PathLost("the connection was given up"))
        await _quietly_closed(link)
        if isinstance(error, TimeoutError):
            raise PathLost(
                f"{url} does not greet within {timeout_s:g} s", hint="is it a Staddle port?"
            ) from None
        raise
    return link


class Server:
    """A listening end and the links that it accepted."""

    def __init__(self) -> None:
        self.admission = Admission()
        self._listening: StreamServer | None = None

    @property
    def links(self) -> set[Link]:
        """The links that are open."""
        return self.admission.links

    @property
    def url(self) -> str:
        """Where it listens, with the real port."""
        return self._listening.url if self._listening else ""

    async def close(self, timeout_s: float = 2.0) -> None:
        """Stop listening; close every link, letting running handlers end within `timeout_s`. Idempotent."""
        if self._listening is not None:
            await self._listening.close()
        await asyncio.gather(*(link.close(timeout_s) for link in list(self.links)), return_exceptions=True)


async def serve(
    url: str,
    credentials: Credentials,
    hello: Hello,
    handlers: Handlers,
    on_link: Callable[[Link], None] | None = None,
    *,
    limits: LinkLimits | None = None,
    transport: StreamTransport | None = None,
) -> Server:
    """Listen on `url` and answer `handlers`.

    Args:
        url: as for `connect`; port 0 takes a free one.
        credentials: own certificate for `tcp`.
        hello: own name and role.
        handlers: operations that peers may call.
        on_link: called for each peer that was proved, before its first request; may raise StaddleError to
            refuse it, such as Denied for a member that was removed.
        limits: bounds of each link.
        transport: for schemes that are not built in, and `TcpTransport(joiners=True)`.

    Raises: Locked (the address is taken), ConfigError.
    """
    api = transport or transport_for(url)
    bounds = limits or LinkLimits()
    server = Server()

    def ready(link: Link) -> None:
        link._server.room = server.admission.greeted(link)  # noqa: SLF001 - made here
        if on_link is not None:
            on_link(link)

    def make() -> Link:
        link = _Accepted(
            api,
            hello,
            handlers,
            accepting=True,
            limits=bounds,
            on_ready=ready,
            on_end=server.admission.ended,
        )
        link.admission = server.admission
        return link

    server._listening = await api.serve(url, credentials, make)  # noqa: SLF001 - made here
    return server


class _Accepted(Link):
    """A link of a server, counted from the moment it is connected."""

    admission: Admission

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.admission.connected(self):
            super().connection_made(transport)
        else:
            cast("asyncio.WriteTransport", transport).abort()


async def _quietly_closed(link: Link) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3.0):
            await link.wait_closed()
