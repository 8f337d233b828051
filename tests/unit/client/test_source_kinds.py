"""Every kind of entry, its further metadata, and records that would become too long."""

import errno
import os
import stat
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.client.base import BaseIndex
from staddle.client.scan import Found
from staddle.client.source import Source
from staddle.client.units import Tally, Units
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.manifest import ManifestBuilder, ManifestHead
from staddle.data.records import META_BYTES_MAX, FilesRecord, decode_record
from staddle.platform import fsattrs, longpath

from .sourcekit import LATE_NS, MIB, Read, base_of

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "torture"))

import strategies

import torture


def key(path):
    return os.fsencode(path)


# --- kinds ----------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(data=st.data())
def test_any_name_and_time_comes_through(tmp_path_factory, data):
    root = os.fsencode(tmp_path_factory.mktemp("names"))
    wanted = {}
    for name in data.draw(st.lists(strategies.names, max_size=8, unique=True)):
        path = os.path.join(root, name)
        with open(path, "wb") as file:
            file.write(name)
        if torture.ROOT:
            os.chown(path, data.draw(strategies.owners), data.draw(strategies.owners))
        os.chmod(path, data.draw(strategies.modes) | 0o400)
        at_ns = data.draw(strategies.times_ns)
        os.utime(path, ns=(at_ns, at_ns))
        wanted[path] = name
    read = Read(os.fsdecode(root))
    assert read.contents == wanted
    assert read.warnings == []
    for record in read.records:
        batch = decode_record(record.meta, len(record.payload)).batch
        for row, path in enumerate(batch.paths()):
            status, kept = os.lstat(path), int(batch.columns["mtime_ns"][row])
            for name, value in (("mode", stat.S_IMODE(status.st_mode)), ("uid", status.st_uid)):
                assert int(batch.columns[name][row]) == value
            real = status.st_mtime_ns
            assert kept == real or (
                kept == 2**63 - 1 and batch.extra(row)["times"] == {"mtime": [*divmod(real, 10**9)]}
            )


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_hard_links_of_any_kind_are_kept(tmp_path, kind):
    first, second = tmp_path / "a", tmp_path / "deep/er/b"
    second.parent.mkdir(parents=True)
    first.symlink_to("somewhere") if kind == "symlink" else os.mkfifo(first)
    os.link(first, second, follow_symlinks=False)
    read = Read(tmp_path)
    assert read.of(first)[1] is (EntryType.SYMLINK if kind == "symlink" else EntryType.FIFO)
    assert read.of(second)[1:] == (EntryType.HARDLINK, 0, key(first))


def test_numbers_of_devices_are_kept(tmp_path):
    class Status:
        st_mode = stat.S_IFBLK | 0o600
        st_rdev = os.makedev(259, 65536)
        st_uid = st_gid = st_size = st_mtime_ns = st_ctime_ns = st_ino = st_dev = 0
        st_nlink = 1

    (tmp_path / "node").write_bytes(b"")
    found = Found(key(tmp_path), b"node", Status())
    [record] = Source(BaseIndex(0), Tally()).records(Units(iter([found])))
    batch = decode_record(record.meta, 0).batch
    assert int(batch.columns["type"][0]) == EntryType.BLOCK
    assert batch.extra(0)["rdev"] == [259, 65536]


def test_a_fifo_that_took_a_files_place_keeps_what_is_in_it(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes(100))
    ends = []

    def replace():
        path.unlink()
        os.mkfifo(path)
        ends.append(os.open(path, os.O_RDWR))
        os.write(ends[0], b"for somebody else")

    read = Read(tmp_path, hook=replace)
    assert read.warnings == [(key(path), "not read: replaced by something else while the backup ran")]
    assert os.read(ends[0], 100) == b"for somebody else"
    os.close(ends[0])


# --- further metadata -----------------------------------------------------------------------------


@pytest.fixture
def tagged(tmp_path):
    """Entries with an attribute each; the files are small and big."""
    for name, size in (("small", 10), ("big", 2 * MIB)):
        (tmp_path / name).write_bytes(bytes([1]) * size)
        os.setxattr(tmp_path / name, b"user.name", name.encode())
    (tmp_path / "dir").mkdir()
    os.setxattr(tmp_path / "dir", b"user.name", b"dir")
    return tmp_path


def names_of(read, root):
    return {
        path[len(key(root)) + 1 :]: extra["xattr"][b"user.name"]
        for path, extra in read.extras.items()
        if "xattr" in extra
    }


WANTED = {b"small": b"small", b"big": b"big", b"dir": b"dir"}


def test_attributes_are_read_of_files_and_directories(tagged):
    read = Read(tagged)
    assert names_of(read, tagged) == WANTED
    assert read.warnings == []


@pytest.mark.parametrize("split_parts", [False, True])
def test_unchanged_files_keep_their_attributes_and_are_not_even_opened(tagged, monkeypatch, split_parts):
    index, _ = base_of(Read(tagged), split_parts=split_parts)
    index.build()
    opened = []
    original = longpath.open
    monkeypatch.setattr(longpath, "open", lambda path, *words: opened.append(path) or original(path, *words))
    again = Read(tagged, index)
    assert again.contents == {}
    assert names_of(again, tagged) == WANTED
    assert key(tagged / "small") not in opened
    assert key(tagged / "big") not in opened


