"""The plan of `verify`, in pages: every copy of every object once, whatever happens meanwhile."""

import asyncio
import random
import types

import pytest
from enginekit import Bench, ident

from staddle.daemon.manager import verifying
from staddle.daemon.manager.verifying import VerifyDesk
from staddle.engine import gc, ops
from staddle.engine.messages import CopyOf
from staddle.errors import NotFound
from staddle.wire.ops.admin import VerifyPlan


class Catalog:
    """Remembers what it is asked."""

    def __init__(self):
        self.asked = []

    async def ask(self, method, **arguments):
        self.asked.append((method, arguments))
        return {"paths": [b"/a", b"/b"], "after": b"/b"}


def desk(bench):
    settings = types.SimpleNamespace(agent={"a": None}, media_of=lambda _: ["m", "n"])
    manager = types.SimpleNamespace(state=bench.state, settings=settings)
    return VerifyDesk(manager, Catalog(), types.SimpleNamespace(agents=list))


def ask(made, **request):
    call = types.SimpleNamespace(args=VerifyPlan(**request))
    return asyncio.run(made._plan(call))


def pages(made, limit, backups=()):
    after, found = b"", []
    while True:
        page = ask(made, backups=backups, after=after, limit=limit)
        found.append(page)
        if not page.next:
            return found
        assert page.next > after, "it ends"
        after = page.next


def many(rng, backups=7):
    """Backups that share containers."""
    bench = Bench()
    names = []
    for number in range(backups):
        new = [b"%02d.%d" % (number, each) for each in range(rng.randrange(1, 6))]
        shared = rng.sample(names, min(len(names), 3))
        bench.backup(b"r%d" % number, new=new, refs=sorted(shared))
        names += new
    return bench


def expected(bench, numbers):
    """(object, backups) as the tables have them, counted the plain way."""
    users = {}
    for number in numbers:
        backup = bench.state.backups[number]
        used = {backup.seal}
        for row in backup.segments:
            used.update((row.manifest, *row.ref_ids()))
        for item in used:
            users.setdefault(item, []).append(number)
    return users


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_pages_hold_every_copy_once_with_all_its_backups(seed, limit):
    bench = many(random.Random(seed))
    for numbers in ((), (1,), (2, 5), (7, 3, 3)):
        made = pages(desk(bench), limit, numbers)
        rows = [row for page in made for row in page.objects]
        users = expected(bench, sorted(set(numbers)) or sorted(bench.state.backups))
        assert {row.id: row.backups for row in rows} == users
        copies = [(row.id, row.medium, row.name) for row in rows]
        assert len(copies) == len(set(copies)) == 2 * len(users)
        assert all(len({row.id for row in page.objects}) <= limit for page in made)
        assert [row.id for row in rows] == sorted(row.id for row in rows), "all copies of one come together"
        assert made[0].total_bytes == sum(row.size_bytes for row in rows)
        assert made[0].media == ["m", "n", "o"]
        assert all(not page.total_bytes for page in made[1:])


def test_a_page_is_bounded_by_the_backups_that_it_names(seed, monkeypatch):
    bench = Bench()
    bench.backup(b"r0", new=[b"old%d" % each for each in range(4)])
    for number in range(1, 30):
        bench.backup(b"r%d" % number, new=[b"c%02d" % number], refs=[b"old%d" % each for each in range(4)])
    monkeypatch.setattr(verifying, "PAGE_ENTRIES_MAX", 100)
    made = pages(desk(bench), 1000)
    assert len(made) > 3
    rows = [row for page in made for row in page.objects]
    assert {row.id: row.backups for row in rows} == expected(bench, sorted(bench.state.backups))


def test_what_comes_and_goes_between_pages_moves_nothing_else(seed):
    rng = random.Random(seed)
    bench = many(rng)
    made, after, rows = desk(bench), b"", []
    stays = set(expected(bench, sorted(bench.state.backups)))
    for turn in range(1000):
        page = ask(made, after=after, limit=2)
        rows += page.objects
        if turn == 2:
            bench.backup(b"later", new=[b"00.zz", b"99.z"])
            bench.do(gc.decide_prune(bench.state, [7], 6))
            gone = set(expected(bench, [7])) - set(expected(bench, [1, 2, 3, 4, 5, 6]))
        if not page.next:
            break
        after = page.next
    seen = [row.id for row in rows]
    assert set(seen) >= stays - gone
    assert len(rows) == len({(row.id, row.medium) for row in rows})


