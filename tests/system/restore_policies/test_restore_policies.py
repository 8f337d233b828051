"""Restores by the real grid: killed and started again, in place, with deletions, of one file to a pipe."""

import json
import os
import random
import shutil
import subprocess
import time

import pytest
from scene import Scene

from staddle.demo.compare import differences
from staddle.demo.grid import STADDLE

RATE_BYTES_PER_S = 12 << 20
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    where = tmp_path_factory.mktemp("policies")
    with Scene(where, 11, agents=2, size_bytes=24 << 20, rate=RATE_BYTES_PER_S) as made:
        made.start()
        made.first = made.finish()
        yield made


def restore(scene, *words, codes=(0,)):
    """The restore's lines of JSON."""
    done = scene.grid.run("restore", str(scene.first["backup"]), *words, "--json", check=False)
    assert done.returncode in codes, f"exit {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def differing(scene, found):
    return list(differences(os.fsencode(scene.source), os.fsencode(found)))


def test_a_killed_restore_started_again_fetches_only_what_is_missing(scene, tmp_path, seed):
    rng = random.Random(seed)
    target = tmp_path / "to"
    words = ("restore", str(scene.first["backup"]), "--to", str(target))
    flowed = 0
    for _ in range(2):  # killed, and killed again
        running = scene.grid.start(*words, "--json")
        share = rng.uniform(0.2, 0.6)
        end = time.monotonic() + LIMIT_S
        while True:
            flowed = max((line.get("bytes_done", 0) for line in running.lines), default=0)
            if flowed >= share * scene.total or running.process.poll() is not None:
                break
            assert time.monotonic() < end, "the restore does not go on"
            time.sleep(0.05)
        running.process.kill()
        running.wait()
    found = os.path.join(target, scene.source.lstrip("/"))
    wrong = [
        os.path.join(directory, name)
        for directory, _, names in os.walk(found)
        for name in names
        if not name.startswith(".staddle-") and not _whole(scene, found, os.path.join(directory, name))
    ]
    assert wrong == [], "half a file has its final name"
    summary = restore(scene, "--to", str(target))[-1]
    assert summary["warnings"] == 0
    assert summary["unchanged"] > 0
    assert summary["bytes_restored"] + summary["bytes_unchanged"] == scene.total
    assert summary["bytes_restored"] < scene.total
    assert differing(scene, found) == []


def _whole(scene, found, path):
    source = os.path.join(scene.source, os.path.relpath(path, found))
    if os.path.islink(source) or not os.path.isfile(source):
        return True
    with open(source, "rb") as a, open(path, "rb") as b:
        return a.read() == b.read()


def test_in_place_with_deletions_brings_a_damaged_tree_back(scene, tmp_path):
    saved = tmp_path / "saved"
    subprocess.run(["cp", "-a", scene.source, saved], check=True)
    source = scene.source
    with open(os.path.join(source, "big.bin"), "r+b") as file:
        file.write(b"damaged")
    shutil.rmtree(os.path.join(source, "data/3"))
    os.makedirs(os.path.join(source, "data/new/deep"))
    os.symlink("/", os.path.join(source, "data/new/deep/root"))
    os.rename(os.path.join(source, "empty"), os.path.join(source, "renamed"))
    with open(os.path.join(source, "data/new/file"), "w") as file:
        file.write("made since")
    refused = scene.grid.run("restore", "1", "--in-place", "--delete", check=False)
    assert refused.returncode == 2
    assert "--dry-run" in refused.stderr
    would = restore(scene, "--in-place", "--delete", "--dry-run")
    assert os.path.exists(os.path.join(source, "renamed"))
    did = restore(scene, "--in-place", "--delete", "--yes", "--verbose")
    items = [
        sorted((line["action"], line["path"]) for line in lines if line["message_type"] == "item")
        for lines in (would, did)
    ]
    assert items[0] == items[1]
    assert ("delete", os.path.join(source, "renamed")) in items[0]
    assert did[-1]["deleted"] == would[-1]["deleted"] == 5
    assert list(differences(os.fsencode(saved), os.fsencode(source))) == []


def test_one_file_goes_to_a_pipe_and_nothing_else_does(scene):
    done = subprocess.run(
        [*STADDLE, "restore", "latest", os.path.join(scene.source, "big.bin"), "--to", "-"],
        env=scene.grid.environment,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with open(os.path.join(scene.source, "big.bin"), "rb") as file:
        assert done.stdout == file.read()
    missing = scene.grid.run("restore", "latest", "/no/such/file", "--to", "-", check=False)
    assert (missing.returncode, missing.stdout) == (4, "")


def test_a_target_that_can_not_be_written_is_one_message(scene, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    done = scene.grid.run("restore", "latest", "--to", str(tmp_path / "file/x"), check=False)
    assert done.returncode == 1
    assert "cannot restore to" in done.stderr
    assert "Traceback" not in done.stderr
    inside = scene.grid.run("restore", "latest", "--to", os.path.join(scene.grid.home, "x"), check=False)
    assert inside.returncode == 2
