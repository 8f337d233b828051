"""The manager's directory is lost: the media alone bring back what was promised, and nothing else."""

import json
import os
import random
import shutil
import time

import pytest
from scene import Scene


@pytest.fixture
def scene(tmp_path, seed):
    with Scene(tmp_path, seed, size_bytes=16 << 20, rate=5 << 20) as made:
        yield made


def objects_on_media(scene):
    """(medium, name) of all containers, manifests and seals that lie on the media."""
    found = set()
    for medium in ("m1", "m2", "m3"):
        top = scene.grid.medium_path(medium)
        for kind in ("c0", "f0", "5e"):
            for directory, _, names in os.walk(os.path.join(top, kind)):
                below = os.path.relpath(directory, top).replace(os.sep, "/")
                found.update((medium, f"{below}/{name}") for name in names)
    return found


def known_objects(scene):
    return {tuple(row) for row in scene.sql("SELECT medium, name FROM v_copies")}


def test_a_rebuild_equals_the_original_and_revives_nothing(scene):
    scene.start()
    scene.finish()
    with open(os.path.join(scene.source, "data", "later"), "wb") as file:
        file.write(random.Random(scene.rng.random()).randbytes(3 << 20))
    os.unlink(os.path.join(scene.source, "big.bin"))
    scene.start()
    kept = scene.finish()
    scene.grid.run("prune", "1", "--yes")
    orphans = kill_with_uncommitted_data(scene)

    before, after = (os.path.join(scene.where, f"{when}.duckdb") for when in ("before", "after"))
    listed = scene.grid.json("ls")
    scene.grid.run("catalog", "snapshot", before)
    scene.grid.down()
    shutil.rmtree(os.path.join(scene.grid.home, "manager"))
    scene.grid.up()
    scene.await_media()
    assert scene.grid.json("ls") == []
    scene.grid.run("catalog", "rebuild")
    scene.grid.run("catalog", "snapshot", after)
    done = scene.grid.run("catalog", "diff", before, after, "--json", check=False)
    assert json.loads(done.stdout) == []
    assert done.returncode == 0

    scene.check_catalog()
    states = {each["backup"]: each["state"] for each in scene.grid.json("ls")}
    assert 1 not in states, "a pruned backup came back"
    assert states == {each["backup"]: each["state"] for each in listed if each["state"] == "complete"} | {
        backup: "incomplete" for backup in states if backup > kept["backup"]
    }
    revived = orphans & known_objects(scene)
    assert not revived, f"what was never committed came back: {sorted(revived)}"
    scene.check_restore(kept["backup"])
    scene.check_data()

    # Life goes on, and numbers are never used twice.
    scene.start()
    summary = scene.finish()
    assert summary["backup"] > max(each["backup"] for each in listed)
    scene.verdict(summary)


def seal_count(scene):
    return scene.sql("SELECT count(DISTINCT object) FROM v_copies WHERE kind = 'seal'")[0][0]


def kill_with_uncommitted_data(scene):
    """A job dies with data stored that no COMMIT ever named; that job is cancelled. Names of the orphans."""
    data = os.path.join(scene.source, "data")
    before = os.stat(data)
    with open(os.path.join(data, "never"), "wb") as file:
        file.write(random.Random(scene.rng.random()).randbytes(30 << 20))
    running = scene.start()
    scene.grid.wait_job(lambda row: row.job == scene.job and row.bytes_read >= 4 << 20, "some of it flowed")
    scene.grid.kill("manager")
    time.sleep(3.0)  # agents store what they can't commit, as far as they run ahead
    scene.grid.kill_everything(running)
    os.unlink(os.path.join(data, "never"))
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    scene.grid.up()
    scene.await_media()
    seals = seal_count(scene)
    scene.grid.run("job", "cancel", str(scene.job))
    # The seal of what was given up says where its streams end: without it their last segment is in doubt.
    end = time.monotonic() + 30.0
    while seal_count(scene) == seals:
        assert time.monotonic() < end, "the incomplete backup got no seal"
        time.sleep(0.2)
    orphans = objects_on_media(scene) - known_objects(scene)
    assert orphans, "the fault did not bite: everything that lies on the media was committed"
    return orphans


def test_a_rebuild_says_which_medium_is_missing(scene):
    scene.start()
    summary = scene.finish()
    used = [row[0] for row in scene.sql("SELECT DISTINCT medium FROM v_copies WHERE kind = 'container'")]
    scene.grid.down()
    shutil.rmtree(os.path.join(scene.grid.home, "manager"))
    lost = scene.rng.choice(sorted(used))
    scene.grid.take_away(lost)
    scene.grid.up()
    scene.await_media(gone={lost})
    done = scene.grid.run("catalog", "rebuild", check=False)
    assert done.returncode == 3, done.stderr
    assert lost in done.stderr
    scene.check_restore(summary["backup"])
