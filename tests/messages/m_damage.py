"""A manager whose files are damaged, newer than this release, of another grid, or held by somebody else."""

import glob
import os
import shutil
import subprocess
import sys

import duckdb

from staddle.catalog import logformat
from staddle.config import home_paths

from .lab import LIMIT_S
from .mistake import group

damage = group("Damage and newer formats")

_HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); sys.stdin.read()"


def logs(home):
    return sorted(glob.glob(os.path.join(home_paths(home).oplog, "*.log")))


def write_at(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def up(lab, home):
    return lab.run("up", "--home", home, as_json=False)


@damage(
    13,
    (
        "manager did not start: op-log file HOME/manager/oplog/NUMBER-NUMBER.log has version 2, this "
        "release reads up to 1; start the release that wrote it, or a newer one"
    ),
    "its log is HOME/log/manager.out",
)
def a_newer_log(lab):
    """The log was written by a newer release."""
    home = lab.new_home(used=True)
    write_at(logs(home)[-1], 8, (logformat.LOG_VERSION + 1).to_bytes(4, "little"))
    return up(lab, home)


@damage(
    10,
    (
        "manager did not start: snapshot HOME/manager/oplog/snapshot-NUMBER.snap belongs to grid "
        "GRID, this is grid GRID; check which home directory is meant"
    ),
    "its log is HOME/log/manager.out",
)
def the_log_of_another_grid(lab):
    """The home holds the log of another grid."""
    home = lab.new_home()
    shutil.copytree(home_paths(lab.warm).manager, home_paths(home).manager, dirs_exist_ok=True)
    return up(lab, home)


@damage(
    13,
    (
        "manager did not start: op-log file HOME/manager/oplog/NUMBER-NUMBER.log: damaged at offset "
        "96; move the home's manager/ away, then `staddle up` and `staddle catalog rebuild`"
    ),
    "its log is HOME/log/manager.out",
)
def a_damaged_log(lab):
    """A record of the log is damaged, and others follow it."""
    home = lab.new_home(used=True)
    write_at(logs(home)[0], logformat.HEADER_BYTES + logformat.FRAME_HEAD_BYTES + 40, b"\xff\xff\xff")
    for path in glob.glob(os.path.join(home_paths(home).oplog, "*.snap")):
        os.unlink(path)
    return up(lab, home)


@damage(
    13,
    (
        "manager did not start: op-log file HOME/manager/oplog/NUMBER-NUMBER.log begins with record "
        "500, and no snapshot verifies that covers what came before; move the home's manager/ away, "
        "then `staddle up` and `staddle catalog rebuild`"
    ),
    "its log is HOME/log/manager.out",
)
def a_gap_in_the_log(lab):
    """A file of the log is missing."""
    home = lab.new_home(used=True)
    for path in glob.glob(os.path.join(home_paths(home).oplog, "*.snap")):
        os.unlink(path)
    path = logs(home)[0]
    with open(path, "rb") as file:
        data = bytearray(file.read(logformat.HEADER_BYTES))
    grid = data[16:32]
    later = logformat.LogHeader(grid=bytes(grid), epoch=2, first_lsn=500, salt=bytes(32))
    os.unlink(path)
    with open(os.path.join(home_paths(home).oplog, logformat.file_name(2, 500)), "wb") as file:
        file.write(logformat.encode_header(later))
    return up(lab, home)


@damage(
    13,
    (
        "manager did not start: snapshot HOME/manager/oplog/snapshot-NUMBER.snap has version 99, this"
        " release reads up to 1; start the release that wrote it, or a newer one"
    ),
    "its log is HOME/log/manager.out",
)
def a_newer_snapshot(lab):
    """A snapshot of the log was written by a newer release."""
    home = lab.new_home(used=True)
    [path] = glob.glob(os.path.join(home_paths(home).oplog, "*.snap"))
    write_at(path, 8, (99).to_bytes(4, "little"))
    return up(lab, home)


@damage(
    13,
    (
        "manager did not start: epoch file HOME/manager/manager.epoch is damaged: Input data was "
        "truncated; if the op-log is whole, remove the file: the epoch goes on from the log's header"
    ),
    "its log is HOME/log/manager.out",
)
def a_damaged_epoch(lab):
    """The file that counts the managers is damaged."""
    home = lab.new_home(used=True)
    with open(os.path.join(home_paths(home).manager, "manager.epoch"), "wb") as file:
        file.write(b"{")
    return up(lab, home)


@damage(
    13,
    (
        "manager did not start: catalog HOME/manager/catalog.duckdb has version 99, this release "
        "reads up to 1; start the release that wrote it, or remove the file: it is made again from "
        "the op-log"
    ),
    "its log is HOME/log/manager.out",
)
def a_newer_catalog(lab):
    """The catalog was written by a newer release."""
    home = lab.new_home(used=True)
    with duckdb.connect(home_paths(home).catalog) as database:
        database.execute("UPDATE projection SET schema_version = 99")
    return up(lab, home)


@damage(
    11,
    (
        "manager did not start: catalog HOME/manager/catalog.duckdb: another process has it open; end"
        " that program; while the manager runs, ask with `staddle sql`"
    ),
    "its log is HOME/log/manager.out",
)
def the_catalog_is_open_elsewhere(lab):
    """Another program has the catalog's file open."""
    home = lab.new_home(used=True)
    words = [sys.executable, "-c", _HOLD, home_paths(home).catalog]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"1\n"
            return up(lab, home)
        finally:
            holder.stdin.close()
            holder.wait(LIMIT_S)


@damage(
    13,
    (
        "manager did not start: the certificate authority in HOME/pki/ca is damaged; restore pki/ "
        "from a copy of this home"
    ),
    "its log is HOME/log/manager.out",
)
def a_damaged_authority(lab):
    """The certificate authority's key is damaged."""
    home = lab.new_home()
    with open(os.path.join(home_paths(home).pki, "ca", "ca.key"), "wb") as file:
        file.write(b"no key")
    return up(lab, home)
