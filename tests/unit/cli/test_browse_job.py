"""`ls`, `find`, `sql` and `job`."""

import json

import pytest

from staddle.engine.messages import CancelJob
from staddle.errors import MediumFailed, NotFound, StaddleError
from staddle.wire.ops import jobs
from staddle.wire.ops.jobs import FailoverRow, JobRow, JobState, Rows

from .kit import ENTRY, entry, invoke


def test_ls_lists_backups(manager):
    columns = [
        "id",
        "client",
        "name",
        "state",
        "started_ns",
        "files",
        "dirs",
        "bytes_read",
        "bytes_stored",
        "warnings",
    ]
    manager.answers["backup.list"] = Rows(columns, [[1, "c", "docs", "complete", 1, 2, 3, 4096, 5, 0]])
    code, out, _ = invoke("ls")
    assert code == 0
    assert out.split("\t")[:3] == ["1", "docs", "c"]
    [backup] = json.loads(invoke("ls", "--json")[1])
    assert (backup["backup"], backup["bytes_read"]) == (1, 4096)


def test_ls_goes_down_to_the_roots_and_shows_a_directory(manager):
    tree = {
        b"/": [entry(b"/home", 2, b"")],
        b"/home": [entry(b"/home/me", 2, b"")],
        b"/home/me": [entry(b"/home/me/docs", 2)],
        b"/home/me/docs": [entry(b"/home/me/docs/\xff", 3, link="to"), entry(b"/home/me/docs/x")],
    }
    manager.answers["catalog.ls"] = lambda args: Rows(ENTRY, tree[args.path])
    assert "/home/me/docs" in invoke("ls", "1")[1]
    code, out, _ = invoke("ls", "1", "/home/me/docs", "--json")
    first, second = json.loads(out)
    assert code == 0
    assert (first["type"], first["path"], first["path_bytes"]) == (
        "symlink",
        "/home/me/docs/\ufffd",
        b"/home/me/docs/\xff".hex(),
    )
    assert (second["path"], second["size_bytes"], second["mode"]) == ("/home/me/docs/x", 3, 0o644)
    assert "-rw-r--r--" in invoke("ls", "1", "/home/me/docs")[1]


def test_ls_does_not_show_a_hard_link_as_a_symlink(manager):
    rows = [entry(b"/d/h", 4, link="/d/f"), entry(b"/d/s", 3, link="to")]
    manager.answers["catalog.ls"] = Rows(ENTRY, rows)
    hard, symlink = invoke("ls", "1", "/d")[1].splitlines()
    assert hard.endswith("/d/h (hard link to /d/f)")
    assert symlink.endswith("/d/s -> to")


def test_names_that_are_no_text_are_told_apart(manager):
    manager.answers["catalog.ls"] = Rows(ENTRY, [entry(b"/d/" + name) for name in (b"\xfe", b"\xff", b"?")])
    shown = [line.split("\t")[-1] for line in invoke("ls", "1", "/d")[1].splitlines()]
    assert shown == ["/d/\\xfe", "/d/\\xff", "/d/?"]


def test_ls_of_the_latest_backup(manager):
    manager.answers["backup.list"] = Rows(
        ["id", "state"], [[8, "complete"], [9, "warnings"], [10, "incomplete"]]
    )
    manager.answers["catalog.ls"] = Rows(ENTRY, [entry(b"/x"), entry(b"/y")])
    invoke("ls", "latest")
    assert manager.requests[-1].backup == 9
    manager.answers["backup.list"] = Rows(["id", "state"], [[10, "incomplete"]])
    with pytest.raises(NotFound):
        invoke("ls", "latest")


def test_find(manager):
    manager.answers["catalog.find"] = Rows(ENTRY, [entry(b"/a/x.txt", backup=4)])
    code, out, _ = invoke("find", "*.txt", "--backup", "4", "--limit", "5")
    assert code == 0
    assert out.startswith("4\t")
    assert (manager.requests[-1].pattern, manager.requests[-1].backup, manager.requests[-1].limit) == (
        "*.txt",
        4,
        5,
    )
    manager.answers["catalog.find"] = Rows([], [])
    assert invoke("find", "nothing", "--json")[1] == "[]\n"


