"""The client has no room for what it keeps: it can't be resumed after a kill, and that is all."""

import os

from scene import Scene
from unusual import fill, needs, only_in_soak, tmpfs


@needs("mounts")
@only_in_soak
def test_a_backup_and_a_restore_need_no_room_on_the_clients_disk(tmp_path, seed):
    with tmpfs(tmp_path / "full", 64 << 10) as full, Scene(tmp_path, seed, size_bytes=16 << 20) as scene:
        fill(full)
        os.symlink(full, os.path.join(scene.grid.home, "run", "backups"))
        scene.grid.environment |= {"TMPDIR": str(full), "XDG_CACHE_HOME": str(full)}
        scene.start()
        summary = scene.finish()
        assert summary["state"] == "complete", summary
        assert os.listdir(full) == ["filler"], "what could not be written whole is left behind"
        scene.verdict(summary)


@needs("mounts")
@only_in_soak
def test_a_restore_that_finds_no_room_says_so_in_one_line(tmp_path, seed):
    with tmpfs(tmp_path / "full", 4 << 20) as full, Scene(tmp_path, seed, size_bytes=16 << 20) as scene:
        scene.start()
        backup = scene.finish()["backup"]
        done = scene.grid.run("restore", str(backup), "--to", os.path.join(full, "here"), check=False)
        assert done.returncode == 1, done
        assert "no space left" in done.stderr.lower()
        assert str(full) in done.stderr
        assert "Traceback" not in done.stderr
