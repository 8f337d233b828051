"""The manager's side of its catalog: starts the owner process, feeds it, asks it.

The feed is the log itself: what the catalog has applied is in its own file, so after any crash the records
above that are read from the log again. Nothing that clients wait for waits for the catalog, except questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable
from subprocess import Popen, TimeoutExpired
from typing import Any

import msgspec

from staddle.api.catalog import Record
from staddle.daemon.manager.core import Manager
from staddle.daemon.setup import Identities
from staddle.errors import StaddleError, Unavailable
from staddle.platform import process
from staddle.platform.shortage import is_shortage
from staddle.wire.endpoint import connect
from staddle.wire.link import Link
from staddle.wire.messages import Hello
from staddle.wire.ops.catalog import APPLY, ASK, INGEST, Apply, Ask, Ingest

log = logging.getLogger(__name__)

BATCH_RECORDS = 500
FEED_PAUSE_S = 0.05
START_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 120.0
CHILD_STOP_S = 30.0
PAUSE_S = 1.0
PAUSE_MAX_S = 30.0
INGEST_QUEUE_BYTES_MAX = 64 << 20


class CatalogLink:
    """One catalog process, and what it still has to be told.

    Attributes:
        on_begun_again: called after one that had died was replaced: `pid` is another one now.
    """

    def __init__(self, manager: Manager, identities: Identities, home: str) -> None:
        self._manager = manager
        self._identities = identities
        self._home = home
        self.on_begun_again: Callable[[], None] = lambda: None
        self._child: Popen[bytes] | None = None
        self._link: Link | None = None
        self._pending: deque[Record] = deque()
        self._manifests: deque[tuple[int, bytes, bytes]] = deque()
        self._manifest_bytes = 0
        self._wake = asyncio.Event()
        self._fed = asyncio.Condition()
        self.applied_lsn = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the owner process."""
        return self._child.pid if self._child is not None else 0

    async def start(self) -> None:
        """Start the owner and catch up with the log. Raises Unavailable if it does not come up."""
        self._manager.subscribe(self._on_records)
        await self._begin()
        self._task = asyncio.create_task(self._feed())
        self._task.add_done_callback(self._manager.loop_ended)

    async def _begin(self) -> None:
        argv = [sys.executable, "-m", "staddle", "daemon", "catalog", "--home", self._home]
        self._child = process.spawn_child(argv)
        url = await self._first_line(self._child)
        hello = Hello(name="manager", role="manager", grid=self._identities.grid)
        credentials = self._identities.credentials("manager")
        link = await connect(url, credentials, hello, expect_role="manager")
        reply = await link.request(APPLY.name, Apply(count=0))
        self.applied_lsn = APPLY.decode(reply).lsn
        if self.applied_lsn:
            reply = await link.request(ASK.name, Ask(method="applied_epoch", arguments={}))
            epoch = int(ASK.decode(reply).value)
            await asyncio.to_thread(self._manager.oplog.check_holds, epoch, self.applied_lsn)
        # What becomes durable from here on comes by `_on_records`; the log has the rest.
        self._pending.clear()
        self._link = link
        missed = await asyncio.to_thread(lambda: list(self._manager.oplog.replay(self.applied_lsn)))
        last = missed[-1].lsn if missed else self.applied_lsn
        self._pending = deque([*missed, *(record for record in self._pending if record.lsn > last)])

    async def _first_line(self, child: Popen[bytes]) -> str:
        assert child.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await asyncio.to_thread(child.stdout.readline)
        except TimeoutError:
            line = b""
        if not line:
            raise Unavailable(
                "the catalog's process did not start",
                hint="see log/manager.out in the home",
                exit_code=await asyncio.to_thread(_exit_code, child),
            )
        return line.decode().strip()

    # --- feeding ------------------------------------------------------------------------------------

    def _on_records(self, records: list[Record]) -> None:
        if self._link is None:
            return  # the owner will be told from the log
        last = self._pending[-1].lsn if self._pending else self.applied_lsn
        self._pending.extend(record for record in records if record.lsn > last)
        self._wake.set()

    def add_manifest(self, backup: int, manifest: bytes, plain: bytes) -> None:
        """Take in the files of a committed segment, soon. Beyond the bound they are read from the media."""
        if self._manifest_bytes + len(plain) <= INGEST_QUEUE_BYTES_MAX:
            self._manifests.append((backup, manifest, plain))
            self._manifest_bytes += len(plain)
            self._wake.set()

    async def _feed(self) -> None:
        pause_s = PAUSE_S
        while True:
            try:
                await self._feed_once()
            except Exception as error:
                if self._link is None or self._link.error is not None:
                    log.error("the catalog's process is gone, another is started: %s", error)
                    await self._begin_again()
                    continue
                if isinstance(error, StaddleError):
                    log.error("the catalog refused: %s", error)
                else:
                    log.exception("the catalog can't be told, it is tried again")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
            else:
                pause_s = PAUSE_S
            if not self._pending and not self._manifests:
                await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(FEED_PAUSE_S)  # a little company makes one transaction of many records

    async def _begin_again(self) -> None:
        """Until it runs: questions fail meanwhile, backups do not."""
        self._link, pause_s = None, PAUSE_S
        while True:
            try:
                await self._end_child()
                await self._begin()
            except Exception as error:
                told = isinstance(error, StaddleError) or is_shortage(error)
                log.error("the catalog does not start: %s", error, exc_info=not told)
            else:
                self.on_begun_again()
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _end_child(self) -> None:
        """Its input is closed, so it ends; one that does not listen is killed. Done again if it fails."""
        child = self._child
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(OSError):
            child.stdin.close()
        try:
            await asyncio.to_thread(child.wait, CHILD_STOP_S)
        except TimeoutExpired:
            log.error("the catalog's process does not end: it is killed")
            process.kill(child.pid)
            await asyncio.to_thread(child.wait)
        child.stdout.close()
        self._child = None

    async def _feed_once(self) -> None:
        link = self._alive()
        if self._pending:
            batch = [self._pending[at] for at in range(min(BATCH_RECORDS, len(self._pending)))]
            reply = await link.request(
                APPLY.name, Apply(count=len(batch)), msgspec.msgpack.encode(batch), timeout_s=ASK_TIMEOUT_S
            )
            async with self._fed:
                self.applied_lsn = APPLY.decode(reply).lsn
                while self._pending and self._pending[0].lsn <= self.applied_lsn:
                    self._pending.popleft()
                self._fed.notify_all()
        elif self._manifests:
            backup, manifest, plain = self._manifests[0]
            request = Ingest(backup=backup, manifest=manifest)
            try:
                await link.request(INGEST.name, request, plain, timeout_s=ASK_TIMEOUT_S)
            except StaddleError as error:
                if link.error is not None or error.retry == "after":
                    self._manifests.rotate(-1)
                    raise
                # One that can't be taken must not stand in the way of all others; `Backfill` reads it again.
                log.error("backup %d: manifest %s is not in the catalog: %s", backup, manifest.hex(), error)
            async with self._fed:
                self._manifests.popleft()
                self._manifest_bytes -= len(plain)
                self._fed.notify_all()

    async def settled(self, timeout_s: float = ASK_TIMEOUT_S) -> None:
        """Wait until the catalog has all that was durable when this was called. Raises Unavailable."""
        lsn = self._manager.core.durable_lsn
        try:
            async with asyncio.timeout(timeout_s), self._fed:
                self._wake.set()
                await self._fed.wait_for(lambda: self.applied_lsn >= lsn and not self._manifests)
        except TimeoutError:
            raise Unavailable(
                f"the catalog is at record {self.applied_lsn} of {lsn}", hint="ask again a little later"
            ) from None

    # --- asking -------------------------------------------------------------------------------------

    def _alive(self) -> Link:
        if self._link is None or self._link.error is not None:
            raise Unavailable(
                "the catalog's process is gone; it is being started again", hint="ask again a little later"
            )
        return self._link

    async def ask(self, method: str, **arguments: Any) -> Any:
        """A question to the catalog, answered with all that is durable now."""
        await self.settled()
        request = Ask(method=method, arguments=arguments)
        reply = await self._alive().request(ASK.name, request, timeout_s=ASK_TIMEOUT_S)
        return ASK.decode(reply).value

    async def stop(self) -> None:
        """Feed what waits, then let the process end with its pipe."""
        if self._link is not None:
            with contextlib.suppress(StaddleError):
                await self.settled(10.0)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
        await self._end_child()


def _exit_code(child: Popen[bytes]) -> int | None:
    """What the process ended with: its own error says more than that it ended. None for the usual code."""
    try:
        code = child.wait(1.0)
    except TimeoutExpired:
        return None
    return code if 0 < code < 128 else None
