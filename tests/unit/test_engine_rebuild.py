"""Rebuild: what is whole comes back over what is not, media that return add to it, nothing twice."""

import itertools

import msgspec
from enginekit import Bench, ident, pool_op
from hypothesis import given
from hypothesis import strategies as st

from staddle.engine import ops, repair
from staddle.engine.configure import decide_pool
from staddle.engine.found import FoundBad, FoundContainer, FoundManifest, FoundSeal
from staddle.engine.gc import decide_condemn
from staddle.engine.importing import decide_backup_imported, decide_objects_imported, decide_unread
from staddle.engine.messages import CopyOf, StreamEndOf
from staddle.engine.rebuild import NUMBER_MAX, NUMBERS_LEFT, plan_rebuild
from staddle.engine.repair import lost_for_good
from staddle.engine.state import GridState
from staddle.engine.tables import BackupState, ObjectState


def manifest(key, ordinal, previous=b"", *, epoch=1, medium="m", refs=(), backup=1):
    return FoundManifest(
        id=ident(key),
        size_bytes=7,
        digest=ident(key),
        domain="d",
        copies=[CopyOf(medium, f"f0/{key.hex()}")],
        job=backup,
        backup=backup,
        client="c",
        name="n",
        stream=0,
        epoch=epoch,
        ordinal=ordinal,
        first=10 * ordinal,
        next=10 * ordinal + 10,
        previous_manifest=ident(previous) if previous else b"",
        previous_digest=ident(previous) if previous else b"",
        refs=[ident(ref) for ref in refs],
        created_ns=ordinal + 1,
        files=1,
    )


def chain(length, *, epoch=1):
    return [
        manifest(b"m%d" % at, at, b"m%d" % (at - 1) if at else b"", epoch=epoch, refs=[b"c%d" % at])
        for at in range(length)
    ]


def containers(*keys, medium="m"):
    return [
        FoundContainer(
            id=ident(key),
            size_bytes=9,
            digest=ident(key),
            domain="d",
            copies=[CopyOf(medium, f"c0/{key.hex()}")],
            raw_bytes=20,
            chunks=2,
        )
        for key in keys
    ]


def seal(segments, last, *, state="complete", epoch=1, key=b"seal", backup=1):
    return FoundSeal(
        id=ident(key),
        size_bytes=5,
        digest=ident(key),
        domain="d",
        copies=[CopyOf("m", f"5e/{key.hex()}")],
        manager_epoch=epoch,
        job=backup,
        backup=backup,
        client="c",
        name="n",
        pool="p",
        roots=[b"/r"],
        started_ns=1,
        finished_ns=2,
        state=state,
        files=9,
        dirs=1,
        bytes_read=1,
        bytes_stored=1,
        warnings=0,
        streams=[StreamEndOf(stream=0, segments=segments, last_manifest=last, last_digest=last)],
    )


def all_containers(length):
    return containers(*(b"c%d" % at for at in range(length)))


def planned(manifests, seals, boxes, **more):
    plan = plan_rebuild(
        Bench().state,
        containers=boxes,
        manifests=manifests,
        seals=seals,
        pruned=more.pop("pruned", ()),
        **more,
    )
    backups = [op for op in plan.ops if isinstance(op, ops.BackupImported)]
    [imported] = [op.objects for op in plan.ops if isinstance(op, ops.ObjectsImported)]
    return plan, backups, {item.id: item for item in imported}


def test_a_manifest_that_is_whole_nowhere_costs_its_segment_and_no_other():
    whole = chain(5)
    bad = FoundBad(id=whole[2].id, size_bytes=6, copies=[CopyOf("m", "f0/x"), CopyOf("n", "f0/y")])
    left = [item for item in whole if item is not whole[2]]
    plan, [backup], objects = planned(left, [seal(5, whole[4].id)], all_containers(5), bad=[bad])
    assert backup.state == BackupState.INCOMPLETE
    assert [row.ordinal for row in backup.segments] == [0, 1, 2, 3, 4]
    assert [(row.first, row.next) for row in backup.segments] == [(10 * n, 10 * n + 10) for n in range(5)]
    lost = backup.segments[2]
    assert (lost.manifest, lost.digest, lost.refs) == (whole[2].id, whole[2].digest, b"")
    assert (objects[lost.manifest].copies, objects[lost.manifest].bad) == ([], bad.copies)
    assert {item.id for item in all_containers(5)} - set(objects) == {ident(b"c2")}
    [finding] = plan.findings
    assert "4 of 5 manifests" in finding
    assert whole[2].id.hex() in finding


