"""How fast a client may make the manager write: what it asks for stands in the log and in memory for long.

A token bucket per client, in bytes: a request costs its fields and a share of what a record of the log and
its row cost besides. A client that is too fast is told to ask again; an honest one never comes near.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from staddle.api.transport import Peer
from staddle.engine.messages import CreateJob
from staddle.engine.tables import Tables
from staddle.errors import Unavailable

REQUEST_BYTES = 1024
BURST_BYTES = 16 << 20
REFILL_BYTES_PER_S = 64 << 10
CLIENTS_MAX = 4096
JOBS_ACTIVE_MAX = 256
"""Of one client."""


class Allowance:
    """The buckets of all clients. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: clock: seconds, for tests."""
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: Peer, request: msgspec.Struct) -> None:
        """Account for a request of a client; others are trusted. Raises Unavailable."""
        if peer.role != "client":
            return
        now_s = self._clock()
        left, at_s = self._buckets.pop(peer.name, (float(BURST_BYTES), now_s))
        left = min(left + (now_s - at_s) * REFILL_BYTES_PER_S, float(BURST_BYTES))
        cost = REQUEST_BYTES + len(msgspec.msgpack.encode(request))
        enough = cost <= left
        self._buckets[peer.name] = (left - cost if enough else left, now_s)
        if len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        if not enough:
            raise Unavailable(
                f"client {peer.name!r} asks for more than the manager's log can take from one client",
                hint="ask again later, more slowly",
                code="BUSY",
            )


def check_room(state: Tables, request: CreateJob) -> None:
    """A client has so many jobs at a time and no more. Raises Unavailable."""
    if request.request in state.requests:
        return
    running = sum(state.jobs[number].client == request.client for number in state.active)
    if running >= JOBS_ACTIVE_MAX:
        raise Unavailable(
            f"client {request.client!r} runs {running} jobs already",
            hint="wait until some have ended, or cancel them: `staddle job list`",
            code="BUSY",
        )
