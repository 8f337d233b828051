"""The built-in stream transports, as a plugin like any other."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from staddle.api.transport import TransportType
from staddle.api.types import API_VERSION
from staddle.hookspecs import hookimpl


def _lazy(module: str, name: str) -> Any:
    return lambda: getattr(import_module(module), name)


def _stream(scheme: str, module: str, name: str, summary: str) -> TransportType:
    return TransportType(
        scheme=scheme,
        kind="stream",
        version="1",
        api_version=API_VERSION,
        load=_lazy(module, name),
        summary=summary,
    )


@hookimpl
def staddle_transports() -> list[TransportType]:
    """The links between clients, agents and the manager."""
    return [
        _stream("tcp", "staddle.wire.tcp", "TcpTransport", "TLS 1.3, both sides authenticated"),
        _stream("unix", "staddle.wire.unix", "UnixTransport", "local socket, peer credentials"),
        _stream("mem", "staddle.wire.mem", "MemTransport", "inside one process, for tests and simulation"),
    ]
