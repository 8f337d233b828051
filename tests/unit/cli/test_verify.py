"""`verify`: pages, verdicts, exit codes, what is hit, repair."""

import json

import pytest

from staddle.errors import MediumFailed
from staddle.wire.ops import admin, data, reading, repair
from staddle.wire.ops.jobs import Rows

from .kit import invoke

AGENTS = [reading.AgentRef("a", ["mem://daily-agent"])]


def ident(number):
    return number.to_bytes(16)


def row(number, medium, known="", backups=(1,)):
    name = f"{number}.{medium}" if medium else ""
    return admin.VerifyObject("c0", ident(number), medium, name, 1000, bytes(32), "d", list(backups), known)


def plan(rows, **more):
    return admin.VerifyObjects(
        objects=rows, problems=[], unchecked=[], agents=AGENTS, reach={"a": ["m", "n"]}, **more
    )


@pytest.fixture
def grid(manager):
    """Objects 1 to 4 with two copies each, all well; `bad` names copies that are not."""
    manager.bad, manager.rows = {}, [row(number, medium) for number in range(1, 5) for medium in "mn"]
    manager.answers["verify.plan"] = lambda _: plan(manager.rows, media=["m", "n"])
    manager.answers["object.check"] = lambda args: manager.bad.get(args.object.name, admin.Findings([]))
    manager.answers["medium.check"] = repair.MediumChecked([])
    manager.answers["verify.files"] = repair.FilePage(paths=[])
    manager.answers["verify.repair"] = repair.Repaired(state="whole")
    manager.answers["verify.labels"] = repair.LabelsRepaired([])
    manager.answers["backup.list"] = Rows(
        ["id", "name", "client"], [[1, "work", "host"], [2, "home", "host"]]
    )
    return manager


def damaged(*names, code="CORRUPT"):
    return {name: admin.Findings([f"{name} on medium {name[-1]!r}: {code}: broken"], code) for name in names}


def lines_of(out, kind):
    return [line for line in map(json.loads, out.splitlines()) if line["message_type"] == kind]


def test_the_plan_is_asked_for_in_pages_and_every_copy_checked_once(grid):
    def page(args):
        assert 0 < args.limit <= 4096
        rest = [each for each in grid.rows if each.id > args.after]
        return plan(
            rest[:2], next=rest[1].id if len(rest) > 2 else b"", media=["m"] if not args.after else []
        )

    grid.answers["verify.plan"] = page
    code, out, _ = invoke("verify", "--read-data")
    assert code == 0
    assert "4 objects in 8 copies" in out
    plans = [each for each in grid.requests if isinstance(each, admin.VerifyPlan)]
    assert [each.after for each in plans] == [b"", *map(ident, (1, 2, 3))]
    checks = [each.object.name for each in grid.requests if isinstance(each, data.CheckObject)]
    assert sorted(checks) == sorted(each.name for each in grid.rows)
    assert sum(isinstance(each, repair.CheckMedium) for each in grid.requests) == 1


def test_a_bad_copy_beside_a_good_one_is_a_warning(grid):
    grid.bad = damaged("2.m") | damaged("3.n", code="NOT_FOUND")
    code, out, err = invoke("verify", "--read-data")
    assert code == 3
    assert f"backup 1: container {ident(2).hex()} on m: CORRUPT: broken (another copy is whole)" in err
    assert "backup 1 (work of host): 2 objects are hit, all its files can be restored" in err
    assert "--repair" in err
    assert not any(isinstance(each, repair.FilesLost | repair.RepairObject) for each in grid.requests)
    assert "2 findings" in out


def test_what_has_no_good_copy_is_lost_and_its_files_are_named(grid):
    grid.bad = damaged("2.m", "2.n")
    grid.rows = [*grid.rows[:2], row(2, "m", backups=(1, 2)), row(2, "n", backups=(1, 2)), *grid.rows[4:]]
    pages = {b"": (range(15), b"/f014"), b"/f014": (range(15, 25), b"")}

    def files(args):
        assert args.objects == [ident(2)]
        numbers, following = pages[args.after]
        return repair.FilePage(paths=[b"/f%03d" % number for number in numbers], next=following)

    grid.answers["verify.files"] = files
    code, out, err = invoke("verify")
    assert code == 13
    assert err.count("hit: backup 1: /f0") == 20
    assert "backup 2 (home of host): 1 object is hit, 25 files are hit" in err
    assert "--json names all" in err
    code, out, _ = invoke("verify", "--json")
    assert [(each["backup"], each["path"]) for each in lines_of(out, "file_hit")] == [
        (backup, f"/f{number:03d}") for backup in (1, 2) for number in range(25)
    ]
    assert {each["verdict"] for each in lines_of(out, "finding")} == {"lost"}
    [summary] = lines_of(out, "summary")
    assert (summary["objects_lost"], summary["files_hit"]) == (1, 50)


def test_the_other_copy_on_a_medium_that_is_away_is_no_loss_but_nothing_to_restore_from(grid):
    grid.rows = [row(1, "m"), row(1, "n", "away"), row(2, "m"), row(2, "n", "away")]
    grid.bad = damaged("1.m")
    code, out, err = invoke("verify")
    assert code == 13
    assert "medium n is not up: 2 copies on it" in err
    assert "until a medium with another copy of them is back" in err
    grid.bad = {}
    assert invoke("verify")[0] == 3, "all can be restored, and some was not checked"
    grid.rows = [row(1, "m", "away"), row(1, "n", "away")]
    assert invoke("verify")[0] == 13
    grid.rows = [row(1, "", "none")]
    code, out, err = invoke("verify", "--json")
    assert (code, lines_of(out, "finding")[0]["verdict"]) == (13, "lost")


