"""The manager's state machine: assignments, commits, ends, deletion, rebuild; and its core over a log."""

import msgspec
import pytest

from staddle.api.catalog import Record
from staddle.api.types import Kind, object_name
from staddle.engine import gc, marks, ops
from staddle.engine.assign import decide_assign
from staddle.engine.commit import decide_commit, unusable
from staddle.engine.configure import decide_medium, decide_medium_state, decide_pool
from staddle.engine.health import Health, HealthLimits
from staddle.engine.jobs import (
    decide_cancel,
    decide_close_stream,
    decide_create_job,
    decide_expire,
    decide_finish,
    decide_sealed,
)
from staddle.engine.manager import library_change
from staddle.engine.messages import (
    Assign,
    Assigned,
    CancelJob,
    Cause,
    CloseStream,
    Commit,
    CommitOk,
    CopyOf,
    CreateJob,
    Ended,
    Exclude,
    FinishJob,
    Gone,
    JobEnded,
    SealNeeded,
    Short,
    Stale,
    StoredObject,
    StreamClosed,
    Wait,
)
from staddle.engine.state import GridState
from staddle.engine.tables import BackupState, MediumStatus, ObjectState
from staddle.errors import ConfigError, Denied, NotFound

S = 10**9
EPOCH = 3


def pool_op(**changes):
    made = ops.PoolSet(
        name="p",
        media=["m", "n", "o"],
        domain="d",
        copies=2,
        min_copies=1,
        policy="priority",
        agents=[],
        wait_busy_s=0,
        wait_offline_s=0,
        segment_bytes=4,
    )
    return msgspec.structs.replace(made, **changes)


class Bench:
    """A state with its log, and short words for what the tests do all the time."""

    def __init__(self, **pool):
        self.state = GridState()
        self.records = []
        self.health = Health(HealthLimits(), 0)
        self.epoch = EPOCH
        self.log(ops.EpochBegun(epoch=EPOCH, at_ns=0))
        for name in "ab":
            self.log(ops.AgentSet(name=name, urls=[f"mem://{name}"]))
        for name in "mno":
            self.log(ops.MediumSet(name=name, plugin="x", volume=name.encode(), failure_domain=name))
        self.log(*decide_pool(self.state, pool_op(**pool)))

    def log(self, *decided):
        for op in decided:
            record = Record(self.epoch, self.state.lsn + 1, ops.NAMES[type(op)], ops.to_args(op))
            record = msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record)
            self.records.append(record)
            self.state.apply(record)

    def do(self, outcome):
        decided, reply = outcome
        self.log(*decided)
        return reply

    def job(self, request=b"r", **changes):
        made = CreateJob(request=request, session=b"s", client="c", name="x", roots=[b"/"], pool="p")
        return self.do(decide_create_job(self.state, msgspec.structs.replace(made, **changes), 1))

    def assign(self, job, expected, cause=Cause.START, now=1, **more):
        request = Assign(job=job, stream=0, expected_epoch=expected, cause=cause, session=b"s", **more)
        return self.do(decide_assign(self.state, request, self.health, now, 10 * S))

    def commit(self, ticket, first=0, count=1, *, new=(), refs=(), media=("m", "n"), **changes):
        made = Commit(
            job=ticket.job,
            stream=0,
            epoch=ticket.epoch,
            agent=ticket.agent,
            first=first,
            next=first + count,
            manifest=thing(b"f%d.%d" % (ticket.job, first), media),
            containers=[thing(item, media) for item in new],
            refs=[ident(item) for item in (*new, *refs)],
        )
        return self.do(decide_commit(self.state, msgspec.structs.replace(made, **changes), 2))

    def backup(self, request, *, new=(), refs=()):
        """A whole backup of one segment."""
        job = self.job(request)
        ticket = self.assign(job.job, 0).ticket
        assert isinstance(self.commit(ticket, new=new, refs=refs), CommitOk)
        self.do(
            decide_close_stream(
                self.state, CloseStream(job=job.job, stream=0, epoch=ticket.epoch, total=1), 3
            )
        )
        needed = self.do(decide_finish(self.state, FinishJob(job=job.job, session=b"s"), 4))
        seal = thing(b"seal%d" % job.job, ("m", "n"))
        return self.do(decide_sealed(self.state, job.job, seal, needed.state, 5))

    def close(self, ticket, total=1):
        request = CloseStream(job=ticket.job, stream=0, epoch=ticket.epoch, total=total)
        return self.do(decide_close_stream(self.state, request, 3))

    def journal(self, backups):
        body = thing(b"journal", ("m", "n", "o"))
        self.log(*gc.decide_journalled(self.state, backups, body))


