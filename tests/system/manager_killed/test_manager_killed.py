"""kill -9 of the manager in mid-job: client and agents hold what they have, and go on when it is back."""

import time


def test_a_job_goes_on_when_the_manager_is_back(scene):
    running = scene.start()
    scene.flow()
    killed = scene.grid.pids("manager")
    scene.grid.kill("manager")
    time.sleep(scene.rng.uniform(0.0, 6.0))
    assert running.process.poll() is None, "the backup ended without a manager"
    scene.grid.up()
    assert not set(killed) & set(scene.grid.pids("manager"))
    summary = scene.finish()
    assert scene.newest() == summary["job"]
    scene.verdict(summary)
    scene.check_data()
    assert scene.short_objects(summary["backup"]) == 0
