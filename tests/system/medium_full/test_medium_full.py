"""A medium without room: the job goes on to others, nothing half-written stays; with room it is used."""

import os
from contextlib import ExitStack

from scene import Scene
from unusual import fill, needs, only_in_soak, tmpfs

ROOM_BYTES = 110 << 20


@needs("mounts")
@only_in_soak
def test_a_job_survives_a_medium_that_becomes_full(tmp_path, seed):
    with ExitStack() as stack:
        scene = Scene(tmp_path, seed, size_bytes=24 << 20)
        for name in scene.media:
            stack.enter_context(tmpfs(scene.grid.medium_path(name), ROOM_BYTES))
        stack.enter_context(scene)
        scene.start()
        medium = scene.rng.choice(scene.flow().paths[0].media)
        filler = fill(scene.grid.medium_path(medium), scene.rng.randrange(1 << 20))
        summary = scene.finish()
        scene.check_failover(summary, {"medium_full"}, medium)
        scene.verdict(summary)
        area = os.path.join(scene.grid.medium_path(medium), "tmp")
        assert os.listdir(area) == [], "what did not fit is left behind"
        state = next(m for m in scene.grid.json("status")["media"] if m["name"] == medium)
        assert "free" in state["message"], state

        # It is known to be full: the next job leaves it alone, and is not cut off again.
        scene.new_tree("next")
        scene.start()
        following = scene.finish()
        assert (following["state"], following["failovers"]) == ("complete", [])
        scene.verdict(following)

        os.unlink(filler)
        scene.await_media()
        scene.check_data()
        scene.start()
        assert scene.finish()["failovers"] == []