def ident(name):
    return name.rjust(16, b"\0")


def thing(name, media):
    return StoredObject(
        id=ident(name),
        size_bytes=9,
        digest=name.ljust(32, b"."),
        copies=[CopyOf(medium, f"{name.decode()}.{medium}") for medium in media],
    )


# --- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"copies": 4}, {"min_copies": 3}, {"min_copies": 0}, {"media": ["zz"]}, {"media": []}, {"policy": "x"}],
)
def test_a_pool_that_could_never_take_a_backup_is_refused(changes):
    with pytest.raises(ConfigError):
        decide_pool(Bench().state, pool_op(**changes))


def test_a_mediums_volume_and_a_pools_domain_never_change():
    bench = Bench()
    other = ops.MediumSet(name="m", plugin="x", volume=b"other", failure_domain="m")
    with pytest.raises(ConfigError):
        decide_medium(bench.state, other)
    with pytest.raises(ConfigError):
        decide_pool(bench.state, pool_op(domain="e"))
    assert decide_pool(bench.state, pool_op()) == []


# --- assignments --------------------------------------------------------------------------------


def test_an_assignment_is_compare_and_set():
    bench = Bench()
    job = bench.job().job
    first = bench.assign(job, 0).ticket
    assert (first.agent, first.media, first.epoch) == ("a", ["m", "n"], EPOCH << 32)
    assert bench.assign(job, 0).ticket.epoch == first.epoch
    again = bench.assign(job, first.epoch, Cause.AGENT_LOST).ticket
    assert again.epoch == first.epoch + 1
    assert bench.assign(job, first.epoch, Cause.AGENT_LOST).ticket.epoch == again.epoch
    assert [row.cause for row in bench.state.jobs[job].failovers] == ["agent_lost"]


def test_the_epoch_rises_above_anything_that_an_earlier_manager_can_have_issued():
    bench = Bench()
    job = bench.job().job
    first = bench.assign(job, 0).ticket.epoch
    bench.epoch += 65536
    bench.log(ops.EpochBegun(epoch=bench.epoch, at_ns=0))
    assert bench.assign(job, first).ticket.epoch == bench.epoch << 32


def test_a_failed_path_is_avoided_and_allowed_again_after_its_back_off():
    bench = Bench(agents=["a"])
    job = bench.job().job
    first = bench.assign(job, 0).ticket
    bench.health.failed(job, 0, first.epoch, [Exclude(agent="a")], 1)
    wait = bench.assign(job, first.epoch, now=2)
    assert isinstance(wait, Wait)
    bench.health.failed(job, 0, first.epoch, [Exclude(agent="a")], 2)  # said again: counts once
    after = 1 + HealthLimits().backoff_ns
    assert isinstance(bench.assign(job, first.epoch, now=after), Assigned)


def test_another_process_of_the_client_takes_the_job_over():
    bench = Bench()
    job = bench.job().job
    assert bench.job(session=b"t", resume=True).repeat
    assert bench.assign(job, 0) == Ended(
        state="taken", message="another process of this client goes on with the job"
    )


# --- commits ------------------------------------------------------------------------------------


