"""The rescue reader restores from media alone, in a process where Staddle cannot be imported."""

import os
import random
import subprocess
import sys
import sysconfig

import msgspec
import numpy as np
import pytest
from rescuekit import NOW_NS, RECOVERY, Grid, assert_whole, standard_backup

from staddle.api.types import Kind
from staddle.data import seal
from staddle.data.crypto import RecoveryKey
from staddle.data.entries import EntryRows, EntryType
from staddle.data.manifest import decode, encode

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESCUE = os.path.join(ROOT, "contrib", "rescue", "staddle_rescue.py")
# The packages that the reader needs stay importable; staddle and blake3 do not.
RUNNER = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"staddle", "blake3", "numpy", "msgspec"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
sys.path.append(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def media(tmp_path):
    paths = [str(tmp_path / "medium-a"), str(tmp_path / "medium-b")]
    for path in paths:
        os.mkdir(path)
    return paths


@pytest.fixture
def grid(media, seed):
    return Grid(media, random.Random(seed))


@pytest.fixture
def rescue(media, tmp_path):
    key_file = tmp_path / "recovery-key"
    key_file.write_text(RECOVERY.text() + "\n")
    site = sysconfig.get_paths()["platlib"]

    def run(*words, roots=media, key=str(key_file)):
        command = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            RUNNER,
            site,
            RESCUE,
            "--recovery-key",
            key,
            *roots,
            *words,
        ]
        return subprocess.run(command, capture_output=True, check=False, timeout=60)

    return run


def test_the_test_itself_cannot_import_staddle(rescue, tmp_path):
    script = tmp_path / "probe.py"
    script.write_text("import staddle")
    command = [sys.executable, "-I", "-S", "-c", RUNNER, sysconfig.get_paths()["platlib"], str(script)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert b"staddle is not installed here" in done.stderr


def test_rescue_restores_everything_without_staddle(grid, rescue, tmp_path):
    big = standard_backup(grid)
    listed = rescue("list")
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert listed.stdout.decode().split() == ["1", "host", "home", "complete", "5", "files"]
    done = rescue("restore", "1", "--to", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert_whole(tmp_path / "out", big)
    if hasattr(os, "SEEK_HOLE"):
        assert os.stat(tmp_path / "out/src/big").st_blocks * 512 < len(big)


def test_rescue_restores_a_part_of_a_backup(grid, rescue, tmp_path):
    standard_backup(grid)
    done = rescue("restore", "1", "/src/sub", "--to", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir(tmp_path / "out/src")) == ["sub"]
    assert sorted(os.listdir(tmp_path / "out/src/sub")) == ["empty", "text"]


def damage(path, rnd):
    with open(path, "r+b") as file:
        at = rnd.randrange(os.path.getsize(path))
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << rnd.randrange(8)]))


def objects(medium):
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(medium) for name in names)


def test_rescue_takes_the_sound_copy_of_each_object(grid, rescue, media, tmp_path):
    big = standard_backup(grid)
    pairs = zip(objects(media[0]), objects(media[1]), strict=True)
    for number, pair in enumerate(pairs):
        if number % 3:
            damage(pair[number % 2], grid.random)
        else:
            os.remove(pair[number % 2])
    done = rescue("restore", "1", "--to", str(tmp_path / "out"))
    assert done.returncode in {0, 3}, done.stderr
    assert_whole(tmp_path / "out", big)


def test_rescue_names_what_is_lost_and_restores_the_rest(grid, rescue, media, tmp_path):
    standard_backup(grid)
    rows = EntryRows()
    rows.add(b"/src", b"good", EntryType.FILE)
    rows.add(b"/src", b"lost", EntryType.FILE)
    last = grid.manifest(rows, [[b"good"], [b"x" * 5000]], media=media[:1])
    grid.seal(last, 1, backup=2)
    containers = [path for path in objects(media[0]) if f"{os.sep}c0{os.sep}" in path]
    newest = max(containers, key=lambda path: os.stat(path).st_mtime_ns)
    with open(newest, "r+b") as file:
        file.seek(1024 + 4 + 16 + 3)
        file.write(b"\xff\xff")
    done = rescue("restore", "2", "--to", str(tmp_path / "out"))
    assert done.returncode == 3
    assert b"/src/lost" in done.stderr
    assert (tmp_path / "out/src/good").read_bytes() == b"good"
    assert (tmp_path / "out/src/lost").read_bytes() == b"", "no wrong byte is ever written"


def test_rescue_names_a_damaged_row_in_plain_words_and_restores_the_others(grid, rescue, tmp_path):
    rows = EntryRows()
    rows.add(b"/src", b"bad", EntryType.FILE)
    rows.add(b"/other", b"astray", EntryType.FILE)
    rows.add(b"/src", b"good", EntryType.FILE)
    plain = decode(grid.manifest_plain(rows, [[b"bad"], [b"astray"], [b"good"]]))
    chunk_first = np.array([77, *plain.chunk_first[1:]], "<u4")
    columns = plain.entries.columns | {"dir": np.array([0, 9, 0], "<u4")}
    entries = msgspec.structs.replace(plain.entries, columns=columns)
    broken = encode(msgspec.structs.replace(plain, entries=entries, chunk_first=chunk_first))
    grid.seal(grid.sealed(Kind.MANIFEST, broken), 1)
    done = rescue("restore", "1", "--to", str(tmp_path / "out"))
    assert done.returncode == 3
    assert done.stderr.decode().splitlines() == [
        "warning: /src/bad: damaged, or not possible on this system",
        "warning: a row for astray: damaged, or not possible on this system",
    ]
    assert (tmp_path / "out/src/good").read_bytes() == b"good"


