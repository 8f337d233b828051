"""Jobs from the first request to the end: creation, lease, streams' ends, sealing."""

from __future__ import annotations

from collections.abc import Iterable

from staddle.engine import ops
from staddle.engine.assign import next_epoch
from staddle.engine.commit import add_object
from staddle.engine.messages import (
    CancelJob,
    CloseStream,
    CreateJob,
    Ended,
    FailoverDone,
    FinishJob,
    FinishReply,
    JobCreated,
    JobEnded,
    RenewJob,
    SealNeeded,
    Short,
    Stale,
    StoredObject,
    StreamClosed,
    StreamEndOf,
)
from staddle.engine.tables import (
    ACTIVE,
    SEALED,
    Backup,
    BackupState,
    Job,
    JobState,
    Stream,
    StreamState,
    Tables,
)
from staddle.errors import Denied, NotFound, UsageError

STREAMS_MAX = 64


def decide_create_job(t: Tables, request: CreateJob, wall_ns: int) -> tuple[list[ops.Op], JobCreated]:
    """A new job, or the one that this request has made before. Raises NotFound, UsageError, Denied."""
    if (number := t.requests.get(request.request)) is not None:
        job = t.jobs[number]
        if job.client != request.client:
            raise Denied(f"job {number} is another client's", retry="never")
        taken = request.resume and request.session != job.session and job.state is JobState.RUNNING
        taking: list[ops.Op] = [ops.JobTaken(job=job.id, session=request.session)] if taken else []
        return taking, _created(job, repeat=True)
    if request.pool not in t.pools:
        raise NotFound(f"no pool {request.pool!r}", hint="`staddle pool list` shows them")
    if not 1 <= request.streams <= STREAMS_MAX:
        raise UsageError(f"{request.streams} streams", hint=f"1 to {STREAMS_MAX}")
    op = ops.JobBegun(
        job=t.next_job,
        kind="backup",
        client=request.client,
        name=request.name,
        roots=request.roots,
        pool=request.pool,
        domain=t.pools[request.pool].domain,
        streams=request.streams,
        backup=t.next_backup,
        base_backup=base_of(t, request),
        request=request.request,
        session=request.session,
        at_ns=wall_ns,
    )
    reply = JobCreated(
        job=op.job,
        backup=op.backup,
        base_backup=op.base_backup,
        streams=op.streams,
        state=JobState.RUNNING.value,
    )
    return [op], reply


def _created(job: Job, *, repeat: bool) -> JobCreated:
    return JobCreated(
        job=job.id,
        backup=job.backup,
        base_backup=job.base_backup,
        streams=len(job.streams),
        state=job.state.value,
        repeat=repeat,
    )


def base_of(t: Tables, request: CreateJob) -> int:
    """The last sealed backup of the same client, name, roots and pool; 0 for none."""
    wanted = (request.client, request.name, request.roots, request.pool)
    for backup in reversed(t.backups.values()):
        if backup.state in SEALED and wanted == (backup.client, backup.name, backup.roots, backup.pool):
            return backup.id
    return 0


def decide_renew(t: Tables, request: RenewJob) -> Ended | None:
    """May this process go on? None = yes (and the driver renews the volatile lease)."""
    job = t.jobs.get(request.job)
    if job is None:
        return Ended(state="unknown", message=f"no job {request.job}")
    if job.session != request.session:
        return Ended(state="taken", message="another process of this client goes on with the job")
    return None if job.state in ACTIVE else Ended(state=job.state.value, message=job.message)


def decide_close_stream(t: Tables, request: CloseStream, wall_ns: int) -> tuple[list[ops.Op], object]:
    """The client says that it has no more records: StreamClosed, Stale, or Ended."""
    job = t.jobs.get(request.job)
    if job is None or request.stream >= len(job.streams):
        return [], Ended(state="unknown", message=f"no stream {request.stream} of job {request.job}")
    stream = job.streams[request.stream]
    if stream.state is StreamState.DONE and stream.next_seq == request.total:
        return [], StreamClosed(total=request.total)
    if job.state is not JobState.RUNNING or stream.state is not StreamState.OPEN:
        return [], Ended(state=job.state.value, message=job.message)
    if (stream.epoch, stream.next_seq) != (request.epoch, request.total):
        return [], Stale(epoch=stream.epoch, next_seq=stream.next_seq)
    op = ops.StreamEnded(
        job=job.id,
        stream=stream.stream,
        epoch=next_epoch(t, stream),
        total=request.total,
        at_ns=wall_ns,
    )
    return [op], StreamClosed(total=request.total)


def decide_failover_done(t: Tables, report: FailoverDone) -> list[ops.Op]:
    """Log what a failover cost, once."""
    job = t.jobs.get(report.job)
    for row in job.failovers if job else []:
        if (row.stream, row.epoch, row.gap_ns) == (report.stream, report.epoch, -1):
            return [
                ops.FailoverMeasured(
                    job=report.job,
                    stream=report.stream,
                    epoch=report.epoch,
                    gap_ns=report.gap_ns,
                    bytes_resent=report.bytes_resent,
                )
            ]
    return []