def test_a_repeat_is_ok_even_after_a_new_assignment():
    bench = Bench()
    job = bench.job().job
    ticket = bench.assign(job, 0).ticket
    first = bench.commit(ticket, new=[b"c1"])
    bench.assign(job, ticket.epoch, Cause.AGENT_LOST)
    again = bench.commit(ticket, new=[b"c1"])
    assert again == CommitOk(next_seq=1, lsn=first.lsn, repeat=True)


def test_a_fenced_agent_and_a_gap_are_stale():
    bench = Bench()
    job = bench.job().job
    ticket = bench.assign(job, 0).ticket
    assert isinstance(bench.commit(ticket, first=1, new=[b"c1"]), Stale)
    later = bench.assign(job, ticket.epoch, Cause.AGENT_LOST).ticket
    assert bench.commit(ticket, new=[b"c1"]) == Stale(epoch=later.epoch, next_seq=0)
    assert isinstance(bench.commit(later, new=[b"c1"], agent="other"), Stale)


def test_too_few_receipts_are_short():
    bench = Bench(min_copies=2)
    ticket = bench.assign(bench.job().job, 0).ticket
    short = bench.commit(ticket, new=[b"c1"], media=("m",))
    assert isinstance(short, Short)
    assert short.media == ["n"]
    assert isinstance(bench.commit(ticket, new=[b"c1"], media=("m", "o")), Short)  # not on the ticket
    assert isinstance(bench.commit(ticket, new=[b"c1"]), CommitOk)


def test_only_what_is_committed_whole_and_not_going_can_be_referred_to():
    bench = Bench()
    bench.backup(b"r1", new=[b"c1", b"c2"])
    ticket = bench.assign(bench.job(b"r2").job, 0).ticket
    assert bench.commit(ticket, refs=[b"zz"]) == Gone(containers=[ident(b"zz")])
    bench.log(ops.ObjectsDeleting(objects=[ident(b"c1")]))
    assert bench.commit(ticket, refs=[b"c1", b"c2"]) == Gone(containers=[ident(b"c1")])
    bench.log(*decide_medium_state(bench.state, "n", MediumStatus.OFFLINE, "", 0))
    assert unusable(bench.state, [ident(b"c2")], bench.state.pools["p"]) == [ident(b"c2")]
    bench.log(*decide_medium_state(bench.state, "n", MediumStatus.UP, "", 0))
    assert isinstance(bench.commit(ticket, refs=[b"c2"]), CommitOk)


def test_a_commit_revives_what_was_condemned():
    bench = Bench()
    bench.backup(b"r1", new=[b"c1"])
    bench.log(ops.ContainersCondemned(containers=[ident(b"c1")], at_ns=1))
    ticket = bench.assign(bench.job(b"r2").job, 0).ticket
    assert isinstance(bench.commit(ticket, refs=[b"c1"]), CommitOk)
    assert bench.state.objects[ident(b"c1")].state is ObjectState.LIVE


# --- the ends of jobs ---------------------------------------------------------------------------


def test_a_backup_is_sealed_and_becomes_the_base_of_the_next():
    bench = Bench()
    assert bench.backup(b"r1", new=[b"c1"]).state == "complete"
    assert bench.job(b"r2").base_backup == 1
    assert bench.job(b"r3", name="other").base_backup == 0


def test_a_degraded_backup_ends_with_warnings_and_a_debt():
    bench = Bench()
    job = bench.job().job
    ticket = bench.assign(job, 0).ticket
    bench.commit(ticket, new=[b"c1"], media=("m",))
    assert {item.kind for item, _ in bench.state.repair_debt()} == {"container", "manifest"}
    assert isinstance(bench.close(ticket, total=2), Stale)
    assert bench.close(ticket) == StreamClosed(total=1)
    assert bench.close(ticket) == StreamClosed(total=1)
    needed = bench.do(decide_finish(bench.state, FinishJob(job=job, session=b"s"), 4))
    assert isinstance(needed, SealNeeded)
    assert needed.state == "warnings"
    assert isinstance(bench.do(decide_sealed(bench.state, job, thing(b"s", ()), "warnings", 5)), Short)
    assert isinstance(bench.do(decide_sealed(bench.state, job, thing(b"s", "m"), "complete", 5)), SealNeeded)
    assert bench.do(decide_sealed(bench.state, job, thing(b"s", "m"), "warnings", 5)).state == "warnings"


