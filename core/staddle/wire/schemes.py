"""The built-in stream transports: known by name here, imported when a URL asks for one."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, cast

from staddle.api.transport import StreamTransport


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
