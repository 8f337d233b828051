"""Every durable format of version 1, as the first release wrote it: files made by tests/golden/make.py.

Containers, manifests, seals, keyrings, labels, records: tests/unit/test_data_golden.py; the files of
the fingerprint library: tests/unit/test_dedup_golden.py. The catalog is made from these.
"""

import importlib.util
import os
import shutil

import pytest

from staddle import typed
from staddle.catalog.logformat import file_name
from staddle.catalog.oplog import OpLog
from staddle.catalog.snapshots import read_snapshot
from staddle.client.connection import joined_settings
from staddle.cluster.plugin import SingleConfig
from staddle.cluster.single import SingleClusterManager
from staddle.config import load
from staddle.daemon.agent.epochfile import load_epoch
from staddle.daemon.runfiles import RunFile
from staddle.data.crypto import DomainKeys
from staddle.dedup.ownermap import OwnerMap
from staddle.engine.state import GridState
from staddle.errors import Denied, NewerFormat
from staddle.wire.tickets import TicketSigner, open_ticket

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(os.path.dirname(HERE), "golden")


def read(name):
    with open(os.path.join(GOLDEN, "v1", name), "rb") as file:
        return file.read()


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("golden_make", os.path.join(GOLDEN, "make.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def old_log(tmp_path, make):
    directory = tmp_path / "oplog"
    directory.mkdir()
    (directory / file_name(1, 1)).write_bytes(read("oplog"))
    (directory / f"snapshot-{len(make.history()):016x}.snap").write_bytes(read("oplog-snapshot"))
    return str(directory)


def test_an_old_log_is_taken_over_and_its_state_is_what_the_old_snapshot_says(old_log, make):
    log = OpLog(old_log, make.GRID, 2)
    try:
        records = list(log.replay())
        assert [(record.lsn, record.op) for record in records] == [
            (record.lsn, record.op) for record in make.history()
        ]
        state = GridState()
        for record in records:
            state.apply(record)
        snapshot = log.newest_snapshot()
        assert (snapshot.epoch, snapshot.lsn) == (1, len(records))
        assert GridState.load(snapshot.state).dump() == state.dump()
        assert state.backups[1].segments[0].manifest == make.MANIFEST_ID
        assert set(state.objects) == {make.MANIFEST_ID, make.CONTAINER_ID}
    finally:
        log.close()


def test_a_log_and_a_snapshot_of_a_newer_release_are_refused_with_one_clear_message(old_log, make, tmp_path):
    lsn = len(make.history())
    for name in os.listdir(old_log):
        path = os.path.join(old_log, name)
        with open(path, "r+b") as file:
            file.seek(8)
            file.write((99).to_bytes(4, "little"))
    with pytest.raises(NewerFormat, match=r"version 99, this release reads up to 1"):
        OpLog(old_log, make.GRID, 2)
    with pytest.raises(NewerFormat, match=r"version 99, this release reads up to 1"):
        read_snapshot(old_log, make.GRID, lsn)


def test_an_old_configuration_is_read(tmp_path, make):
    (tmp_path / "staddle.toml").write_bytes(read("staddle.toml"))
    settings = load(str(tmp_path))
    assert settings.grid.id == make.GRID.hex()
    assert sorted(settings.agent) == ["a1", "a2"]
    assert sorted(settings.medium) == ["m1", "m2"]
    assert (settings.pool["main"].copies, settings.pool["main"].min_copies) == (2, 1)


def test_the_settings_of_a_client_that_joined_long_ago_are_read(tmp_path, make):
    shutil.copy(os.path.join(GOLDEN, "v1", "client.toml"), tmp_path)
    settings = joined_settings(str(tmp_path / "client.toml"))
    assert (settings.name, settings.grid) == ("laptop", make.GRID)
    assert settings.manager_urls == ["tcp://127.0.0.1:7420"]


def test_old_keys_and_run_files_are_read(make):
    assert typed.unpack(read("domains.keys"), list[DomainKeys]) == [make.KEYS]
    run = typed.from_json(read("run-file"), RunFile)
    assert (run.part, run.pid, run.pids, run.urls[1]) == ("agent-a1", 11, [11, 12], "tcp://h:7421")
    assert typed.from_json(read("used-tokens"), dict[str, int]) == {bytes(range(16)).hex(): make.CREATED_NS}
    assert OwnerMap.from_bytes(read("owner-map")).to_bytes() == OwnerMap.everyone().to_bytes()


def test_an_old_ticket_is_opened_with_the_same_key_only():
    signer = TicketSigner(bytes(range(32)))
    assert open_ticket(read("ticket"), signer.public_key) == b"what the manager has said"
    assert signer.sign(b"what the manager has said") == read("ticket")
    with pytest.raises(Denied):
        open_ticket(read("ticket"), TicketSigner(bytes(32)).public_key)


@pytest.mark.parametrize("name", ["manager-epoch", "manager-epoch-checked"])
def test_the_epoch_that_an_old_agent_has_followed_is_read(tmp_path, name):
    shutil.copy(os.path.join(GOLDEN, "v1", name), tmp_path / "manager-epoch")
    assert load_epoch(str(tmp_path / "manager-epoch")) == 1234


def test_the_lease_of_an_old_manager_is_followed_by_the_next_epoch(tmp_path):
    shutil.copy(os.path.join(GOLDEN, "v1", "lease-epoch"), tmp_path / "manager.epoch")
    manager = SingleClusterManager(SingleConfig(path=str(tmp_path)))
    lease = manager.acquire("manager", "me", 10.0, 0)
    assert lease.epoch == 8
    manager.release(lease)
