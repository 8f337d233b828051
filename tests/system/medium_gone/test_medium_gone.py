"""The directory of a medium is gone: the same job goes on to other media."""


def test_a_job_survives_the_loss_of_a_mediums_directory(scene):
    scene.start()
    medium = scene.rng.choice(scene.flow().paths[0].media)
    scene.grid.take_away(medium)
    summary = scene.finish()
    scene.check_failover(summary, {"medium_lost"}, medium)
    scene.verdict(summary)

    scene.grid.bring_back(medium)
    scene.await_media()
    scene.check_data()
