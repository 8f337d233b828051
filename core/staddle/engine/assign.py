"""Assignments: who serves a stream. Only here does a stream get a path, and every time its epoch rises."""

from __future__ import annotations

import msgspec

from staddle.api.types import MediumState
from staddle.engine import ops
from staddle.engine.health import Health
from staddle.engine.messages import Assign, Assigned, AssignReply, Cause, Ended, Path, Ticket, Wait
from staddle.engine.placement import Choice, NoPath, PathInfo, PlacementRule, rank_paths
from staddle.engine.tables import (
    FailoverRow,
    Job,
    JobState,
    MediumStatus,
    Pool,
    Stream,
    StreamState,
    Tables,
)

BAD_MAX = 1024
"""Bound of a stream's list of refused containers; it is advice, COMMIT checks again."""

_PATIENCE_NS = 1_000_000_000
_NO_FAILOVER = frozenset({Cause.START, Cause.REFUSED, Cause.RESUME})


def next_epoch(t: Tables, stream: Stream) -> int:
    """An epoch above every one that this stream ever had.

    The manager's epoch stands in the high bits. Plain counting would do while no log is ever lost; a manager
    restored from an older set has a higher epoch of its own (K1), and so can't issue an epoch a second time.
    """
    return max(stream.epoch + 1, t.epoch << 32)


def decide_assign(
    t: Tables, request: Assign, health: Health, now_ns: int, wall_ns: int
) -> tuple[list[ops.Op], AssignReply]:
    """ASSIGN: compare-and-set on the epoch; a mismatch gets the assignment in force."""
    job = t.jobs.get(request.job)
    if job is None or request.stream >= len(job.streams):
        return [], Ended(state="unknown", message=f"no stream {request.stream} of job {request.job}")
    if job.session != request.session:
        return [], Ended(state="taken", message="another process of this client goes on with the job")
    stream = job.streams[request.stream]
    if job.state is not JobState.RUNNING:
        return [], Ended(state=job.state.value, message=job.message)
    if stream.state is StreamState.DONE:
        return [], Ended(state="done", message="the stream was closed before")
    if request.expected_epoch < stream.epoch:
        return [], Assigned(ticket=ticket_of(t, job, stream))
    pool = t.pools[job.pool]
    rule = PlacementRule(policy=pool.policy, copies=pool.copies, min_copies=pool.min_copies)
    seed = job.id + request.stream + stream.ordinal
    choices, reason = rank_paths(rule, paths_of(t, pool, health, now_ns, stream), seed)
    if reason is not None:
        return [], _wait(pool, reason, now_ns)
    op = _assigned(job, stream, request, choices[0])
    op.epoch, op.at_ns = next_epoch(t, stream), wall_ns
    taken = msgspec.structs.replace(
        stream, epoch=op.epoch, agent=op.agent, media=op.media, bad=op.bad, issued_ns=wall_ns
    )
    return [op], Assigned(ticket=ticket_of(t, job, taken))


def _assigned(job: Job, stream: Stream, request: Assign, choice: Choice) -> ops.StreamAssigned:
    bad = [*stream.bad, *(item for item in request.bad if item not in stream.bad)]
    return ops.StreamAssigned(
        job=job.id,
        stream=stream.stream,
        epoch=0,
        agent=choice.agent,
        media=choice.media,
        cause=request.cause.value,
        from_agent=stream.agent,
        from_media=stream.media,
        next_seq=stream.next_seq,
        bad=bad[-BAD_MAX:],
        detail=request.detail,
        failover=request.cause not in _NO_FAILOVER,
        at_ns=0,
    )


def _wait(pool: Pool, reason: NoPath, now_ns: int) -> Wait:
    limit_s = pool.wait_busy_s if reason.busy else pool.wait_offline_s
    pause_ns = max(reason.until_ns - now_ns, 1) if reason.until_ns else _PATIENCE_NS
    what = "is busy" if reason.busy else "is offline or has just failed"
    return Wait(
        why="busy" if reason.busy else "offline",
        retry_after_ns=min(pause_ns, 10 * _PATIENCE_NS),
        limit_ns=limit_s * 1_000_000_000,
        message=f"pool {pool.name}: every data path that could hold {pool.min_copies} copies {what}",
    )


