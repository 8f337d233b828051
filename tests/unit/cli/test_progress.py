"""Progress for people and for programs, and what `--help` costs."""

import asyncio
import json
import os
import subprocess
import sys

from staddle.client import progress


def test_status_lines_come_at_most_twice_a_second_and_only_with_json(capsys):
    async def work(as_json):
        shown = progress.Progress("x", as_json=as_json)
        shown.total_bytes = 10
        async with shown.running():
            shown.tally.add(files=1, read=4)
            await asyncio.sleep(1.2)

    asyncio.run(work(True))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 1 <= len(lines) <= 2
    assert lines[0]["message_type"] == "status"
    assert (lines[0]["bytes_done"], lines[0]["bytes_total"], lines[0]["files"]) == (4, 10, 1)
    asyncio.run(work(False))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_terminal_gets_a_bar_and_warnings_stand_above_it(monkeypatch, capsys):
    async def work():
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        shown = progress.Progress("backup", as_json=False)
        async with shown.running():
            shown.tally.add(files=1, read=4)
            shown.warn(b"/x[bold]", "broken")
            await asyncio.sleep(0.3)

    asyncio.run(work())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "/x[bold]: broken" in captured.err


def test_the_pre_scan_adds_up_what_will_be_read(tmp_path):
    from staddle.client.exclude import Excludes
    from staddle.client.inputs import Trees
    from staddle.client.scan import NO_RULES
    from staddle.client.units import Tally

    (tmp_path / "a").write_bytes(bytes(1000))
    (tmp_path / "b.o").write_bytes(bytes(500))
    shown = progress.Progress("x", as_json=True)
    paths = [os.fsencode(tmp_path), b"/nowhere/at/all"]
    ahead = progress.PreScan(Trees(paths, [], Excludes(["*.o"]), NO_RULES, Tally()).sizes(), shown)
    ahead._thread.join(10)
    ahead.close()
    assert shown.total_bytes == 0, "the walk ended at a root that is not there"
    ahead = progress.PreScan(Trees(paths[:1], [], Excludes(["*.o"]), NO_RULES, Tally()).sizes(), shown)
    ahead._thread.join(10)
    assert shown.total_bytes == 1000


def test_help_of_a_command_loads_nothing_heavy():
    code = (
        "import sys\nfrom staddle.cli import cli\n"
        "for name in 'backup restore ls find sql verify job prune catalog'.split():\n"
        "    cli.main([name, '--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'duckdb', 'cryptography', 'rich', 'blake3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--help") == 9
