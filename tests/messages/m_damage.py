"""A manager whose files are damaged, newer than this release, of another grid, or held by somebody else."""

import glob
import os
import shutil
import subprocess
import sys

import blake3
import duckdb
import msgspec

from staddle.catalog import logformat
from staddle.config import home_paths
from staddle.data import envelope

from .lab import LIMIT_S, Said, first_line
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


def renewed(lab, home):
    """`up`, which must work; and what the catalog's log says of it."""
    lab.must("up", "--home", home)
    lab.must("catalog", "verify", "--home", home)
    assert lab.must("ls", "--home", home).out.startswith("1\tletters\t")
    with open(os.path.join(home, "log", "catalog.jsonl"), "rb") as file:
        said = [msgspec.json.decode(line) for line in file]
    lab.must("down", "--home", home)
    [text] = [line["message"] for line in said if line["level"] == "ERROR"]
    return Said(0, text + "\n", "")


@damage(
    0,
    (
        'catalog HOME/manager/catalog.duckdb: IO Error: The file "HOME/manager/catalog.duckdb" exists, but '
        "it is not a valid DuckDB database file!; it is set aside, and made again from the op-log"
    ),
    "",
    stdout=True,
)
def a_damaged_catalog(lab):
    """The catalog is damaged: the manager starts; in log/manager.out."""
    home = lab.new_home(used=True)
    write_at(home_paths(home).catalog, 0, b"x" * 4096)
    return renewed(lab, home)


@damage(
    0,
    (
        "catalog HOME/manager/catalog.duckdb has version 0, this release writes 1; it is set aside, and "
        "made again from the op-log"
    ),
    "",
    stdout=True,
)
def an_older_catalog(lab):
    """The catalog was written by an older release: the manager starts; in log/manager.out."""
    home = lab.new_home(used=True)
    with duckdb.connect(home_paths(home).catalog) as database:
        database.execute("UPDATE projection SET schema_version = 0")
    return renewed(lab, home)


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


def of_tomorrow(home, kind, word):
    """Make the one object of a kind on the medium one of the next format version, as its release would."""
    found = glob.glob(os.path.join(home_paths(home).medium("m1"), kind, "**"), recursive=True)
    [path] = [each for each in found if os.path.isfile(each)]
    os.chmod(path, 0o600)
    with open(path, "rb") as file:
        data = file.read()
    footer = envelope.decode_footer(data[-envelope.FOOTER_BYTES :], len(data), word, 1)
    begin, end = b"\ncheck: ", data.index(b"\ncheck: ")
    head = data[:end].replace(f"STADDLE {word} 1\n".encode(), f"STADDLE {word} 2\n".encode(), 1)
    head += begin + envelope.checksum(head).hex().encode() + b"\n"
    body = head + data[envelope.HEAD_BYTES : -envelope.FOOTER_BYTES]
    with open(path, "wb") as file:
        file.write(body)
        file.write(msgspec.structs.replace(footer, version=2, digest=blake3.blake3(body).digest()).encode())


def restored(lab, kind, word, *paths):
    home = lab.new_home(used=True)
    of_tomorrow(home, kind, word)
    lab.must("up", "--home", home)
    target = lab.path(f"restored-{word}")
    said = lab.call("restore", "1", *paths, "--to", target, "--home", home)
    lab.must("down", "--home", home)
    return first_line(said)


@damage(
    13,
    (
        "error: DIR/source/letters/letter-0: container GRID can't be read from any copy: on medium m1: "
        "NEWER_FORMAT: container GRID: format 2, and this release reads up to 1"
    ),
    "",
    stdout=True,
)
def a_newer_container(lab):
    """Stored data was written by a newer release: a line for each file."""
    return restored(lab, "c0", "container", os.path.join(lab.source, "letters", "letter-0"))


@damage(
    13,
    (
        "error: part 1 of the backup can't be read, nor what it names: manifest GRID: format 2, and this "
        "release reads up to 1; use a newer release of Staddle"
    ),
    "",
    stdout=True,
)
def a_newer_manifest(lab):
    """The list of stored files was written by a newer release."""
    return restored(lab, "f0", "manifest")
