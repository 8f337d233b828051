"""A medium's file system becomes read-only, as one does after an error of its disk."""

from contextlib import ExitStack

from scene import Scene
from unusual import needs, only_in_soak, run, tmpfs


@needs("mounts")
@only_in_soak
def test_a_job_survives_a_medium_that_becomes_read_only(tmp_path, seed):
    with ExitStack() as stack:
        scene = Scene(tmp_path, seed)
        for name in scene.media:
            stack.enter_context(tmpfs(scene.grid.medium_path(name), 200 << 20))
        stack.enter_context(scene)
        scene.start()
        medium = scene.rng.choice(scene.flow().paths[0].media)
        where = scene.grid.medium_path(medium)
        run("mount", "-o", "remount,ro", where)
        summary = scene.finish()
        scene.check_failover(summary, {"medium_lost"}, medium)
        scene.verdict(summary)
        scene.await_media(gone={medium})
        run("mount", "-o", "remount,rw", where)
        scene.await_media()
        scene.check_data()