# --- ends ---------------------------------------------------------------------------------------


def lost_objects(t: Tables, backup: Backup, *, away: bool = False) -> list[bytes]:
    """Containers and manifests of a backup that have no copy on a medium that is up.

    With `away` those are none of them that have a copy on a medium that is offline, and may come back.
    """
    wanted: set[bytes] = set()
    for row in backup.segments:
        wanted.add(row.manifest)
        wanted.update(row.ref_ids())
    there = t.recoverable if away else t.available
    return sorted(i for i in wanted if i not in t.objects or not there(t.objects[i]))


def decide_finish(t: Tables, request: FinishJob, wall_ns: int) -> tuple[list[ops.Op], FinishReply]:
    """All streams are closed: seal, or say what is missing. Asked again it answers the same.

    The driver also asks for jobs that a manager before it has left in `sealing`.
    """
    job = _known(t, request.job)
    if job.state not in ACTIVE:
        return [], ended_of(job)
    if job.state is JobState.RUNNING:
        open_streams = [stream for stream in job.streams if stream.state is not StreamState.DONE]
        if open_streams or job.session != request.session:
            first = (open_streams or job.streams)[0]
            return [], Stale(epoch=first.epoch, next_seq=first.next_seq)
    backup = t.backups[job.backup]
    # What lies on media that are offline now is waited for, as everything else is: see `decide_sealed`.
    if lost := lost_objects(t, backup, away=True):
        return _end(t, job, JobState.INCOMPLETE, _no_copy(lost), wall_ns, lost=lost)
    if job.state is JobState.SEALING:
        return [], seal_needed(t, job)
    op = ops.JobSealing(
        job=job.id, warnings=request.warnings, bytes_resent=request.bytes_resent, at_ns=wall_ns
    )
    return [op], seal_needed(t, job, op)


def seal_needed(t: Tables, job: Job, op: ops.JobSealing | None = None) -> SealNeeded:
    """What the seal of a job says."""
    backup, pool = t.backups[job.backup], t.pools[job.pool]
    warnings, finished_ns = (op.warnings, op.at_ns) if op else (job.warnings, job.sealing_ns)
    return SealNeeded(
        manager_epoch=t.epoch,
        job=job.id,
        backup=backup.id,
        client=job.client,
        name=job.name,
        pool=job.pool,
        domain=pool.domain,
        roots=job.roots,
        base_backup=job.base_backup,
        started_ns=backup.started_ns,
        finished_ns=finished_ns,
        state=(BackupState.WARNINGS if warnings or debt_of(t, backup) else BackupState.COMPLETE).value,
        files=backup.files,
        dirs=backup.dirs,
        bytes_read=backup.bytes_read,
        bytes_stored=backup.bytes_stored,
        warnings=warnings,
        streams=[
            StreamEndOf(
                stream=stream.stream,
                segments=stream.ordinal,
                last_manifest=stream.last_manifest,
                last_digest=stream.last_digest,
            )
            for stream in job.streams
        ],
        media=[name for name in pool.media if name in t.up_domains(pool)],
        min_copies=pool.min_copies,
    )


def debt_of(t: Tables, backup: Backup) -> int:
    """How many of the backup's objects have fewer copies than were wanted."""
    ids = {item for row in backup.segments for item in (row.manifest, *row.ref_ids())}
    return sum(t.copies_present(t.objects[item]) < t.objects[item].want for item in ids)


def decide_sealed(
    t: Tables, number: int, seal: StoredObject, state: str, wall_ns: int
) -> tuple[list[ops.Op], JobEnded | Short | SealNeeded]:
    """The seal is stored. `state` is what it says; if that is no longer true, another is needed."""
    job = _known(t, number)
    if job.state is not JobState.SEALING:
        return [], ended_of(job)
    backup, pool = t.backups[job.backup], t.pools[job.pool]
    if lost := lost_objects(t, backup, away=True):
        return _end(t, job, JobState.INCOMPLETE, _no_copy(lost), wall_ns, lost=lost)
    if away := lost_objects(t, backup):
        return [], Short(objects=away)
    domains = t.up_domains(pool)
    if len({domains[copy.medium] for copy in seal.copies if copy.medium in domains}) < pool.min_copies:
        missing = sorted(set(pool.media) - {copy.medium for copy in seal.copies})
        return [], Short(objects=[seal.id], media=missing)
    if state != seal_needed(t, job).state:
        return [], seal_needed(t, job)
    return _end(t, job, JobState(state), "", wall_ns, seal=seal)


def decide_waited(t: Tables, number: int, wall_ns: int) -> tuple[list[ops.Op], JobEnded | SealNeeded]:
    """Media that are offline are no longer waited for: what is only on them is lost to this backup."""
    job = _known(t, number)
    if job.state is not JobState.SEALING:
        return [], ended_of(job)
    if lost := lost_objects(t, t.backups[job.backup]):
        return _end(t, job, JobState.INCOMPLETE, _no_copy(lost), wall_ns, lost=lost)
    return [], seal_needed(t, job)