def test_a_base_that_has_none_is_made_good(tagged, monkeypatch):
    """An older release kept no attributes: a file that has not changed since gets its own all the same."""
    with monkeypatch.context() as patch:
        patch.setattr("staddle.client.source.capture", lambda *words, **more: ({}, True))
        index, _ = base_of(Read(tagged))
    index.build()
    again = Read(tagged, index)
    assert again.contents == {}
    assert names_of(again, tagged) == WANTED


def test_what_a_backup_lacks_of_a_files_attributes_the_next_one_has_or_warns_of_too(tagged, monkeypatch):
    def refused(place, name):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    files = {key(tagged / name) for name in ("small", "big")}
    with monkeypatch.context() as patch:
        patch.setattr(fsattrs, "get_xattr", refused)
        first = Read(tagged)
        index, _ = base_of(first)
        index.build()
        second = Read(tagged, index)
    assert second.contents == {}
    assert files < {path for path, _ in first.warnings} == {path for path, _ in second.warnings}
    third = Read(tagged, index)
    assert third.contents == {}
    assert third.warnings == []
    assert names_of(third, tagged) == WANTED


@pytest.mark.parametrize("name", ["small", "big"])
def test_a_change_of_an_attribute_is_seen(tagged, name):
    index, _ = base_of(Read(tagged))
    index.build()
    os.setxattr(tagged / name, b"user.name", b"new")
    again = Read(tagged, index)
    assert list(again.contents) == [key(tagged / name)]
    assert names_of(again, tagged) == WANTED | {name.encode(): b"new"}


def test_long_attributes_and_targets_never_make_a_record_too_long(tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"{number:03}-file").write_bytes(b"%d" % number)
        (tmp_path / f"{number:03}-link").symlink_to(f"{number}/" * 300)
    # More than any file system takes, as other systems do.
    monkeypatch.setattr(
        fsattrs, "list_xattrs", lambda place: [b"user.large"] if isinstance(place, int) else []
    )
    monkeypatch.setattr(fsattrs, "get_xattr", lambda place, name: bytes(place % 7 * 30_000))
    read = Read(tmp_path)  # which asserts the length of every record
    assert [row[0] for row in read.rows] == [found.path for found in read.founds]
    assert read.contents == {key(tmp_path / f"{number:03}-file"): b"%d" % number for number in range(300)}
    assert (read.tally.files, read.warnings) == (600, [])


# --- a file in more rows than a record holds ------------------------------------------------------

ROWS = 4000


@pytest.fixture
def long_base(tmp_path):
    """A file whose base has its content in thousands of rows, all in one container."""
    with open(tmp_path / "long", "wb") as file:
        file.truncate(ROWS * MIB)
    status = os.lstat(tmp_path / "long")
    rows = EntryRows()
    for number in range(ROWS):
        flags = EntryFlag.PART | (EntryFlag.LAST if number == ROWS - 1 else 0)
        rows.add(
            key(tmp_path), b"long", EntryType.FILE, size=status.st_size, mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns, inode=status.st_ino, offset=number * MIB, flags=int(flags),
            extra={"btime_ns": 1},
        )  # fmt: skip
    head = ManifestHead(
        grid=bytes(16),
        domain=bytes(16),
        client="c",
        name="n",
        job=1,
        backup=1,
        stream=0,
        epoch=1,
        ordinal=0,
        first=0,
    )
    builder = ManifestBuilder(head)
    container = builder.container_index(bytes(16))
    builder.add_chunks(np.zeros((ROWS, 32), np.uint8), [container] * ROWS, [0] * ROWS, [MIB] * ROWS)
    builder.add_entries(rows.build(), range(ROWS), [1] * ROWS)
    index = BaseIndex(LATE_NS)
    index.add(builder.manifest(0))
    index.build()
    return tmp_path, index


def test_an_unchanged_file_may_fill_many_records(long_base):
    root, index = long_base
    read = Read(root, index)
    rows = [row for row in read.rows if row[1] is EntryType.FILE]
    assert len(rows) == ROWS
    assert len(read.records) > 1
    assert all(len(record.meta) <= META_BYTES_MAX for record in read.records)
    assert [bool(row[2] & EntryFlag.LAST) for row in rows] == [False] * (ROWS - 1) + [True]
    assert (read.tally.files, read.tally.bytes_unchanged) == (1, ROWS * MIB)


@pytest.mark.parametrize("dropped_from", [0, 1])
def test_what_is_made_again_of_it_begins_where_the_durable_part_ends(long_base, dropped_from):
    root, index = long_base
    read = Read(root, index)
    mine = [record for record in read.records if record.founds][dropped_from:]
    made = list(read.source.remake(mine, [bytes(16)]))
    again = [decode_record(record.meta, len(record.payload)) for record in made]
    parts = [record for record in again if not isinstance(record, FilesRecord)]
    begin = mine[0].begin
    assert bool(begin) == bool(dropped_from)
    assert parts[0].offset == begin
    assert sum(part.zero_bytes for part in parts) == ROWS * MIB - begin
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