def test_a_lost_manifest_is_told_of_by_the_log_as_any_other_loss():
    whole = chain(3)
    bad = FoundBad(id=whole[1].id, size_bytes=6, copies=[CopyOf("m", "f0/x")])
    bench = Bench()
    plan, *_ = planned([whole[0], whole[2]], [seal(3, whole[2].id)], all_containers(3), bad=[bad])
    bench.log(*plan.ops)
    assert lost_for_good(bench.state) == [whole[1].id]
    assert GridState.load(bench.state.dump()).dump() == bench.state.dump()


def test_the_last_manifest_lost_and_two_lost_in_a_row():
    whole = chain(6)
    _, [backup], _ = planned(whole[:5], [seal(6, whole[5].id)], all_containers(6))
    assert [row.ordinal for row in backup.segments] == [0, 1, 2, 3, 4, 5]
    assert (backup.segments[5].first, backup.segments[5].next) == (50, 50)
    # Of two in a row the first one's name is lost with the second.
    plan, [backup], _ = planned([*whole[:2], *whole[4:]], [seal(6, whole[5].id)], all_containers(6))
    assert [row.ordinal for row in backup.segments] == [0, 1, 3, 4, 5]
    assert "4 of 6 manifests" in plan.findings[0]


def test_over_a_gap_the_one_of_the_highest_epoch_counts():
    first, lost = manifest(b"a0", 0), manifest(b"a2", 2, b"a1", epoch=2)
    zombie = manifest(b"z1", 1, b"a0", epoch=1)
    there = manifest(b"a1", 1, b"a0", epoch=2)
    later = manifest(b"l1", 1, b"a0", epoch=9)  # above its successor's: it can't have been committed
    last = manifest(b"a3", 3, b"a2", epoch=2)
    for found in itertools.permutations([first, zombie, there, later, last]):
        _, [backup], _ = planned(found, [seal(4, last.id)], [])
        assert [row.manifest for row in backup.segments] == [first.id, there.id, lost.id, last.id]


def test_without_a_seal_a_gap_costs_one_segment_too():
    whole = chain(5)
    plan, [backup], _ = planned([whole[0], whole[1], whole[3], whole[4]], [], all_containers(5))
    assert [row.ordinal for row in backup.segments] == [0, 1, 2, 3], "the very last one is not promised"
    assert backup.segments[2].manifest == whole[2].id
    assert backup.state == BackupState.INCOMPLETE
    assert whole[2].id.hex() in plan.findings[0]


@given(st.sets(st.integers(0, 7)), st.booleans())
def test_every_manifest_that_is_whole_comes_back_and_rows_follow_one_another(lost, sealed):
    whole = chain(8)
    left = [item for item in whole if item.ordinal not in lost]
    _, backups, _ = planned(left, [seal(8, whole[7].id)] if sealed else [], all_containers(8))
    rows = [row for backup in backups for row in backup.segments]
    back = {row.manifest for row in rows if row.refs}
    want = {item.id for item in left}
    assert back == (want if sealed else want - {left[-1].id} if left else set())
    for before, after in itertools.pairwise(rows):
        assert before.ordinal < after.ordinal
        assert before.next <= after.first
    assert all(row.first <= row.next for row in rows)


def rebuilt(bench, found):
    """Log a plan as the manager does, and say what was refused."""
    refused = []
    for op in found:
        match op:
            case ops.ObjectsImported(objects=objects):
                bench.log(*decide_objects_imported(bench.state, objects))
            case ops.BackupImported():
                decided, why = decide_backup_imported(bench.state, op)
                refused.append(why)
                bench.log(*decided)
            case ops.MediaUnread(media=names):
                bench.log(*decide_unread(bench.state, names))
            case _:
                bench.log(op)
    return [why for why in refused if why]


def test_a_medium_that_returns_completes_what_was_incomplete():
    bench, whole = Bench(), chain(4)
    sealed = [seal(4, whole[3].id)]
    without = [item for item in whole if item.ordinal != 1]
    plan, *_ = planned(without, sealed, containers(b"c0", b"c2", b"c3"), unread=["n"])
    assert rebuilt(bench, plan.ops) == []
    assert bench.state.unread == ["n"]
    assert bench.state.backups[1].state is BackupState.INCOMPLETE

    plan, *_ = planned(whole, sealed, all_containers(4))
    assert rebuilt(bench, plan.ops) == []
    assert bench.state.unread == []
    assert bench.state.backups[1].state is BackupState.COMPLETE
    assert len(bench.state.backups[1].segments) == 4
    assert bench.state.objects[whole[1].id].copies == whole[1].copies
    assert bench.state.damaged == {}
    length = len(bench.records)
    rebuilt(bench, [op for op in plan.ops if not isinstance(op, ops.BackupsForgotten)])
    assert len(bench.records) == length, "what the log knows is not logged again"


