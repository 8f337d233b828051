"""Running an event loop where descriptors may be short."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, but a loop for which there is no descriptor is an OSError and nothing else.

    asyncio's own, half made, complains of itself with a traceback on stderr when it is collected.
    """
    try:
        _look_for_room()
    except OSError:
        main.close()  # else that complains, too: it was never awaited
        raise
    return asyncio.run(main)


def _look_for_room() -> None:
    """Open and close what a loop opens first."""
    left, right = socket.socketpair()
    with left, right, selectors.DefaultSelector():
        pass
