"""Standard output that is left, closed or full; Ctrl-C; names that would command a terminal; and bugs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import click
import pytest

from staddle import cli
from staddle.cli import problems
from staddle.client.progress import Progress
from staddle.errors import ConfigError, NotFound
from staddle.wire.pki import make_ca
from staddle.wire.tokens import create_token

STADDLE = [sys.executable, "-m", "staddle"]
LIMIT_S = 120
PRINTS = """
import sys
from staddle.cli import streams
streams.prepare()
for number in range(200_000):
    print(number)
streams.flush()
sys.exit(7 if streams.reader_gone() else 0)
"""


def test_work_goes_on_to_its_own_end_when_the_reader_of_its_output_goes_away():
    with subprocess.Popen(
        [sys.executable, "-c", PRINTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline().strip() == b"0"
        writer.stdout.close()
        said = writer.stderr.read()
        assert (writer.wait(LIMIT_S), said) == (7, b"")


if sys.platform != "win32":

    @pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "0<&- >&- 2>&-"])
    @pytest.mark.parametrize(("words", "code"), [("plugin list --json", 0), ("plugin show nothing", 10)])
    def test_a_closed_stream_changes_no_exit_code(words, code, closed):
        line = f'exec "$0" -m staddle {words} {closed}'
        done = subprocess.run(
            ["/bin/sh", "-c", line, sys.executable], capture_output=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr

    def test_ctrl_c_while_it_starts_ends_with_130_and_one_line():
        words = [sys.executable, "-X", "importtime", "-m", "staddle", "plugin", "list"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as starting:
            while line := starting.stderr.readline():
                if line.endswith(" click.globals\n"):
                    starting.send_signal(signal.SIGINT)
                    break
            out, err = starting.communicate(timeout=LIMIT_S)
        said = [line for line in err.splitlines() if not line.startswith("import time:")]
        # It may have been quick enough to end before.
        assert (starting.returncode, said) in [(130, ["staddle: interrupted"]), (0, [])]
        assert not out or starting.returncode == 0

    def test_ctrl_c_ends_with_130_and_one_line(tmp_path):
        authority = make_ca(str(tmp_path / "ca"), b"g" * 16)
        token = create_token(authority, "laptop", "client", time.time_ns() + 10**12)
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            server.settimeout(LIMIT_S)
            words = [
                "client",
                "join",
                f"{token}@127.0.0.1:{server.getsockname()[1]}",
                "--dir",
                str(tmp_path / "d"),
            ]
            with subprocess.Popen(
                [*STADDLE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as joiner:
                peer, _ = server.accept()  # it waits for an answer that never comes
                with peer:
                    joiner.send_signal(signal.SIGINT)
                    out, err = joiner.communicate(timeout=LIMIT_S)
        assert (joiner.returncode, out, err) == (130, "", "staddle: interrupted\n")
        assert not (tmp_path / "d" / "client.toml").exists()


def ends(monkeypatch, capsys, error, *words):
    """How `main` ends if its command raises `error`: exit code and stderr."""

    def invoke(_self, _context):
        raise error

    monkeypatch.setattr(cli.LazyGroup, "invoke", invoke)
    monkeypatch.setattr(sys, "argv", ["staddle", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


def test_a_bug_is_one_line_and_a_traceback_only_for_those_who_ask(monkeypatch, capsys):
    monkeypatch.delenv(problems.DEBUG_VARIABLE, raising=False)
    code, said = ends(monkeypatch, capsys, KeyError("wal\nrus"), "ls")
    assert code == 1
    assert said.startswith("staddle: an error in Staddle itself: KeyError at test_streams.py:")
    assert said.count("\n") == 1
    monkeypatch.setenv(problems.DEBUG_VARIABLE, "1")
    assert "Traceback" in ends(monkeypatch, capsys, KeyError("walrus"), "ls")[1]


def test_a_bug_with_json_is_a_document(monkeypatch, capsys):
    code, said = ends(monkeypatch, capsys, ZeroDivisionError("division by zero"), "ls", "--json")
    document = json.loads(said)
    assert (code, document["code"], document["exit_code"]) == (1, "INTERNAL", 1)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NotFound("there is no 'a\x1b[31m\u202e'"), "staddle: there is no 'a\\x1b[31m\\u202e'\n"),
        (NotFound("a", hint="b\rc"), "staddle: a; b\\rc\n"),
        (ConfigError("one\ntwo", hint="mend them"), "staddle: one\nstaddle: two; mend them\n"),
        (PermissionError(13, "Permission denied", "/x/y"), None),
    ],
)
def test_the_form_of_a_message(monkeypatch, capsys, error, line):
    expected = line or (
        "staddle: /x/y: permission denied; check its owner and mode, or run as the user that may\n"
    )
    assert ends(monkeypatch, capsys, error, "ls")[1] == expected


def test_a_slip_on_the_command_line_is_told_what_was_meant():
    error = problems.from_click(click.UsageError("No such option '--nam'. (Did you mean one of: '--name'?)"))
    assert (error.message, error.hint) == ("no such option '--nam'", "did you mean one of: '--name'?")


def test_a_name_of_a_file_can_not_command_the_terminal(capsys):
    progress = Progress("backup", as_json=False)
    progress.warn(b"/home/\x1b]0;title\x07\nevil", "not read: permission denied")
    assert capsys.readouterr().err == (
        "warning: /home/\\x1b]0;title\\x07\\nevil: not read: permission denied\n"
    )


if os.path.exists("/dev/full"):

    @pytest.mark.parametrize(("words", "code"), [([], 2), (["job"], 2), (["bakup"], 2), (["--help"], 0)])
    def test_errors_that_can_not_be_written_change_no_exit_code(words, code):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*STADDLE, *words], stdout=subprocess.PIPE, stderr=full, timeout=LIMIT_S, check=False
            )
        assert done.returncode == code

    def test_output_as_json_that_can_not_be_written_is_told_as_json():
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*STADDLE, "plugin", "list", "--json"],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=LIMIT_S,
                check=False,
            )
        document = json.loads(done.stderr)
        assert (done.returncode, document["message"]) == (1, "standard output: no space left on device")

    @pytest.mark.parametrize("words", [["plugin", "list"], ["plugin", "list", "--help"], ["--version"]])
    def test_output_that_can_not_be_written_is_an_error(words):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*STADDLE, *words],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=LIMIT_S,
                check=False,
            )
        assert done.returncode == 1
        assert done.stderr == (
            b"staddle: standard output: no space left on device; make room, then the same command again\n"
        )