def test_a_medium_that_returns_adds_copies_and_revives_no_copy_that_is_on_its_way_out():
    bench, whole = Bench(), chain(2)
    plan, *_ = planned(whole, [seal(2, whole[1].id)], all_containers(2), unread=["n"])
    rebuilt(bench, plan.ops)
    boxes = all_containers(2)
    twin, doomed = CopyOf("n", "c0/twin"), CopyOf("n", "c0/doomed")
    bench.log(ops.OrphansDoomed(medium="n", names=[doomed.name]))
    bench.log(ops.ContainersCondemned(containers=[boxes[0].id], at_ns=1))
    bench.log(ops.ObjectsDeleting(objects=[boxes[1].id]))
    found = [
        FoundContainer(
            id=box.id,
            size_bytes=9,
            digest=box.digest,
            domain="d",
            copies=[twin, doomed],
            raw_bytes=20,
            chunks=2,
        )
        for box in boxes
    ]
    plan, *_ = planned(whole, [seal(2, whole[1].id)], found)
    rebuilt(bench, plan.ops)
    first, second = (bench.state.objects[box.id] for box in boxes)
    assert (first.copies, first.state) == ([*boxes[0].copies, twin], ObjectState.LIVE)
    assert (second.copies, second.state) == (boxes[1].copies, ObjectState.DELETING)


def test_numbers_are_left_free_for_what_was_not_read():
    whole = chain(1)
    for unread, left in (((), 0), (("n",), NUMBERS_LEFT)):
        bench = Bench()
        plan, *_ = planned(whole, [seal(1, whole[0].id)], all_containers(1), unread=unread)
        rebuilt(bench, plan.ops)
        assert (bench.state.next_job, bench.state.next_backup) == (2 + left, 2 + left)


def test_a_number_that_was_given_away_is_refused_by_name_and_nothing_is_replaced():
    bench = Bench()
    bench.backup(b"r1", new=[b"x"])
    before = bench.state.dump()
    whole = chain(1)
    _, [op], _ = planned(whole, [seal(1, whole[0].id)], all_containers(1))
    decided, why = decide_backup_imported(bench.state, op)
    same = bench.state.backups[1]
    assert decided == []
    assert (same.client, same.name) != ("c", "n")
    assert "backup 1" in why
    assert bench.state.dump() == before


def test_an_older_backup_of_the_same_name_and_number_is_refused_and_its_data_are_not_for_the_collector():
    bench = Bench()
    plan, *_ = planned(chain(1), [seal(1, ident(b"m0"))], all_containers(1))
    rebuilt(bench, plan.ops)
    older = msgspec.structs.replace(seal(1, ident(b"old"), key=b"oldseal"), started_ns=-200, finished_ns=-100)
    plan = plan_rebuild(
        bench.state,
        containers=containers(b"oldbox"),
        manifests=[msgspec.structs.replace(manifest(b"old", 0, refs=[b"oldbox"]), created_ns=-150)],
        seals=[older],
        pruned=(),
    )
    [why] = rebuilt(bench, plan.ops)
    assert "another one has that number" in why
    assert bench.state.backups[1].seal == ident(b"seal")
    assert not {ident(b"oldbox"), ident(b"old"), ident(b"oldseal")} & set(bench.state.objects)
    assert decide_condemn(bench.state, 1) == []


def test_a_number_that_came_back_is_not_given_away_even_if_the_import_goes_no_further():
    bench = Bench()
    _, [op], _ = planned([manifest(b"m0", 0, backup=7)], [seal(1, ident(b"m0"), backup=7)], [])
    bench.log(op)
    assert (bench.state.next_job, bench.state.next_backup) == (8, 8)


def test_a_number_that_somebody_made_up_costs_no_time():
    made_up = [manifest(b"m0", 0), manifest(b"m9", 2**60)]
    plan, backups, _ = planned(made_up, [seal(2**60, ident(b"gone"), backup=2)], [])
    assert [(op.backup, len(op.segments)) for op in backups] == [(1, 1), (2, 1)]
    assert len(plan.findings) == 2


