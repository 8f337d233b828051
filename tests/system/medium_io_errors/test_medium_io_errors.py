"""A medium answers every call with an I/O error: the same job goes on to other media."""


def test_a_job_survives_a_medium_with_io_errors(scene):
    scene.start()
    path = scene.flow().paths[0]
    medium = scene.rng.choice(path.media)
    scene.grid.fault(medium, {"error": "io"})
    summary = scene.finish()
    scene.check_failover(summary, {"medium_lost"}, medium)
    scene.verdict(summary)

    scene.grid.fault(medium)
    scene.await_media()
    scene.check_data()


def test_a_medium_that_only_fails_to_write_is_left_and_still_read(scene):
    scene.start()
    medium = scene.rng.choice(scene.flow().paths[0].media)
    scene.grid.fault(medium, {"op": "put", "error": "io"})
    summary = scene.finish()
    scene.check_failover(summary, {"medium_lost"}, medium)
    scene.verdict(summary)
