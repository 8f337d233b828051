"""A host is cut off: an agent in a network of its own, with TLS, and a link that fails both ways or one."""

import contextlib
import os
import re

import pytest
from limits import caged
from scene import Scene
from unusual import needs, only_in_soak, run

HOST, GUEST = "10.231.77.1", "10.231.77.2"
NOBODY = "02:00:00:00:00:01"
"""A hardware address that nobody has: what is sent to it is lost, and nobody is told."""


class Wire:
    """A network namespace, and the one pair of interfaces that joins it to this host."""

    def __init__(self, number):
        self.name, self.here, self.there = f"staddle{number}", f"stdla{number}", f"stdlb{number}"

    def __enter__(self):
        run("ip", "netns", "add", self.name)
        try:
            run(
                "ip", "link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.name
            )
            run("ip", "addr", "add", f"{HOST}/30", "dev", self.here)
            run("ip", "link", "set", self.here, "up")
            self.inside("ip", "addr", "add", f"{GUEST}/30", "dev", self.there)
            self.inside("ip", "link", "set", self.there, "up")
            self.inside("ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        run("ip", "link", "delete", self.here, check=False)
        run("ip", "netns", "delete", self.name, check=False)

    def inside(self, *words):
        return run("ip", "netns", "exec", self.name, *words)

    def cut(self, how):
        """`both`; `towards`: the agent hears nothing; `from`: nobody hears the agent."""
        if how == "both":
            self.inside("ip", "link", "set", self.there, "down")
        elif how == "towards":
            run("ip", "neigh", "replace", GUEST, "lladdr", NOBODY, "dev", self.here, "nud", "permanent")
        else:
            words = ("replace", HOST, "lladdr", NOBODY, "dev", self.there, "nud", "permanent")
            self.inside("ip", "neigh", *words)

    def mend(self, how):
        if how == "both":
            self.inside("ip", "link", "set", self.there, "up")
        elif how == "towards":
            run("ip", "neigh", "delete", GUEST, "dev", self.here)
        else:
            self.inside("ip", "neigh", "delete", HOST, "dev", self.there)


def over_the_wire(text):
    """The manager listens where the agent a1 can reach it, and a1 in its own network."""
    ports = iter(re.findall(r'listen = "tcp://127.0.0.1:(\d+)"', text))
    for address in (HOST, GUEST):
        port = next(ports)
        text = text.replace(f'listen = "tcp://127.0.0.1:{port}"', f'listen = "tcp://{address}:{port}"')
    return text


@pytest.mark.parametrize("how", ["both", "towards", "from"])
@needs("netns")
@only_in_soak
def test_a_job_survives_a_host_that_is_cut_off(tmp_path, seed, how):
    # Too long a path for a local socket: everything goes over tcp and TLS.
    where = tmp_path / ("long" * 25)
    where.mkdir()
    with contextlib.ExitStack() as stack:
        wire = stack.enter_context(Wire(os.getpid() % 10_000))
        scene = Scene(where, seed, edit=over_the_wire, size_bytes=60 << 20)
        stack.enter_context(caged(scene, "manager", ()))
        scene.grid.wait(lambda: scene.grid.json("status")["manager"]["state"] != "down", "the manager is up")
        stack.enter_context(caged(scene, "agent-a1", ("ip", "netns", "exec", wire.name)))
        scene.grid.wait(lambda: bool(scene.grid.pids("agent-a1")), "the agent a1 is up")
        stack.enter_context(scene)
        for agent in ("a2", "a3"):  # so that the one that can be cut off serves
            scene.grid.kill(f"agent-{agent}")
        scene.start()
        scene.grid.up()
        assert scene.flow(high=0.6).paths[0].agent == "a1"
        wire.cut(how)
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
