"""The daily use of a grid in good health: back up, look, restore, and back up again."""

import json
import os
import random
import shutil
import stat
import threading

import pytest
from scene import Scene

RATE_BYTES_PER_S = 24 << 20


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with Scene(
        tmp_path_factory.mktemp("daily"), 7, agents=2, size_bytes=24 << 20, rate=RATE_BYTES_PER_S
    ) as made:
        made.start()
        made.first = made.finish()
        yield made


def test_every_byte_and_all_metadata_come_back(scene):
    assert scene.first["state"] == "complete"
    assert scene.first["warnings"] == 0
    assert scene.first["bytes_read"] == scene.total
    assert scene.first["bytes_resent"] == 0
    scene.verdict(scene.first)
    scene.check_data()
    assert scene.short_objects(scene.first["backup"]) == 0


def test_part_of_a_backup_is_restored_by_its_path(scene):
    wanted = os.path.join(scene.source, "names")
    found = scene.restored(scene.first["backup"], wanted)
    assert sorted(os.listdir(found)) == ["names"]
    assert sorted(os.listdir(os.fsencode(os.path.join(found, "names")))) == sorted(
        os.listdir(os.fsencode(wanted))
    )
    missing = scene.grid.run("restore", "1", "/no/such/path", "--to", scene.where + "/none", check=False)
    assert missing.returncode == 4


def test_an_unchanged_tree_is_neither_read_nor_stored_again(scene):
    scene.start()
    again = scene.finish()
    assert again["state"] == "complete"
    assert again["bytes_read"] == 0
    assert again["bytes_unchanged"] == scene.total
    assert again["bytes_stored"] < 1 << 18
    assert (again["files"], again["dirs"]) == (scene.first["files"], scene.first["dirs"])
    scene.verdict(again)

    # A forced reading finds everything in the fingerprint library: segments end where they ended before.
    scene.start("--full")
    full = scene.finish()
    assert full["bytes_read"] == scene.total
    assert full["bytes_stored"] < 1 << 18
    scene.verdict(full)


def test_only_what_has_changed_is_read(scene):
    path = os.path.join(scene.source, "exactly-1-mib")
    with open(path, "r+b") as file:
        file.seek(500_000)
        file.write(b"changed")
    os.unlink(os.path.join(scene.source, "links", "dangling"))
    os.rename(os.path.join(scene.source, "data", "2"), os.path.join(scene.source, "data", "two"))
    moved = sum(
        each.stat().st_size
        for each in os.scandir(os.path.join(scene.source, "data", "two"))
        if each.is_file()
    )
    scene.start()
    summary = scene.finish()
    assert summary["bytes_read"] == moved + (1 << 20)
    assert summary["bytes_stored"] < 1 << 20
    scene.verdict(summary)


def test_the_catalog_can_be_looked_at(scene):
    backups = scene.grid.json("ls")
    assert backups[0]["backup"] == scene.first["backup"]
    assert backups[0]["files"] == scene.first["files"]
    listed = scene.grid.json("ls", "1", os.path.join(scene.source, "names"))
    names = {bytes.fromhex(e["path_bytes"]) if "path_bytes" in e else os.fsencode(e["path"]) for e in listed}
    directory = os.fsencode(os.path.join(scene.source, "names"))
    assert names == {os.path.join(directory, name) for name in os.listdir(directory)}
    found = scene.grid.json("find", "big.b*", "--backup", "1")
    assert [(e["path"], e["size_bytes"]) for e in found] == [
        (os.path.join(scene.source, "big.bin"), os.path.getsize(os.path.join(scene.source, "big.bin")))
    ]
    counted = scene.sql(
        "SELECT count(*) FROM v_files WHERE backup = 1 AND type IN ('file', 'hardlink', 'symlink')"
    )
    assert counted[0][0] == scene.first["files"]
    assert scene.grid.run("sql", "DELETE FROM v_files", check=False).returncode != 0


