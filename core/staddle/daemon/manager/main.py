"""The manager's control process, from its lease to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from staddle.api.cluster import ClusterManager
from staddle.api.types import Lease
from staddle.catalog.oplog import OpLog, highest_epoch
from staddle.cluster.plugin import SingleConfig
from staddle.config import Settings, home_paths, load
from staddle.daemon import loops, runfiles
from staddle.daemon.manager.admin import AdminDesk
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.backfill import Backfill
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.daemon.manager.core import Manager, Outrun
from staddle.daemon.manager.gc import Collector
from staddle.daemon.manager.jobs import JobDesk
from staddle.daemon.manager.joining import TokenDesk
from staddle.daemon.manager.labels import LabelDesk
from staddle.daemon.manager.orphans import OrphanSweeper
from staddle.daemon.manager.placing import Placer
from staddle.daemon.manager.presence import Presence
from staddle.daemon.manager.reads import ReadDesk
from staddle.daemon.manager.rebuild import Rebuilder
from staddle.daemon.manager.repairing import Repairer
from staddle.daemon.manager.salvage import Salvager
from staddle.daemon.manager.sealing import Sealer
from staddle.daemon.manager.verifying import VerifyDesk
from staddle.daemon.runfiles import RunFile
from staddle.daemon.setup import Identities, local_url
from staddle.engine import ops
from staddle.engine.health import Health, HealthLimits
from staddle.engine.lease import LeaseLapsed, ManagerLease
from staddle.engine.manager import ManagerCore
from staddle.engine.state import GridState
from staddle.errors import Fenced, StaddleError, UsageError
from staddle.ids import Ids
from staddle.obs import logs
from staddle.platform.clock import lease_clock_ns
from staddle.platform.durable import make_directories
from staddle.platform.shortage import is_shortage
from staddle.plugins import PluginRegistry
from staddle.wire.endpoint import Server, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.tcp import TcpTransport
from staddle.wire.tickets import TicketSigner

log = logging.getLogger(__name__)

LEASE_TTL_S = 15.0
LEASE_MARGIN_S = 3.0
RENEW_AGAIN_S = 1.0
TICK_S = 0.5
MARK_EVERY_S = 3.0
COLLECT_EVERY_S = 60.0
SNAPSHOT_RECORDS = 5000
EPOCH_JUMP = 1 << 16
TERMS_MAX = 16
"""A term ends early when an agent tells of a higher epoch; each agent can do so once."""


class Term:
    """One manager's term over one home."""

    def __init__(self, settings: Settings, stop: asyncio.Event, epoch_floor: int = 0) -> None:
        """Args: stop: set to end it. epoch_floor: its epoch is higher, whatever the log says."""
        self.settings = settings
        self.stop = stop
        self._epoch_floor = epoch_floor
        self.paths = home_paths(settings.home)
        self.identities = Identities(settings)
        self.ids = Ids()
        self.health = Health(HealthLimits(), lease_clock_ns())

    async def run(self) -> None:
        """Until it is stopped or fenced. Raises StaddleError for what ended it early."""
        make_directories(self.paths.oplog)
        cluster = PluginRegistry().cluster_type("single").load()(SingleConfig(path=self.paths.manager))
        started_ns = lease_clock_ns()
        floor = max(highest_epoch(self.paths.oplog), self._epoch_floor)
        lease = cluster.acquire("manager", str(os.getpid()), LEASE_TTL_S, floor)
        held = ManagerLease(lease.epoch, int(LEASE_TTL_S * 1e9), int(LEASE_MARGIN_S * 1e9))
        held.renewed(started_ns)
        oplog = await asyncio.to_thread(self._open_log, lease.epoch)
        try:
            state = await asyncio.to_thread(_recover, oplog)
            core = ManagerCore(state, held, self.health)
            manager = Manager(self.settings, oplog, core, self.ids)
            renewing = asyncio.create_task(self._renew(manager, cluster, lease, held))
            renewing.add_done_callback(manager.loop_ended)
            try:
                await self._serve(manager)
            finally:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
            await _snapshot(manager)
        finally:
            await asyncio.to_thread(oplog.close)
            cluster.release(lease)

    def _open_log(self, epoch: int) -> OpLog:
        try:
            return OpLog(self.paths.oplog, self.identities.grid, epoch)
        except OSError as error:
            raise StaddleError(
                f"op-log {self.paths.oplog}: {error.strerror or error}",
                hint="make room or mend the disk, then `staddle up`: nothing that was acknowledged is lost",
                code="LOG_FAILED",
                retry="operator",
                scope="cluster",
            ) from error

    async def _renew(
        self, manager: Manager, cluster: ClusterManager, lease: Lease, held: ManagerLease
    ) -> None:
        pause_s = LEASE_TTL_S / 3
        while True:
            await asyncio.sleep(pause_s)
            started_ns = lease_clock_ns()
            try:
                await asyncio.to_thread(cluster.renew, lease)
            except StaddleError as error:
                held.fenced()
                if not manager.failed.done():
                    manager.failed.set_exception(error)
                return
            except (OSError, RuntimeError) as error:
                # No descriptor or thread left, a bad moment of the disk: the lease is ours until it runs out.
                log.warning("epoch %d: the lease was not renewed, it is tried again: %s", lease.epoch, error)
                pause_s = RENEW_AGAIN_S
            else:
                held.renewed(started_ns)
                pause_s = LEASE_TTL_S / 3

    async def _serve(self, manager: Manager) -> None:
        catalog = CatalogLink(manager, self.identities, self.settings.home)
        adoption = Adoption(manager)
        servers: list[Server] = []
        try:
            await _unless_failed(manager, self._begin(manager, catalog, adoption))
            handlers, loops = self._assemble(manager, adoption, catalog)
            servers = await self._listen(handlers, catalog)
            tasks = [asyncio.create_task(loop) for loop in loops]
            for task in tasks:
                task.add_done_callback(manager.loop_ended)
            try:
                await self._wait(manager)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            runfiles.withdraw(self.settings.home, "manager")
            await asyncio.gather(*(server.close() for server in servers))
            await catalog.stop()

    async def _begin(self, manager: Manager, catalog: CatalogLink, adoption: Adoption) -> None:
        """All that is done before anything is served."""
        await manager.begin()
        if not manager.state.grid:
            await manager.change(lambda _: [ops.GridCreated(grid=self.identities.grid)])
        await catalog.start()
        await adoption.begin()

    def _assemble(
        self, manager: Manager, adoption: Adoption, catalog: CatalogLink
    ) -> tuple[Handlers, list[Coroutine[Any, Any, None]]]:
        """The desks, behind one table of operations, and the loops that run beside them."""
        handlers = Handlers()
        signer = TicketSigner.at(self.identities.ticket_key_path)
        domains = self.identities.domains()
        presence = Presence(manager, adoption, signer, domains, self.identities.keyring())
        sealer = Sealer(manager, Placer(manager, presence), domains)
        jobs = JobDesk(
            manager=manager,
            adoption=adoption,
            presence=presence,
            catalog=catalog,
            signer=signer,
            domains=domains,
            sealer=sealer,
        )
        reads = ReadDesk(manager, adoption, presence, signer)
        collector = Collector(manager, presence, domains)
        labels = LabelDesk(manager, adoption, presence)
        admin = AdminDesk(
            manager=manager,
            adoption=adoption,
            presence=presence,
            labels=labels,
            catalog=catalog,
            collector=collector,
            stop=self.stop,
        )
        rebuilder = Rebuilder(manager, adoption, presence, catalog, domains)
        tokens = TokenDesk(manager, self.identities.authority_directory)
        verifier = VerifyDesk(manager, catalog, reads)
        sweeper = OrphanSweeper(manager, adoption, presence)
        salvager = Salvager(manager, adoption, presence, domains)
        repairer = Repairer(
            manager,
            adoption,
            presence,
            sweeper=sweeper,
            salvager=salvager,
            sealer=sealer,
            keyring=self.identities.keyring(),
        )
        for desk in (presence, jobs, reads, admin, rebuilder, tokens, verifier, salvager, repairer, labels):
            desk.install(handlers)
        backfill = Backfill(manager, presence, catalog)
        steps = [collector.collect, sweeper.step, backfill.step]
        return handlers, [
            self._tick(manager, sealer),
            _repeat(MARK_EVERY_S, [sealer.mark_incomplete]),
            _repeat(COLLECT_EVERY_S, steps),
            repairer.run(),
            labels.run(),
        ]

    async def _listen(self, handlers: Handlers, catalog: CatalogLink) -> list[Server]:
        credentials = self.identities.credentials("manager")
        hello = Hello(name="manager", role="manager", grid=self.identities.grid)
        local, listen = local_url(self.settings.home, "manager"), self.settings.manager.listen
        servers = [
            await serve(local, credentials, hello, handlers),
            await serve(listen, credentials, hello, handlers, transport=TcpTransport(joiners=True)),
        ]
        found = [server.url for server in servers]
        self._publish(catalog, found)

        def publish_again() -> None:
            try:
                self._publish(catalog, found)
            except OSError as error:
                log.warning("the run file of the manager can't be written: %s", error)

        catalog.on_begun_again = publish_again
        log.info("manager is up at %s", ", ".join(found))
        return servers

    def _publish(self, catalog: CatalogLink, urls: list[str]) -> None:
        """Say which processes this manager has now: a wrong one might be ended in its place."""
        pids = [os.getpid(), catalog.pid]
        run = RunFile(part="manager", pid=os.getpid(), pids=pids, urls=urls)
        runfiles.publish(self.settings.home, run)

    async def _wait(self, manager: Manager) -> None:
        stopped = asyncio.ensure_future(self.stop.wait())
        ends: list[asyncio.Future[Any]] = [stopped, manager.failed]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if manager.failed.done():
            manager.failed.result()

    async def _tick(self, manager: Manager, sealer: Sealer) -> None:
        last_snapshot = manager.state.lsn
        while True:
            await asyncio.sleep(TICK_S)
            try:
                manager.tick()
                await sealer.resume()
            except StaddleError as error:
                log.warning("jobs are looked after later: %s", error)
            if manager.core.durable_lsn - last_snapshot >= SNAPSHOT_RECORDS:
                last_snapshot = manager.core.durable_lsn
                await _snapshot(manager)