def test_sql(manager):
    manager.answers["catalog.query"] = Rows(["a", "b"], [[1, None], [b"\xff", "x"]])
    code, out, _ = invoke("sql", "SELECT 1")
    assert (code, out) == (0, "1\t\n\ufffd\tx\n") or out.startswith("1\t\n")
    document = json.loads(invoke("sql", "SELECT 1", "--json", "--limit", "3")[1])
    assert document == {"columns": ["a", "b"], "rows": [[1, None], ["ff", "x"]]}
    assert manager.requests[-1].limit == 3


def test_an_error_of_the_manager_reaches_the_entry_point_as_it_is(manager):
    manager.answers["catalog.query"] = MediumFailed("gone", hint="look at it")
    with pytest.raises(MediumFailed) as caught:
        invoke("sql", "SELECT 1")
    assert caught.value.hint == "look at it"


def job(number=5, state="running", **values):
    known = {
        "job": number,
        "backup": 4,
        "client": "c",
        "name": "docs",
        "pool": "p",
        "state": state,
        "started_ns": 1,
        "finished_ns": 0,
        "files": 2,
        "bytes_read": 10,
        "bytes_stored": 5,
        "message": "",
    }
    return JobRow(**(known | values))


FAILOVER = FailoverRow(
    stream=0,
    cause="medium_lost",
    from_agent="a",
    from_media=["m"],
    to_agent="b",
    to_media=["n"],
    gap_s=0.5,
    bytes_resent=1024,
    at_ns=10**18,
)


def test_job_list_and_show(manager):
    manager.answers["job.list"] = jobs.JobRows([job(seen_files=9, failovers=[FAILOVER]), job(4, "complete")])
    code, out, _ = invoke("job", "list")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["5", "4"]
    assert out.splitlines()[0].split("\t")[6] == "9"
    _, out, _ = invoke("job", "show", "5")
    assert "medium lost: from a with m to b with n, 0.5 s, 1.0 KiB sent again" in out
    assert json.loads(invoke("job", "show", "5", "--json")[1])["failovers"][0]["cause"] == "medium_lost"
    manager.answers["job.list"] = jobs.JobRows([])
    with pytest.raises(NotFound):
        invoke("job", "show", "77")


@pytest.mark.parametrize(
    ("state", "code"), [("complete", 0), ("warnings", 3), ("incomplete", 1), ("cancelled", 1)]
)
def test_job_watch_ends_as_the_job_does(manager, monkeypatch, state, code):
    monkeypatch.setattr("staddle.cli.job._WATCH_S", 0.01)
    rows = [job(), job(), job(files=3), job(files=4, state=state)]
    manager.answers["job.list"] = lambda args: jobs.JobRows([rows[0] if args.job == 0 else rows.pop(0)])
    status, out, _ = invoke("job", "watch")
    assert status == code
    assert [line.split()[4] for line in out.splitlines()] == ["2", "3", "4"]


def test_job_watch_without_a_running_job(manager):
    manager.answers["job.list"] = jobs.JobRows([job(state="complete")])
    with pytest.raises(NotFound):
        invoke("job", "watch")


def test_job_cancel(manager):
    manager.answers["job.cancel"] = JobState(job=5, state="cancelled", message="")
    assert invoke("job", "cancel", "5")[1] == "job 5 is cancelled\n"
    manager.answers["job.cancel"] = JobState(job=5, state="complete", message="")
    with pytest.raises(StaddleError, match="job 5 has ended before, it is complete") as refused:
        invoke("job", "cancel", "5")
    assert refused.value.exit_code == 1
    assert isinstance(manager.requests[-1], CancelJob)


def test_job_show_counts_the_warnings(manager):
    manager.answers["job.list"] = jobs.JobRows([job(state="warnings", warnings=7)])
    assert "\nwarnings  7\n" in invoke("job", "show", "5")[1]
    assert json.loads(invoke("job", "show", "5", "--json")[1])["warnings"] == 7
