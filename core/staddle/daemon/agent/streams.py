"""Opens streams: checks tickets, and gives each stream what it may refer to."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.locator import Locator
from staddle.daemon.agent.stream import ServedStream
from staddle.data.base import BaseRows
from staddle.data.known import KnownChunks, LibraryHits, U8Array
from staddle.data.manifest import Manifest
from staddle.data.pipeline import StreamPlan
from staddle.dedup.view import Hits
from staddle.engine.messages import Ticket
from staddle.engine.receiver import ReceiverLimits
from staddle.errors import Denied, Fenced, NotFound, StaddleError, Unavailable
from staddle.ids import IdsAfter
from staddle.wire.channel import Channel
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops.agents import USABLE, Usable
from staddle.wire.ops.base import Nothing
from staddle.wire.ops.data import OPEN_STREAM, OpenStream

log = logging.getLogger(__name__)

STREAMS_MAX = 4
"""Streams at once: what the pipeline's buffers are made for. A further one waits a while for its place."""
SLOT_WAIT_S = 8.0
SILENT_S = 60.0
"""A stream whose client has sent nothing for so long makes room for that of a client with fewer."""
CATCH_UP_S = 0.5
EPOCHS_KEPT = 20_000
USABLE_IDS_MAX = 4096
MANAGER_PATIENCE_S = 15.0
STOP_LIMIT_S = 5.0


