"""kill -9 of the client, and the same command again: the same job goes on where it is durable."""

import os

import pytest
from scene import ask
from unusual import only_in_soak

from staddle.wire.ops.jobs import LIST_JOBS, ListJobs


def kill_client(scene):
    scene.running.process.kill()
    scene.running.wait(10.0)


def go_on(scene, *words):
    """The same command once more."""
    scene.running = scene.grid.backup(scene.source, "--name", scene.name, *words)
    return scene.finish()


@pytest.mark.parametrize("words", [("--streams", "2")], ids=["two streams"])
def test_a_killed_client_started_again_goes_on_with_its_job(scene, words):
    scene.start(*words)
    durable = scene.flow(high=0.65)
    kill_client(scene)
    summary = go_on(scene, *words)
    assert [row.job for row in ask(scene.grid.home, LIST_JOBS, ListJobs()).jobs] == [scene.job]
    assert summary["bytes_read"] == scene.total, "what the first process read counts, and nothing twice"
    row = scene.grid.job(scene.job)
    assert row.bytes_read == scene.total, "a record of the first process was sent twice"
    assert row.bytes_read > durable.bytes_read
    assert os.listdir(os.path.join(scene.grid.home, "run", "backups")) == []
    scene.verdict(summary)
    scene.start(*words)
    again = scene.finish()
    assert (again["bytes_read"], again["warnings"]) == (0, 0), "the next backup finds its base whole"


@only_in_soak
def test_a_client_killed_twice_and_an_agent_too_loses_nothing(scene):
    scene.start()
    agent = scene.flow(high=0.3).paths[0].agent
    kill_client(scene)
    scene.grid.kill(f"agent-{agent}")
    scene.running = scene.grid.backup(scene.source, "--name", scene.name)
    scene.flow(low=0.4, high=0.6)
    kill_client(scene)
    summary = go_on(scene)
    assert scene.grid.job(scene.job).bytes_read == scene.total
    scene.verdict(summary)


@only_in_soak
def test_what_changed_or_went_between_the_two_processes_is_told(scene):
    # The biggest file is the first in the tree: it is cut in its middle.
    scene.start()
    scene.grid.wait_job(lambda row: row.job == scene.job and row.bytes_read > 1 << 20, "some is durable")
    kill_client(scene)
    big = os.path.join(scene.source, "big.bin")
    os.unlink(big)
    summary = go_on(scene)
    told = [line for line in scene.running.lines if line["message_type"] == "warning"]
    if told:  # its end had not been durable
        assert any(line["path"].endswith("big.bin") for line in told), told
        assert summary["state"] == "warnings"
    found = scene.restored(summary["backup"], codes=(0, 3))
    assert sorted(os.listdir(scene.source)) == sorted(set(os.listdir(found)) - {"big.bin"})


@only_in_soak
def test_another_command_has_a_job_of_its_own(scene):
    scene.start()
    scene.flow(high=0.4)
    kill_client(scene)
    first = scene.job
    scene.start("--exclude", "data")
    assert scene.job == first + 1
    summary = scene.finish()
    assert summary["state"] == "complete"