def test_a_lost_medium_without_copies_ends_in_incomplete_and_names_what_is_gone():
    bench = Bench(copies=1)
    job = bench.job().job
    ticket = bench.assign(job, 0).ticket
    bench.commit(ticket, new=[b"c1"], media=("m",))
    bench.close(ticket)
    bench.log(*decide_medium_state(bench.state, "m", MediumStatus.LOST, "", 0))
    ended = bench.do(decide_finish(bench.state, FinishJob(job=job, session=b"s"), 4))
    assert isinstance(ended, JobEnded)
    assert ended.state == "incomplete"
    assert ident(b"c1") in ended.lost
    assert bench.do(decide_finish(bench.state, FinishJob(job=job, session=b"s"), 4)) == ended


@pytest.mark.parametrize("how", ["expire", "cancel"])
def test_the_end_of_a_job_fences_its_streams(how):
    bench = Bench()
    job = bench.job().job
    ticket = bench.assign(job, 0).ticket
    if how == "expire":
        bench.log(*decide_expire(bench.state, [job], 9))
    else:
        bench.do(decide_cancel(bench.state, CancelJob(job=job), 9))
    assert bench.state.backups[1].state is BackupState.INCOMPLETE
    reply = bench.commit(ticket, new=[b"c1"])
    assert isinstance(reply, Stale)
    assert reply.epoch > ticket.epoch
    assert isinstance(bench.assign(job, ticket.epoch), Ended)


# --- deletion -----------------------------------------------------------------------------------


def test_a_prune_reaches_the_media_before_anything_is_deleted():
    bench = Bench()
    bench.backup(b"r1", new=[b"c1"])
    pruned = bench.do(gc.decide_prune(bench.state, [1], 6))
    assert pruned.backups == [1]
    assert gc.decide_condemn(bench.state, 7) == []
    assert gc.decide_journalled(bench.state, [1], thing(b"j", ("m",))) == []  # n holds copies, too
    bench.journal([1])
    assert {bench.state.objects[item].kind for item, _ in gc.to_delete(bench.state)} == {"manifest", "seal"}
    bench.log(*gc.decide_condemn(bench.state, 7))
    assert gc.decide_delete(bench.state, 10, 16) == []
    bench.log(*gc.decide_delete(bench.state, 10, 17))
    bench.log(*gc.decide_copies_deleted(bench.state, gc.to_delete(bench.state)))
    bench.log(*gc.decide_drop(bench.state))
    assert {item.kind for item in bench.state.objects.values()} == {"journal"}


def test_the_base_of_a_running_job_is_not_pruned():
    bench = Bench()
    bench.backup(b"r1", new=[b"c1"])
    bench.job(b"r2")
    assert bench.do(gc.decide_prune(bench.state, [1, 2], 6)).held == [1, 2]
    with pytest.raises(NotFound):
        gc.decide_prune(bench.state, [77], 6)


def test_an_orphan_is_what_nobody_can_commit_any_more():
    bench = Bench()

    def name(second):
        return object_name(Kind.CONTAINER, (second * 1000).to_bytes(6) + bytes(10), bytes(8))

    def found(now_s):
        names = [name(second) for second in (1, 9, 12)] + ["not-ours"]
        return gc.orphans(bench.state, "m", names, age_ns=5 * S, skew_ns=1 * S, wall_ns=now_s * S)

    assert found(16) == [name(1), name(9)]
    bench.assign(bench.job().job, 0)  # issued at 10 s
    assert found(1000) == [name(1)]
    planned = gc.decide_plan_copy(bench.state, ident(b"zz"), "m", name(1), 5)
    assert planned == []
    bench.log(*gc.decide_orphans(bench.state, "m", [name(1)]))
    assert found(1000) == []
    assert gc.decide_orphans(bench.state, "m", [name(1)]) == []
    bench.log(*gc.decide_orphans_removed(bench.state, "m", [name(1)]))
    assert found(1000) == [name(1)]


