"""kill -9 of the agent that a stream from a pipe goes through: nothing can be read again, nothing is lost."""

import os
import subprocess

from scene import SEGMENT_BYTES

from staddle.demo.grid import STADDLE, RunningBackup

SIZE_BYTES = 40 << 20


def test_a_stream_survives_the_death_of_its_agent(scene):
    path = os.path.join(scene.where, "data")
    data = scene.rng.randbytes(SIZE_BYTES + 4321)
    with open(path, "wb") as file:
        file.write(data)
    scene.total = len(data)
    before = scene.newest()
    feed = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    scene.running = RunningBackup(
        subprocess.Popen(
            [*STADDLE, "backup", "--name", "stream", "--stdin", "data", "--json"],
            env=scene.grid.environment,
            stdin=feed.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )
    feed.stdout.close()
    scene.job = scene.grid.wait_job(lambda row: row.job > before, "the job began").job
    agent = scene.flow().paths[0].agent
    scene.grid.kill(f"agent-{agent}")
    summary = scene.finish()
    assert feed.wait(60) == 0
    scene.check_failover(summary, {"agent_lost", "agent_silent"}, agent)
    assert summary["bytes_read"] == len(data)
    assert summary["bytes_stored"] > SIZE_BYTES - SEGMENT_BYTES
    target = os.path.join(scene.where, "restored")
    scene.grid.run("restore", str(summary["backup"]), "--to", target)
    with open(os.path.join(target, "data"), "rb") as file:
        assert file.read() == data
    scene.check_catalog()
