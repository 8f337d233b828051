"""The manager's state machine: assignments, commits, ends, deletion, rebuild; and its core over a log."""

import pytest
from enginekit import EPOCH, Bench, ident, pool_op, thing

from staddle.engine import ops
from staddle.engine.commit import unusable
from staddle.engine.configure import decide_medium, decide_medium_state, decide_pool
from staddle.engine.health import HealthLimits
from staddle.engine.jobs import (
    decide_cancel,
    decide_expire,
    decide_finish,
    decide_sealed,
    decide_waited,
)
from staddle.engine.messages import (
    Assigned,
    CancelJob,
    Cause,
    CommitOk,
    Ended,
    Exclude,
    FinishJob,
    Gone,
    JobEnded,
    SealNeeded,
    Short,
    Stale,
    StreamClosed,
    Wait,
)
from staddle.engine.tables import BackupState, MediumStatus, ObjectState
from staddle.errors import ConfigError

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
    short = [item.kind for item in bench.state.objects.values() if bench.state.copies_short(item)]
    assert sorted(short) == ["container", "manifest"]
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


def test_data_on_a_medium_that_is_away_are_waited_for_before_a_job_is_incomplete():
    def state(medium):
        bench.log(*decide_medium_state(bench.state, "m", medium, "", 0))

    def sealed():
        return bench.do(decide_sealed(bench.state, job, thing(b"s", "n"), "complete", 5))

    ends = ((MediumStatus.UP, "complete"), (MediumStatus.LOST, "incomplete"), (None, "incomplete"))
    for end, ends_as in ends:
        bench = Bench(copies=1)
        job = bench.job().job
        ticket = bench.assign(job, 0).ticket
        bench.commit(ticket, new=[b"c1"], media=("m",))
        bench.close(ticket)
        state(MediumStatus.OFFLINE)
        asked = bench.do(decide_finish(bench.state, FinishJob(job=job, session=b"s"), 4))
        assert isinstance(asked, SealNeeded)
        waiting = sealed()
        assert isinstance(waiting, Short)
        assert ident(b"c1") in waiting.objects
        if end is None:
            assert bench.do(decide_waited(bench.state, job, 6)).state == ends_as
        else:
            state(end)
            assert sealed().state == ends_as
            assert bench.do(decide_waited(bench.state, job, 6)).state == ends_as


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
