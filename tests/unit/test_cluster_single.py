"""One holder at a time, and an epoch that only grows, whatever happens to its file."""

import json
import os
import subprocess
import sys

import pytest

from staddle.cluster.plugin import SingleConfig
from staddle.cluster.single import SingleClusterManager
from staddle.errors import Corrupt, Fenced, Locked, StaddleError, UsageError
from staddle.platform.lock import FileLock
from staddle.plugins import PluginRegistry

HOLD = """
import sys
from staddle.cluster.plugin import SingleConfig
from staddle.cluster.single import SingleClusterManager
lease = SingleClusterManager(SingleConfig(path=sys.argv[1])).acquire("manager", "other", 10.0, 0)
print(lease.epoch, flush=True)
sys.stdin.read()
"""


def manager(path):
    return SingleClusterManager(SingleConfig(path=str(path)))


def acquire(cluster, floor=0, holder="me"):
    return cluster.acquire("manager", holder, 10.0, floor)


def test_epochs_grow_past_file_and_floor(tmp_path):
    path = tmp_path / "lease"
    epochs = []
    for floor in (0, 0, 41, 7, 0):
        cluster = manager(path)
        lease = acquire(cluster, floor)
        epochs.append(lease.epoch)
        assert json.loads((path / "manager.epoch").read_text())["epoch"] == lease.epoch
        cluster.release(lease)
        cluster.release(lease)
    assert epochs == [1, 2, 42, 43, 44]


def test_a_lost_epoch_file_takes_nothing_back_below_the_floor(tmp_path):
    cluster = manager(tmp_path)
    cluster.release(acquire(cluster, 99))
    os.unlink(tmp_path / "manager.epoch")
    assert acquire(manager(tmp_path), 100).epoch == 101


def test_only_one_holder_in_one_process(tmp_path):
    first, second = manager(tmp_path), manager(tmp_path)
    lease = acquire(first)
    for cluster in (first, second):
        with pytest.raises(Locked, match="me"):
            acquire(cluster)
        assert cluster.holder("manager") == lease
    assert first.renew(lease) == lease
    first.release(lease)
    assert second.holder("manager") is None
    assert acquire(second).epoch == 2


def test_a_killed_holder_loses_the_lock_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().strip() == "1"
        cluster = manager(tmp_path)
        with pytest.raises(Locked, match="other, epoch 1"):
            acquire(cluster)
        assert cluster.holder("manager").holder == "other"
        assert [(m.name, m.alive) for m in cluster.members()] == [("other", True)]
    finally:
        process.kill()
        process.communicate(timeout=20)
    assert cluster.holder("manager") is None
    assert cluster.members() == []
    assert acquire(cluster).epoch == 2


def test_a_holder_whose_epoch_or_lock_was_replaced_is_fenced(tmp_path):
    cluster = manager(tmp_path)
    lease = acquire(cluster)
    content = json.loads((tmp_path / "manager.epoch").read_text())
    (tmp_path / "manager.epoch").write_text(json.dumps(content | {"epoch": 9}))
    with pytest.raises(Fenced):
        cluster.renew(lease)
    (tmp_path / "manager.epoch").write_text(json.dumps(content))
    assert cluster.renew(lease) == lease
    if sys.platform != "win32":  # there an open file can't be removed
        os.unlink(tmp_path / "manager.lock")
        with pytest.raises(Fenced):
            cluster.renew(lease)
    cluster.release(lease)
    with pytest.raises(Fenced):
        cluster.renew(lease)


def test_a_damaged_epoch_file_is_not_guessed_at(tmp_path):
    for content in (b"", b"{}", b"\xff", b'{"version": 2, "epoch": 1, "holder": "x", "ttl_s": 1.0}'):
        (tmp_path / "manager.epoch").write_bytes(content)
        with pytest.raises(Corrupt):
            acquire(manager(tmp_path))
    os.unlink(tmp_path / "manager.epoch")
    assert acquire(manager(tmp_path), 3).epoch == 4  # and the lock was not kept


def test_watch_sees_changes_and_ends(tmp_path):
    now_s = [0.0]

    def sleep(seconds):
        now_s[0] += seconds
        if 0.5 < now_s[0] < 0.8 and cluster.holder("manager") is None:
            acquire(cluster)

    cluster = SingleClusterManager(SingleConfig(path=str(tmp_path)), clock=lambda: now_s[0], sleep=sleep)
    seen = [lease and lease.epoch for lease in cluster.watch("manager", 1.0)]
    assert seen == [None, 1]
    assert 1.5 < now_s[0] < 2.5


def test_it_does_not_pretend_to_fence(tmp_path):
    with pytest.raises(StaddleError) as caught:
        manager(tmp_path).fence("other")
    assert (caught.value.code, caught.value.retry) == ("NO_FENCE", "operator")


def test_names_stay_in_the_directory(tmp_path):
    with pytest.raises(UsageError):
        manager(tmp_path).acquire("../x", "me", 1.0, 0)


def test_it_is_found_by_name(tmp_path):
    kind = PluginRegistry().cluster_type("single")
    assert acquire(kind.load()(kind.config_type(path=str(tmp_path)))).epoch == 1


def test_file_lock(tmp_path):
    first, second = FileLock(str(tmp_path / "l")), FileLock(str(tmp_path / "l"))
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert first.held
    assert not second.held
    first.release()
    first.release()
    assert not first.held
    assert second.acquire()
    second.release()