def test_what_is_known_of_copies_is_told():
    bench = Bench()
    bench.backup(b"r", new=[b"c1", b"c2", b"c3"])
    one, two, three = (bench.state.objects[ident(name)] for name in (b"c1", b"c2", b"c3"))
    bench.log(*gc.decide_copy_lost(bench.state, one.id, one.copies[0], "corrupt"))
    bench.log(ops.CopyDropped(object=two.id, copy=two.copies[0], reason="deleted"))
    bench.log(ops.CopyDropped(object=two.id, copy=two.copies[0], reason="deleted"))
    bench.log(ops.MediumChanged(name="n", state="offline", message="", at_ns=1))
    rows = [row for page in pages(desk(bench), 3) for row in page.objects]
    known = {(row.id, row.medium): row.known for row in rows}
    assert known[one.id, "m"] == "bad"
    assert known[one.id, "n"] == "away"
    assert known[two.id, ""] == "none"
    assert (known[three.id, "m"], known[three.id, "n"]) == ("", "away")
    whole = ask(desk(bench))
    assert not any(row.known for row in whole.objects), "clients of the first release know nothing of it"
    assert any("has no copy" in problem and ident(b"c2").hex() in problem for problem in whole.problems)
    assert any("no medium is up (n)" in problem for problem in whole.problems)
    assert whole.unchecked[0].startswith("medium n is not up: ")
    assert whole.next == b""


def test_a_reference_that_leads_nowhere_is_told():
    bench = Bench()
    bench.backup(b"r", new=[b"c1"])
    del bench.state.objects[ident(b"c1")]
    rows = [row for page in pages(desk(bench), 2) for row in page.objects]
    assert [(row.id, row.known) for row in rows if row.known] == [(ident(b"c1"), "none")]


def test_an_unknown_backup_is_named():
    with pytest.raises(NotFound, match="no backup 9"):
        ask(desk(many(random.Random(1))), backups=(9,), limit=5)


def test_a_copy_that_is_bad_is_an_index_that_every_way_keeps_true(seed):
    """Replay, snapshot and all ops: the index `damaged` is what the objects say."""
    rng = random.Random(seed)
    bench = many(rng, 4)
    state = bench.state

    def true():
        assert set(state.damaged) == {item.id for item in state.objects.values() if item.bad}
        assert set(type(state).load(state.dump()).damaged) == set(state.damaged)

    from staddle.engine import repair

    for _ in range(60):
        item = rng.choice(list(state.objects.values()))
        if item.copies and rng.random() < 0.6:
            bench.log(*gc.decide_copy_lost(state, item.id, rng.choice(item.copies), "corrupt"))
        elif item.bad:
            copy = rng.choice(item.bad)
            bench.log(*repair.decide_copy_whole(state, item.id, copy))
            assert copy in item.copies
        true()
    for item in state.objects.values():
        name = f"c0/00/{item.id.hex()}{bytes(8).hex()}"
        bench.log(*gc.decide_plan_copy(state, item.id, "o", name, 5))
        bench.log(*gc.decide_copy_added(state, item.id, CopyOf("o", name)))
        bench.log(*repair.decide_bad_dropped(state, item.id))
        if state.copies_present(item) >= item.want:
            assert item.bad == []
        assert item.placements()
        true()


def test_the_only_copies_on_media_that_were_taken_out_are_away_and_named():
    bench = Bench()
    bench.backup(b"r1", new=[b"x"])  # on m and n
    bench.log(ops.MediumChanged(name="m", state="retired", message="", at_ns=1))
    rows = ask(desk(bench), limit=100).objects
    assert {(row.medium, row.known) for row in rows} == {("n", "")}
    bench.log(ops.MediumChanged(name="n", state="retired", message="", at_ns=1))
    rows = ask(desk(bench), limit=100).objects
    assert {(row.medium, row.known) for row in rows} == {("m", "away"), ("n", "away")}