def test_a_copy_that_was_called_bad_is_no_good_until_every_byte_was_read(grid):
    grid.rows = [row(1, "m", "bad"), row(1, "n")]
    code, _, err = invoke("verify")
    assert (code, "a reader has found it damaged" in err) == (3, True)
    grid.rows = [row(1, "m", "bad")]
    assert invoke("verify")[0] == 13
    code, _, err = invoke("verify", "--read-data")
    assert code == 0, "it is whole after all"


def test_repair_is_asked_for_with_what_was_found_and_only_on_request(grid):
    grid.bad = damaged("2.m") | damaged("3.n", code="NOT_FOUND")
    states = {
        ident(2): repair.Repaired(state="whole"),
        ident(3): repair.Repaired(state="waiting", message="no"),
    }
    grid.answers["verify.repair"] = lambda args: states[args.id]
    code, out, err = invoke("verify", "--read-data", "--repair")
    assert code == 3
    asked = [each for each in grid.requests if isinstance(each, repair.RepairObject)]
    assert {(each.id, *(tuple(bad.__struct_fields__) for bad in each.bad)) for each in asked}
    assert {(each.id, each.bad[0].medium, each.bad[0].name, each.bad[0].code) for each in asked} == {
        (ident(2), "m", "2.m", "CORRUPT"),
        (ident(3), "n", "3.n", "NOT_FOUND"),
    }
    assert "(another copy is whole); repaired" in err
    assert "not repaired yet: no" in err
    assert "2 findings, 1 repaired" in out
    grid.answers["verify.repair"] = MediumFailed("the manager can't")
    assert "not repaired yet: the manager can't" in invoke("verify", "--read-data", "--repair")[2]


def test_a_copy_that_is_whole_after_all_is_told_to_the_manager_by_repair(grid):
    grid.rows = [row(1, "m", "bad"), row(1, "n")]
    code, *_ = invoke("verify", "--read-data", "--repair")
    assert code == 0
    [asked] = [each for each in grid.requests if isinstance(each, repair.RepairObject)]
    assert (asked.id, asked.bad) == (ident(1), [])


def test_labels_and_keyrings_are_findings_of_their_own(grid):
    problems = [
        repair.MediumProblem("", "CORRUPT", "volume label: damaged"),
        repair.MediumProblem("4e/00/77", "CORRUPT", "other bytes"),
    ]
    grid.answers["medium.check"] = lambda args: repair.MediumChecked(problems if args.medium == "n" else [])
    code, _, err = invoke("verify", "--repair")
    assert code == 3
    assert "medium n: its label: CORRUPT: volume label: damaged" in err
    assert "medium n: its keyring 4e/00/77: CORRUPT: other bytes; repaired" in err
    assert sum(isinstance(each, repair.RepairObject) for each in grid.requests) == 1
    grid.answers["medium.check"] = MediumFailed("it hangs")
    code, _, err = invoke("verify")
    assert code == 3
    assert "not checked: label and keyring of medium m: it hangs" in err


def test_a_catalog_that_can_not_tell_the_files_ends_nothing(grid):
    grid.bad = damaged("2.m", "2.n")
    grid.answers["verify.files"] = MediumFailed("it is being rebuilt")
    code, _, err = invoke("verify")
    assert code == 13
    assert "can't be told: it is being rebuilt" in err


def test_labels_are_repaired_first_and_each_is_told_of_once(grid):
    done = [repair.LabelRepaired("m", "missing"), repair.LabelRepaired("n", "damaged", "none is there")]
    grid.answers["verify.labels"] = repair.LabelsRepaired(done)
    problem = repair.MediumProblem("", "CORRUPT", "volume label: damaged")
    grid.answers["medium.check"] = lambda args: repair.MediumChecked([problem] if args.medium == "n" else [])
    code, out, err = invoke("verify", "--repair")
    assert code == 3
    assert "medium m: its label was missing; repaired" in err
    assert "medium n: its label is damaged; not repaired: none is there" in err
    assert "volume label: damaged" not in err
    assert "2 findings, 1 repaired" in out
    code, out, err = invoke("verify")
    assert "medium n: its label: CORRUPT" in err
    assert sum(isinstance(each, repair.RepairLabels) for each in grid.requests) == 1
    grid.answers["verify.labels"] = MediumFailed("unknown to this manager")
    assert "1 finding" in invoke("verify", "--repair")[1]


def test_a_seal_that_is_lost_hits_no_file_and_is_made_again_from_the_log(grid):
    seal = [admin.VerifyObject("5e", ident(9), each, f"9.{each}", 9, bytes(32), "d", [1]) for each in "mn"]
    grid.rows = [*grid.rows, *seal]
    grid.bad = damaged("9.m", "9.n")
    code, out, err = invoke("verify")
    assert code == 13
    assert "backup 1 (work of host): 1 object is hit, no file of it is hit" in err
    assert "`staddle verify --repair` makes a lost seal again" in err
    assert "stored again by the next backup" not in err, "a seal is not"
    code, out, err = invoke("verify", "--repair", "--json")
    assert code == 3
    [summary] = lines_of(out, "summary")
    assert (summary["objects_lost"], summary["objects_damaged"], summary["repaired"]) == (0, 1, 1)
    grid.answers["verify.repair"] = repair.Repaired(state="gone", message="nothing refers to it any more")
    assert invoke("verify", "--repair")[0] == 3, "the manager was quicker"
    grid.answers["verify.repair"] = repair.Repaired(state="lost", message="no medium is up")
    assert invoke("verify", "--repair")[0] == 13