def test_rescue_says_which_file_with_the_recovery_key_is_missing(grid, rescue, tmp_path):
    done = rescue("list", key=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert b"nowhere: No such file or directory" in done.stderr
    assert b"Traceback" not in done.stderr


def test_rescue_finds_chunks_that_were_packed_anew(grid, rescue, tmp_path):
    rows = EntryRows()
    rows.add(b"/src", b"moved", EntryType.FILE)
    gone = grid.random.randbytes(16)
    last = grid.manifest(rows, [[b"moved to another container"]], container=gone)
    container_id, parts = grid.container([b"something else", b"moved to another container"])
    grid.put(Kind.CONTAINER, parts, container_id)
    grid.seal(last, 1)
    done = rescue("restore", "1", "--to", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out/src/moved").read_bytes() == b"moved to another container"


def test_rescue_shows_no_pruned_backup(grid, rescue):
    standard_backup(grid)
    entry = seal.Journal(
        grid=grid.keys.grid, sequence=1, kind="prune", epoch=1, lsn=1, at_ns=NOW_NS, backups=[1]
    )
    grid.sealed(Kind.JOURNAL, seal.encode_journal(entry))
    assert rescue("list").stdout == b""
    done = rescue("restore", "1", "--to", "/nowhere")
    assert done.returncode == 1
    assert b"no backup 1" in done.stderr


def test_rescue_never_writes_outside_its_target(grid, rescue, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    rows = EntryRows()
    rows.add(b"/", b"src", EntryType.DIRECTORY, mode=0o755)
    rows.add(b"/", b"trick", EntryType.SYMLINK, link=os.fsencode(outside))
    rows.add(b"/trick", b"planted", EntryType.FILE)
    rows.add(b"/src/../..", b"climbed", EntryType.FILE)
    rows.add(b"/old", b"planted", EntryType.FILE)
    last = grid.manifest(rows, [[], [], [b"evil"], [b"evil"], [b"evil"]])
    grid.seal(last, 1)
    to = tmp_path / "a" / "out"
    to.mkdir(parents=True)
    (to / "old").symlink_to(outside)
    done = rescue("restore", "1", "--to", str(to))
    assert done.returncode == 3
    assert list(outside.iterdir()) == []
    assert sorted(each.name for each in (tmp_path / "a").iterdir()) == ["out"]
    assert b"is in the way" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no fifos, and no such names")
def test_rescue_is_not_held_up_by_fifos_and_its_warnings_command_no_terminal(grid, rescue, media, tmp_path):
    rows = EntryRows()
    rows.add(b"/src", b"good", EntryType.FILE)
    rows.add(b"/src/..", b"\x1b]0;mine\x07\xff", EntryType.FILE)
    grid.seal(grid.manifest(rows, [[b"content"], [b"evil"]]), 1)
    for path in list(objects(media[0])):
        os.remove(path)
        os.mkfifo(path)
    done = rescue("restore", "1", "--to", str(tmp_path / "out"))
    assert (tmp_path / "out/src/good").read_bytes() == b"content"
    assert b"mine" in done.stderr
    assert not set(done.stderr) & {0x1B, 0x07, 0xFF}


def test_rescue_with_a_wrong_key_says_so(grid, rescue, tmp_path):
    standard_backup(grid)
    other = tmp_path / "other"
    other.write_text(RecoveryKey(b"s" * 32).text())
    done = rescue("list", key=str(other))
    assert done.returncode == 1
    assert b"no keyring on these media that this recovery key opens" in done.stderr
    other.write_text("SRK1-" + "0" * 56)
    assert b"typing error" in rescue("list", key=str(other)).stderr


def test_rescue_goes_on_where_a_manifest_is_lost(grid, rescue, media, tmp_path):
    rows = [EntryRows() for _ in range(3)]
    previous = (None, None)
    for number, each in enumerate(rows):
        each.add(b"/src", b"file%d" % number, EntryType.FILE)
        where = media[:1] if number == 1 else media
        previous = grid.manifest(each, [[b"%d" % number]], previous=previous, ordinal=number, media=where)
        if number == 1:
            lost = previous[0].hex()
    grid.seal(previous, 3)
    (path,) = [path for path in objects(media[0]) if os.path.basename(path).startswith(lost)]
    os.remove(path)
    done = rescue("restore", "1", "--to", str(tmp_path / "out"))
    assert done.returncode == 3
    assert lost.encode() in done.stderr
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "out/src/file2").read_bytes() == b"2"


def test_the_rescue_reader_is_short_enough_to_be_read():
    with open(RESCUE, encoding="utf-8") as file:
        text = file.read()
    assert len(text.splitlines()) < 300
    assert "import staddle" not in text
