"""How fast a client or an agent may make the manager write: what it says stands in the log for long.

A token bucket for each, in bytes: a request costs its fields and a share of what a record of the log and its
row cost besides. Who is too fast is told to ask again; who is honest never comes near.
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
AGENT_BURST_BYTES = 64 << 20
AGENT_REFILL_BYTES_PER_S = 1 << 20
"""An agent speaks for all of its streams, and for all of its media once a second."""
CLIENTS_MAX = 4096
JOBS_ACTIVE_MAX = 256
"""Of one client."""


class Allowance:
    """The buckets of all who call. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: clock: seconds, for tests."""
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, peer: Peer, request: msgspec.Struct) -> None:
        """Account for a request of a client or an agent; others are trusted. Raises Unavailable."""
        rates = {
            "client": (BURST_BYTES, REFILL_BYTES_PER_S),
            "agent": (AGENT_BURST_BYTES, AGENT_REFILL_BYTES_PER_S),
        }
        if peer.role not in rates:
            return
        burst, refill = rates[peer.role]
        now_s, who = self._clock(), (peer.role, peer.name)
        left, at_s = self._buckets.pop(who, (float(burst), now_s))
        left = min(left + (now_s - at_s) * refill, float(burst))
        cost = REQUEST_BYTES + len(msgspec.msgpack.encode(request))
        enough = cost <= left
        self._buckets[who] = (left - cost if enough else left, now_s)
        if len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        if not enough:
            raise Unavailable(
                f"{peer.role} {peer.name!r} asks for more than the manager's log can take "
                f"from one {peer.role}",
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
