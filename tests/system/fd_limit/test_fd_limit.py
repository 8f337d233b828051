"""A small limit of open files, for each part in turn: it says so or it works, and it never hangs or dies."""

import subprocess
import sys

import pytest
from cages import Cages
from scene import Scene
from unusual import needs, only_in_soak

from staddle.demo.grid import STADDLE, RunningBackup

MANAGER_FILES, AGENT_FILES = 40, 48


@pytest.mark.parametrize(("part", "count"), [("agent-a1", AGENT_FILES), ("manager", MANAGER_FILES)])
@needs("linux")
@only_in_soak
def test_a_daemon_with_few_descriptors_serves_what_it_can(tmp_path, seed, part, count):
    cages = Cages(tmp_path)
    cages.put(part, files=count)
    with Scene(tmp_path, seed, size_bytes=20 << 20, environment=cages.environment) as scene:
        before = scene.grid.pids(part)
        backups = [scene.grid.backup(scene.source, "--name", f"b{n}", "--streams", "4") for n in range(4)]
        for running in backups:
            code = running.wait(240.0)
            said = "".join(running.errors)
            assert code in (0, 1, 3, 5), said
            assert "Traceback" not in said
            if code in (0, 3):
                scene.check_restore(running.summary["backup"])
        assert scene.grid.pids(part) == before, "the daemon has died of it"
        # The crowd is gone: it serves as if nothing had been.
        scene.job = scene.newest()
        scene.start()
        scene.verdict(scene.finish())
        scene.check_data()


def few_files(count):
    """Words before a command: it has a small limit of open files."""
    return ["sh", "-c", f'ulimit -n {count} && exec "$@"', "sh"]


@needs("linux")
@only_in_soak
def test_a_client_with_few_descriptors_ends_with_a_message(tmp_path, seed):
    with Scene(tmp_path, seed, size_bytes=16 << 20) as scene:
        for count in (8, 12, 16, 20, 24, 32, 64):
            started = subprocess.Popen(
                [*few_files(count), *STADDLE, "backup", scene.source, "--name", f"with {count}", "--json"],
                env=scene.grid.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            running = RunningBackup(started)
            code = running.wait(120.0)
            said = "".join(running.errors)
            print(count, code, said[-300:], file=sys.stderr)
            if code == 0:
                scene.check_restore(running.summary["backup"])
            else:
                assert "open files" in said.lower() or running.lines, said
                assert "Traceback" not in said, said
        assert code == 0
