"""A host is cut off: an agent in a network of its own, with TLS, and a link that fails both ways or one."""

import contextlib

import pytest
from cages import Cages
from scene import Scene
from unusual import needs, only_in_soak
from wires import HOW, Wire, deep


@pytest.mark.parametrize("how", HOW)
@needs("netns")
@only_in_soak
def test_a_job_survives_a_host_that_is_cut_off(tmp_path, seed, how):
    where = deep(tmp_path)
    with contextlib.ExitStack() as stack:
        wire, cages = stack.enter_context(Wire()), Cages(where)
        cages.put("agent-a1", netns=wire.name)
        settings = {"edit": lambda text: wire.edit(text, "a1"), "environment": cages.environment}
        scene = stack.enter_context(Scene(where, seed, size_bytes=60 << 20, wait_s=60, **settings))
        for agent in ("a2", "a3"):  # so that the one that can be cut off serves
            scene.grid.kill(f"agent-{agent}")
        scene.start()
        others = scene.grid.start("up", "--json")
        assert scene.flow(high=0.6).paths[0].agent == "a1"
        wire.cut(how)
        others.wait()
        summary = scene.finish()
        scene.check_failover(summary, {"agent_silent", "agent_lost"}, "a1")
        scene.verdict(summary)
        assert state_of(scene, "a1") != "up"
        wire.mend(how)
        scene.grid.wait(lambda: state_of(scene, "a1") == "up", "the agent is back", 120.0)
        scene.verdict(summary)
        scene.check_data()


def state_of(scene, name):
    return next(agent["state"] for agent in scene.grid.json("status")["agents"] if agent["name"] == name)
