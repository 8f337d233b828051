"""One backup: job, base, streams, seal."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace

from staddle.client.base import BaseIndex
from staddle.client.connection import GridConnection
from staddle.client.exclude import Excludes
from staddle.client.inputs import Images, Input, Stream, Trees
from staddle.client.reader import BackupReader
from staddle.client.resume import Claim, Taken, take_over
from staddle.client.scan import NO_RULES, Rules
from staddle.client.stream import StreamDriver
from staddle.client.units import Tally
from staddle.engine.messages import CancelJob, CreateJob, FinishJob
from staddle.engine.sender import StreamSender
from staddle.engine.window import SenderLimits
from staddle.errors import Cancelled, StaddleError, UsageError
from staddle.wire.ops.agents import USABLE, Usable
from staddle.wire.ops.jobs import (
    CANCEL_JOB,
    CREATE_JOB,
    FINISH_JOB,
    RENEW_JOB,
    Finished,
    JobOpened,
    Renew,
)

MANAGER_PATIENCE_S = 600.0
"""How long a job waits for a manager that is away."""
SEAL_TIMEOUT_S = 120.0
GIVE_UP_S = 5.0
"""For telling the manager that a job is given up; else its lease runs out."""
STREAMS_MAX = 16
_USABLE_BATCH = 4096


@dataclass
class BackupOptions:
    """What the user asked for: files, or one stream, or images.

    Attributes:
        paths: files and directories; each must exist.
        listed: the same from a list: one that does not exist is a warning. Iterated once.
        name: of the backups.
        pool: where to; empty for the default.
        exclude: patterns. iexclude: patterns that ignore case.
        rules: what else is left out.
        streams: at a time, 1 to STREAMS_MAX.
        full: read every file.
        stdin: name of a stream. command: whose output it is; None for standard input.
        images: devices and disk images.
    """

    paths: list[bytes]
    name: str
    pool: str = ""
    exclude: list[str] = field(default_factory=list)
    iexclude: list[str] = field(default_factory=list)
    rules: Rules = NO_RULES
    listed: Iterable[bytes] = ()
    streams: int = 1
    full: bool = False
    stdin: str | None = None
    command: list[str] | None = None
    images: list[bytes] = field(default_factory=list)


def input_of(options: BackupOptions, tally: Tally) -> Input:
    """What the options say is to be read. Raises NotFound, UsageError."""
    if options.stdin is not None:
        return Stream(options.stdin, options.command, tally)
    if options.images:
        return Images(options.images, tally)
    excludes = Excludes(options.exclude, options.iexclude)
    return Trees(options.paths, options.listed, excludes, options.rules, tally)


@dataclass
class FailoverSeen:
    """One failover as the summary shows it."""

    stream: int
    cause: str
    from_agent: str
    from_media: list[str]
    to_agent: str
    to_media: list[str]
    gap_s: float
    bytes_resent: int


@dataclass
class Summary:
    """How the backup ended."""

    job: int
    backup: int
    state: str
    message: str
    files: int
    dirs: int
    bytes_read: int
    bytes_unchanged: int
    bytes_stored: int
    bytes_resent: int
    failovers: list[FailoverSeen]
    warnings: int
    duration_s: float
    notes: list[str]
    lost: list[bytes]
    lost_count: int
    left_out: list[bytes] = field(default_factory=list)


class Backup:
    """A running backup. `progress` is called a few times a second with the job's tally."""

    def __init__(
        self,
        grid: GridConnection,
        options: BackupOptions,
        tally: Tally,
        on_job: Callable[[int, int], None] | None = None,
    ) -> None:
        """Args: on_job: called with job and backup number once they are known."""
        if not 1 <= options.streams <= STREAMS_MAX:
            raise UsageError(f"--streams {options.streams}: between 1 and {STREAMS_MAX}")
        self._grid = grid
        self.tally = tally
        self.input = input_of(options, tally)
        self._options = replace(options, listed=())
        self._on_job = on_job
        self._drivers: list[StreamDriver] = []
        self._session = secrets.token_bytes(16)
        self._job = 0
        self._taken: Taken | None = None

    async def run(self) -> Summary:
        """To the end. Raises StaddleError when the job failed or was cancelled."""
        started = time.monotonic()
        await asyncio.to_thread(self.input.check)
        what = [self.input.roots, self.input.key, self._options] if self.input.resumable else None
        claim = await asyncio.to_thread(Claim, self._grid.settings, what)
        try:
            return await self._run(claim, started)
        finally:
            claim.close()

    async def _run(self, claim: Claim, started: float) -> Summary:
        opened = await self._created(claim)
        if self._on_job is not None:
            self._on_job(self._job, opened.created.backup)
        try:
            async with self._lease(opened.lease_s):
                base = await self._base(opened)
                if claim.earlier and opened.created.repeat:
                    self._taken = await take_over(self._grid, opened, self._session, self.tally)
                await self._streams(opened, base)
                finished = await self._finish()
        except BaseException as error:
            await self._give_up(error)
            raise
        return self._summary(opened, finished, time.monotonic() - started)

    async def _created(self, claim: Claim) -> JobOpened:
        """The job. One that comes about though its creation was interrupted is cancelled, as any other."""
        creating = asyncio.create_task(self._create(claim))
        try:
            opened = await asyncio.shield(creating)
        except asyncio.CancelledError as interrupted:
            with contextlib.suppress(StaddleError, TimeoutError):
                self._job = (await asyncio.wait_for(creating, GIVE_UP_S)).created.job
                await self._give_up(interrupted)
            raise
        self._job = opened.created.job
        return opened

    async def _create(self, claim: Claim) -> JobOpened:
        """The job: a new one, or that of a process that was killed, if it still runs."""
        request = CreateJob(
            request=claim.request,
            resume=claim.earlier,
            session=self._session,
            client=self._grid.settings.host,
            name=self._options.name,
            roots=self.input.roots,
            pool=self._options.pool,
            streams=min(self._options.streams, self.input.streams_max),
        )
        opened = await self._grid.manager.call_patiently(CREATE_JOB, request, patience_s=10.0)
        if claim.earlier and opened.created.state != "running":
            claim.anew()
            return await self._create(claim)
        return opened

    async def _base(self, opened: JobOpened) -> BaseIndex:
        """The base's index; an empty one where there is none or it can't be read now."""
        index = BaseIndex(opened.base_started_ns)
        number = opened.created.base_backup
        if not number or self._options.full or not self.input.needs_base:
            return index
        try:
            async with (
                await BackupReader.open(self._grid, number) as reader,
                contextlib.aclosing(reader.manifests()) as manifests,
            ):
                async for manifest in manifests:
                    await asyncio.to_thread(index.add, manifest)
            unusable = await self._unusable(opened.pool, index.containers())
        except StaddleError as error:
            # Reading all files again is slower, never wrong.
            self.tally.warn(
                b"", f"backup {number} can't be used as a base, all files are read: {error.message}"
            )
            return BaseIndex(0)
        await asyncio.to_thread(index.build, unusable)
        return index

    async def _unusable(self, pool: str, containers: list[bytes]) -> set[bytes]:
        usable: set[bytes] = set()
        for at in range(0, len(containers), _USABLE_BATCH):
            batch = containers[at : at + _USABLE_BATCH]
            answer = await self._grid.manager.call_patiently(
                USABLE, Usable(pool=pool, containers=batch), patience_s=MANAGER_PATIENCE_S
            )
            usable.update(answer.ids)
        return set(containers) - usable

    async def _streams(self, opened: JobOpened, base: BaseIndex) -> None:
        source, feeds = self.input.feeds(opened.created.streams, base, self._taken)
        limits = SenderLimits(window_bytes_max=2 * opened.segment_bytes + (8 << 20))
        for number, records in enumerate(feeds):
            sender = StreamSender(
                self._job, number, limits, session=self._session, resume=self._taken is not None
            )
            driver = StreamDriver(sender, source, records, self._grid.manager, self._grid.dial)
            self._drivers.append(driver)
        async with asyncio.TaskGroup() as group:
            for driver in self._drivers:
                group.create_task(driver.run())

    @contextlib.asynccontextmanager
    async def _lease(self, lease_s: float) -> AsyncIterator[None]:
        task = asyncio.create_task(self._renew(lease_s))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _renew(self, lease_s: float) -> None:
        while True:
            request = Renew(
                job=self._job,
                session=self._session,
                files=self.tally.files,
                bytes_read=self.tally.bytes_read + self.tally.bytes_unchanged,
            )
            with contextlib.suppress(Exception):  # whatever it is, the next one may come through
                await self._grid.manager.call(RENEW_JOB, request, timeout_s=lease_s / 2)
            await asyncio.sleep(min(lease_s / 4, 1.0))

    async def _finish(self) -> Finished:
        request = FinishJob(
            job=self._job,
            session=self._session,
            warnings=self.tally.warnings,
            bytes_resent=sum(driver.sender.bytes_resent for driver in self._drivers),
        )
        return await self._grid.manager.call_patiently(
            FINISH_JOB, request, patience_s=MANAGER_PATIENCE_S, timeout_s=SEAL_TIMEOUT_S
        )

    async def _give_up(self, error: BaseException) -> None:
        """Tell the manager, so that the job does not wait for its lease to run out."""
        inner = unwrap(error)
        reason = "cancelled by the user" if isinstance(inner, Cancelled) else str(inner)
        with contextlib.suppress(StaddleError, TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                await self._grid.manager.call(CANCEL_JOB, CancelJob(job=self._job, reason=reason))

    def _summary(self, opened: JobOpened, finished: Finished, duration_s: float) -> Summary:
        tally = self.tally
        return Summary(
            job=self._job,
            backup=opened.created.backup,
            state=finished.state,
            message=finished.message,
            files=tally.files,
            dirs=tally.dirs,
            bytes_read=tally.bytes_read,
            bytes_unchanged=tally.bytes_unchanged,
            bytes_stored=finished.bytes_stored,
            bytes_resent=sum(driver.sender.bytes_resent for driver in self._drivers),
            failovers=[
                FailoverSeen(
                    stream=driver.sender.stream,
                    cause=each.cause.value,
                    from_agent=each.from_agent,
                    from_media=list(each.from_media),
                    to_agent=each.to_agent,
                    to_media=list(each.to_media),
                    gap_s=each.gap_ns / 1e9,
                    bytes_resent=each.bytes_resent,
                )
                for driver in self._drivers
                for each in driver.sender.failovers
            ],
            warnings=tally.warnings,
            duration_s=duration_s,
            notes=list(finished.notes),
            lost=list(finished.lost),
            lost_count=finished.lost_count,
            left_out=list(self.input.left_out),
        )


def unwrap(error: BaseException) -> BaseException:
    """The one error behind a task group's."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return Cancelled("interrupted") if isinstance(error, asyncio.CancelledError) else error
