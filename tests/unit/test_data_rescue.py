"""The rescue reader restores from media alone, in a process where Staddle cannot be imported."""

import os
import random
import stat
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
import zstandard

from staddle.api.types import Kind, object_name
from staddle.data import keyring, seal
from staddle.data.container import ContainerBuilder
from staddle.data.crypto import CHACHA20_POLY1305, ChunkerSpec, DomainKeys, RecoveryKey
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.manifest import ZERO_REGION, ManifestBuilder, ManifestHead
from staddle.data.sealed import seal_object

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESCUE = os.path.join(ROOT, "contrib", "rescue", "staddle_rescue.py")
NOW_NS = 1_790_000_000_123_456_789
RECOVERY = RecoveryKey(b"r" * 32)
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


class Grid:
    """Writes a backup of given entries onto directories, as an agent would."""

    def __init__(self, media, random):
        self.media, self.random = media, random
        self.keys = DomainKeys(
            domain="default",
            domain_id=random.randbytes(16),
            fingerprint_key=random.randbytes(32),
            wrapping_keys={1: random.randbytes(32), 2: random.randbytes(32)},
            current=2,
            chunker=ChunkerSpec(seed=1),
            grid=random.randbytes(16),
        )
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.put(
            Kind.KEYRING, [keyring.encode(RECOVERY, self.keys.grid, [self.keys], random.randbytes(12), 5)]
        )

    def put(self, kind, parts, object_id=None, media=None):
        object_id = object_id or self.random.randbytes(16)
        for medium in media or self.media:
            path = os.path.join(medium, object_name(kind, object_id, self.random.randbytes(8)))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(b"".join(parts))
        return object_id

    def container(self, chunks, **options):
        object_id = self.random.randbytes(16)
        builder = ContainerBuilder(
            self.keys, object_id, self.random.randbytes(32), self.random.randbytes(12), 4 << 20, **options
        )
        for chunk in chunks:
            builder.add(self.keys.fingerprint(chunk), chunk, self.compressor)
        return object_id, builder.finish().parts

    def sealed(self, kind, plain, media=None):
        object_id = self.random.randbytes(16)
        key, nonce = self.random.randbytes(32), self.random.randbytes(12)
        made = seal_object(kind, object_id, plain, self.keys, key=key, wrap_nonce=nonce)
        self.put(kind, made.parts, object_id, media)
        return object_id, made.digest

    def manifest(self, rows, contents, *, previous=(None, None), ordinal=0, container=None, media=None):
        """`contents`: per row a list of chunks; an int is a zero region."""
        head = ManifestHead(
            grid=self.keys.grid,
            domain=self.keys.domain_id,
            client="host",
            name="home",
            job=1,
            backup=1,
            stream=0,
            epoch=1,
            ordinal=ordinal,
            first=ordinal,
            previous_id=previous[0],
            previous_digest=previous[1],
        )
        chunks = [chunk for row in contents for chunk in row if isinstance(chunk, bytes)]
        container_id, parts = self.container(chunks, suite=CHACHA20_POLY1305 if ordinal % 2 else None)
        if container is None:
            self.put(Kind.CONTAINER, parts, container_id, media)
        builder, first, at = ManifestBuilder(head), [], 0
        index = builder.container_index(container or container_id)
        for row in contents:
            first.append(builder.chunk_rows)
            for chunk in row:
                zero = isinstance(chunk, int)
                print_ = bytes(32) if zero else self.keys.fingerprint(chunk)
                builder.add_chunks(
                    np.frombuffer(print_, np.uint8).reshape(1, 32),
                    np.array([ZERO_REGION if zero else index]),
                    np.array([0 if zero else at]),
                    np.array([chunk if zero else len(chunk)]),
                )
                at += 0 if zero else 1
        builder.add_entries(rows.build(), np.array(first), np.array([len(row) for row in contents]))
        return self.sealed(Kind.MANIFEST, builder.build(next=ordinal + 1), media)

    def seal(self, last, segments, backup=1, streams=None):
        body = seal.Seal(
            grid=self.keys.grid,
            domain=self.keys.domain_id,
            backup=backup,
            job=1,
            client="host",
            name="home",
            pool="main",
            roots=[b"/src"],
            started_ns=NOW_NS,
            finished_ns=NOW_NS,
            state="complete",
            files=5,
            dirs=2,
            bytes_read=1,
            bytes_stored=1,
            warnings=0,
            manager_epoch=1,
            streams=[
                seal.StreamEnd(
                    stream=0, segments=segments, last_manifest_id=last[0], last_manifest_digest=last[1]
                )
            ],
        )
        return self.sealed(Kind.SEAL, seal.encode_seal(body))


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


