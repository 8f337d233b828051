"""The agents that are there: their links, what they say of their media, and calls to them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from staddle import typed
from staddle.api.types import MediumState
from staddle.daemon.manager.adoption import Adoption, label_of
from staddle.daemon.manager.allowance import Allowance
from staddle.daemon.manager.core import Manager
from staddle.data.crypto import DomainKeys
from staddle.engine import ops
from staddle.engine.configure import decide_agent, decide_medium_state
from staddle.engine.tables import MediumStatus
from staddle.errors import Denied, StaddleError, Unavailable
from staddle.platform.clock import lease_clock_ns
from staddle.wire.calls import Reply
from staddle.wire.handlers import Call, Handlers
from staddle.wire.link import Link
from staddle.wire.ops.agents import (
    AGENT_HELLO,
    AGENT_REPORT,
    AgentHello,
    AgentReport,
    AgentWelcome,
    EpochProof,
    MediumReport,
)
from staddle.wire.ops.base import Nothing, Operation, register
from staddle.wire.tickets import TicketSigner, open_ticket

log = logging.getLogger(__name__)

PARTS = ("control", "data")
"""The processes of an agent."""
MESSAGE_CHARS_MAX = 1000
"""Of what an agent says of a medium, as the log keeps it."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class AgentSession:
    """One agent: its links by part, and its last report."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.links: dict[str, Link] = {}
        self.pids: dict[str, int] = {}
        self.media: dict[str, MediumReport] = {}

    def data_link(self) -> Link | None:
        """The open link of the data process."""
        link = self.links.get("data")
        return link if link is not None and link.error is None else None


class Presence:
    """Who is there. `signer`'s key and `domains` are what agents get at their hello."""

    def __init__(
        self,
        manager: Manager,
        adoption: Adoption,
        signer: TicketSigner,
        domains: dict[str, DomainKeys],
        keyring: bytes,
    ) -> None:
        self._manager = manager
        self._adoption = adoption
        self._signer = signer
        self._domains = domains
        self._keyring = keyring
        self._allowance = Allowance()
        self.sessions: dict[str, AgentSession] = {}
        self._watching: set[asyncio.Task[None]] = set()

    def install(self, handlers: Handlers) -> None:
        """Add the operations that agents call to be known."""
        register(handlers, AGENT_HELLO, self._hello)
        register(handlers, AGENT_REPORT, self._report)

    # --- what agents say --------------------------------------------------------------------------

    async def _hello(self, call: Call) -> AgentWelcome:
        hello: AgentHello = call.args
        name = call.peer.name
        settings = self._manager.settings
        if name not in settings.agent:
            raise Denied(f"agent {name!r} is not in this grid's configuration", hint=f"add [agent.{name}]")
        self._allowance.take(call.peer, hello)
        if hello.manager_epoch > self._manager.state.epoch:
            self._check_proof(name, hello)
            self._manager.outrun(hello.manager_epoch)
        session = self.sessions.setdefault(name, AgentSession(name))
        fresh = session.links.get(hello.part) is not call.link
        session.links[hello.part] = call.link
        session.pids[hello.part] = hello.pid
        if hello.part == "data":
            await self._manager.change(decide_agent, ops.AgentSet(name=name, urls=list(hello.urls)))
            reached = settings.media_of(name)
            await self._adoption.adopt(name, {m: text for m, text in hello.labels.items() if m in reached})
        self._manager.core.health.agent_seen(name, lease_clock_ns())
        if fresh:  # an agent may say hello again over the same link: what it knows of its media has changed
            watching = asyncio.create_task(self._watch(session, hello.part, call.link))
            self._watching.add(watching)
            watching.add_done_callback(self._watching.discard)
            log.info("agent %s: its %s process is there", name, hello.part)
        return self._welcome(name, hello.labels)

    def _welcome(self, agent: str, found: dict[str, bytes]) -> AgentWelcome:
        state = self._manager.state
        media = [name for name in self._manager.settings.media_of(agent) if name in state.media]
        empty = {name for name in media if found.get(name) == b""}
        if empty:  # seldom: it asks every object
            empty -= {copy.medium for item in state.objects.values() for copy in item.placements()}
            empty -= set(state.unread)
        pools = [pool for pool in state.pools.values() if set(pool.media) & set(media)]
        domains = sorted({pool.domain for pool in pools})
        return AgentWelcome(
            grid=state.grid,
            manager_epoch=state.epoch,
            ticket_key=self._signer.public_key,
            domains=[msgspec.msgpack.encode(self._domains[name]) for name in domains],
            owner_map=state.owner_map,
            labels={name: label_of(state, name) for name in media},
            fresh=[name for name in media if name in empty],
            keyring=self._keyring,
            epoch_proof=self._signer.sign(
                msgspec.msgpack.encode(EpochProof(grid=state.grid, manager_epoch=state.epoch))
            ),
        )

    def fingerprint_key(self, domain: str) -> bytes:
        """What readers check chunks with; empty for a domain that has no keys here."""
        return self._domains[domain].fingerprint_key if domain in self._domains else b""

    def _check_proof(self, agent: str, hello: AgentHello) -> None:
        """A manager ends for a higher epoch, so it takes the word of that manager alone. Raises Denied."""
        said = f"agent {agent!r} says that it has followed a manager of epoch {hello.manager_epoch}"
        try:
            proof = typed.unpack(open_ticket(hello.epoch_proof, self._signer.public_key), EpochProof)
        except (Denied, msgspec.DecodeError):
            proof = None
        if (
            proof is None
            or proof.grid != self._manager.state.grid
            or proof.manager_epoch < hello.manager_epoch
        ):
            log.error("%s, and can't prove it: it is not let in", said)
            raise Denied(
                f"{said}, and can't prove it",
                hint="see that no other manager of the grid runs, then remove the agent's file manager-epoch",
            )

    async def _watch(self, session: AgentSession, part: str, link: Link) -> None:
        await link.wait_closed()
        if session.links.get(part) is link:
            log.warning("agent %s: its %s process is gone: %s", session.name, part, link.error)
            self._manager.core.health.agent_gone(session.name)
            await self._judge_media()

    async def _report(self, call: Call) -> Nothing:
        report: AgentReport = call.args
        session = self.sessions.get(call.peer.name)
        if session is None:
            raise Denied("an agent says hello before it reports", retry="after")
        self._allowance.take(call.peer, report)
        reached = self._manager.settings.media_of(session.name)
        session.media = {
            medium.name: self._judged(session.name, medium)
            for medium in report.media
            if medium.name in reached
        }
        if session.data_link() is not None:
            states = {medium.name: MediumState(medium.state) for medium in session.media.values()}
            low = [medium.name for medium in session.media.values() if medium.low]
            self._manager.core.health.agent_seen(session.name, lease_clock_ns(), states, low)
        await self._judge_media()
        return Nothing()

    def _judged(self, agent: str, report: MediumReport) -> MediumReport:
        """A medium that holds the wrong volume is of no use, however well it is."""
        problem = self._adoption.problem(report.name, agent)
        known = self._manager.state.media.get(report.name)
        if not problem and known is not None and report.volume not in (b"", known.volume):
            # It was exchanged after the agent's hello.
            problem = f"another volume than medium {report.name!r} is at its place: mount the right one"
        if not problem:
            return report
        return msgspec.structs.replace(report, state=MediumState.OFFLINE.value, message=problem)

    async def _judge_media(self) -> None:
        """A medium is offline when every agent that is alive and reaches it says so."""
        now_ns, health = lease_clock_ns(), self._manager.core.health
        alive = [s for s in self.sessions.values() if health.agent_alive(s.name, now_ns)]
        for name, medium in list(self._manager.state.media.items()):
            said = [session.media[name] for session in alive if name in session.media]
            if not said or medium.state not in {MediumStatus.UP, MediumStatus.OFFLINE}:
                continue
            bad = [report for report in said if report.state not in {"up", "busy", "suspect"}]
            state = MediumStatus.OFFLINE if len(bad) == len(said) else MediumStatus.UP
            if state is not medium.state:
                # What one agent of several has against it is no word on a medium that is up.
                message = bad[0].message[:MESSAGE_CHARS_MAX] if state is MediumStatus.OFFLINE else ""
                log.warning("medium %s is %s %s", name, state.value, message)
                await self._manager.change(decide_medium_state, name, state, message, time.time_ns())

    def agent_state(self, name: str) -> str:
        """For people: up, silent (its links are open, nothing comes), or down."""
        session = self.sessions.get(name)
        if session is None or not any(link.error is None for link in session.links.values()):
            return "down"
        if session.data_link() is None or "control" not in session.links:
            return "starting" if len(session.links) < len(PARTS) else "down"
        return "up" if self._manager.core.health.agent_alive(name, lease_clock_ns()) else "silent"

    # --- calls to agents ----------------------------------------------------------------------------

    def serving(self, medium: str = "") -> list[AgentSession]:
        """Agents whose data process is there, and which reach a medium; those that see it well first."""
        now_ns, health = lease_clock_ns(), self._manager.core.health
        found = [
            session
            for session in self.sessions.values()
            if session.data_link() is not None
            and health.agent_alive(session.name, now_ns)
            and (not medium or medium in self._manager.settings.media_of(session.name))
        ]
        return sorted(found, key=lambda s: medium in s.media and s.media[medium].state != "up")

    async def call(
        self,
        operation: Operation[Request, Answer],
        request: Request,
        payload: bytes | None = None,
        *,
        medium: str = "",
        timeout_s: float = 60.0,
        accept: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """Ask agents in turn until one gives an answer that makes sense, and that `accept` takes.

        Raises: what the last one said, or Unavailable.
        """

        def read(reply: Reply) -> Answer:
            answer = operation.decode(reply)
            if accept is not None:
                accept(answer)
            return answer

        return await self._ask(operation, request, payload, read, medium=medium, timeout_s=timeout_s)

    async def raw(
        self,
        operation: Operation[Request, Answer],
        request: Request,
        payload: bytes | None = None,
        *,
        medium: str = "",
        timeout_s: float = 60.0,
    ) -> Reply:
        """Like `call`, for replies whose payload is bulk data."""
        return await self._ask(operation, request, payload, _as_it_is, medium=medium, timeout_s=timeout_s)

    async def _ask(
        self,
        operation: Operation[Request, Answer],
        request: Request,
        payload: bytes | None,
        read: Callable[[Reply], Result],
        *,
        medium: str,
        timeout_s: float,
    ) -> Result:
        last: StaddleError = Unavailable(
            f"no agent is there that reaches medium {medium!r}" if medium else "no agent is there",
            hint="see `staddle status`",
        )
        for session in self.serving(medium):
            link = session.data_link()
            if link is None:
                continue
            try:
                return read(await link.request(operation.name, request, payload, timeout_s=timeout_s))
            except StaddleError as error:
                last = error
        raise last


def _as_it_is(reply: Reply) -> Reply:
    return reply
