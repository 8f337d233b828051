"""From files to records: limits, what changes meanwhile, links, and unchanged files by a base."""

import os
import random
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client.base import BaseIndex
from staddle.client.scan import Found
from staddle.client.source import Source
from staddle.client.units import BATCH_META_BYTES, SMALL_BYTES_MAX, Tally, Units
from staddle.data.entries import EntryFlag, EntryType
from staddle.data.records import PAYLOAD_BYTES_MAX
from staddle.engine.messages import WHOLE_BASE
from staddle.platform import longpath

from .sourcekit import LATE_NS, MIB, Read, base_of


@pytest.mark.parametrize(
    "size", [0, 1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 5]
)
def test_a_file_of_any_size_arrives_whole(tmp_path, size, seed):
    content = random.Random(seed).randbytes(size)
    (tmp_path / "f").write_bytes(content)
    read = Read(tmp_path)
    assert read.contents == {os.fsencode(tmp_path / "f"): content}
    assert read.warnings == []
    assert (read.tally.files, read.tally.dirs, read.tally.bytes_read) == (1, 1, size)


def test_many_files_travel_together(tmp_path):
    for number in range(2000):
        (tmp_path / f"{number:05}").write_bytes(b"%d" % number)
    read = Read(tmp_path)
    assert len(read.contents) == 2000
    assert len(read.records) < 5


def _status(size, mode=stat.S_IFREG | 0o644):
    return os.stat_result((mode, 1, 1, 1, 0, 0, size, 0, 0, 0))


@given(st.lists(st.tuples(st.integers(0, 2 * MIB), st.integers(1, 255), st.integers(1, 4000)), max_size=60))
def test_units_never_exceed_the_limits_of_a_record(files):
    founds = [Found(b"/" + b"d" * directory, b"n" * name, _status(size)) for size, name, directory in files]
    units = list(Units(iter(founds)))
    assert [found for unit in units for found in unit.founds] == founds
    for unit in units:
        sizes = [found.status.st_size for found in unit.founds]
        if unit.big:
            assert len(sizes) == 1
            assert sizes[0] > SMALL_BYTES_MAX
        else:
            assert sum(sizes) <= PAYLOAD_BYTES_MAX
            assert (
                len(unit.founds) == 1
                or sum(len(found.name) + len(found.directory) for found in unit.founds) <= BATCH_META_BYTES
            )


