"""Holes, and what goes wrong while a file is read: the entry is right, and a warning says what happened."""

import errno
import os
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.client import reading
from staddle.client.base import BaseIndex
from staddle.client.kept import KeptFounds
from staddle.client.reading import HOLE_BYTES_MIN
from staddle.client.scan import Found
from staddle.client.source import Source
from staddle.client.units import SMALL_BYTES_MAX, Tally, Units
from staddle.data.entries import EntryFlag, EntryType
from staddle.data.records import decode_record
from staddle.platform import fsattrs

from .sourcekit import MIB, Read, base_of


def key(path):
    return os.fsencode(path)


# --- holes ----------------------------------------------------------------------------------------


def holes(path, size, runs):
    with open(path, "wb") as file:
        for at, length in runs:
            file.seek(at)
            file.write(b"\1" * length)
        file.truncate(size)


@settings(max_examples=30)
@given(
    size=st.integers(0, 12 * MIB),
    runs=st.lists(st.tuples(st.integers(0, 12 * MIB), st.sampled_from([1, 4096, 70_000, MIB])), max_size=6),
)
def test_holes_are_found_and_nothing_else_is_lost(tmp_path_factory, size, runs):
    root = tmp_path_factory.mktemp("holes")
    holes(root / "f", size, runs)
    read = Read(root)
    assert read.contents == {key(root / "f"): (root / "f").read_bytes()}
    assert read.warnings == []
    sparse = os.stat(root / "f").st_blocks * 512 < size
    assert bool(read.of(root / "f")[2] & EntryFlag.SPARSE) == sparse
    assert all(length >= HOLE_BYTES_MIN for _, length in read.holes)
    if not runs and size > SMALL_BYTES_MAX:
        assert read.holes == [(0, size)]
        assert read.tally.bytes_read == 0


