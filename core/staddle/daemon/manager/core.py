"""Joins the engine's manager to the op-log and the event loop: one place where effects are carried out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn

from staddle.api.catalog import Record
from staddle.catalog.oplog import OpLog
from staddle.config import Settings
from staddle.engine.manager import Append, ManagerCore, ManagerEffect, Publish, Reply, Request
from staddle.engine.ops import Op
from staddle.engine.state import GridState
from staddle.errors import Fenced, StaddleError
from staddle.ids import Ids
from staddle.platform.clock import lease_clock_ns

log = logging.getLogger(__name__)

Subscriber = Callable[[list[Record]], None]


class Outrun(Fenced):
    """An agent has followed a manager of a higher epoch.

    Attributes:
        epoch: that epoch.
        renewable: this manager's own log was lost, so that it may begin again above it (K1); else it has
            been replaced.
    """

    def __init__(self, epoch: int, own: int, *, renewable: bool) -> None:
        super().__init__(
            f"an agent has followed a manager of epoch {epoch}, this one has {own}",
            hint=""
            if renewable
            else "another manager has taken over, or an old copy of the log was restored",
            retry="after" if renewable else "never",
        )
        self.epoch = epoch
        self.renewable = renewable


class Manager:
    """The manager's term: requests in, durable answers out. Belongs to one event loop.

    Attributes:
        failed: set with the error that ends this manager: the log failed, or the lease is gone.
    """

    def __init__(self, settings: Settings, oplog: OpLog, core: ManagerCore, ids: Ids) -> None:
        self.settings = settings
        self.oplog = oplog
        self.core = core
        self.ids = ids
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._subscribers: list[Subscriber] = []

    @property
    def state(self) -> GridState:
        """The tier-1 state; only read it."""
        return self.core.state

    def subscribe(self, subscriber: Subscriber) -> None:
        """Hear of every durable record, in the order of the log."""
        self._subscribers.append(subscriber)

    def outrun(self, epoch: int) -> NoReturn:
        """An agent knows of a higher epoch: this term ends. Raises Outrun, for the agent."""
        error = Outrun(epoch, self.state.epoch, renewable=not self.state.backups)
        self._fail(error)
        raise error

    async def begin(self) -> None:
        """Log the term's own record; serve nothing before this returns."""
        self._run(self.core.begin(time.time_ns()))
        await self.change(_nothing)

    async def ask(self, request: Request) -> Any:
        """A request of the stream protocol; its answer, once what it rests on is durable.

        Raises: StaddleError as decided; Fenced when the lease is gone.
        """
        tag: asyncio.Future[Any] = self._loop.create_future()
        self._guarded(lambda: self.core.handle(request, tag, lease_clock_ns(), time.time_ns()))
        return await tag

    async def change(self, decide: Callable[..., Any], *args: Any) -> Any:
        """Run a `decide_*(state, *args)` of the engine; its answer once its ops are durable."""
        tag: asyncio.Future[Any] = self._loop.create_future()
        self._guarded(lambda: self.core.change(decide, *args, tag=tag, now_ns=lease_clock_ns()))
        return await tag

    def report(self, request: Request) -> None:
        """A message that nobody waits for an answer of."""
        self._guarded(lambda: self.core.handle(request, None, lease_clock_ns(), time.time_ns()))

    def tick(self) -> None:
        """Time has passed: leases of jobs run out."""
        self._guarded(lambda: self.core.tick(lease_clock_ns(), time.time_ns()))

    def _guarded(self, step: Callable[[], list[ManagerEffect]]) -> None:
        if self.failed.done():
            raise self.failed.exception() or StaddleError("the manager has ended")
        try:
            effects = step()
        except StaddleError as error:
            if error.code == "FENCED":
                self._fail(error)
            raise
        self._run(effects)

    def _run(self, effects: list[ManagerEffect]) -> None:
        for effect in effects:
            match effect:
                case Append():
                    self._append(effect.records)
                case Reply(tag=tag, message=message):
                    if tag.done():  # the caller has gone
                        continue
                    if isinstance(message, StaddleError):
                        tag.set_exception(message)
                    else:
                        tag.set_result(message)
                case Publish():
                    for subscriber in self._subscribers:
                        subscriber(effect.records)

    def _append(self, records: list[Record]) -> None:
        try:
            durable = self.oplog.append(records)
        except Exception as error:
            # The state is ahead of a log that takes nothing: only a new term can go on from the log.
            self._fail(error)
            raise
        durable.add_done_callback(self._on_durable)

    def _on_durable(self, done: Future[int]) -> None:
        """Called by the log's thread."""
        self._loop.call_soon_threadsafe(self._durable, done)

    def _durable(self, done: Future[int]) -> None:
        try:
            self._run(self.core.on_durable(done.result(), lease_clock_ns()))
        except Exception as error:  # noqa: BLE001 - it ends the manager: answers that were due are lost
            self._fail(error)

    def loop_ended(self, task: asyncio.Task[None]) -> None:
        """A loop that must run as long as the manager has ended: without it leases would never run out."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a loop of the manager failed", exc_info=error)
            self._fail(_internal(error))

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            log.error("the manager ends: %s", error, exc_info=not isinstance(error, StaddleError))
            self.failed.set_exception(error if isinstance(error, StaddleError) else _internal(error))


def _internal(error: BaseException) -> StaddleError:
    return StaddleError(f"the manager failed: {error!r}", code="INTERNAL", scope="cluster")


def _nothing(_: GridState) -> list[Op]:
    """Decide nothing: the answer comes when everything before it is durable."""
    return []