def test_kinds_of_entries(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dir").mkdir()
    with open(os.fsencode(tmp_path) + b"/\xff\xfe", "wb") as file:
        file.write(b"odd")
    read = Read(tmp_path)
    assert read.of(tmp_path / "link")[1:] == (EntryType.SYMLINK, 0, b"nowhere")
    assert read.of(tmp_path / "pipe")[1] is EntryType.FIFO
    assert read.of(tmp_path / "dir")[1] is EntryType.DIRECTORY
    assert read.contents[os.fsencode(tmp_path) + b"/\xff\xfe"] == b"odd"
    assert (read.tally.files, read.tally.dirs) == (3, 2)


@pytest.mark.parametrize("size", [10, MIB * 2])
def test_hard_links_have_their_content_once(tmp_path, size):
    (tmp_path / "a").write_bytes(bytes([1]) * size)
    os.link(tmp_path / "a", tmp_path / "b")
    read = Read(tmp_path)
    assert list(read.contents) == [os.fsencode(tmp_path / "a")]
    assert read.of(tmp_path / "b")[1:] == (EntryType.HARDLINK, 0, os.fsencode(tmp_path / "a"))
    assert read.tally.files == 2


@pytest.mark.parametrize("size", [10, MIB * 2])
def test_a_file_with_the_inode_of_one_that_is_gone_is_no_other_name_of_it(tmp_path, size):
    (tmp_path / "y").write_bytes(bytes([1]) * size)
    os.link(tmp_path / "y", tmp_path / "z")
    source = Source(BaseIndex(0), Tally())
    # "a" was read, and removed with all its names; the file system has given its inode to "y".
    source.names_first(Found(os.fsencode(tmp_path), b"a", (tmp_path / "y").lstat()))
    read = Read(tmp_path, source=source)
    assert read.contents == {os.fsencode(tmp_path / "y"): bytes([1]) * size}
    assert read.of(tmp_path / "z")[1:] == (EntryType.HARDLINK, 0, os.fsencode(tmp_path / "y"))


@pytest.mark.parametrize("size", [10, MIB * 2])
def test_when_the_first_name_of_a_file_vanishes_the_second_one_has_the_content(tmp_path, size):
    (tmp_path / "a").write_bytes(bytes([1]) * size)
    os.link(tmp_path / "a", tmp_path / "b")
    read = Read(tmp_path, hook=(tmp_path / "a").unlink)
    assert read.warnings[0] == (os.fsencode(tmp_path / "a"), "not read: no such file or directory")
    assert list(read.contents) == [os.fsencode(tmp_path / "b")]


# --- files that change meanwhile ------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 2 * MIB + 100])
def test_a_file_that_vanishes_is_a_warning(tmp_path, size):
    (tmp_path / "gone").write_bytes(bytes(size))
    (tmp_path / "stays").write_bytes(b"here")
    read = Read(tmp_path, hook=(tmp_path / "gone").unlink)
    assert [path for path, _ in read.warnings] == [os.fsencode(tmp_path / "gone")]
    assert list(read.contents) == [os.fsencode(tmp_path / "stays")]


@pytest.mark.parametrize("size", [100, 2 * MIB + 100])
@pytest.mark.parametrize("new", [b"", b"x" * 50, b"y" * (3 * MIB)])
def test_a_file_that_shrinks_or_grows_is_a_warning_and_takes_nothing_from_others(tmp_path, size, new):
    (tmp_path / "a").write_bytes(bytes(size))
    (tmp_path / "b").write_bytes(b"the neighbour")
    read = Read(tmp_path, hook=lambda: (tmp_path / "a").write_bytes(new))
    assert [path for path, _ in read.warnings] == [os.fsencode(tmp_path / "a")]
    assert new.startswith(read.contents[os.fsencode(tmp_path / "a")])
    assert read.of(tmp_path / "a")[2] & EntryFlag.CHANGED
    assert read.contents[os.fsencode(tmp_path / "b")] == b"the neighbour"
    assert not read.of(tmp_path / "b")[2]


@pytest.mark.parametrize("size", [100, 2 * MIB])
@pytest.mark.parametrize("by", ["other file", "fifo", "symlink", "directory"])
def test_a_file_that_was_replaced_is_a_warning_and_never_followed(tmp_path, size, by):
    path = tmp_path / "f"
    path.write_bytes(bytes(size))
    (tmp_path.parent / "secret").write_bytes(b"secret" * 100_000)

    def replace():
        path.rename(tmp_path.parent / "old")
        if by == "other file":
            path.write_bytes(bytes(size))
        elif by == "fifo":
            os.mkfifo(path)
        elif by == "symlink":
            path.symlink_to(tmp_path.parent / "secret")
        else:
            path.mkdir()

    read = Read(tmp_path, hook=replace)
    assert [path for path, _ in read.warnings] == [os.fsencode(path)]
    assert read.contents == {}


@pytest.mark.parametrize("size", [100, 2 * MIB])
def test_an_unreadable_file_is_a_warning(tmp_path, monkeypatch, size):
    (tmp_path / "f").write_bytes(bytes(size))
    (tmp_path / "g").write_bytes(b"fine")

    def refuse(path, flags):
        if path.endswith(b"/f"):
            raise PermissionError(13, "Permission denied")
        return original(path, flags)

    original = longpath.open
    monkeypatch.setattr(longpath, "open", refuse)
    read = Read(tmp_path)
    assert read.warnings == [(os.fsencode(tmp_path / "f"), "not read: permission denied")]
    assert list(read.contents) == [os.fsencode(tmp_path / "g")]


def test_a_big_file_that_fails_in_the_middle_keeps_what_was_read(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(bytes([7]) * (3 * MIB))
    calls = []

    def fails_later(fd, views, offset):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(5, "Input/output error")
        return original(fd, views, offset)

    original = os.preadv
    monkeypatch.setattr(os, "preadv", fails_later)
    read = Read(tmp_path)
    assert read.contents == {os.fsencode(tmp_path / "f"): bytes([7]) * (2 * MIB)}
    assert read.of(tmp_path / "f")[2] & EntryFlag.ERROR
    assert "2097152" in read.warnings[0][1]


# --- unchanged files ------------------------------------------------------------------------------


@pytest.mark.parametrize("split_parts", [False, True])
def test_unchanged_files_are_not_read_again(tmp_path, split_parts):
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "big").write_bytes(bytes([3]) * (2 * MIB + 9))
    (tmp_path / "dir").mkdir()
    index, _ = base_of(Read(tmp_path), split_parts=split_parts)
    index.build()
    again = Read(tmp_path, index)
    assert again.contents == {}
    assert again.tally.bytes_read == 0
    assert again.tally.bytes_unchanged == 2 * MIB + 9 + 5
    assert (again.tally.files, again.tally.dirs) == (2, 2)
    parts = [row for row in again.rows if row[0].endswith(b"/big")]
    assert len(parts) == 3
    assert [bool(flags & EntryFlag.LAST) for _, _, flags, _ in parts] == [False, False, True]
    assert all(flags & EntryFlag.UNCHANGED for _, _, flags, _ in parts)


@pytest.mark.parametrize("change", ["content", "mtime", "replaced", "renamed", "mode"])
def test_a_changed_file_is_read_again(tmp_path, change):
    path = tmp_path / "f"
    path.write_bytes(b"before")
    index, _ = base_of(Read(tmp_path))
    index.build()
    status = path.stat()
    if change == "content":  # same size, and the old time put back: the change time tells
        path.write_bytes(b"after!")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "mtime":
        os.utime(path, ns=(0, 0))
    elif change == "replaced":
        (tmp_path / "new").write_bytes(b"after!")
        os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
        (tmp_path / "new").rename(path)
    elif change == "renamed":
        path = path.rename(tmp_path / "g")
    else:
        path.chmod(0o600)
    again = Read(tmp_path, index)
    assert again.contents == {os.fsencode(path): path.read_bytes()}


def test_a_file_that_changed_just_before_the_base_began_is_read_again(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    first = Read(tmp_path)
    ctime_ns = (tmp_path / "f").stat().st_ctime_ns
    for started_ns, unchanged in [(ctime_ns, 0), (ctime_ns + 1000, 0), (ctime_ns + 3 * 10**9, 1)]:
        index, _ = base_of(first, started_ns)
        index.build()
        assert Read(tmp_path, index).tally.bytes_unchanged == unchanged


@pytest.mark.parametrize("size", [1, 2 * MIB])
def test_a_file_that_changed_just_before_it_was_read_is_read_again_whatever_the_managers_clock(
    tmp_path, size
):
    (tmp_path / "f").write_bytes(bytes([1]) * size)
    ctime_ns = (tmp_path / "f").stat().st_ctime_ns
    for read_at_ns, unchanged in [(ctime_ns - 10**9, 0), (ctime_ns, 0), (ctime_ns + 3 * 10**9, size)]:
        index, _ = base_of(Read(tmp_path, read_at_ns=read_at_ns), LATE_NS)
        index.build()
        assert Read(tmp_path, index).tally.bytes_unchanged == unchanged


def test_files_that_had_a_warning_are_read_again(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 10)
    first = Read(tmp_path, hook=lambda: (tmp_path / "f").write_bytes(b"y" * 10))
    assert first.warnings
    index, _ = base_of(first)
    index.build()
    assert len(index) == 0


def test_rows_in_containers_that_can_not_be_used_are_read_again(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "big").write_bytes(bytes([3]) * (2 * MIB))
    index, manifests = base_of(Read(tmp_path), split_parts=True)
    # The second part of the big file, and nothing else, lies in the container of the second manifest.
    index.build([manifests[1].chunks.containers[0]])
    again = Read(tmp_path, index)
    assert list(again.contents) == [os.fsencode(tmp_path / "big")]
    assert set(index.containers()) == {each for m in manifests for each in m.chunks.containers}


def test_records_made_again_leave_bad_containers_out(tmp_path):
    for number in range(5):
        (tmp_path / f"f{number}").write_bytes(b"%d" % number)
    index, manifests = base_of(Read(tmp_path))
    index.build()
    second = Read(tmp_path, index)
    assert second.contents == {}
    again = list(second.source.remake(second.records, manifests[0].chunks.containers))
    contents = b"".join(bytes(record.payload) for record in again)
    assert contents == b"01234"
    assert second.tally.files == 5, "made again, not counted again"


@pytest.mark.parametrize("size", [10, 2 * MIB])
@pytest.mark.parametrize("trouble", ["vanishes", "changes"])
def test_what_goes_wrong_with_a_file_that_is_read_after_all_is_a_warning(tmp_path, size, trouble):
    (tmp_path / "f").write_bytes(b"x" * size)
    index, manifests = base_of(Read(tmp_path))
    index.build()
    second = Read(tmp_path, index)
    assert second.contents == {}
    assert second.warnings == []
    if trouble == "vanishes":
        (tmp_path / "f").unlink()
    else:
        (tmp_path / "f").write_bytes(b"y" * size)
    list(second.source.remake(second.records, manifests[0].chunks.containers))
    assert {path for path, _ in second.warnings} == {os.fsencode(tmp_path / "f")}
    assert second.tally.warnings == len(second.warnings), "the job ends with warnings"


def test_records_are_made_again_from_the_files_when_the_base_is_refused(tmp_path):
    for number in range(5):
        (tmp_path / f"f{number}").write_bytes(b"%d" % number)
    index, _ = base_of(Read(tmp_path))
    index.build()
    second = Read(tmp_path, index)
    again = list(second.source.remake(second.records, [WHOLE_BASE]))
    assert b"".join(bytes(record.payload) for record in again) == b"01234"
    assert b"".join(Read(tmp_path, index).contents.values()) == b"01234", "the base is not used any more"


def test_containers_once_refused_stay_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "big").write_bytes(bytes([3]) * (2 * MIB))
    index, manifests = base_of(Read(tmp_path), split_parts=True)
    index.build([manifests[1].chunks.containers[0]])
    index.exclude([b"another one....."])
    assert list(Read(tmp_path, index).contents) == [os.fsencode(tmp_path / "big")]


def test_parts_with_a_gap_are_no_base(tmp_path):
    (tmp_path / "big").write_bytes(bytes([3]) * (3 * MIB))
    _, manifests = base_of(Read(tmp_path), split_parts=True)
    founds = [each for each in Read(tmp_path).founds if each.name == b"big"]
    for left_out in range(-1, len(manifests)):
        index = BaseIndex(LATE_NS)
        for number, manifest in enumerate(manifests):
            if number != left_out:
                index.add(manifest)
        index.build()
        assert len(index.match(founds)[0]) == (len(manifests) if left_out < 0 else 0)


def test_a_tally_counts_from_several_threads_and_tells_warnings():
    told = []
    tally = Tally(lambda path, why: told.append(path))
    tally.add(files=2, read=5)
    tally.add(dirs=1, unchanged=7)
    tally.warn(b"/x", "broken")
    assert (tally.files, tally.dirs, tally.bytes_read, tally.bytes_unchanged, tally.warnings) == (
        2,
        1,
        5,
        7,
        1,
    )
    assert told == [b"/x"]
