"""Another volume is at a medium's path: it is not touched, and the job goes on to others."""

from faults import MediumReplaced
from unusual import only_in_soak


@only_in_soak
def test_a_job_survives_a_medium_that_is_another_volume_now(scene):
    scene.start()
    medium = scene.rng.choice(scene.flow().paths[0].media)
    fault = MediumReplaced(scene, scene.rng, medium)
    fault.begin()
    summary = scene.finish()
    scene.check_failover(summary, {"medium_lost"}, medium)
    scene.verdict(summary)
    scene.await_media(gone={medium})
    fault.heal()
    scene.await_media()
    scene.check_data()