def paths_of(
    t: Tables, pool: Pool, health: Health, now_ns: int, leaving: Stream | None = None
) -> list[PathInfo]:
    """Every data path of a pool, with state and load; the stream `leaving` its path is no load."""
    agent_load: dict[str, int] = {}
    medium_load: dict[str, int] = {}
    for number in t.active:
        for stream in t.jobs[number].streams:
            if stream.state is StreamState.OPEN and stream is not leaving:
                agent_load[stream.agent] = agent_load.get(stream.agent, 0) + 1
                for name in stream.media:
                    medium_load[name] = medium_load.get(name, 0) + 1
    paths = []
    for agent_rank, agent in enumerate(pool.agents or t.agents):
        for medium_rank, name in enumerate(pool.media):
            medium = t.media[name]
            if medium.agents and agent not in medium.agents:
                continue
            path = Path(agent, name)
            state = health.path_state(path, now_ns)
            if not t.agents[agent].enabled or medium.state is not MediumStatus.UP:
                state = MediumState.OFFLINE
            elif state is MediumState.UP and agent_load.get(agent, 0) >= t.agents[agent].streams_max:
                state = MediumState.BUSY
            paths.append(
                PathInfo(
                    agent=agent,
                    medium=name,
                    failure_domain=medium.failure_domain,
                    state=state,
                    agent_rank=agent_rank,
                    medium_rank=medium_rank,
                    suspect_until_ns=health.suspect_until_ns(path),
                    agent_load=agent_load.get(agent, 0),
                    medium_load=medium_load.get(name, 0),
                    low=health.low(path),
                )
            )
    return paths


def ticket_of(t: Tables, job: Job, stream: Stream) -> Ticket:
    """The assignment in force as a ticket, unsigned."""
    pool = t.pools[job.pool]
    return Ticket(
        grid=t.grid,
        job=job.id,
        stream=stream.stream,
        epoch=stream.epoch,
        manager_epoch=t.epoch,
        agent=stream.agent,
        agent_urls=t.agents[stream.agent].urls,
        media=stream.media,
        next_seq=stream.next_seq,
        backup=job.backup,
        client=job.client,
        name=job.name,
        pool=job.pool,
        domain=pool.domain,
        min_copies=pool.min_copies,
        segment_bytes=pool.segment_bytes,
        segment_ordinal=stream.ordinal,
        previous_manifest=stream.last_manifest,
        previous_digest=stream.last_digest,
        base_backup=job.base_backup,
        bad=stream.bad,
        issued_ns=stream.issued_ns,
    )


# --- appliers -----------------------------------------------------------------------------------


def apply_stream_assigned(t: Tables, op: ops.StreamAssigned) -> None:
    """A stream has a path."""
    job = t.jobs[op.job]
    stream = job.streams[op.stream]
    assert op.epoch > stream.epoch, "an epoch only rises"
    stream.epoch, stream.agent, stream.media = op.epoch, op.agent, op.media
    stream.state, stream.bad, stream.issued_ns = StreamState.OPEN, op.bad, op.at_ns
    if op.failover:
        job.failovers.append(
            FailoverRow(
                stream=op.stream,
                epoch=op.epoch,
                cause=op.cause,
                from_agent=op.from_agent,
                from_media=op.from_media,
                to_agent=op.agent,
                to_media=op.media,
                at_ns=op.at_ns,
                detail=op.detail,
            )
        )


def apply_failover_measured(t: Tables, op: ops.FailoverMeasured) -> None:
    """A failover's cost."""
    for row in t.jobs[op.job].failovers:
        if (row.stream, row.epoch) == (op.stream, op.epoch):
            row.gap_ns, row.bytes_resent = op.gap_ns, op.bytes_resent
