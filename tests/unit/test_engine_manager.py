"""The manager's core over a log: order of answers, lease, snapshots."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.api.catalog import Record
from staddle.engine import ops
from staddle.engine.health import Health, HealthLimits
from staddle.engine.lease import ManagerLease
from staddle.engine.manager import Append, ManagerCore, Publish, Reply
from staddle.engine.messages import CreateJob, Renewed, RenewJob
from staddle.engine.state import APPLIERS, GridState
from staddle.engine.tables import JobState
from staddle.errors import Corrupt, Fenced, NewerFormat, NotFound
from staddle.testing.sim.faults import plan
from staddle.testing.sim.grid import Grid

EPOCH = 3


def configured():
    """A state with one agent, one medium and one pool."""
    state = GridState()
    for op in (
        ops.EpochBegun(epoch=EPOCH, at_ns=0),
        ops.AgentSet(name="a", urls=["mem://a"]),
        ops.MediumSet(name="m", plugin="x", volume=b"m", failure_domain="m"),
        ops.PoolSet(
            name="p",
            media=["m"],
            domain="d",
            copies=1,
            min_copies=1,
            policy="priority",
            agents=[],
            wait_busy_s=0,
            wait_offline_s=0,
            segment_bytes=4,
        ),
    ):
        state.apply(Record(EPOCH, state.lsn + 1, ops.NAMES[type(op)], ops.to_args(op)))
    return state


# --- ops and snapshots --------------------------------------------------------------------------


def test_every_op_has_an_applier():
    assert set(APPLIERS) == set(ops.TYPES)


def test_a_record_out_of_order_or_of_an_earlier_term_is_refused():
    state = configured()
    lsn = state.lsn
    with pytest.raises(Corrupt):
        state.apply(Record(EPOCH, lsn + 2, "client_set", {"name": "c", "joined_ns": 0}))
    with pytest.raises(Fenced):
        state.apply(Record(EPOCH - 1, lsn + 1, "client_set", {"name": "c", "joined_ns": 0}))
    with pytest.raises(Corrupt):
        state.apply(Record(EPOCH, lsn + 1, "no_such_op", {}))


def test_a_snapshot_of_a_newer_release_is_not_read():
    with pytest.raises(NewerFormat):
        GridState.load(msgspec.msgpack.encode({"version": 99}))
    with pytest.raises(Corrupt):
        GridState.load(b"\xc1")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.floats(0, 1))
def test_a_snapshot_and_the_rest_of_the_log_equal_the_whole_log(seed, cut):
    grid = Grid(seed)
    plan(grid)
    grid.run()
    records = grid.log.read()
    at = int(cut * len(records))
    whole, part = GridState(), GridState()
    for record in records:
        whole.apply(record)
    for record in records[:at]:
        part.apply(record)
    part = GridState.load(part.dump())
    for record in records[at:]:
        part.apply(record)
    assert part.dump() == whole.dump()


# --- the core -----------------------------------------------------------------------------------


def core_made():
    lease = ManagerLease(EPOCH, 100, 10)
    lease.renewed(0)
    return ManagerCore(configured(), lease, Health(HealthLimits(), 0))


def kinds(effects):
    return [type(effect) for effect in effects]


def test_an_answer_waits_for_its_record_and_for_those_before_it():
    core = core_made()
    request = CreateJob(request=b"r", session=b"s", client="c", name="x", roots=[b"/"], pool="p")
    first = core.handle(request, "first", 1, 1)
    assert kinds(first) == [Append]
    assert core.handle(request, "again", 2, 2) == []  # a repeat, of what is not yet durable
    effects = core.on_durable(core.state.lsn, 3)
    assert kinds(effects) == [Publish, Reply, Reply]
    assert [effect.tag for effect in effects[1:]] == ["first", "again"]
    assert kinds(core.handle(RenewJob(job=1, session=b"s"), "renew", 4, 4)) == [Reply]


def test_the_lease_is_checked_before_and_again_after_the_write():
    core = core_made()
    request = CreateJob(request=b"r", session=b"s", client="c", name="x", roots=[b"/"], pool="p")
    core.handle(request, "first", 89, 1)
    with pytest.raises(Fenced):
        core.on_durable(core.state.lsn, 90)
    with pytest.raises(Fenced):
        core.handle(request, "again", 90, 1)


def test_an_error_is_an_answer():
    core = core_made()
    request = CreateJob(request=b"r", session=b"s", client="c", name="x", roots=[], pool="none")
    [reply] = core.handle(request, "tag", 1, 1)
    assert isinstance(reply.message, NotFound)


def test_a_jobs_lease_runs_out_without_a_word_from_its_client():
    core = core_made()
    core.lease.renewed(10**15)
    request = CreateJob(request=b"r", session=b"s", client="c", name="x", roots=[b"/"], pool="p")
    core.handle(request, "tag", 0, 0)
    limit = core.health.limits.job_lease_ns
    [_, reply] = [*core.on_durable(core.state.lsn, 1)]
    assert reply.message.job == 1
    [renewed] = core.handle(RenewJob(job=1, session=b"s"), "tag", 5, 5)
    assert renewed.message == Renewed()
    assert core.tick(limit + 4, 0) == []
    assert kinds(core.tick(limit + 5, 0)) == [Append]
    assert core.state.jobs[1].state == "incomplete"


def test_a_lease_counts_from_the_start_of_its_last_renewal():
    lease = ManagerLease(1, 100, 20)
    assert not lease.may_serve(0)
    lease.renewed(10)
    lease.renewed(5)  # answered late
    assert lease.may_serve(89)
    assert not lease.may_serve(90)
    lease.fenced()
    assert not lease.may_serve(11)


def test_an_error_that_nobody_waits_for_is_raised():
    def refuse(_state):
        raise NotFound("nothing")

    core = core_made()
    with pytest.raises(NotFound):
        core.change(refuse, now_ns=1)
    [reply] = core.change(refuse, tag="tag", now_ns=1)
    assert isinstance(reply.message, NotFound)


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_job_has_a_whole_lease_from_its_beginning_however_long_its_manager_runs(taken_over):
    core = core_made()
    limits = core.health.limits
    core.lease.renewed(10**15)

    def create(session, now_ns):
        core.handle(
            CreateJob(request=b"r", session=session, client="c", name="n", roots=[], pool="p", resume=True),
            "tag",
            now_ns,
            now_ns,
        )
        core.on_durable(core.state.lsn, now_ns)

    late_ns = 10 * limits.job_lease_ns
    create(b"s", late_ns)
    if taken_over:  # just before its lease runs out
        late_ns += limits.job_lease_ns - 1
        create(b"t", late_ns)
    core.tick(late_ns + limits.job_lease_ns - 1, 0)
    assert core.state.jobs[1].state is JobState.RUNNING, "nobody could renew it yet"
    core.tick(late_ns + limits.job_lease_ns, 0)
    assert core.state.jobs[1].state is JobState.INCOMPLETE