def test_a_backup_beyond_all_counting_is_left_out_and_numbers_go_on_from_the_others():
    bench, whole = Bench(), chain(1)
    for number in (NUMBER_MAX + 1, 2**62):
        made_up = [manifest(b"m9", 0, backup=number)]
        seals = [seal(1, whole[0].id), seal(1, ident(b"m9"), backup=number, key=b"other")]
        plan, [op], _ = planned([*whole, *made_up], seals, all_containers(1), pruned=[number])
        assert op.backup == 1
        assert [finding for finding in plan.findings if "2 manifests and seals name a job" in finding]
    rebuilt(bench, plan.ops)
    assert (bench.state.next_job, bench.state.next_backup) == (2, 2)


def test_nothing_pruned_comes_back_with_a_medium():
    bench, whole = Bench(), chain(1)
    plan, [op], _ = planned(whole, [seal(1, whole[0].id)], all_containers(1), unread=["n"])
    rebuilt(bench, plan.ops)
    bench.log(ops.BackupsPruned(backups=[1], at_ns=1))
    assert decide_backup_imported(bench.state, op) == ([], "")
    _, backups, objects = planned(whole, [seal(1, whole[0].id)], all_containers(1), pruned=[1])
    assert (backups, objects) == ([], {})


def test_a_medium_in_no_pool_is_emptied_and_one_that_is_offline_is_not_given_up():
    bench = Bench()  # pool p has the media m, n, o
    bench.backup(b"r1", new=[b"x"])
    item = bench.state.objects[ident(b"x")]
    assert {copy.medium for copy in item.copies} == {"m", "n"}
    assert (repair.missing_copies(bench.state, item), repair.left_on(bench.state, "m")) == (0, 0)
    bench.log(ops.MediumChanged(name="m", state="offline", message="", at_ns=1))
    assert repair.missing_copies(bench.state, item) == 0
    bench.log(ops.MediumChanged(name="m", state="up", message="", at_ns=1))
    bench.log(*decide_pool(bench.state, pool_op(media=["o", "n"])))
    assert repair.missing_copies(bench.state, item) == 1
    assert repair.targets(bench.state, item) == ["o"]
    assert "m" in {copy.medium for copy in repair.sources(bench.state, item)}, "it can still be read"
    assert repair.left_on(bench.state, "m") == len(bench.state.objects)
    bench.log(ops.CopyAdded(object=item.id, copy=CopyOf("o", "c0/new")))
    assert repair.missing_copies(bench.state, item) == 0
    assert repair.left_on(bench.state, "m") == len(bench.state.objects) - 1


def test_a_pool_that_was_made_smaller_owes_no_copy_that_nobody_could_take():
    bench = Bench()
    bench.backup(b"r1", new=[b"x"])  # on m and n
    bench.log(*decide_pool(bench.state, pool_op(media=["m"], copies=1)))
    assert (repair.in_debt(bench.state), repair.left_on(bench.state, "n")) == ([], 0)
    bench.log(*decide_pool(bench.state, pool_op(media=["o"], copies=1)))
    assert repair.missing_copies(bench.state, bench.state.objects[ident(b"x")]) == 1


def test_a_medium_whose_table_is_gone_counts_for_nothing():
    bench = Bench()
    bench.backup(b"r1", new=[b"x"])
    item = bench.state.objects[ident(b"x")]
    bench.log(ops.MediumChanged(name="m", state="retired", message="", at_ns=1))
    assert repair.missing_copies(bench.state, item) == 1
    assert [copy.medium for copy in repair.sources(bench.state, item)] == ["n"]


def test_what_lies_only_on_media_that_were_taken_out_is_counted_for_each_of_them():
    bench = Bench()
    bench.backup(b"r1", new=[b"x"])  # on m and n
    assert repair.stranded(bench.state) == {}
    bench.log(ops.MediumChanged(name="m", state="retired", message="", at_ns=1))
    assert repair.stranded(bench.state) == {}, "n has a copy of each"
    bench.log(ops.MediumChanged(name="n", state="offline", message="", at_ns=1))
    assert repair.stranded(bench.state) == {}, "n may come back"
    bench.log(ops.MediumChanged(name="n", state="retired", message="", at_ns=1))
    every = len(bench.state.objects)
    assert repair.stranded(bench.state) == {"m": every, "n": every}
    item = bench.state.objects[ident(b"x")]
    bench.log(ops.CopyAdded(object=item.id, copy=CopyOf("o", "c0/new")))
    assert repair.stranded(bench.state) == {"m": every - 1, "n": every - 1}
