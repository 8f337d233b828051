"""The clocks of a grid jump by a year: jobs go on, nothing is pruned or lost, everything is restored."""

import pytest
from cages import Cages
from scene import Scene
from unusual import only_in_soak

YEAR_S = 366 * 86400


@pytest.mark.parametrize("offset_s", [YEAR_S, -YEAR_S], ids=["forward", "back"])
@only_in_soak
def test_a_job_survives_a_clock_that_jumps_by_a_year(tmp_path, seed, offset_s):
    cages = Cages(tmp_path)
    with Scene(tmp_path, seed, size_bytes=30 << 20, environment=cages.environment) as scene:
        scene.start()
        first = scene.finish()
        done = scene.source
        scene.new_tree("second")
        scene.start()
        scene.flow()
        cages.set_clock(offset_s)
        summary = scene.finish()
        assert summary["failovers"] == [], "a wall clock decides no failover"
        scene.verdict(summary)
        check(scene, done, first)
        # And back again: what was stored in the other year is as good.
        cages.set_clock(0)
        check(scene, done, first)
        scene.start()
        assert scene.finish()["bytes_read"] <= scene.total
        scene.check_data()


def check(scene, source, summary):
    kept, scene.source = scene.source, source
    scene.verdict(summary)
    scene.source = kept
