"""The built-in stream transports: known by name here, imported when a URL asks for one."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, cast
from urllib.parse import SplitResult, urlsplit

from staddle.api.transport import StreamTransport
from staddle.errors import ConfigError


class Scheme(NamedTuple):
    """Where a transport lives, and what it is in a few words."""

    module: str
    type_name: str
    summary: str

    def load(self) -> type[StreamTransport]:
        """The transport's class."""
        return cast("type[StreamTransport]", getattr(import_module(self.module), self.type_name))


SCHEMES = {
    "tcp": Scheme("staddle.wire.tcp", "TcpTransport", "TLS 1.3, both sides authenticated"),
    "unix": Scheme("staddle.wire.unix", "UnixTransport", "local socket, peer credentials"),
    "mem": Scheme("staddle.wire.mem", "MemTransport", "inside one process, for tests and simulation"),
}


def split_url(url: str) -> SplitResult:
    """The parts of an address, which may come from a peer. Raises ConfigError for what is none."""
    try:
        if "\0" in url:
            raise ValueError("it holds NUL")  # noqa: TRY301 - one message for both
        return urlsplit(url)
    except ValueError as error:  # also brackets that hold no IPv6 address
        raise ConfigError(f"{url!r} is not an address: {error}", hint="write tcp://host:port") from None