def _no_copy(lost: list[bytes]) -> str:
    return f"{len(lost)} objects of this backup have no available copy"


def _known(t: Tables, number: int) -> Job:
    job = t.jobs.get(number)
    if job is None:
        raise NotFound(f"no job {number}")
    return job


def decide_cancel(t: Tables, request: CancelJob, wall_ns: int) -> tuple[list[ops.Op], JobEnded]:
    """Stop a job. What is durable stays as an incomplete backup."""
    job = _known(t, request.job)
    if job.state not in ACTIVE:
        return [], ended_of(job)
    return _end(t, job, JobState.CANCELLED, request.reason, wall_ns)


def decide_expire(t: Tables, expired: Iterable[int], wall_ns: int) -> list[ops.Op]:
    """S3: the leases of these jobs ran out. Jobs that are being sealed need their client no longer."""
    done: list[ops.Op] = []
    for number in expired:
        if t.jobs[number].state is JobState.RUNNING:
            message = "the client's lease ran out; the same backup may be resumed by a new job"
            done += _end(t, t.jobs[number], JobState.INCOMPLETE, message, wall_ns)[0]
    return done


def ended_of(job: Job) -> JobEnded:
    """How a job has ended."""
    return JobEnded(job=job.id, backup=job.backup, state=job.state.value, message=job.message, lost=job.lost)


def _end(
    t: Tables,
    job: Job,
    state: JobState,
    message: str,
    wall_ns: int,
    *,
    lost: list[bytes] | None = None,
    seal: StoredObject | None = None,
) -> tuple[list[ops.Op], JobEnded]:
    pool = t.pools[job.pool]
    backup_state = state.value if seal is not None else BackupState.INCOMPLETE.value
    epochs = [
        stream.epoch if stream.state is StreamState.DONE else next_epoch(t, stream) for stream in job.streams
    ]
    op = ops.JobFinished(
        job=job.id,
        state=state.value,
        backup_state=backup_state,
        message=message,
        epochs=epochs,
        lost=lost or [],
        at_ns=wall_ns,
        seal=seal,
        seal_domain=pool.domain,
        seal_want=pool.copies,
    )
    reply = JobEnded(job=job.id, backup=job.backup, state=state.value, message=message, lost=lost or [])
    return [op], reply


# --- appliers -----------------------------------------------------------------------------------


def apply_job_begun(t: Tables, op: ops.JobBegun) -> None:
    """A job and its backup."""
    t.jobs[op.job] = Job(
        id=op.job,
        kind=op.kind,
        client=op.client,
        name=op.name,
        roots=op.roots,
        pool=op.pool,
        backup=op.backup,
        base_backup=op.base_backup,
        request=op.request,
        session=op.session,
        created_ns=op.at_ns,
        streams=[Stream(stream=number) for number in range(op.streams)],
    )
    t.backups[op.backup] = Backup(
        id=op.backup,
        job=op.job,
        client=op.client,
        name=op.name,
        roots=op.roots,
        pool=op.pool,
        domain=op.domain,
        started_ns=op.at_ns,
    )
    t.requests[op.request] = op.job
    t.active[op.job] = True
    t.next_job, t.next_backup = op.job + 1, op.backup + 1


def apply_job_taken(t: Tables, op: ops.JobTaken) -> None:
    """Another process goes on with a job."""
    t.jobs[op.job].session = op.session


def apply_stream_ended(t: Tables, op: ops.StreamEnded) -> None:
    """A stream is done."""
    stream = t.jobs[op.job].streams[op.stream]
    stream.state, stream.epoch = StreamState.DONE, op.epoch


def apply_job_sealing(t: Tables, op: ops.JobSealing) -> None:
    """A seal is being stored."""
    job = t.jobs[op.job]
    job.state, job.sealing_ns = JobState.SEALING, op.at_ns
    job.warnings, job.bytes_resent = op.warnings, op.bytes_resent


def apply_job_finished(t: Tables, op: ops.JobFinished) -> None:
    """A job has ended, one way or another."""
    job = t.jobs[op.job]
    backup = t.backups[job.backup]
    job.state, job.message, job.ended_ns, job.lost = JobState(op.state), op.message, op.at_ns, op.lost
    for stream, epoch in zip(job.streams, op.epochs, strict=True):
        if stream.state is not StreamState.DONE:
            stream.state, stream.epoch = StreamState.ENDED, epoch
    backup.state, backup.warnings = BackupState(op.backup_state), job.warnings
    backup.finished_ns = job.sealing_ns or op.at_ns
    if op.seal is not None:
        add_object(t, op.seal, "seal", op.seal_domain, op.seal_want)
        backup.seal = op.seal.id
    del t.active[op.job]
