"""The sync of a medium's directory fails after an object has its name: no receipt, and the job goes on."""

from faults import DirFsyncFails
from unusual import only_in_soak


@only_in_soak
def test_a_job_survives_a_directory_that_cannot_be_synced(scene):
    scene.start()
    medium = scene.rng.choice(scene.flow().paths[0].media)
    fault = DirFsyncFails(scene, scene.rng, medium)
    fault.begin()
    summary = scene.finish()
    scene.check_failover(summary, {"medium_lost"}, medium)
    scene.verdict(summary)
    fault.heal()
    scene.await_media()
    scene.check_data()
