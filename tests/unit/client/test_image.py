"""Images: records at fixed places, holes and zeros left out, odd sizes, sectors that can't be read."""

import errno
import io
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.client import image
from staddle.client.image import ImageFailed, ImageSource, image_paths, image_size
from staddle.client.units import Tally
from staddle.data.records import PAYLOAD_BYTES_MAX, EntryFlag, EntryType, decode_record
from staddle.errors import NotFound, UsageError

MIB = PAYLOAD_BYTES_MAX


def read(path, tally=None):
    """Content as a restorer would see it, and the decoded records."""
    source = ImageSource([os.fsencode(path)], tally or Tally())
    content, records = bytearray(), []
    for each in source.records():
        record = decode_record(each.meta, len(each.payload))
        assert record.offset == len(content)
        content += bytes(each.payload) if each.payload else bytes(record.zero_bytes)
        records.append(record)
    assert [record.last for record in records] == [False] * (len(records) - 1) + [True]
    return bytes(content), records


@pytest.mark.parametrize("size", [0, 1, 511, 4097, MIB - 1, MIB, MIB + 1, 3 * MIB + 12345])
def test_an_image_of_any_size_is_whole(tmp_path, size):
    data = random.Random(size).randbytes(size)
    (tmp_path / "disk").write_bytes(data)
    tally = Tally()
    content, records = read(tmp_path / "disk", tally)
    assert content == data
    columns = {name: int(values[0]) for name, values in records[-1].batch.columns.items()}
    assert columns["type"] == EntryType.IMAGE
    assert columns["size"] == size
    assert columns["flags"] == 0
    assert (tally.files, tally.bytes_read, tally.warnings) == (1, size, 0)
    assert image_size(os.fsencode(tmp_path / "disk")) == size


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 700_000)), max_size=8))
def test_zeros_and_holes_make_no_difference_to_the_content(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("image") / "disk"
    rng = random.Random(1)
    data = b"".join(rng.randbytes(length) if full else bytes(length) for full, length in pieces)
    with open(path, "wb") as file:
        place = 0
        for full, length in pieces:
            if full:
                file.seek(place)
                file.write(data[place : place + length])
            place += length
        file.truncate(len(data))
    sparse, _ = read(path)
    assert sparse == data
    path.write_bytes(data)
    written, records = read(path)
    assert written == data
    assert all(record.offset % 65536 == 0 for record in records if not record.last)


def test_a_hole_of_terabytes_is_two_records_and_is_not_read(tmp_path):
    path, size = tmp_path / "disk", 3 << 40
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(2 << 40)
        file.write(b"in the middle")
        file.seek(size - 5)
        file.write(b"end!!")
    tally = Tally()
    records = [
        (decode_record(each.meta, len(each.payload)), bytes(each.payload))
        for each in ImageSource([os.fsencode(path)], tally).records()
    ]
    assert sum(record.zero_bytes + len(payload) for record, payload in records) == size
    found = [
        (record.offset + payload.index(b"in the"), 0) for record, payload in records if b"in the" in payload
    ]
    assert found == [(2 << 40, 0)]
    assert records[-2][1].endswith(b"end!!") or records[-1][1].endswith(b"end!!")
    assert len(records) < 10
    assert tally.bytes_read < 4 * MIB


def test_several_streams_take_an_image_each(tmp_path):
    names = [tmp_path / str(number) for number in range(3)]
    for name in names:
        name.write_bytes(name.name.encode())
    source = ImageSource([os.fsencode(name) for name in names], Tally())
    first, second = source.records(), source.records()
    seen = [
        decode_record(each.meta, len(each.payload)).batch.paths()[0] for each in (next(first), next(second))
    ]
    seen += [decode_record(each.meta, len(each.payload)).batch.paths()[0] for each in (*first, *second)]
    assert set(seen) == {os.fsencode(name) for name in names}


class Broken(io.FileIO):
    """A disk with sectors that can't be read. `bad` are byte positions."""

    bad = ()
    error = errno.EIO

    def readinto(self, view):
        at = self.tell()
        if any(at <= each < at + len(view) for each in Broken.bad):
            raise OSError(Broken.error, os.strerror(Broken.error))
        return super().readinto(view)


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(image.io, "FileIO", Broken)
    monkeypatch.setattr(Broken, "bad", (MIB + 5000, MIB + 5001, 2 * MIB - 1))
    return Broken


def test_sectors_that_cant_be_read_become_zeros_and_all_others_are_kept(tmp_path, broken):
    data = random.Random(1).randbytes(3 * MIB + 100)
    (tmp_path / "disk").write_bytes(data)
    warnings = []
    content, records = read(tmp_path / "disk", Tally(lambda path, why: warnings.append((path, why))))
    expected = bytearray(data)
    for start in (MIB + 4096, 2 * MIB - 4096):
        expected[start : start + 4096] = bytes(4096)
    assert content == expected
    assert warnings == [
        (
            os.fsencode(tmp_path / "disk"),
            f"8192 bytes could not be read, the first at {MIB + 4096}: zeros stand in their place",
        )
    ]
    assert int(records[-1].batch.columns["flags"][0]) & EntryFlag.ERROR


def test_a_device_that_goes_away_ends_the_backup(tmp_path, broken, monkeypatch):
    monkeypatch.setattr(Broken, "error", errno.ENXIO)
    (tmp_path / "disk").write_bytes(bytes(3 * MIB))
    with pytest.raises(ImageFailed, match="cannot read the image"):
        read(tmp_path / "disk")


def test_an_image_that_changes_while_it_is_read_is_marked(tmp_path):
    (tmp_path / "disk").write_bytes(b"x" * 3 * MIB)
    warnings = []
    records = ImageSource(
        [os.fsencode(tmp_path / "disk")], Tally(lambda *args: warnings.append(args))
    ).records()
    next(records)
    with open(tmp_path / "disk", "r+b") as file:
        file.truncate(2 * MIB + 7)
    *_, last = records
    record = decode_record(last.meta, len(last.payload))
    assert int(record.batch.columns["flags"][0]) == EntryFlag.CHANGED
    assert int(record.batch.columns["size"][0]) == 2 * MIB + 7
    assert warnings == [(os.fsencode(tmp_path / "disk"), "changed while it was read")]


def test_mistakes_are_told_before_anything_is_read(tmp_path):
    (tmp_path / "disk").write_bytes(b"x")
    for paths, error, said in [
        ([tmp_path / "none"], NotFound, "no such file"),
        ([tmp_path], UsageError, "neither a block device nor a file"),
        ([os.devnull], UsageError, "neither a block device nor a file"),
        ([tmp_path / "disk", tmp_path / "x/../disk"], UsageError, "given twice"),
    ]:
        with pytest.raises(error, match=said) as caught:
            image_paths([os.fsencode(each) for each in paths])
        assert caught.value.hint


def test_a_symlink_to_a_device_is_kept_as_its_name(tmp_path):
    (tmp_path / "disk").write_bytes(b"content")
    (tmp_path / "by-id").symlink_to("disk")
    [path] = image_paths([os.fsencode(tmp_path / "by-id")])
    content, records = read(os.fsdecode(path))
    assert content == b"content"
    assert records[0].batch.paths() == [os.fsencode(tmp_path / "by-id")]
