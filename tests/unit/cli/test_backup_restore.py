"""`backup` and `restore`: arguments, output for people and for programs, exit codes."""

import json
import os

import pytest
from click.testing import CliRunner

from staddle.cli import backup as backup_command
from staddle.cli import cli
from staddle.client import backup as client_backup
from staddle.client import restore as client_restore
from staddle.client.backup import FailoverSeen, Summary
from staddle.client.restore import RestoreSummary

from .kit import invoke

SUMMARY = Summary(
    job=3,
    backup=2,
    state="complete",
    message="",
    files=5,
    dirs=1,
    bytes_read=100,
    bytes_unchanged=7,
    bytes_stored=60,
    bytes_resent=8,
    failovers=[FailoverSeen(0, "agent_lost", "a1", ["m1"], "a2", ["m2"], 1.23456, 8)],
    warnings=0,
    duration_s=1.5,
    notes=[],
    lost=[],
    lost_count=0,
)


def changed(summary, **values):
    return type(summary)(**(vars(summary) | values))


@pytest.fixture
def finished(manager, monkeypatch):
    """Backups end at once with `finished.summary`, after the warnings in `finished.warnings`."""

    class Finished:
        summary = SUMMARY
        warnings = ()
        options = None

    async def run(self):
        Finished.options = self._options
        for path, message in Finished.warnings:
            self.tally.warn(path, message)
        return Finished.summary

    monkeypatch.setattr(client_backup.Backup, "run", run)
    return Finished


def test_backup_ends_with_one_summary_line_of_json(finished, tmp_path):
    finished.warnings = [(b"/x/\xff", "not read: permission denied")]
    finished.summary = changed(SUMMARY, warnings=1, lost=[b"/lost"], lost_count=1)
    code, out, err = invoke("backup", str(tmp_path), "--name", "n", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert err == ""
    assert lines[0] == {
        "message_type": "warning",
        "path": "/x/\ufffd",
        "path_bytes": b"/x/\xff".hex(),
        "message": "not read: permission denied",
    }
    last = lines[-1]
    assert set(last) >= {
        *("message_type", "job", "backup", "files", "dirs", "bytes_read", "bytes_stored", "bytes_resent"),
        *("failovers", "warnings", "duration_s", "state", "message", "bytes_unchanged", "lost"),
    }
    assert last["message_type"] == "summary"
    assert last["warnings"] == 1
    assert last["lost"] == [{"path": "/lost"}]
    assert last["failovers"] == [
        {
            "cause": "agent_lost",
            "from": {"agent": "a1", "media": ["m1"]},
            "to": {"agent": "a2", "media": ["m2"]},
            "gap_s": 1.235,
            "bytes_resent": 8,
        }
    ]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({}, 0),
        ({"warnings": 1, "state": "warnings"}, 3),
        ({"notes": ["2 objects have fewer copies than pool 'p' asks for"]}, 3),
        ({"state": "incomplete"}, 1),
        ({"state": "cancelled"}, 1),
        ({"lost_count": 2, "lost": [b"/a"]}, 1),
    ],
)
def test_exit_code_of_a_backup(values, code):
    assert backup_command.exit_code(changed(SUMMARY, **values)) == code


def test_backup_tells_people_what_happened(finished, tmp_path):
    finished.warnings = [(b"/x", "changed while it was read")]
    code, out, err = invoke("backup", str(tmp_path), "--name", "n")
    assert code == 0
    assert "backup 2" in out
    assert "5 files" in out
    assert "failover: agent lost: from a1 with m1 to a2 with m2 after 1.2 s, 8 B sent again" in out
    assert err == "warning: /x: changed while it was read\n"


def test_backup_takes_patterns_from_options_and_from_a_file(finished, tmp_path):
    patterns = tmp_path / "patterns"
    patterns.write_bytes(b"# caches\n\n*.o\n  tmp/** \n\xff*\n")
    invoke(
        *("backup", str(tmp_path), "--name", "n", "--exclude", "a", "--exclude", "b"),
        *("--exclude-file", str(patterns), "--streams", "3", "--full", "--pool", "p"),
    )
    options = finished.options
    assert options.exclude == ["a", "b", "*.o", "tmp/**", os.fsdecode(b"\xff*")]
    assert (options.streams, options.full, options.pool, options.name) == (3, True, "p", "n")
    assert options.paths == [os.fsencode(tmp_path)]


def test_backup_needs_a_path_and_a_name(manager):
    for args in (["--name", "n"], ["/x"]):
        done = CliRunner().invoke(cli, ["backup", *args])
        assert done.exit_code == 2


@pytest.fixture
def restored(manager, monkeypatch):
    class Restored:
        summary = RestoreSummary(2, "n", "complete", 5, 1, 100, 0, [], 0, 1.5)
        options = None

    async def run(self):
        Restored.options = self._options
        return Restored.summary

    monkeypatch.setattr(client_restore.Restore, "run", run)
    return Restored


@pytest.mark.parametrize(
    ("values", "code"),
    [({}, 0), ({"warnings": 2}, 3), ({"warnings": 2, "lost": [b"/a"], "lost_count": 1}, 13)],
)
def test_restore_by_number_or_the_latest(restored, tmp_path, monkeypatch, values, code):
    monkeypatch.chdir(tmp_path)
    restored.summary = changed(restored.summary, **values)
    assert invoke("restore", "7", "--to", "here")[0] == code
    assert restored.options.backup == 7
    assert restored.options.target == os.fsencode(tmp_path / "here")
    status, out, _ = invoke("restore", "latest", "/a", "b", "--name", "n", "--to", "here", "--json")
    assert status == code
    assert (restored.options.backup, restored.options.name) == (0, "n")
    assert restored.options.paths == [b"/a", os.fsencode(tmp_path / "b")]
    last = json.loads(out.splitlines()[-1])
    assert (last["message_type"], last["files"], last["bytes_restored"]) == ("summary", 5, 100)


@pytest.mark.parametrize("args", [["x"], ["0"], ["-1"], ["1", "--name", "n"]])
def test_restore_refuses_what_is_no_backup(args):
    done = CliRunner().invoke(cli, ["restore", *args, "--to", "x"], standalone_mode=False)
    assert getattr(done.exception, "exit_code", 0) == 2
