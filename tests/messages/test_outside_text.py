"""Text from outside (names, messages of media and agents) breaks no line and commands no terminal."""

import ast
import io
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import time
import types
import unicodedata

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import staddle.cli
from staddle.cli import backup, doctor, grid, job, output
from staddle.cli import catalog as catalog_command
from staddle.client.backup import FailoverSeen, Summary
from staddle.client.progress import Progress
from staddle.client.told import Told
from staddle.obs import logs
from staddle.obs.health import Finding, Level
from staddle.text import visible
from staddle.wire.ops.jobs import FailoverRow, JobRow, PathRow

from .lab import Lab

EVIL = "a\x1b]0;owned\x07\r\n\x9b31m\u202eb"
SHOWN = "a\\x1b]0;owned\\x07\\r\\n\\x9b31m\\u202eb"
COMMANDS = sorted(pathlib.Path(staddle.cli.__file__).parent.glob("*.py"))
PRINTERS = {"output.py", "__init__.py"}
"""Where the safe printing is made; everywhere else `click.echo` prints JSON alone."""


@given(st.text())
def test_what_is_visible_is_one_line_of_harmless_characters_and_says_it_again(text):
    shown = visible(text)
    assert visible(shown) == shown
    assert shown == text or "\\" in shown
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_print_text_only_by_say_and_table(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in {"print", "sys.stdout.write", "sys.stderr.write"}, (path.name, node.lineno)
        if name in {"click.echo", "click.secho"} and path.name not in PRINTERS:
            assert ast.unparse(node.args[0]).startswith("json.dumps("), (path.name, node.lineno)


def test_a_job_with_evil_names_is_shown_line_by_line(monkeypatch, capsys):
    failover = FailoverRow(
        stream=0,
        cause=EVIL,
        from_agent=EVIL,
        from_media=[EVIL],
        to_agent=EVIL,
        to_media=[EVIL],
        gap_s=0.5,
        bytes_resent=0,
        at_ns=1,
        detail=EVIL,
    )
    fields = dict.fromkeys((f.name for f in job_fields() if f.type is int), 1)
    row = JobRow(
        **fields
        | dict.fromkeys((f.name for f in job_fields() if f.type is str), EVIL)
        | {
            "paths": [PathRow(stream=0, state=EVIL, epoch=1, agent=EVIL, media=[EVIL])],
            "failovers": [failover],
        }
    )
    monkeypatch.setattr(job, "_jobs", lambda *_: [row])
    job.show.callback(number=1, home=None, as_json=False)
    job.list_jobs.callback(limit=1, home=None, as_json=False)
    said = capsys.readouterr().out
    check(said)
    [line] = [line for line in said.splitlines() if line.startswith("failover")]
    assert line.count(SHOWN) == 6
    assert line.endswith(f"; {SHOWN}")


def job_fields():
    return msgspec.structs.fields(JobRow)


def check(said):
    assert SHOWN in said
    assert all(char.isprintable() or char in "\n\t" for char in said)


def test_a_summary_with_evil_names(capsys):
    seen = FailoverSeen(0, EVIL, EVIL, [EVIL], EVIL, [EVIL], 1.0, 0)
    counts = ("job", "backup", "files", "dirs", "bytes_read", "bytes_unchanged", "bytes_stored")
    counts += ("bytes_resent", "warnings", "duration_s", "lost_count")
    texts = {"state": EVIL, "message": EVIL, "failovers": [seen], "notes": [EVIL], "lost": [b"x\x1b"]}
    summary = Summary(**dict.fromkeys(counts, 1), **texts)
    backup._show(summary)
    said = capsys.readouterr()
    check(said.out)
    check(said.err)
    assert "lost: x\\x1b" in said.err


def test_a_status_a_finding_and_a_problem_with_evil_messages(monkeypatch, capsys):
    medium = {"name": EVIL, "state": EVIL, "plugin": EVIL, "path": EVIL, "free_bytes": 0, "message": EVIL}
    agent = {"name": EVIL, "state": EVIL, "url": EVIL, "pid": 1}
    document = {
        "manager": {"state": "up", "url": EVIL, "pid": 1},
        "agents": [agent],
        "media": [medium],
        "damage": {"damaged": 0, "lost": 0},
    }

    async def found(_settings):
        return document

    settings = types.SimpleNamespace(home=".", agent={"a": 1}, medium={"m": 1}, pool={"p": 1})
    monkeypatch.setattr(grid, "_status", found)
    monkeypatch.setattr("staddle.config.load", lambda _home: settings)
    monkeypatch.setattr("staddle.client.connection.home_from_environment", lambda _home: "")
    grid.status.callback(home=".", as_json=False)
    monkeypatch.setattr(doctor, "_findings", lambda _home: [Finding(Level.WARN, "X", EVIL, EVIL)])
    doctor.doctor.callback(home=".", as_json=False)
    problems = type("Found", (), {"problems": [EVIL]})
    monkeypatch.setattr(catalog_command, "with_grid", lambda *_: problems)
    catalog_command.verify.callback(home=None, as_json=False)
    said = capsys.readouterr()
    check(said.out)
    check(said.err)
    assert len(said.err.splitlines()) == 1


def test_the_name_of_an_attribute_and_a_path_in_a_warning(capsys):
    progress = Progress("restore", as_json=False)
    told = Told(progress.warn, privileged=True)
    told.missing(os.fsencode("/x\x1b[2J"), f"attribute user.{EVIL} not set: not supported")
    assert told.tell() == []
    said = capsys.readouterr().err
    check(said)
    assert said.startswith("warning: /x\\x1b[2J: ")


def test_a_log_line_and_its_traceback():
    record = logging.LogRecord("staddle.x", logging.ERROR, __file__, 1, "%s", (EVIL,), None)
    with pytest.raises(ValueError, match="owned") as caught:
        int(EVIL + "owned")
    record.exc_info = (caught.type, caught.value, caught.tb)
    text = logs.TextFormatter().format(record)
    assert all(char.isprintable() or char in "\n\t" for char in text)
    assert "\\u202e" in text.splitlines()[0]
    assert "\\x1b]0;owned\\x07" in text.splitlines()[-2] + text.splitlines()[-1]


def test_a_table_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.table(["name"], [[EVIL]])
    assert click.unstyle(terminal.getvalue()) == f"name\n{SHOWN}\n"


if sys.platform != "win32":
    NAME = b"evil\x1b]0;owned\x07\n\xc2\x9b31m\xe2\x80\xae"
    CLEAN = "evil\\x1b]0;owned\\x07\\n\\x9b31m\\u202e"

    @pytest.fixture(scope="module")
    def lab():
        made = Lab(tempfile.mkdtemp(prefix="staddle-outside-"))
        try:
            yield made
        finally:
            made.close()
            shutil.rmtree(made.where)

    def test_a_real_grid_shows_evil_names_of_files_and_media_safely(lab):
        source = lab.path("source")
        os.makedirs(os.fsencode(source) + b"/" + NAME)
        with open(os.fsencode(source) + b"/" + NAME + b"/" + NAME, "wb") as file:
            file.write(b"content")
        lab.must("init", "--home", lab.home)
        stray = os.path.join(lab.home, "media", "stray")
        os.makedirs(os.fsencode(stray) + b"/" + NAME)
        with open(os.path.join(lab.home, "staddle.toml"), "a", encoding="utf-8") as file:
            file.write('\n[medium.stray]\nplugin = "directory"\npath = "media/stray"\n')
        waited, grid.UP_WAIT_S = grid.UP_WAIT_S, 1.0
        try:
            lab.call("up", "--home", lab.home)
        finally:
            grid.UP_WAIT_S = waited
        inside = os.fsdecode(os.fsencode(source) + b"/" + NAME)
        words = [
            ["backup", source, "--name", "x"],
            ["backup", source, "--name", "x\x1b[31m"],
            ["backup", source, "--name", "y", "--exclude", "[\x1b"],
            ["ls"],
            ["ls", "1", inside],
            ["ls", "1", inside + "/none"],
            ["find", "evil*"],
            ["restore", "1", "-v", "--to", lab.path("re\x1bstored")],
            ["restore", "1", "--to", os.path.join(inside, os.fsdecode(NAME), "x")],
            ["verify", "--read-data"],
            ["job", "list"],
            ["job", "show", "1"],
            ["sql", "SELECT name, path FROM v_files"],
            ["sql", "SELECT '\x1b'"],
            ["prune", "1"],
        ]
        end = time.monotonic() + 60.0
        while CLEAN not in (said := lab.call("status", "--home", lab.home)).err:
            assert time.monotonic() < end, said
            time.sleep(0.1)
        for each in [*words, ["status"], ["doctor"]]:
            said = lab.call(*each, "--home", lab.home)
            assert all(char.isprintable() or char in "\n\t" for char in said.out + said.err), (each, said)
        assert CLEAN in lab.call("ls", "1", inside, "--home", lab.home).out
        assert CLEAN in lab.call("find", "evil*", "--home", lab.home).out
        for name in os.listdir(os.path.join(lab.home, "log")):
            with open(os.path.join(lab.home, "log", name), encoding="utf-8") as file:
                assert "\x1b" not in file.read(), name
