"""Several streams share a scan: what is in the backup does not depend on which of them is faster."""

import os

import pytest

from staddle.client.base import BaseIndex
from staddle.client.exclude import Excludes
from staddle.client.scan import scan
from staddle.client.source import Source
from staddle.client.units import Tally, Units
from staddle.data.entries import EntryType
from staddle.data.records import decode_record


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
