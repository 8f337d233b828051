"""`prune`, `verify` and `catalog`."""

import json
import os

import msgspec
import pytest

from staddle.cli.prune import older
from staddle.errors import StaddleError
from staddle.wire.ops import admin, data, reading
from staddle.wire.ops.base import Nothing
from staddle.wire.ops.jobs import Rows

from .kit import invoke


def test_prune_only_shows_its_plan_without_yes(manager):
    manager.answers["backup.prune"] = lambda args: admin.Pruned(
        backups=args.backups, containers=2, bytes_freed=2048
    )
    code, out, err = invoke("prune", "1", "2")
    assert (code, manager.requests[-1].dry_run) == (2, True)
    assert "would remove backup 1, 2: 2 containers, 2.0 KiB" in out
    assert "--yes" in err
    assert invoke("prune", "1", "--dry-run")[0] == 0
    assert invoke("prune", "1", "--dry-run", "--yes")[0] == 0
    assert manager.requests[-1].dry_run
    code, out, _ = invoke("prune", "1", "--yes", "--json")
    assert (code, manager.requests[-1].dry_run, json.loads(out)["done"]) == (0, False, True)


def test_prune_keeps_the_last_of_a_name(manager):
    manager.answers["catalog.query"] = Rows(
        ["backup", "state"], [[9, "complete"], [7, "warnings"], [4, "complete"]]
    )
    manager.answers["backup.prune"] = lambda args: admin.Pruned(
        backups=args.backups, containers=0, bytes_freed=0
    )
    invoke("prune", "--keep-last", "1", "--name", "n", "--yes")
    assert manager.requests[-1].backups == [4, 7]
    assert invoke("prune", "--keep-last", "5", "--name", "n")[0] == 0, "nothing to do is no usage error"


@pytest.mark.parametrize(
    "args", [[], ["1", "--keep-last", "1", "--name", "n"], ["--keep-last", "1"], ["1", "--name", "n"]]
)
def test_prune_refuses_a_half_said_wish(manager, args):
    with pytest.raises(StaddleError) as caught:
        invoke("prune", *args)
    assert caught.value.exit_code == 2
    assert manager.requests == []


@pytest.mark.parametrize(
    ("backups", "keep", "gone"),
    [
        ([(3, "complete"), (2, "warnings"), (1, "complete")], 2, [1]),
        ([(3, "running"), (2, "complete"), (1, "complete")], 1, [1]),
        ([(3, "incomplete"), (2, "complete"), (1, "incomplete")], 1, [1]),
        ([(3, "incomplete"), (2, "incomplete")], 1, []),
        ([(5, "complete"), (4, "running"), (3, "incomplete")], 1, [3]),
        ([], 1, []),
    ],
)
def test_what_keep_last_removes(backups, keep, gone):
    assert older(backups, keep) == gone


def test_prune_says_what_stays_and_why(manager):
    manager.answers["backup.prune"] = admin.Pruned(backups=[2], containers=1, bytes_freed=10, held=[1])
    code, out, err = invoke("prune", "1", "2", "--yes")
    assert (code, "removed backup 2:" in out) == (3, True)
    assert "backup 1 stays: a running job builds on it" in err


def verify_plan(*media):
    objects = [
        admin.VerifyObject(
            "container", bytes([number]) * 16, medium, f"n{number}", 1000, bytes(32), "d", [1, 2]
        )
        for number, medium in enumerate(media)
    ]
    agents = [reading.AgentRef("a", ["mem://daily-agent"])]
    return admin.VerifyObjects(objects=objects, problems=[], unchecked=[], agents=agents, reach={"a": ["m1"]})


def test_verify_is_clean_or_names_backups_and_objects(manager):
    manager.answers["verify.plan"] = verify_plan("m1", "m1", "m1")
    manager.answers["object.check"] = admin.Findings([])
    code, out, _ = invoke("verify", "--read-data")
    assert code == 0
    assert "3 objects in 3 copies" in out
    assert [r.read_data for r in manager.requests if isinstance(r, data.CheckObject)] == [True] * 3
    manager.answers["object.check"] = lambda args: admin.Findings(
        ["damaged"] if args.object.name == "n1" else []
    )
    code, out, err = invoke("verify", "1", "2")
    assert code == 13
    assert f"backup 1, 2: container {'01' * 16} on m1: damaged" in err
    code, out, _ = invoke("verify", "--json")
    findings = [line for line in map(json.loads, out.splitlines()) if line["message_type"] == "finding"]
    assert [(each["backups"], each["object"]) for each in findings] == [([1, 2], "01" * 16)]
    assert json.loads(out.splitlines()[-1])["findings"] == 1


def test_verify_finds_what_nobody_can_reach(manager):
    manager.answers["verify.plan"] = verify_plan("m1", "m2")
    manager.answers["object.check"] = admin.Findings([])
    code, _, err = invoke("verify")
    assert code == 13
    assert err.count("not checked") == 1
    manager.answers["object.check"] = StaddleError("broken inside")
    assert invoke("verify")[2].count("not checked: broken inside") == 1


def test_verify_says_what_it_could_not_check(manager):
    plan = verify_plan("m1")
    manager.answers["verify.plan"] = msgspec.structs.replace(
        plan, unchecked=["medium m2 is not up: 7 copies"]
    )
    manager.answers["object.check"] = admin.Findings([])
    code, out, err = invoke("verify")
    assert (code, "as far as it was checked" in out) == (3, True)
    assert "not checked: medium m2 is not up: 7 copies" in err


def test_catalog_commands(manager, tmp_path):
    manager.answers["catalog.rebuild"] = admin.Rebuilt(backups=1, containers=2, manifests=3)
    assert invoke("catalog", "rebuild")[0] == 0
    manager.answers["catalog.rebuild"] = admin.Rebuilt(
        backups=1, containers=2, manifests=3, missing=["medium m"]
    )
    assert invoke("catalog", "rebuild", "--json")[0] == 3
    manager.answers["catalog.verify"] = admin.Findings([])
    assert invoke("catalog", "verify")[:2] == (0, "all is well\n")
    manager.answers["catalog.verify"] = admin.Findings(["1 file without a directory"])
    assert invoke("catalog", "verify")[:2] == (13, "1 file without a directory\n")
    manager.answers["catalog.snapshot"] = Nothing()
    invoke("catalog", "snapshot", os.path.relpath(tmp_path / "s"))
    assert manager.requests[-1].path == str(tmp_path / "s")


def test_catalog_diff(monkeypatch, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"")
    rows = [("files", "only there", "x")]
    monkeypatch.setattr("staddle.catalog.check.catalog_diff", lambda here, there: rows)
    code, out, _ = invoke("catalog", "diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json")
    assert code == 1
    assert json.loads(out) == [{"table": "files", "only_in": str(tmp_path / "b"), "row": "x"}]
    rows.clear()
    assert invoke("catalog", "diff", str(tmp_path / "a"), str(tmp_path / "b"))[0] == 0
