"""Several streams share a scan: what is in the backup does not depend on which of them is faster."""

import os

import pytest

from staddle.client.base import BaseIndex
from staddle.client.exclude import Excludes
from staddle.client.resume import Taken
from staddle.client.scan import scan
from staddle.client.source import Source
from staddle.client.units import Tally, Units
from staddle.data.entries import EntryType
from staddle.data.records import decode_record

from .sourcekit import Read, base_of


@pytest.mark.parametrize("later_first", [False, True])
def test_the_first_name_of_a_file_has_its_content(tmp_path, later_first):
    (tmp_path / "a").write_bytes(b"content")
    os.link(tmp_path / "a", tmp_path / "z")
    tally = Tally()
    source = Source(BaseIndex(0), tally)
    _, first, second = source.in_order(scan([os.fsencode(tmp_path)], Excludes([]), tally.warn))
    kinds = {}
    for found in (second, first) if later_first else (first, second):
        [record] = source.records(Units(iter([found])))
        batch = decode_record(record.meta, len(record.payload)).batch
        kinds[found.name] = (EntryType(int(batch.columns["type"][0])), bytes(record.payload), batch.link(0))
    assert kinds == {
        b"a": (EntryType.FILE, b"content", b""),
        b"z": (EntryType.HARDLINK, b"", first.path),
    }


def test_a_path_below_another_is_stored_once_and_is_unchanged_the_next_time_and_resumed(tmp_path):
    for name in ("a", "b/1", "b/c/x", "b/c/y", "z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(os.fsencode(name))
    os.link(tmp_path / "a", tmp_path / "b/c/a-too")
    os.link(tmp_path / "b/1", tmp_path / "b/c/z")  # the first name is left out
    asked = {"inside": [tmp_path / "b/c", tmp_path / "b/c/x"], "exclude": ["b"]}
    read = Read(tmp_path, **asked)
    names = [os.path.relpath(os.fsdecode(path), tmp_path) for path, *_ in read.rows]
    assert names == [".", "a", "b", "b/c", "b/c/a-too", "b/c/x", "b/c/y", "b/c/z", "z"]
    assert read.of(tmp_path / "b/c/a-too")[1:] == (EntryType.HARDLINK, 0, os.fsencode(tmp_path / "a"))
    assert read.contents[os.fsencode(tmp_path / "b/c/z")] == b"b/1"
    index, manifests = base_of(read)
    index.build()
    again = Read(tmp_path, index, **asked)
    assert [row[0] for row in again.rows] == [row[0] for row in read.rows]
    assert again.contents == {}
    taken = Taken(Tally())
    for manifest in manifests:
        taken.add(manifest)
    taken.build()
    assert list(taken.left(iter(read.founds), read.source)) == []
