"""A grid whose client and agents are of another release than its manager: real processes, over TLS."""

import os
import subprocess
import sys
import time

import pytest

from staddle.demo.compare import differences

HERE = os.path.dirname(os.path.abspath(__file__))
START_S = 120.0


class Grid:
    """Manager and agents, each a process of its own, that talks as one says."""

    def __init__(self, where):
        self.home = str(where / "grid")
        self.where = where
        self.daemons = []
        self.run("", "init", "--agents", "2")

    def environment(self, peer):
        path = os.pathsep.join(filter(None, [os.path.join(HERE, "site"), os.environ.get("PYTHONPATH", "")]))
        return {**os.environ, "STADDLE_HOME": self.home, "STADDLE_PEER": peer, "PYTHONPATH": path}

    def run(self, peer, *arguments, codes=(0,)):
        done = subprocess.run(
            [sys.executable, "-m", "staddle", *arguments],
            env=self.environment(peer),
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        assert done.returncode in codes, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, peer, *arguments):
        with open(self.where / f"{'-'.join(arguments)}.log", "wb") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "staddle", "daemon", *arguments, "--home", self.home],
                env=self.environment(peer),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self.daemons.append(daemon)

    def wait_up(self):
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            answer = self.run("", "status", codes=range(256))
            if answer.count("\tup\t") >= 4 and "m2" in answer:
                return
            time.sleep(0.2)
        logs = "\n".join(path.read_text() for path in self.where.glob("*.log"))
        pytest.fail(f"the grid did not come up: {answer}\n{logs}")

    def close(self):
        for daemon in reversed(self.daemons):
            daemon.stdin.close()
            daemon.terminate()
            try:
                daemon.wait(60)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(60)


@pytest.fixture
def grid(tmp_path):
    made = Grid(tmp_path)
    yield made
    made.close()


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"small")
    (root / "sub" / "b").write_bytes(os.urandom(3_000_000))
    os.symlink("a", root / "link")
    return root


@pytest.mark.timeout(900)
@pytest.mark.parametrize("release", ["older", "newer"])
def test_client_and_agents_of_another_release_back_up_and_restore(grid, tree, tmp_path, release):
    grid.start("", "manager")
    for name in ("a1", "a2"):
        grid.start(release, "agent", name)
    grid.wait_up()
    for number, peer in enumerate((release, "", release), 1):
        (tree / f"new-{number}").write_bytes(os.urandom(1000))
        grid.run(peer, "backup", "--name", "docs", str(tree))
        for reader in (release, ""):
            target = tmp_path / f"out-{number}-{reader}"
            grid.run(reader, "restore", "latest", "--name", "docs", "--to", str(target))
            assert list(differences(os.fsencode(tree), os.fsencode(f"{target}{tree}"))) == []
    assert "new-3" in grid.run(release, "find", "*new-3*")
    assert grid.run(release, "ls").count("complete") == 3
    # An agent of another release may not know what a newer `verify` asks: then it says so, with warnings.
    grid.run(release, "verify", "--read-data", codes=(0, 3))
    if sys.platform != "win32":
        rows = grid.run("", "job", "list")
        assert rows.count("complete") == 3