class StreamDesk:
    """Answers `stream.open`. Belongs to the loop."""

    def __init__(
        self,
        context: AgentContext,
        locator: Locator,
        on_committed: Callable[[], None],
        catch_up: Callable[[float], Awaitable[None]],
        limits: ReceiverLimits | None = None,
    ) -> None:
        """Begin without streams.

        Args:
            context: what the parts of the process share.
            locator: finds manifests of base backups.
            on_committed: called after each segment that the manager has taken.
            catch_up: waits until the libraries know what was committed, at most so many seconds.
            limits: patience of the streams.
        """
        self._context = context
        self._locator = locator
        self._on_committed = on_committed
        self._catch_up = catch_up
        self._limits = limits
        self._epochs: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._streams: dict[tuple[int, int], ServedStream] = {}
        self._all: set[ServedStream] = set()
        self._places = asyncio.Semaphore(STREAMS_MAX)

    def install(self, handlers: Handlers) -> None:
        """Add the operation."""
        handlers.add(
            OPEN_STREAM.name,
            self._open,
            roles=OPEN_STREAM.roles,
            args=OPEN_STREAM.request,
            opens_channel=True,
        )

    @property
    def busy(self) -> bool:
        """Is any stream served now."""
        return bool(self._all)

    async def close(self) -> None:
        """End all streams; their clients find other paths."""
        streams = list(self._all)
        for stream in streams:
            stream.stop(Unavailable("the agent is going down", retry="elsewhere", scope="agent"))
        results = await asyncio.gather(
            *(stream.ended(STOP_LIMIT_S) for stream in streams), return_exceptions=True
        )
        for result in results:
            if isinstance(result, TimeoutError):
                log.warning("a stream's threads hang; they end with the process")
        await asyncio.gather(*(stream.close() for stream in streams))

    # --- tickets --------------------------------------------------------------------------------------

    async def _open(self, call: Call) -> Nothing:
        args: OpenStream = call.args
        assert call.channel is not None, "the operation opens a channel"
        ticket = self._checked(self._context.opened(args.signed, Ticket), call)
        earlier = self._streams.get((ticket.job, ticket.stream))
        if earlier is not None:
            earlier.stop(Fenced("a later assignment of this stream was opened here"))
        # Without what the backup before this one has stored, perhaps elsewhere, it would be stored again.
        await self._catch_up(CATCH_UP_S)
        await self._take_place(ticket.client)
        # While it waited, a later ticket may have come.
        if self._epochs.get((ticket.job, ticket.stream), 0) != ticket.epoch:
            self._places.release()
            raise Fenced("a later assignment of this stream was opened here")
        self._begin(ticket, call.channel)
        log.info("job %d stream %d: served from record %d on", ticket.job, ticket.stream, ticket.next_seq)
        return Nothing()

    def _begin(self, ticket: Ticket, channel: Channel) -> None:
        """Serve it in the place that was taken; if it can't begin, for want of a thread, that is freed."""
        try:
            stream = ServedStream(
                self._context,
                ticket,
                channel,
                lambda store: self._plan(ticket, store),
                on_committed=self._on_committed,
                on_ended=self._ended,
                limits=self._limits,
            )
        except BaseException:
            self._places.release()
            raise
        self._streams[ticket.job, ticket.stream] = stream
        self._all.add(stream)
        try:
            stream.begin()
        except BaseException:
            stream.stop(Unavailable("the stream did not begin", retry="elsewhere", scope="agent"))
            self._ended(stream)
            raise

    def _checked(self, ticket: Ticket, call: Call) -> Ticket:
        """Refuse what is not for this agent, this grid, this moment. A ticket is opened once."""
        role = self._context.role
        if ticket.grid != role.grid or ticket.agent != self._context.name:
            raise Denied(
                f"the ticket is for agent {ticket.agent!r} of grid {ticket.grid.hex()}", retry="never"
            )
        if call.peer.role != "admin" and ticket.client != call.peer.name:
            raise Denied(f"the ticket is client {ticket.client!r}'s, not {call.peer.name!r}'s", retry="never")
        self._context.check_epoch(ticket.manager_epoch)
        self._context.keys(ticket.domain)
        key = (ticket.job, ticket.stream)
        if ticket.epoch <= self._epochs.get(key, 0):
            raise Fenced(
                f"job {ticket.job} stream {ticket.stream}: epoch {ticket.epoch} was opened before, "
                f"up to {self._epochs[key]}",
                hint="ask the manager for a new assignment",
            )
        self._epochs[key] = ticket.epoch
        self._epochs.move_to_end(key)
        while len(self._epochs) > EPOCHS_KEPT:
            self._epochs.popitem(last=False)
        return ticket

    async def _take_place(self, client: str) -> None:
        if self._places.locked():
            self._make_room(client)
        try:
            async with asyncio.timeout(SLOT_WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable(
                f"agent {self._context.name!r} serves {STREAMS_MAX} streams already",
                hint="use fewer streams, or add an agent",
                code="BUSY",
                scope="agent",
            ) from None

    def _make_room(self, client: str) -> None:
        """End a stream that keeps its place for nothing, of a client that has more places than this one."""
        held = Counter(stream.ticket.client for stream in self._all)
        silent = [
            stream
            for stream in self._all
            if held[stream.ticket.client] > held[client] and stream.silent_s >= SILENT_S
        ]
        if silent:
            last = max(silent, key=lambda stream: (held[stream.ticket.client], stream.silent_s))
            text = f"nothing has come for {last.silent_s:.0f} s, and another client waits for the place"
            last.stop(Unavailable(text, code="BUSY", retry="elsewhere", scope="agent"))

    def _ended(self, stream: ServedStream) -> None:
        if stream not in self._all:
            return  # it did not begin, and its thread has ended after all
        key = (stream.ticket.job, stream.ticket.stream)
        if self._streams.get(key) is stream:
            del self._streams[key]
        self._all.remove(stream)
        self._places.release()

    # --- what a stream may refer to -------------------------------------------------------------------

    def _plan(self, ticket: Ticket, store: Any) -> StreamPlan:
        keys = self._context.keys(ticket.domain)
        known = KnownChunks(
            lambda prints: self._lookup(ticket.domain, prints), lambda ids: self._usable(ticket.pool, ids)
        )
        known.refuse(ticket.bad)
        base = BaseRows(_Base(self._locator, ticket, keys).load) if ticket.base_backup else None
        ids = IdsAfter(self._context.ids, ticket.issued_ns)
        return StreamPlan(keys=keys, ids=ids, store=store, known=known, base=base)

    def _lookup(self, domain: str, prints: U8Array) -> LibraryHits:
        """Never fails a backup: what can't be looked up is stored again."""
        library = self._context.libraries.get(domain)
        if library is not None:
            try:
                return library.lookup(prints)
            except (StaddleError, OSError) as error:
                log.warning("fingerprint library of %s: %s", domain, error)
        return _no_hits(len(prints))

    def _usable(self, pool: str, ids: Sequence[bytes]) -> set[bytes]:
        """Which containers meet the pool's rules now (G1); none while no manager answers."""
        good: set[bytes] = set()
        for at in range(0, len(ids), USABLE_IDS_MAX):
            request = Usable(pool=pool, containers=list(ids[at : at + USABLE_IDS_MAX]))
            try:
                good.update(self._context.ask(USABLE, request, patience_s=MANAGER_PATIENCE_S).ids)
            except StaddleError as error:
                log.warning("containers are stored again, since the manager does not say better: %s", error)
                break
        return good


class _Base:
    """Manifests of the base backup by their place in it."""

    def __init__(self, locator: Locator, ticket: Ticket, keys: Any) -> None:
        self._locator = locator
        self._backup = ticket.base_backup
        self._keys = keys
        self._ids: list[bytes] | None = None

    def load(self, index: int) -> Manifest:
        """Raises NotFound and what reading raises."""
        if self._ids is None:
            self._ids = self._locator.manifests_of(self._backup)
        if index >= len(self._ids):
            raise NotFound(f"backup {self._backup} has {len(self._ids)} manifests, not {index + 1}")
        return self._locator.manifest(self._ids[index], self._keys)


def _no_hits(count: int) -> Hits:
    zeros = np.zeros(count, np.uint32)
    return Hits(
        found=np.zeros(count, np.bool_),
        unknown=np.ones(count, np.bool_),
        container=zeros,
        ordinal=zeros,
        raw_length=zeros,
        containers=np.zeros((1, 16), np.uint8),
    )
