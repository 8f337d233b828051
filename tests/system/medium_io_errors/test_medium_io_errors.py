"""A medium answers with I/O errors, to every call or only to writes: the same job goes on to other media."""


def test_a_job_survives_a_medium_with_io_errors(scene):
    break_a_medium(scene, {"error": "io"})
    scene.new_tree("for another job")
    break_a_medium(scene, {"op": "put", "error": "io"})
    scene.check_data()


def break_a_medium(scene, rule):
    scene.start()
    medium = scene.rng.choice(scene.flow().paths[0].media)
    scene.grid.fault(medium, rule)
    summary = scene.finish()
    scene.check_failover(summary, {"medium_lost"}, medium)
    scene.verdict(summary)
    scene.grid.fault(medium)
    scene.await_media()