def test_an_object_older_than_the_log_is_no_orphan():
    bench = Bench()
    bench.state.began_ns = 5 * S
    names = [object_name(Kind.CONTAINER, (at * 1000).to_bytes(6) + bytes(10), bytes(8)) for at in (4, 6)]
    assert gc.orphans(bench.state, "m", names, age_ns=0, skew_ns=0, wall_ns=100 * S) == names[1:]


def test_a_damaged_copy_counts_for_nothing_but_is_kept_until_it_is_deleted():
    bench = Bench()
    bench.backup(b"r1", new=[b"c1"])
    item = bench.state.objects[ident(b"c1")]
    copies = list(item.copies)
    for copy in copies:
        bench.log(*gc.decide_copy_lost(bench.state, item.id, copy, "corrupt"))
        assert gc.decide_copy_lost(bench.state, item.id, copy, "corrupt") == []
    assert (item.copies, item.bad) == ([], copies)
    assert unusable(bench.state, [item.id], bench.state.pools["p"]) == [item.id]
    names = [copy.name for copy in copies if copy.medium == "m"]
    assert gc.orphans(bench.state, "m", names, age_ns=0, skew_ns=0, wall_ns=10**6 * S) == []
    assert GridState.load(bench.state.dump()).objects[item.id].bad == copies
    bench.log(ops.ObjectsDeleting(objects=[item.id]))
    assert gc.decide_drop(bench.state) == []
    assert gc.to_delete(bench.state) == [(item.id, copy) for copy in copies]
    bench.log(*gc.decide_copies_deleted(bench.state, gc.to_delete(bench.state)))
    assert gc.decide_drop(bench.state) == [ops.ObjectsDropped(objects=[item.id])]


def test_a_job_that_was_given_up_leaves_a_seal_that_ends_its_streams():
    bench = Bench()
    job = bench.job().job
    assert marks.to_mark(bench.state) == []
    ticket = bench.assign(job, 0).ticket
    bench.commit(ticket, new=[b"c1"])
    assert marks.to_mark(bench.state) == []
    bench.do(decide_cancel(bench.state, CancelJob(job=job, reason="enough"), 9))
    [number] = marks.to_mark(bench.state)
    needed = marks.mark_needed(bench.state, number)
    assert (needed.state, [end.segments for end in needed.streams]) == ("incomplete", [1])
    bench.log(*marks.decide_marked(bench.state, number, thing(b"s", "m")))
    assert marks.to_mark(bench.state) == []
    assert marks.decide_marked(bench.state, number, thing(b"t", "m")) == []
    assert bench.state.backups[number].seal == ident(b"s")
    assert bench.state.backups[number].state is BackupState.INCOMPLETE


def test_a_job_is_given_to_no_other_client_that_knows_its_request():
    bench = Bench()
    bench.job(b"r1")
    request = CreateJob(
        request=b"r1", session=b"x", client="thief", name="n", roots=[], pool="p", resume=True
    )
    with pytest.raises(Denied):
        decide_create_job(bench.state, request, 1)


def test_the_library_hears_of_committed_containers_only():
    bench = Bench()
    bench.backup(b"r1", new=[b"c1"])
    changes = [library_change(record, bench.state) for record in bench.records]
    assert [change.publish for change in changes if change] == [[ident(b"c1")]]
    bench.log(ops.ObjectsDeleting(objects=[ident(b"c1")]))
    assert library_change(bench.records[-1], bench.state).withdraw == [ident(b"c1")]
