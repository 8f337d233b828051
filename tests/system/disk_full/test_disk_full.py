"""No room where the manager or an agent keeps its own state: nothing acknowledged is lost, and it says so."""

import os
from contextlib import ExitStack

from scene import Scene
from unusual import fill, needs, only_in_soak, tmpfs

ROOM_BYTES = 64 << 20


@needs("mounts")
@only_in_soak
def test_an_agent_without_room_for_its_index_goes_on(tmp_path, seed):
    with ExitStack() as stack:
        scene = Scene(tmp_path, seed)
        where = [os.path.join(scene.grid.home, "agents", name) for name in scene.agents]
        for path in where:
            stack.enter_context(tmpfs(path, ROOM_BYTES))
        stack.enter_context(scene)
        scene.start()
        scene.flow()
        filler = [fill(path) for path in where]
        scene.verdict(scene.finish())
        for path in filler:
            os.unlink(path)
        scene.check_data()
        scene.start()
        assert scene.finish()["bytes_read"] == 0


@needs("mounts")
@only_in_soak
def test_a_manager_without_room_for_its_log_acknowledges_nothing_more(tmp_path, seed):
    with ExitStack() as stack:
        scene = Scene(tmp_path, seed)
        where = os.path.join(scene.grid.home, "manager")
        stack.enter_context(tmpfs(where, ROOM_BYTES))
        stack.enter_context(scene)
        early = os.path.join(scene.source, "names")
        scene.grid.run("backup", early, "--name", "early")
        running = scene.start()
        scene.flow()
        filler = fill(where)
        code = running.wait(700.0)
        said = "".join(running.errors)
        assert "Traceback" not in said
        os.unlink(filler)
        scene.grid.up()
        scene.await_media()
        if code in (0, 3):  # its records had their room already
            scene.verdict(running.summary)
        scene.check_catalog()
        scene.start()
        scene.verdict(scene.finish())
        whole, scene.source = scene.source, early
        scene.check_restore(1)
        scene.source = whole
        scene.check_data()
