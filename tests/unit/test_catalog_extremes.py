"""What a peer can get into the log, the catalog can hold: else its feed would stand still for good."""

import pytest

from staddle.api.catalog import Record
from staddle.catalog.duck import DuckCatalog
from staddle.engine import ops
from staddle.engine.messages import CopyOf, StoredObject

MOST = 2**63 - 1
TEXTS = ["", "\0", "a\0b", "\x1b[2J\r\n", "\u202e\U0010ffff", "'; DROP TABLE jobs; --", "x" * 16_384]
RAW = [b"", b"\0", b"\xff\xfe", b"/" * 70_000, "\U0010ffff".encode()]


def stored(number):
    item = bytes([number]) * 16
    return StoredObject(
        id=item,
        size_bytes=MOST,
        digest=bytes(32),
        copies=[CopyOf("m1", f"c0/{number:02x}/{item.hex()}{'0' * 16}")],
        raw_bytes=MOST,
        chunks=MOST,
    )


def configured(text):
    yield ops.GridCreated(grid=bytes(16))
    yield ops.EpochBegun(epoch=1, at_ns=1)
    yield ops.AgentSet(name="a1", urls=[text])
    yield ops.MediumSet(name="m1", plugin="memory", volume=bytes(16), failure_domain="f")
    yield ops.MediumChanged(name="m1", state="offline", message=text, at_ns=MOST)
    yield ops.PoolSet(
        name="main",
        media=["m1"],
        domain="d",
        copies=1,
        min_copies=1,
        policy="priority",
        agents=[],
        wait_busy_s=0,
        wait_offline_s=0,
        segment_bytes=1 << 20,
    )


def segments(text):
    for number in range(3):
        yield ops.StreamAssigned(
            job=1,
            stream=0,
            epoch=number + 1,
            agent="a1",
            media=["m1"],
            cause="agent_lost",
            from_agent="a1",
            from_media=["m1"],
            next_seq=number,
            bad=[],
            detail=text,
            failover=True,
            at_ns=1,
        )
        yield ops.FailoverMeasured(job=1, stream=0, epoch=number + 1, gap_ns=MOST, bytes_resent=MOST)
        yield ops.SegmentCommitted(
            job=1,
            backup=1,
            stream=0,
            epoch=number + 1,
            ordinal=number,
            first=number,
            next=MOST if number == 2 else number + 1,
            manifest=stored(10 + number),
            containers=[stored(20 + number)],
            refs=bytes([20 + number]) * 16,
            revived=[],
            domain="d",
            want=1,
            # Sums that are beyond what a column holds are refused at COMMIT.
            **dict.fromkeys(("files", "dirs", "bytes_read", "bytes_stored"), 0 if number else MOST),
            at_ns=MOST,
        )


def records(text, raw):
    yield from configured(text)
    yield ops.JobBegun(
        job=1,
        kind="backup",
        client=text,
        name=text,
        roots=[raw, raw],
        pool="main",
        domain="d",
        streams=1,
        backup=1,
        base_backup=0,
        request=raw,
        session=raw,
        at_ns=1,
    )
    yield from segments(text)
    yield ops.StreamEnded(job=1, stream=0, epoch=9, total=MOST, at_ns=1)
    yield ops.JobSealing(job=1, warnings=MOST, bytes_resent=MOST, at_ns=1)
    yield ops.JobFinished(
        job=1,
        state="incomplete",
        backup_state="incomplete",
        message=text,
        epochs=[9],
        lost=[],
        at_ns=1,
    )


@pytest.mark.parametrize("number", range(max(len(TEXTS), len(RAW))))
def test_the_catalog_takes_whatever_the_log_may_hold(tmp_path, number):
    text, raw = TEXTS[number % len(TEXTS)], RAW[number % len(RAW)]
    log = [
        Record(1, lsn, ops.op_name(type(op)), ops.to_args(op)) for lsn, op in enumerate(records(text, raw), 1)
    ]
    catalog = DuckCatalog(str(tmp_path / "c.duckdb"), decode_manifest=None, threads=1)
    try:
        for record in log:
            catalog.apply([record])
        assert catalog.applied_lsn() == len(log)
        assert catalog.query("SELECT count(*) FROM backups").rows[0][0] == 1
        assert catalog.query("SELECT bytes_read FROM backups").rows[0][0] > 0
        assert catalog.verify() == []
    finally:
        catalog.close()
