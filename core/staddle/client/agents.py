"""Links to agents for reading: made when first needed, kept, made again when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from staddle.errors import StaddleError, Unavailable
from staddle.wire.calls import Reply
from staddle.wire.link import Link
from staddle.wire.ops.base import Operation
from staddle.wire.ops.reading import AgentRef
from staddle.wire.redial import is_transport_error

REST_S = 10.0
"""How long an agent that could not be reached is asked only when no other one can serve."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Dialler(Protocol):
    """Opens links to agents: `client.connection.GridConnection`."""

    def dial(self, agent: str, urls: list[str]) -> Awaitable[Link]:
        """A new link to an agent by the first URL that works."""


def may_pass(error: StaddleError) -> bool:
    """May the same question to the same agent be answered later."""
    return is_transport_error(error) or error.retry in {"now", "after"}


@dataclass
class _Agent:
    ref: AgentRef
    link: Link | None = None
    rests_until_s: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class AgentLinks:
    """At most one link per agent. Belongs to one event loop; `close` it."""

    def __init__(self, grid: Dialler, agents: Iterable[AgentRef] = ()) -> None:
        self._grid = grid
        self._agents: dict[str, _Agent] = {}
        self._favourite = ""
        self.update(agents)

    def update(self, agents: Iterable[AgentRef]) -> None:
        """Agents as the manager names them now; links to those that stay are kept."""
        for ref in agents:
            known = self._agents.get(ref.name)
            if known is None:
                self._agents[ref.name] = _Agent(ref)
            else:
                known.ref = ref

    def order(self, names: Iterable[str] | None = None) -> list[str]:
        """Whom to ask in turn: the one that answered last first, those that rest last."""
        now_s = asyncio.get_running_loop().time()
        known = [name for name in (self._agents if names is None else names) if name in self._agents]
        return sorted(
            known, key=lambda name: (self._agents[name].rests_until_s > now_s, name != self._favourite)
        )

    async def ask(
        self, name: str, operation: Operation[Request, Answer], request: Request, *, timeout_s: float
    ) -> Reply:
        """One call to one agent. One that can't be reached rests. Raises as `Link.request` does."""
        agent = self._agents[name]
        rests_until_s = agent.rests_until_s
        try:
            link = await self._link(agent)
            reply = await link.request(operation.name, request, timeout_s=timeout_s)
        except StaddleError as error:
            if is_transport_error(error):
                agent.rests_until_s = asyncio.get_running_loop().time() + REST_S
            raise
        if agent.rests_until_s == rests_until_s:  # else it came to rest while this one was under way
            agent.rests_until_s = 0.0
            self._favourite = name
        return reply

    def distrust(self, name: str) -> None:
        """Its answer was wrong: it is asked again only when no other one can serve."""
        self._agents[name].rests_until_s = asyncio.get_running_loop().time() + REST_S

    async def _link(self, agent: _Agent) -> Link:
        async with agent.turn:
            if agent.link is None or agent.link.error is not None:
                agent.link = None
                agent.link = await self._grid.dial(agent.ref.name, agent.ref.urls)
            return agent.link

    async def close(self) -> None:
        """Close all links. Idempotent."""
        links = [agent.link for agent in self._agents.values() if agent.link is not None]
        self._agents.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.gather(*(link.close(0.5) for link in links), return_exceptions=True)


def telling(errors: list[StaddleError]) -> StaddleError:
    """Of what several agents said, what says most: the last word about the data, else about the way to it."""
    about_data = [error for error in errors if not may_pass(error)]
    if about_data:
        return about_data[-1]
    return errors[-1] if errors else Unavailable("no agent reaches the data now", hint="see `staddle status`")
