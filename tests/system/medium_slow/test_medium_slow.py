"""A medium whose puts take longer than their deadline: the job goes on to others, and says why."""

import pytest
from faults import MediumHangs, MediumSlow
from scene import Scene
from unusual import only_in_soak


@pytest.mark.parametrize("kind", [MediumSlow, MediumHangs])
@only_in_soak
def test_a_job_survives_a_medium_that_is_too_slow(tmp_path, seed, kind):
    with Scene(tmp_path, seed, deadline_s=11.0, rate=6 << 20) as scene:
        scene.start()
        medium = scene.rng.choice(scene.flow().paths[0].media)
        fault = kind(scene, scene.rng, medium)
        fault.begin()
        summary = scene.finish()
        scene.check_failover(summary, {"path_slow", "medium_lost"}, medium)
        scene.verdict(summary)
        fault.heal()
        scene.await_media()
        scene.check_data()
