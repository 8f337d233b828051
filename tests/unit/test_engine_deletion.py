"""The manager's state machine: deletion, orphans, damaged copies, rebuild."""

import pytest
from enginekit import Bench, S, ident, thing

from staddle.api.types import Kind, object_name
from staddle.engine import gc, marks, ops
from staddle.engine.commit import unusable
from staddle.engine.found import FoundManifest
from staddle.engine.jobs import (
    decide_cancel,
    decide_create_job,
)
from staddle.engine.manager import library_change
from staddle.engine.messages import (
    CancelJob,
    CopyOf,
    CreateJob,
)
from staddle.engine.rebuild import plan_rebuild
from staddle.engine.state import GridState
from staddle.engine.tables import BackupState, MediumStatus
from staddle.errors import Denied, NotFound

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


def test_a_journal_stands_on_some_medium_even_if_all_that_needed_it_are_lost():
    bench = Bench()
    bench.backup(b"r1", new=[b"c1"])
    bench.do(gc.decide_prune(bench.state, [1], 6))
    for medium in bench.state.media.values():
        medium.state = MediumStatus.LOST
    assert gc.journal_media(bench.state, [1]) == []
    assert gc.decide_journalled(bench.state, [1], thing(b"j", ())) == []
    [done] = gc.decide_journalled(bench.state, [1], thing(b"j", ("m",)))
    assert done.backups == [1]


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


def found_manifest(key, ordinal, previous, epoch=1):
    return FoundManifest(
        id=ident(key),
        size_bytes=1,
        digest=ident(key),
        domain="d",
        copies=[CopyOf("m", "x")],
        job=1,
        backup=1,
        client="c",
        name="n",
        stream=0,
        epoch=epoch,
        ordinal=ordinal,
        first=ordinal,
        next=ordinal + 1,
        previous_manifest=ident(previous) if previous else b"",
        previous_digest=ident(previous) if previous else b"",
        refs=[],
        created_ns=1,
    )


def test_without_a_seal_only_what_a_later_manifest_names_comes_back():
    first, second = found_manifest(b"m0", 0, b""), found_manifest(b"m1", 1, b"m0")
    never = found_manifest(b"m2", 1, b"m0", epoch=0)

    def segments(*manifests):
        plan = plan_rebuild(Bench().state, containers=[], manifests=manifests, seals=[], pruned=[])
        [forgotten] = [op for op in plan.ops if isinstance(op, ops.BackupsForgotten)]
        assert forgotten.next_backup == 2  # a number is not used again, whatever became of it
        backups = [op for op in plan.ops if isinstance(op, ops.BackupImported)]
        return [[row.manifest for row in op.segments] for op in backups]

    assert segments(first) == []
    assert segments(first, second) == [[first.id]]
    assert segments(first, never, second) == [[first.id]]
    assert segments(first, second, found_manifest(b"m3", 2, b"m1")) == [[first.id, second.id]]
