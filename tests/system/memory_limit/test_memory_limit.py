"""An agent that outgrows the memory it is allowed is killed by the kernel: that is an agent lost, no more."""

import contextlib

from cages import Cages
from faults.processes import await_gone
from scene import Scene
from unusual import memory_group, needs, only_in_soak

MORE_BYTES = 12 << 20
"""Beyond what it has when it is idle: less than the buffers of one stream."""


@needs("memory")
@only_in_soak
def test_a_job_survives_an_agent_that_is_killed_for_its_memory(tmp_path, seed):
    with contextlib.ExitStack() as stack:
        group, cages = stack.enter_context(memory_group(f"staddle-{seed}")), Cages(tmp_path)
        cages.put("agent-a1", group=group.path)
        scene = stack.enter_context(Scene(tmp_path, seed, wait_s=60, environment=cages.environment))
        for agent in ("a2", "a3"):  # so that the one that is limited serves
            scene.grid.kill(f"agent-{agent}")
        pids = scene.grid.pids("agent-a1")
        group.limit(group.used_bytes() + MORE_BYTES)
        scene.start()
        await_gone("a1", pids)
        assert group.kills(), "it has ended by itself"
        scene.grid.up()
        summary = scene.finish()
        scene.check_failover(summary, {"agent_lost", "agent_silent"}, "a1")
        assert not set(pids) & set(scene.grid.pids("agent-a1")), "it was not killed"
        scene.verdict(summary)
        scene.check_data()
