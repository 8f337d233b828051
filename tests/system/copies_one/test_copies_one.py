"""A medium lost for good: its only copies are named, second ones suffice; the next backup is whole."""

import os
import stat

import pytest
from scene import Scene


@pytest.fixture(params=[1, 2], ids=["one copy", "two copies"])
def copies(request):
    return request.param


@pytest.fixture
def scene(tmp_path, seed, copies):
    with Scene(tmp_path, seed, copies=copies, size_bytes=30 << 20) as made:
        yield made


def test_the_backup_after_the_loss_of_a_medium_is_whole_again(scene, copies):
    scene.start()
    medium = scene.flow().paths[0].media[0]
    scene.grid.take_away(medium)
    if copies == 1:
        files_are_lost_and_named(scene, scene.finish(codes=(1,)))
    else:
        summary = scene.finish()
        scene.check_failover(summary, {"medium_lost"}, medium)
        scene.verdict(summary)
    scene.await_media(gone={medium})

    scene.start()
    summary = scene.finish()
    assert summary["state"] == "complete", summary
    assert summary["failovers"] == []
    assert summary["bytes_read"] > 0, "what was lost is read again"
    assert summary["bytes_read"] < scene.total or copies == 1
    scene.verdict(summary)
    if copies == 2:
        assert scene.short_objects(summary["backup"]) == 0


def files_are_lost_and_named(scene, summary):
    assert summary["state"] == "incomplete", summary
    assert [each["cause"] for each in summary["failovers"]] == ["medium_lost"]
    lost = {
        bytes.fromhex(each["path_bytes"]) if "path_bytes" in each else os.fsencode(each["path"])
        for each in summary["lost"]
    }
    assert lost
    assert summary["lost_count"] == len(lost)
    assert all(path.startswith(os.fsencode(scene.source)) and os.path.lexists(path) for path in lost)
    listed = {each["backup"]: each["state"] for each in scene.grid.json("ls")}
    assert listed[summary["backup"]] == "incomplete"
    # The others are whole, and can be had.
    found = os.fsencode(scene.restored(summary["backup"], codes=(13,)))
    source = os.fsencode(scene.source)
    whole = 0
    for directory, _, names in os.walk(source):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and path not in lost:
                with (
                    open(path, "rb") as a,
                    open(os.path.join(found, os.path.relpath(path, source)), "rb") as b,
                ):
                    assert a.read() == b.read(), path
                whole += 1
    assert whole, "files whose data is on other media are restored"
