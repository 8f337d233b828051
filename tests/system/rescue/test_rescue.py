"""The rescue reader restores from the media and the recovery key, in an interpreter that has no Staddle."""

import os
import shutil

import pytest
from scene import Scene

from staddle.demo.compare import differences


@pytest.fixture
def scene(tmp_path, seed):
    with Scene(tmp_path, seed, size_bytes=16 << 20, rate=64 << 20) as made:
        yield made


def test_the_media_and_the_recovery_key_are_enough(scene):
    scene.start("--streams", "2")
    first = scene.finish()
    os.unlink(os.path.join(scene.source, "exactly-1-mib"))
    scene.start()
    second = scene.finish()
    scene.grid.run("key", "export", os.path.join(scene.where, "recovery.key"))
    scene.grid.down()
    for name in ("manager", "agents", "pki"):
        shutil.rmtree(os.path.join(scene.grid.home, name))

    listed = scene.rescue("list")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["1", "2"]
    target = os.path.join(scene.where, "rescued")
    done = scene.rescue("restore", str(second["backup"]), "--to", target)
    assert done.returncode == 0, done.stderr
    wrong = list(differences(os.fsencode(scene.source), os.fsencode(target + scene.source)))
    assert not wrong, wrong[:20]

    # Any one medium may be missing: there are two copies of everything.
    shutil.rmtree(os.path.join(scene.grid.home, "media", scene.rng.choice(["m1", "m2", "m3"])))
    part = os.path.join(scene.where, "part")
    done = scene.rescue("restore", str(first["backup"]), os.path.join(scene.source, "data"), "--to", part)
    assert done.returncode in {0, 3}, done.stderr
    data = os.path.join(scene.source, "data")
    wrong = list(differences(os.fsencode(data), os.fsencode(part + data)))
    assert not wrong, wrong[:20]


def test_a_wrong_key_restores_nothing(scene):
    scene.start()
    scene.finish()
    with open(os.path.join(scene.where, "recovery.key"), "w", encoding="ascii") as file:
        file.write("SRK1-" + "-".join(["0000000"] * 8) + "\n")
    done = scene.rescue("restore", "1", "--to", os.path.join(scene.where, "rescued"))
    assert done.returncode != 0
    assert not os.path.exists(os.path.join(scene.where, "rescued"))
