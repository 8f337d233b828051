"""Homes that are odd but good, files that a crash has left in one, and names that leave none."""

import glob
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from staddle.cli import grid
from staddle.config import home_paths
from staddle.daemon import runfiles
from staddle.daemon.setup import local_url

from .lab import Lab


@pytest.fixture(scope="module")
def lab():
    made = Lab(tempfile.mkdtemp(prefix="staddle-homes-"))
    waited, grid.UP_WAIT_S = grid.UP_WAIT_S, 20.0
    try:
        made.must("init", "--home", made.cold)
        yield made
    finally:
        grid.UP_WAIT_S = waited
        made.close()
        shutil.rmtree(made.where)


def everything(home):
    return sorted(glob.glob(os.path.join(home, "**"), recursive=True, include_hidden=True))


@pytest.mark.parametrize("part", ["agent", "agent-data"])
@pytest.mark.parametrize("name", ["a9", "../../a1", "a1/../a1", ""])
def test_an_agent_that_is_not_configured_leaves_no_file_behind(lab, part, name):
    before = everything(lab.where)
    said = lab.call("daemon", part, name, "--home", lab.cold)
    assert said.code == 10
    assert said.err.startswith(f"staddle: there is no [agent.{name}] in the configuration of ")
    assert everything(lab.where) == before


@pytest.mark.parametrize("words", [["manager"], ["agent", "a1"], ["agent-data", "a1"], ["catalog"]])
def test_a_daemon_makes_no_home_where_there_is_none(lab, words):
    empty = lab.path("empty")
    os.makedirs(empty, exist_ok=True)
    for where in (lab.path("nowhere"), empty):
        said = lab.call("daemon", *words, "--home", where)
        assert (said.code, said.err.count("\n")) == (10, 1)
    assert not os.path.exists(lab.path("nowhere"))
    assert os.listdir(empty) == []


def test_a_run_file_that_a_crash_left_names_no_process_that_runs(lab):
    home = lab.new_home()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        try:
            for part in ("manager", "agent-a1"):
                left = runfiles.RunFile(part=part, pid=other.pid, pids=[other.pid], urls=[])
                runfiles.publish(home, left)
            assert lab.must("down", "--home", home).out == "nothing runs\n"
            assert "manager down" in lab.must("status", "--home", home).out
            said = lab.must("up", "--home", home).out
            assert "manager is up" in said
            assert str(other.pid) not in said
            assert "manager is down" in lab.must("down", "--home", home).out
            assert other.poll() is None, "a process that is not ours was ended"
        finally:
            other.stdin.close()


def test_a_home_too_deep_for_a_local_socket_works_over_loopback(lab):
    above = lab.path("d" * 100, "e" * 100)
    home = os.path.join(above, "home")
    os.makedirs(above)
    lab.must("init", "--home", home)
    assert local_url(home, "manager").startswith("tcp://")
    try:
        said = lab.must("up", "--home", home)
        assert ("manager is up" in said.out, said.err) == (True, "")
        lab.must("backup", home_paths(lab.cold).pki, "--name", "keys", "--home", home)
        assert lab.must("ls", "--home", home).out.startswith("1\tkeys\t")
    finally:
        lab.call("down", "--home", home)
