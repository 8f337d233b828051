"""An agent that outgrows the memory it is allowed is killed by the kernel: that is an agent lost, no more."""

import contextlib

from limits import caged, first
from scene import Scene
from unusual import memory_group, needs, only_in_soak

MORE_BYTES = 12 << 20
"""Beyond what it has when it is idle: less than the buffers of one stream."""


@needs("memory")
@only_in_soak
def test_a_job_survives_an_agent_that_is_killed_for_its_memory(tmp_path, seed):
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(memory_group(f"staddle-{seed}"))
        scene = stack.enter_context(Scene(tmp_path, seed))
        for agent in scene.agents:
            scene.grid.kill(f"agent-{agent}")
        daemon = stack.enter_context(caged(scene, "agent-a1", first(f"echo 0 > {group.path}/cgroup.procs")))
        scene.grid.wait(lambda: bool(scene.grid.pids("agent-a1")), "the agent a1 is up")
        pids = scene.grid.pids("agent-a1")
        group.limit(group.used_bytes() + MORE_BYTES)
        scene.start()
        daemon.wait(60.0)
        scene.grid.up()
        summary = scene.finish()
        scene.check_failover(summary, {"agent_lost", "agent_silent"}, "a1")
        assert not set(pids) & set(scene.grid.pids("agent-a1")), "it was not killed"
        scene.verdict(summary)
        scene.check_data()