async def _unless_failed(manager: Manager, work: Coroutine[Any, Any, None]) -> None:
    """Work that ends with the term: a log that has failed answers nobody. Raises what ended it."""
    task = asyncio.create_task(work)
    ends: list[asyncio.Future[Any]] = [task, manager.failed]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if manager.failed.done():
            manager.failed.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    task.result()


async def _repeat(every_s: float, steps: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Work that can wait. One step that fails, for whatever reason, keeps no other from its turn."""
    while True:
        await asyncio.sleep(every_s)
        for step in steps:
            try:
                await step()
            except StaddleError as error:
                log.warning("housekeeping: %s", error)
            except Exception:
                log.exception("housekeeping failed")


def _recover(oplog: OpLog) -> GridState:
    snapshot = oplog.newest_snapshot()
    state = GridState.load(snapshot.state) if snapshot is not None else GridState()
    for record in oplog.replay(state.lsn):
        state.apply(record)
    return state


async def _snapshot(manager: Manager) -> None:
    """Shorten the next start. The state may hold records that are not durable yet: then not now."""
    lsn = manager.state.lsn
    if lsn == manager.core.durable_lsn:
        try:
            data = manager.state.dump()
            await asyncio.to_thread(manager.oplog.write_snapshot, lsn, data)
        except UsageError:  # there is one of this record
            return
        except Exception as error:
            told = isinstance(error, StaddleError) or is_shortage(error)
            log.warning(
                "no snapshot of record %d, the next start reads more: %r", lsn, error, exc_info=not told
            )


async def _main(home: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        else:
            loop.add_signal_handler(number, stop.set)
    floor, outrun = 0, 0
    while outrun < TERMS_MAX:
        try:
            await Term(load(home), stop, floor).run()
        except Outrun as error:
            # The log was lost, and agents know of later terms than it does: begin again above them.
            if not error.renewable:
                raise
            floor, outrun = error.epoch + EPOCH_JUMP, outrun + 1
            log.warning("%s; it begins again above %d", error.message, floor)
        except LeaseLapsed as error:
            # The host slept, or this process was stopped. If nobody else serves now, it may, from the log on.
            log.warning("%s; it asks for another term", error.message)
        else:
            return
    raise Fenced("agents tell of ever higher epochs", hint="is another manager running?")


def main(home: str) -> None:
    """Run the manager of a home until it is stopped. Raises StaddleError."""
    load(home)  # a place that is no home gets no file of ours
    lock = runfiles.claim(home, "manager")
    logs.configure("manager", path=os.path.join(home_paths(home).log, "manager.jsonl"))
    try:
        loops.run(_main(home))
    finally:
        runfiles.withdraw(home, "manager")
        lock.release()
        logs.shutdown()
