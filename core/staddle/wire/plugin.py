"""The built-in stream transports, as a plugin like any other."""

from __future__ import annotations

from staddle.api.transport import TransportType
from staddle.api.types import API_VERSION
from staddle.hookspecs import hookimpl
from staddle.wire.schemes import SCHEMES


@hookimpl
def staddle_transports() -> list[TransportType]:
    """The links between clients, agents and the manager."""
    return [
        TransportType(
            scheme=scheme,
            kind="stream",
            version="1",
            api_version=API_VERSION,
            load=found.load,
            summary=found.summary,
        )
        for scheme, found in SCHEMES.items()
    ]
