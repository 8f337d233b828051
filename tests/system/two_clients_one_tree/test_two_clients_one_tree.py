"""Two backups of one tree at once, under one name and under two: each is whole, and alone."""

import pytest
from scene import Scene
from unusual import only_in_soak


@pytest.mark.parametrize("second", ["work", "other"], ids=["one name", "two names"])
@only_in_soak
def test_two_backups_of_one_tree_at_once_are_both_whole(tmp_path, seed, second):
    with Scene(tmp_path, seed, size_bytes=20 << 20) as scene:
        scene.start()
        twin = scene.grid.backup(scene.source, "--name", second)
        assert twin.wait(120.0) == 0, "".join(twin.errors)
        summary = scene.running.summary if scene.running.wait(120.0) == 0 else {}
        assert {summary["job"], twin.summary["job"]} == {1, 2}
        for each in (summary, twin.summary):
            assert each["state"] == "complete"
            assert each["bytes_read"] == scene.total
            scene.check_restore(each["backup"])
        scene.check_catalog()
        scene.check_data()
        scene.job = scene.newest()
        scene.start()
        assert scene.finish()["bytes_read"] == 0
