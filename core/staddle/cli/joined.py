"""A host that has no grid of its own but has joined one: what `status` and `doctor` say there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from staddle.errors import ConfigError, StaddleError

if TYPE_CHECKING:
    from staddle.client.connection import ClientSettings
    from staddle.wire.ops.admin import GridStatus

ASK_TIMEOUT_S = 5.0


def joined_grid(home: str | None) -> ClientSettings | None:
    """The grid that this host has joined, if none was named and it has no own one. Raises StaddleError."""
    from staddle.client.connection import (
        CLIENT_NAME,
        client_directory,
        home_from_environment,
        joined_settings,
    )

    path = os.path.join(client_directory(), CLIENT_NAME)
    if home or os.environ.get("STADDLE_HOME") or not os.path.exists(path):
        return None
    try:
        home_from_environment(None)
    except ConfigError:
        return joined_settings(path)
    return None


def in_words(settings: ClientSettings) -> str:
    """Who we are, and in which grid."""
    managers = ", ".join(settings.manager_urls)
    return (
        f"this host has joined grid {settings.grid.hex()} as client {settings.name}; its manager: {managers}"
    )


async def ask_status(settings: ClientSettings) -> GridStatus:
    """What the manager says of its grid. Raises StaddleError."""
    from staddle.client.connection import GridConnection
    from staddle.wire.ops.admin import STATUS, Status

    async with GridConnection(settings) as grid:
        return await grid.manager.call(STATUS, Status(), timeout_s=ASK_TIMEOUT_S)


async def joined_status(settings: ClientSettings) -> dict[str, Any]:
    """The document of `status`, as far as a client can tell; `joined` says whose it is."""
    import msgspec

    found, problem = None, ""
    try:
        found = await ask_status(settings)
    except StaddleError as error:
        problem = str(error)
    urls = settings.manager_urls
    return {
        "joined": {"grid": settings.grid.hex(), "client": settings.name},
        "manager": {
            "pid": 0,
            "pids": [],
            "url": urls[0] if urls else "",
            "state": found.state if found else "silent",
            "message": problem,
        },
        "agents": [
            {"name": a.name, "pid": 0, "pids": [], "url": ", ".join(a.urls), "state": a.state}
            for a in (found.agents if found else [])
        ],
        "media": [msgspec.to_builtins(medium) for medium in (found.media if found else [])],
        "damage": {"damaged": found.damaged if found else 0, "lost": found.lost if found else 0},
    }
