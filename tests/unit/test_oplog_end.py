"""The end of the log: damage there looks like a torn write, and is told apart by whoever knows of more."""

import pytest
from test_oplog_files import GRID, filled, records_of

from staddle.catalog.oplog import OpLog
from staddle.errors import Corrupt


def damaged_end(directory, change):
    """Five records of epoch 1, the last frame changed, and a term of epoch 2 with two records of its own."""
    path, ends = filled(directory)
    with open(path, "r+b") as file:
        data = bytearray(file.read())
        change(data, ends[-2], ends[-1])
        file.seek(0)
        file.write(data)
    log = OpLog(directory, GRID, 2)
    log.append(records_of(2, log.last_lsn + 1, 2)).result(10)
    return log


def flip(data, start, end):
    data[(start + end) // 2] ^= 1


def blank(data, start, end):
    data[start:end] = bytes(end - start)


def leave(_data, _start, _end):
    pass


@pytest.mark.parametrize("change", [flip, blank])
def test_a_record_that_was_acknowledged_and_is_gone_is_named(tmp_path, change):
    directory = str(tmp_path / "log")
    log = damaged_end(directory, change)
    try:
        assert log.last_lsn == 6, "the place of the fifth was taken again"
        for epoch, lsn in ((1, 4), (2, 5), (2, 6), (0, 5)):
            log.check_holds(epoch, lsn)
        for epoch, lsn in ((1, 5), (1, 6), (1, 7), (0, 7), (2, 7)):
            with pytest.raises(Corrupt, match=f"record {lsn} .*acknowledged") as found:
                log.check_holds(epoch, lsn)
            assert "catalog rebuild" in found.value.hint
            assert directory in found.value.message
    finally:
        log.close()


def test_a_whole_log_holds_all_that_it_acknowledged(tmp_path):
    log = damaged_end(str(tmp_path / "log"), leave)
    try:
        for epoch, lsn in ((1, 1), (1, 5), (2, 6), (2, 7)):
            log.check_holds(epoch, lsn)
    finally:
        log.close()


def test_what_a_snapshot_covers_needs_no_record(tmp_path):
    directory = str(tmp_path / "log")
    log = damaged_end(directory, leave)
    log.write_snapshot(7, b"state")
    log.close()
    again = OpLog(directory, GRID, 3)
    try:
        again.check_holds(1, 3)
        again.check_holds(9, 7)
    finally:
        again.close()
