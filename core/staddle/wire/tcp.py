"""`tcp://host:port`: TLS 1.3, both sides authenticated by certificates of the grid's own CA."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import sys
from urllib.parse import urlsplit

from staddle.api.transport import Credentials, Peer, ProtocolFactory, StreamServer
from staddle.errors import ConfigError, DeadlineExceeded, Denied, Locked, PathLost, StaddleError
from staddle.platform.shortage import is_shortage
from staddle.wire.gate import SHUTDOWN_S, Gate
from staddle.wire.identity import identity_of
from staddle.wire.messages import JOINER
from staddle.wire.pki import check_own, own_identity

_BACKLOG = 128
_TAKEN = (errno.EADDRINUSE, errno.EACCES)


class TcpTransport:
    """Stream transport over TCP and TLS.

    A peer's role is proved by its certificate. No session is resumed: each link proves both sides anew (T6).

    Args:
        joiners: whether a server lets in peers without a certificate, with the role `joiner` (join.py).
    """

    def __init__(self, *, joiners: bool = False) -> None:
        self._joiners = joiners
        self._grid = b""

    async def connect(
        self, url: str, credentials: Credentials, make: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseTransport:
        """See StreamTransport. Without a `cert_file` we join: only the server is verified."""
        context = _context(ssl.PROTOCOL_TLS_CLIENT, credentials)
        context.verify_mode = ssl.CERT_REQUIRED
        if credentials.cert_file:
            self._grid = check_own(credentials).grid
        return await open_tls(url, context, make, timeout_s)

    async def serve(self, url: str, credentials: Credentials, make: ProtocolFactory) -> StreamServer:
        """See StreamTransport."""
        context = _context(ssl.PROTOCOL_TLS_SERVER, credentials)
        context.verify_mode = ssl.CERT_OPTIONAL if self._joiners else ssl.CERT_REQUIRED
        context.num_tickets = 0
        self._grid = own_identity(credentials).grid
        host, port = parse_tcp_url(url)
        loop = asyncio.get_running_loop()
        gate = Gate(context, make)
        try:
            server = await loop.create_server(gate.protocol, host, port, backlog=_BACKLOG)
        except OSError as error:
            if error.errno in _TAKEN:
                raise Locked(
                    f"cannot listen on {url}: {_reason(error)}", hint="choose another port"
                ) from error
            raise ConfigError(
                f"cannot listen on {url}: {_reason(error)}", hint="is this an address of this host?"
            ) from error
        return _TcpServer(server, gate, host)

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """See StreamTransport."""
        address = address_of(transport)
        certificate = transport.get_extra_info("peercert")
        if not certificate:
            if self._joiners:
                return Peer("", JOINER, address)
            raise Denied(f"{address} has shown no certificate")
        identity = identity_of(
            [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
        )
        if self._grid and identity.grid != self._grid:
            raise Denied(
                f"{identity.role} {identity.name!r} at {address} belongs to another grid",
                hint="check the address, or join this grid with a token of its manager",
            )
        return Peer(identity.name, identity.role, address)


class _TcpServer:
    def __init__(self, server: asyncio.Server, gate: Gate, host: str) -> None:
        self._server = server
        self._gate = gate
        port = server.sockets[0].getsockname()[1]
        self.url = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    async def close(self) -> None:
        self._server.close()
        await self._gate.close()


async def open_tls(
    url: str, context: ssl.SSLContext, make: ProtocolFactory, timeout_s: float
) -> asyncio.BaseTransport:
    """Connect to `url` with `context`. Raises PathLost, Denied, DeadlineExceeded."""
    host, port = parse_tcp_url(url)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_connection(
                make,
                host,
                port,
                ssl=context,
                ssl_handshake_timeout=timeout_s,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
    except TimeoutError:
        raise DeadlineExceeded(f"{url} does not answer within {timeout_s:g} s", outcome="not_done") from None
    except ssl.SSLError as error:
        raise _refused(url, error) from error
    except (OSError, UnicodeError) as error:  # a host that is no name at all is a UnicodeError
        raise PathLost(
            f"cannot reach {url}: {_reason(error)}", hint="is it running, and is this its address?"
        ) from error
    return transport


def parse_tcp_url(url: str) -> tuple[str, int]:
    """Host and port of `tcp://host:port`. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.scheme != "tcp" or parts.path:
        raise ConfigError(
            f"{url!r} is not an address", hint="write tcp://host:port, or tcp://[::1]:port for IPv6"
        )
    return host, port


def address_of(transport: asyncio.BaseTransport) -> str:
    """`host:port` of the other end, for messages."""
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if name else "the peer"


def _context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = False  # members are known by grid, role and name, wherever they run
    files = credentials.ca_file
    try:
        context.load_verify_locations(credentials.ca_file)
        if credentials.cert_file:
            files = f"{credentials.cert_file} with {os.path.basename(credentials.key_file)}"
            context.load_cert_chain(credentials.cert_file, credentials.key_file)
    except OSError as error:  # an SSLError is one
        if is_shortage(error):
            raise
        why = "damaged, or not a pair" if isinstance(error, ssl.SSLError) else _reason(error)
        raise ConfigError(
            f"cannot load the certificate {files}: {why}",
            hint="a client joins again with a token; in a grid's home restore pki/ from a copy",
        ) from error
    return context


def _reason(error: OSError | UnicodeError) -> str:
    """The system's own words; asyncio's repeat the address in its own form."""
    if isinstance(error, OSError) and (error.errno or 0) > 0 and sys.platform != "win32":
        return os.strerror(error.errno or 0).lower()
    return (getattr(error, "strerror", None) or str(error)).lower()


def _refused(url: str, error: ssl.SSLError) -> StaddleError:
    if not isinstance(error, ssl.SSLCertVerificationError):
        why = str(error.reason or error).replace("_", " ").lower()
        return PathLost(f"{url} is no Staddle port, or broke off ({why})", hint="check the address")
    if "expired" in error.verify_message or "not yet valid" in error.verify_message:
        return Denied(
            f"{url}: {error.verify_message}", hint="issue a new certificate, or set the clocks right"
        )
    return Denied(
        f"{url} belongs to another grid: its certificate is not of this grid's CA ({error.verify_message})",
        hint="check the address, or join that grid with a token of its manager",
    )
