"""Jobs as clients and agents see them: the engine's answers, signed tickets, seals, files that were lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from itertools import islice

import msgspec
import zstandard

from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.allowance import Allowance, check_room
from staddle.daemon.manager.catalog_link import CatalogLink
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.presence import Presence
from staddle.daemon.manager.sealing import Sealer
from staddle.data.crypto import DomainKeys
from staddle.engine.jobs import ended_of
from staddle.engine.messages import (
    Assign,
    Assigned,
    Commit,
    CommitOk,
    CreateJob,
    Ended,
    JobCreated,
    JobEnded,
    RenewJob,
    SealNeeded,
    Stale,
)
from staddle.engine.tables import ACTIVE, Job
from staddle.errors import Denied, NotFound, StaddleError, Unavailable
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops import jobs as wire
from staddle.wire.ops.base import Nothing, register
from staddle.wire.tickets import TicketSigner

log = logging.getLogger(__name__)

MANIFEST_BYTES_MAX = 64 << 20
"""Of one that comes with its COMMIT; a longer one is read from the media."""
LOST_NAMES_MAX = 1000


class JobDesk:
    """Answers what concerns running jobs."""

    def __init__(
        self,
        *,
        manager: Manager,
        adoption: Adoption,
        presence: Presence,
        catalog: CatalogLink,
        signer: TicketSigner,
        domains: dict[str, DomainKeys],
        sealer: Sealer,
    ) -> None:
        self._manager = manager
        self._adoption = adoption
        self._catalog = catalog
        self._signer = signer
        self._domains = domains
        self._sealer = sealer
        self._allowance = Allowance()
        self._seen: dict[int, wire.Renew] = {}

    def install(self, handlers: Handlers) -> None:
        """Add the operations."""
        register(handlers, wire.CREATE_JOB, self._create)
        register(handlers, wire.ASSIGN, self._assign)
        register(handlers, wire.COMMIT, self._commit)
        register(handlers, wire.CLOSE_STREAM, self._close_stream)
        register(handlers, wire.REPORT_FAILOVER, self._report_failover)
        register(handlers, wire.RENEW_JOB, self._renew)
        register(handlers, wire.FINISH_JOB, self._finish)
        register(handlers, wire.CANCEL_JOB, self._cancel)
        register(handlers, wire.LIST_JOBS, self._list)

    # --- begin ------------------------------------------------------------------------------------

    async def _create(self, call: Call) -> wire.JobOpened:
        self._adoption.check_serving()
        request: CreateJob = call.args
        self._allowance.take(call.peer, request)
        if call.peer.role == "client" and request.client != call.peer.name:
            raise Denied(f"client {call.peer.name!r} can't back up as {request.client!r}")
        state, configured = self._manager.state, self._manager.settings.pool
        if not request.pool:
            request = msgspec.structs.replace(request, pool=self._only_pool())
        elif request.pool not in configured:
            known = ", ".join(sorted(configured)) or "none is configured"
            raise NotFound(f"there is no pool {request.pool!r}", hint=f"pools: {known}")
        elif request.pool not in state.pools:
            raise Unavailable(
                f"pool {request.pool!r} can't be used: none of its media has been ready yet",
                hint="`staddle status` says what each of them lacks",
                code="POOL_UNUSABLE",
                retry="operator",
            )
        check_room(state, request)
        created: JobCreated = await self._manager.ask(request)
        base = state.backups.get(created.base_backup)
        return wire.JobOpened(
            created=created,
            pool=request.pool,
            base_started_ns=base.started_ns if base else 0,
            lease_s=self._manager.core.health.limits.job_lease_ns / 1e9,
            segment_bytes=state.pools[request.pool].segment_bytes,
        )

    def _only_pool(self) -> str:
        # A pool that the log knows and the configuration no longer names takes in nothing new.
        configured = self._manager.settings.pool
        if not configured:
            raise NotFound("the configuration has no pool", hint="add one: [pool.main] with its media")
        pools = [name for name in configured if name in self._manager.state.pools]
        if not pools:
            problems = "; ".join(self._adoption.problems())
            raise Unavailable(
                f"no pool is usable yet{': ' + problems if problems else ''}", hint="see `staddle status`"
            )
        # The configuration's first pool is the one that `init` has made.
        return "default" if "default" in pools else pools[0]

    def _own(self, call: Call, number: int) -> Job:
        job = self._manager.state.jobs.get(number)
        if job is None:
            raise NotFound(f"there is no job {number}", hint="`staddle job list` shows them")
        if call.peer.role == "client" and job.client != call.peer.name:
            raise Denied(f"job {number} is another client's")
        return job

    # --- streams ------------------------------------------------------------------------------------

    async def _assign(self, call: Call) -> wire.AssignAnswer:
        request: Assign = call.args
        self._own(call, request.job)
        self._allowance.take(call.peer, request)
        reply = await self._manager.ask(request)
        signed = b""
        if isinstance(reply, Assigned):
            signed = self._signer.sign(msgspec.msgpack.encode(reply.ticket))
        return wire.AssignAnswer(reply=reply, signed=signed)

    async def _commit(self, call: Call) -> wire.CommitAnswer:
        commit: Commit = call.args
        if commit.agent != call.peer.name:
            raise Denied(f"agent {call.peer.name!r} can't commit as {commit.agent!r}")
        self._allowance.take(call.peer, commit)
        reply = await self._manager.ask(commit)
        if isinstance(reply, CommitOk) and not reply.repeat and call.payload:
            self._ingest(commit, bytes(call.payload))
        return wire.CommitAnswer(reply=reply)

    def _ingest(self, commit: Commit, packed: bytes) -> None:
        try:
            # What it claims is checked first: that much memory is taken.
            claimed = zstandard.get_frame_parameters(packed).content_size
            if not 0 < claimed <= MANIFEST_BYTES_MAX:
                raise ValueError(f"it is said to have {claimed} bytes")  # noqa: TRY301 - one way on for all
            plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=MANIFEST_BYTES_MAX)
        except (zstandard.ZstdError, ValueError) as error:
            log.warning(
                "job %d: a manifest that can't be unpacked is read from its medium: %s", commit.job, error
            )
            return
        self._catalog.add_manifest(self._manager.state.jobs[commit.job].backup, commit.manifest.id, plain)

    async def _close_stream(self, call: Call) -> wire.CloseAnswer:
        self._own(call, call.args.job)
        return wire.CloseAnswer(reply=await self._manager.ask(call.args))

    async def _report_failover(self, call: Call) -> Nothing:
        self._own(call, call.args.job)
        self._allowance.take(call.peer, call.args)
        # Nobody waits for this record: it only completes the job's report.
        self._manager.report(call.args)
        return Nothing()

    async def _renew(self, call: Call) -> wire.JobState:
        seen: wire.Renew = call.args
        job = self._own(call, seen.job)
        answer = await self._manager.ask(RenewJob(job=seen.job, session=seen.session))
        if isinstance(answer, Ended):
            return wire.JobState(job=seen.job, state=answer.state, message=answer.message)
        self._seen[seen.job] = seen
        return wire.JobState(job=seen.job, state=job.state.value)

    # --- end ----------------------------------------------------------------------------------------

    async def _finish(self, call: Call) -> wire.Finished:
        self._own(call, call.args.job)
        reply = await self._manager.ask(call.args)
        if isinstance(reply, Stale):
            raise StaddleError(
                f"job {call.args.job} has open streams, or belongs to another process", code="NOT_DONE"
            )
        if isinstance(reply, SealNeeded):
            reply = await asyncio.shield(self._sealer.seal(reply.job))
        return await self._finished(reply)

    async def _finished(self, ended: JobEnded) -> wire.Finished:
        state = self._manager.state
        job, backup = state.jobs[ended.job], state.backups[ended.backup]
        self._seen.pop(ended.job, None)
        lost: list[bytes] = []
        if ended.lost:
            with contextlib.suppress(StaddleError):
                lost = await self._catalog.ask("files_hit", backup=ended.backup, containers=ended.lost)
        notes = []
        mine = {ref for row in backup.segments for ref in (row.manifest, *row.ref_ids())}
        debt = sum(state.copies_short(state.objects[item]) > 0 for item in mine if item in state.objects)
        if debt:
            notes.append(f"{debt} objects have fewer copies than pool {job.pool!r} asks for")
        return wire.Finished(
            state=ended.state,
            message=ended.message,
            bytes_stored=backup.bytes_stored,
            notes=notes,
            lost=[bytes(path) for path in lost[:LOST_NAMES_MAX]],
            lost_count=len(lost),
        )

    async def _cancel(self, call: Call) -> wire.JobState:
        job = self._own(call, call.args.job)
        ended: JobEnded = await self._manager.ask(call.args)
        return wire.JobState(job=job.id, state=ended.state, message=ended.message)

    # --- showing --------------------------------------------------------------------------------------

    async def _list(self, call: Call) -> wire.JobRows:
        args: wire.ListJobs = call.args
        state = self._manager.state
        newest: Iterable[Job] = [self._own(call, args.job)] if args.job else reversed(state.jobs.values())
        if call.peer.role == "client":
            newest = (job for job in newest if job.client == call.peer.name)
        return wire.JobRows([self._row(job) for job in islice(newest, args.limit)])

    def _row(self, job: Job) -> wire.JobRow:
        backup = self._manager.state.backups[job.backup]
        seen = self._seen.get(job.id) if job.state in ACTIVE else None
        return wire.JobRow(
            job=job.id,
            backup=job.backup,
            client=job.client,
            name=job.name,
            pool=job.pool,
            state=job.state.value,
            message=ended_of(job).message,
            started_ns=job.created_ns,
            finished_ns=job.ended_ns,
            files=backup.files,
            bytes_read=backup.bytes_read,
            bytes_stored=backup.bytes_stored,
            seen_files=seen.files if seen else 0,
            seen_bytes=seen.bytes_read if seen else 0,
            total_bytes=seen.bytes_total if seen else 0,
            warnings=job.warnings,
            paths=[
                wire.PathRow(
                    stream=stream.stream,
                    state=stream.state.value,
                    epoch=stream.epoch,
                    agent=stream.agent,
                    media=stream.media,
                )
                for stream in job.streams
            ],
            failovers=[
                wire.FailoverRow(
                    stream=row.stream,
                    cause=row.cause,
                    from_agent=row.from_agent,
                    from_media=row.from_media,
                    to_agent=row.to_agent,
                    to_media=row.to_media,
                    gap_s=max(row.gap_ns, 0) / 1e9,
                    bytes_resent=row.bytes_resent,
                    at_ns=row.at_ns,
                    detail=row.detail,
                )
                for row in job.failovers
            ],
        )