def test_jobs_tell_what_they_did(scene):
    jobs = scene.grid.json("job", "list")
    assert [job["job"] for job in jobs] == sorted((job["job"] for job in jobs), reverse=True)
    shown = scene.grid.json("job", "show", "1")
    assert (shown["state"], shown["bytes_read"], shown["failovers"]) == ("complete", scene.total, [])
    assert scene.grid.run("job", "show", "999", check=False).returncode == 4


def test_a_file_that_can_not_be_read_is_a_warning(scene):
    """As root nothing is unreadable, so there the file vanishes between the scan and its turn."""
    tree = os.path.join(scene.where, "warnings")
    os.makedirs(tree)
    for number in range(60):
        with open(os.path.join(tree, f"{number:02}"), "wb") as file:
            file.write(scene.rng.randbytes(2 << 20))  # seconds of storing
    victim = os.path.join(tree, "zz")
    with open(victim, "wb") as file:
        file.write(b"not for long")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        running = scene.grid.backup(tree, "--name", "warned")
        scene.grid.wait_job(lambda row: row.name == "warned" and row.seen_bytes > 0, "it is read")
        os.unlink(victim)
    else:
        os.chmod(victim, 0)
        running = scene.grid.backup(tree, "--name", "warned")
    assert running.wait(60) == 3
    assert running.summary["state"] == "warnings"
    assert running.summary["warnings"] == 1
    said = [line["path"] for line in running.lines if line["message_type"] == "warning"]
    assert said == [victim]
    target = os.path.join(scene.where, "warned")
    scene.grid.run("restore", "latest", "--name", "warned", "--to", target, check=False)
    found = target + tree
    assert sorted(os.listdir(found)) == [f"{number:02}" for number in range(60)]
    shutil.rmtree(target)


def test_what_is_excluded_stays_out(scene):
    running = scene.grid.backup(scene.source, "--name", "some", "--exclude", "data", "--exclude", "*.bin")
    assert running.wait(60) == 0
    target = os.path.join(scene.where, "some")
    scene.grid.run("restore", "latest", "--name", "some", "--to", target)
    found = os.listdir(target + scene.source)
    assert sorted(found) == sorted(set(os.listdir(scene.source)) - {"data", "big.bin"})


def test_two_backups_run_at_once(scene):
    codes = {}

    def work(name):
        running = scene.grid.backup(scene.source, "--name", name, "--full")
        codes[name] = (running.wait(90), running.summary["backup"])

    threads = [threading.Thread(target=work, args=(name,)) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert [code for code, _ in codes.values()] == [0, 0]
    for _, backup in codes.values():
        scene.check_restore(backup)


def test_a_backup_that_is_cancelled_says_so_and_the_next_one_is_whole(scene):
    scene.name = "cancelled"
    tree = os.path.join(scene.source, "data", "new")
    os.makedirs(tree)
    with open(os.path.join(tree, "much"), "wb") as file:
        file.write(random.Random(5).randbytes(60 << 20))
    scene.total = 0
    running = scene.start()
    scene.grid.run("job", "cancel", str(scene.job))
    assert running.wait(60) == 1
    assert scene.grid.job(scene.job).state == "cancelled"
    scene.start()
    scene.verdict(scene.finish())


def test_a_pruned_backup_is_gone_and_the_others_are_whole(scene):
    before = scene.grid.json("ls")
    refused = scene.grid.run("prune", "1", check=False)
    assert refused.returncode == 2
    assert scene.grid.json("ls") == before
    scene.grid.run("prune", "1", "--yes")
    assert [each["backup"] for each in scene.grid.json("ls")] == [each["backup"] for each in before[1:]]
    assert scene.grid.run("restore", "1", "--to", scene.where + "/gone", check=False).returncode == 4
    scene.check_catalog()
    scene.check_data()
    scene.check_restore(scene.newest())


def test_nobody_else_can_read_the_home(scene):
    assert stat.S_IMODE(os.stat(scene.grid.home).st_mode) == 0o700 or os.name == "nt"
    secret = json.dumps(scene.grid.json("status"))
    assert "SRK1" not in secret
