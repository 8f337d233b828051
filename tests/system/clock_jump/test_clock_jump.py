"""The clocks of a grid jump by a year: jobs go on, nothing is pruned or lost, everything is restored."""

import os

import pytest
from scene import Scene
from unusual import only_in_soak

YEAR_S = 366 * 86400


WALL_CLOCK = """
import os, time

real_ns, path = time.time_ns, os.environ["TEST_CLOCK"]

def time_ns():
    with open(path, encoding="ascii") as file:
        return real_ns() + int(file.read()) * 10**9

time.time_ns = time_ns
time.time = lambda: time_ns() / 10**9
"""
"""A wall clock of their own for all processes of a grid; what they wait by stays as it is."""


class Clock:
    """Its offset stands in a file, which is read at each look at the clock."""

    def __init__(self, where):
        self._path = os.path.join(where, "clock")
        self.set(0)
        code = os.path.join(where, "clock-code")
        os.makedirs(code)
        with open(os.path.join(code, "sitecustomize.py"), "w", encoding="ascii") as file:
            file.write(WALL_CLOCK)
        paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(paths), "TEST_CLOCK": self._path}

    def set(self, offset_s):
        with open(self._path + ".new", "w", encoding="ascii") as file:
            file.write(str(offset_s))
        os.replace(self._path + ".new", self._path)


@pytest.mark.parametrize("offset_s", [YEAR_S, -YEAR_S], ids=["forward", "back"])
@only_in_soak
def test_a_job_survives_a_clock_that_jumps_by_a_year(tmp_path, seed, offset_s):
    clock = Clock(tmp_path)
    with Scene(tmp_path, seed, size_bytes=30 << 20, environment=clock.environment) as scene:
        scene.start()
        first = scene.finish()
        done = scene.source
        scene.new_tree("second")
        scene.start()
        scene.flow()
        clock.set(offset_s)
        summary = scene.finish()
        assert summary["failovers"] == [], "a wall clock decides no failover"
        scene.verdict(summary)
        check(scene, done, first)
        # And back again: what was stored in the other year is as good.
        clock.set(0)
        check(scene, done, first)
        scene.start()
        assert scene.finish()["bytes_read"] <= scene.total
        scene.check_data()


def check(scene, source, summary):
    kept, scene.source = scene.source, source
    scene.verdict(summary)
    scene.source = kept