def test_a_file_larger_than_any_disk_takes_a_few_records(tmp_path):
    size = 3 << 40
    holes(tmp_path / "f", size, [(0, 5), (size // 2 + 7, 2 * MIB), (size - 3, 3)])
    tally = Tally()
    source = Source(BaseIndex(0), tally)
    records = [
        decode_record(record.meta, len(record.payload))
        for record in source.records(Units(iter([Found(key(tmp_path), b"f", os.lstat(tmp_path / "f"))])))
    ]
    assert len(records) < 12
    ends = [record.offset for record in records[1:]]
    assert ends == sorted(ends)
    assert records[-1].last
    assert int(records[-1].batch.columns["size"][0]) == size
    assert tally.bytes_read < 3 * MIB


def test_the_second_name_of_a_file_larger_than_the_memory_takes_none(tmp_path):
    holes(tmp_path / "a", 3 << 40, [])
    os.link(tmp_path / "a", tmp_path / "b")
    status = os.lstat(tmp_path / "a")
    source = Source(BaseIndex(0), Tally())
    *_, last = [
        decode_record(record.meta, len(record.payload))
        for record in source.records(Units(Found(key(tmp_path), name, status) for name in (b"a", b"b")))
    ]
    assert last.batch.columns["type"].tolist() == [EntryType.HARDLINK]


def test_without_seek_hole_zeros_are_read(tmp_path, monkeypatch):
    holes(tmp_path / "f", 3 * MIB, [(MIB, 100)])
    original = os.lseek

    def refuse(fd, at, whence):
        if whence in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise OSError(errno.EINVAL, "Invalid argument")
        return original(fd, at, whence)

    monkeypatch.setattr(os, "lseek", refuse)
    read = Read(tmp_path)
    assert read.holes == []
    assert read.contents == {key(tmp_path / "f"): (tmp_path / "f").read_bytes()}


def test_unchanged_sparse_files_stay_sparse(tmp_path):
    for name, size in (("small", 300_000), ("big", 5 * MIB)):
        holes(tmp_path / name, size, [(0, 10)])
    index, _ = base_of(Read(tmp_path))
    index.build()
    again = Read(tmp_path, index)
    assert again.contents == {}
    for name in ("small", "big"):
        assert again.of(tmp_path / name)[2] & EntryFlag.SPARSE


# --- files that change while they are read ----------------------------------------------------------


class Reads:
    """Does something before a certain read of a file."""

    def __init__(self, monkeypatch, number, act):
        self._left, self._act, self._original = number, act, os.preadv
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, fd, views, offset):
        self._left -= 1
        if self._left == 0:
            self._act()
        return self._original(fd, views, offset)


@pytest.mark.parametrize("sparse", [False, True])
def test_nothing_is_invented_for_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch, sparse):
    path = tmp_path / "f"
    holes(path, 8 * MIB, [(at * 2 * MIB, 2 * MIB if not sparse else MIB) for at in range(4)])
    Reads(monkeypatch, 3, lambda: os.truncate(path, MIB + 10))
    read = Read(tmp_path)
    content = read.contents[key(path)]
    assert len(content) < 8 * MIB
    assert read.of(path)[2] & EntryFlag.CHANGED
    assert read.warnings == [(key(path), f"shrank while it was read: {len(content)} bytes are in the backup")]


def test_a_hole_that_is_cut_off_while_it_is_looked_for_has_its_new_end(tmp_path, monkeypatch):
    path = tmp_path / "f"
    holes(path, 8 * MIB, [(0, 100)])
    original = os.lseek

    def cut(fd, at, whence):
        if whence == os.SEEK_DATA and at:
            os.truncate(path, 3 * MIB)
        return original(fd, at, whence)

    monkeypatch.setattr(os, "lseek", cut)
    read = Read(tmp_path)
    assert len(read.contents[key(path)]) == 3 * MIB
    assert read.of(path)[2] & EntryFlag.CHANGED


def test_a_file_that_grows_for_ever_has_an_end(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(bytes([1]) * (2 * MIB))
    original = os.preadv

    def grow(fd, views, offset):
        with open(path, "ab") as file:
            file.write(bytes(2 * MIB))
        return original(fd, views, offset)

    monkeypatch.setattr(os, "preadv", grow)
    read = Read(tmp_path)
    assert read.contents[key(path)] == bytes([1]) * (2 * MIB)
    assert read.warnings == [
        (key(path), f"grew while it was read: only its first {2 * MIB} bytes are in the backup")
    ]


@pytest.mark.parametrize(("size", "good"), [(400_000, 123_456), (3 * MIB, MIB + 77_777)])
def test_what_could_be_read_before_an_io_error_is_kept(tmp_path, monkeypatch, size, good):
    path = tmp_path / "f"
    path.write_bytes(bytes([1]) * size)
    (tmp_path / "g").write_bytes(b"fine")
    original = os.preadv

    def fail(fd, views, offset):
        if size > 1000 and os.fstat(fd).st_size == size:
            if offset >= good:
                raise OSError(errno.EIO, "Input/output error")
            views = [views[0][: good - offset]]
        return original(fd, views, offset)

    monkeypatch.setattr(os, "preadv", fail)
    read = Read(tmp_path)
    assert read.contents == {key(path): bytes([1]) * good, key(tmp_path / "g"): b"fine"}
    assert read.of(path)[2] & EntryFlag.ERROR
    assert read.extras[key(path)]["error"] == "input/output error"
    assert read.warnings == [(key(path), f"only the first {good} bytes were read: input/output error")]


def test_a_file_whose_status_fails_at_the_end_still_has_one(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(bytes([1]) * (2 * MIB))
    monkeypatch.setattr(
        fsattrs, "look", lambda place: (_ for _ in ()).throw(OSError(errno.ESTALE, "Stale file handle"))
    )
    read = Read(path)
    assert read.contents == {key(path): bytes([1]) * (2 * MIB)}
    assert read.of(path)[2] & EntryFlag.ERROR


@pytest.mark.parametrize("by", ["file", "symlink", "nothing"])
def test_a_directory_that_was_replaced_is_a_warning(tmp_path, by):
    path = tmp_path / "d"
    path.mkdir()

    def replace():
        path.rmdir()
        if by == "file":
            path.write_bytes(b"")
        elif by == "symlink":
            path.symlink_to("/etc")

    read = Read(tmp_path, hook=replace)
    why = (
        "no such file or directory" if by == "nothing" else "replaced by something else while the backup ran"
    )
    assert read.warnings == [(key(path), f"not read: {why}")]
    assert [row[0] for row in read.rows] == [key(tmp_path)]


def test_a_symlink_that_was_replaced_is_a_warning(tmp_path):
    path = tmp_path / "link"
    path.symlink_to("x")
    read = Read(tmp_path, hook=lambda: (path.unlink(), path.write_bytes(b"")))
    assert read.warnings == [(key(path), "not read: replaced by something else while the backup ran")]


# --- files whose size the file system does not know ---------------------------------------------------


def lie(monkeypatch, path, size):
    """Whatever tells the size of a file tells another one, as on many a FUSE file system."""
    inode = os.lstat(path).st_ino
    real_stat, real_lstat, real_fstat, real_look = os.stat, os.lstat, os.fstat, fsattrs.look

    def told(status):
        if status.st_ino != inode:
            return status
        fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        return SimpleNamespace(**fields | {"st_size": size, "st_blocks": 0})

    monkeypatch.setattr(os, "stat", lambda *args, **more: told(real_stat(*args, **more)))
    monkeypatch.setattr(os, "lstat", lambda *args, **more: told(real_lstat(*args, **more)))
    monkeypatch.setattr(os, "fstat", lambda fd: told(real_fstat(fd)))

    def look(place):
        found = real_look(place)
        return (found[0], size, *found[2:]) if found[0] == inode else found

    monkeypatch.setattr(fsattrs, "look", look)


@pytest.mark.parametrize("told", [0, 1, 4096, 600_000, 5 * MIB])
@pytest.mark.parametrize("length", [23, 2642, MIB, 3 * MIB + 5])
def test_what_can_be_read_counts_and_not_the_size_that_is_told(tmp_path, monkeypatch, told, length):
    for name in ("a", "m", "z"):
        (tmp_path / name).write_bytes(os.urandom(length if name == "m" else 100))
    contents = {key(tmp_path / name): (tmp_path / name).read_bytes() for name in ("a", "m", "z")}
    lie(monkeypatch, tmp_path / "m", told)
    read = Read(tmp_path)
    assert read.contents == contents
    assert [row[0] for row in read.rows] == [key(tmp_path), *sorted(contents)]
    assert read.warnings == []
    assert not read.of(tmp_path / "m")[2] & (EntryFlag.CHANGED | EntryFlag.ERROR)
    assert read.tally.bytes_read == length + 200
    index, _ = base_of(read)
    index.build()
    again = Read(tmp_path, index)
    assert again.contents[key(tmp_path / "m")] == contents[key(tmp_path / "m")]
    assert again.tally.bytes_read == length


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux has a /proc")
def test_files_of_proc_and_sys_are_read_to_their_end():
    for path in ("/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/self/limits"):
        if os.path.exists(path):
            read = Read(path)
            with open(path, "rb") as file:
                assert read.contents == {key(path): file.read()}
            assert read.warnings == []


def test_a_file_without_size_that_never_ends_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "UNTOLD_BYTES_MAX", 2 * MIB + 100)
    (tmp_path / "f").write_bytes(bytes([1]) * 4 * MIB)
    lie(monkeypatch, tmp_path / "f", 10)
    read = Read(tmp_path)
    assert read.contents[key(tmp_path / "f")] == bytes([1]) * (2 * MIB + 110)
    assert read.of(tmp_path / "f")[2] & EntryFlag.ERROR
    assert read.warnings == [
        (
            key(tmp_path / "f"),
            f"only the first {2 * MIB + 110} bytes were read: more than a file without a size may have",
        )
    ]


@pytest.mark.parametrize("told", [0, 600_000])
def test_what_cant_be_read_behind_the_size_that_is_told_is_a_warning(tmp_path, monkeypatch, told):
    (tmp_path / "f").write_bytes(bytes([1]) * told)
    original = os.preadv

    def fail(fd, views, offset):
        if offset >= told:
            raise OSError(errno.EIO, "Input/output error")
        return original(fd, views, offset)

    monkeypatch.setattr(os, "preadv", fail)
    read = Read(tmp_path)
    assert read.contents[key(tmp_path / "f")] == bytes([1]) * told
    assert read.warnings == [
        (key(tmp_path / "f"), f"only the first {told} bytes were read: input/output error")
    ]


def test_pieces_begin_anywhere(tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        for offset in (0, 3, 10, 12):
            [piece] = reading.pieces(fd, 10, sparse=False, offset=offset)
            assert (bytes(piece.data), piece.last, piece.end) == (
                b"0123456789"[offset:],
                True,
                max(offset, 10),
            )
    finally:
        os.close(fd)


@pytest.mark.parametrize("at_ns", [2**64, -(2**63) - 1, 32_503_680_000 * 10**9 + 1])
def test_a_time_of_any_length_can_be_kept(at_ns):
    """XFS and tmpfs hold years that 64 bits of nanoseconds do not."""
    status = os.lstat("/")
    fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
    found = Found(b"/", b"f", SimpleNamespace(**fields | {"st_mtime_ns": at_ns}))
    [kept] = KeptFounds([found])
    assert kept.status.st_mtime_ns == at_ns
    assert kept.status.st_ino == status.st_ino