def standard_backup(grid):
    """Two segments: a small tree, and a sparse file that lies in both of them."""
    rnd = grid.random
    big = [rnd.randbytes(70_000), rnd.randbytes(50_000)]
    first, uid = EntryRows(), os.getuid() if hasattr(os, "getuid") else 0
    common = {"uid": uid, "gid": os.getgid() if hasattr(os, "getgid") else 0}
    first.add(b"/", b"src", EntryType.DIRECTORY, mode=0o755, mtime_ns=NOW_NS - 3, **common)
    first.add(b"/src", b"sub", EntryType.DIRECTORY, mode=0o500, mtime_ns=NOW_NS - 2, **common)
    first.add(b"/src/sub", b"text", EntryType.FILE, mode=0o640, size=6000, mtime_ns=NOW_NS - 1, **common)
    first.add(b"/src/sub", b"empty", EntryType.FILE, mode=0o4755, mtime_ns=-1_500_000_000, **common)
    first.add(b"/src", b"odd \xff\n", EntryType.SYMLINK, link=b"../\xfe", mtime_ns=NOW_NS, **common)
    first.add(b"/src", b"twin", EntryType.HARDLINK, link=b"/src/sub/text", nlink=2, **common)
    first.add(b"/src", b"big", EntryType.FILE, flags=EntryFlag.PART, size=9, **common)
    one = grid.manifest(first, [[], [], [b"staddle " * 750], [], [], [], [big[0], 1 << 20]])
    second = EntryRows()
    offset = len(big[0]) + (1 << 20)
    flags = EntryFlag.PART | EntryFlag.LAST | EntryFlag.SPARSE
    size = offset + len(big[1]) + 4096
    second.add(
        b"/src",
        b"big",
        EntryType.FILE,
        mode=0o600,
        flags=flags,
        size=size,
        offset=offset,
        mtime_ns=5,
        **common,
    )
    two = grid.manifest(second, [[big[1], 4096]], previous=one, ordinal=1)
    grid.seal(two, 2)
    return big[0] + bytes(1 << 20) + big[1] + bytes(4096)


def assert_whole(to, big):
    src = os.fsencode(to) + b"/src"
    text, twin = os.stat(src + b"/sub/text"), os.stat(src + b"/twin")
    with open(src + b"/sub/text", "rb") as file:
        assert file.read() == b"staddle " * 750
    assert stat.S_IMODE(text.st_mode) == 0o640
    assert text.st_mtime_ns == NOW_NS - 1
    assert (text.st_ino, text.st_nlink) == (twin.st_ino, 2)
    empty = os.stat(src + b"/sub/empty")
    assert (empty.st_size, stat.S_IMODE(empty.st_mode), empty.st_mtime_ns) == (0, 0o4755, -1_500_000_000)
    assert os.readlink(src + b"/odd \xff\n") == b"../\xfe"
    assert os.lstat(src + b"/odd \xff\n").st_mtime_ns == NOW_NS
    with open(src + b"/big", "rb") as file:
        assert file.read() == big
    assert (stat.S_IMODE(os.stat(src + b"/big").st_mode), os.stat(src + b"/big").st_mtime_ns) == (0o600, 5)
    assert (stat.S_IMODE(os.stat(src + b"/sub").st_mode), os.stat(src + b"/sub").st_mtime_ns) == (
        0o500,
        NOW_NS - 2,
    )
    assert os.stat(src).st_mtime_ns == NOW_NS - 3


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
