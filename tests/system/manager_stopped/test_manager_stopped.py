"""The manager is silent for a while, and goes on: so does the job, and it is the same one."""

import time

import pytest
from unusual import only_in_soak

from staddle.daemon.manager.main import LEASE_TTL_S


@pytest.mark.parametrize("longer_than_its_lease", [False, True])
@only_in_soak
def test_a_job_survives_a_manager_that_is_silent(scene, longer_than_its_lease):
    running = scene.start()
    scene.flow()
    scene.grid.stop("manager")
    time.sleep(scene.rng.uniform(1.0, 8.0) + longer_than_its_lease * LEASE_TTL_S)
    assert running.process.poll() is None, "the backup ended without a manager"
    scene.grid.resume("manager")
    scene.verdict(scene.finish())
    scene.check_data()
    scene.await_media()
    assert [agent["state"] for agent in scene.grid.json("status")["agents"]] == ["up"] * 3
