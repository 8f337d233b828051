"""The projection of random logs: equal to the engine's state, idempotent, fenced, whole after a crash."""

import os
import random

import pytest

from staddle.api.catalog import Record
from staddle.catalog.appliers import APPLIERS, NOT_SHOWN
from staddle.catalog.changes import Changes
from staddle.catalog.duck import DuckCatalog
from staddle.engine import ops
from staddle.engine.messages import CopyOf, StoredObject
from staddle.engine.state import GridState
from staddle.engine.tables import BackupState, JobState, ObjectState, StreamState
from staddle.errors import Corrupt, Fenced, NewerFormat, StaddleError

MEDIA = ("disk", "shelf", "tape")
TABLES = ("agents", "media", "pools", "clients", "jobs", "streams", "failovers", "backups", "segments")
OBJECTS = ("objects", "copies")


# fmt: off
class RandomLog:
    """Draws ops that are valid for the engine's state, and applies them to it."""

    def __init__(self, seed):
        self.rng, self.state, self.records, self.ids = random.Random(seed), GridState(), [], 0
        self.epoch = 1
        self.add(ops.GridCreated(grid=bytes(range(16))))
        self.new_epoch()
        for name in MEDIA:
            self.add(ops.MediumSet(name=name, plugin="memory", volume=self.an_id(), failure_domain=name))
        self.add(ops.AgentSet(name="a1", urls=["tcp://a1"]))
        self.add(ops.PoolSet(name="main", media=list(MEDIA), domain="d", copies=2, min_copies=1,
            policy="priority", agents=[], wait_busy_s=0, wait_offline_s=0, segment_bytes=1 << 20))

    def an_id(self):
        self.ids += 1
        return self.ids.to_bytes(16, "big")

    def add(self, op):
        record = Record(self.epoch, len(self.records) + 1, ops.op_name(type(op)), ops.to_args(op))
        self.state.apply(record)
        self.records.append(record)

    def stored(self):
        item = self.an_id()
        copies = [CopyOf(medium, item.hex() + medium) for medium in self.rng.sample(MEDIA, 2)]
        return StoredObject(
            id=item,
            size_bytes=self.rng.randrange(1 << 25),
            digest=item * 2,
            copies=copies,
            raw_bytes=5,
            chunks=3,
        )

    def grow(self, count):
        """One sealed backup that stays, then at least `count` records of anything."""
        for action in (self.begin_job, *[self.assign] * 4, *[self.commit] * 9, self.seal, *[self.finish] * 9):
            action()
        often = [self.commit] * 12 + [self.assign] * 5 + [self.begin_job] * 3
        seldom = [self.end_stream, self.seal, self.finish, self.prune, self.journal, self.collect, self.drop]
        actions = [*often, *seldom, self.copies, self.medium, self.new_epoch, self.configure]
        goal = len(self.records) + count
        while len(self.records) < goal:
            self.rng.choice(actions)()
        return self

    def pick(self, values):
        values = list(values)
        return self.rng.choice(values) if values else None

    def active(self, state=JobState.RUNNING):
        return self.pick(job for job in self.state.jobs.values() if job.state is state)

    def objects(self, state, kind="container"):
        return [item for item in self.state.objects.values() if item.state is state and item.kind == kind]

    def begin_job(self):
        t = self.state
        self.add(ops.JobBegun(job=t.next_job, kind="backup", client="c", name="n\u00e9", roots=[b"/r\xff",
            b"/s"], pool="main", domain="d", streams=2, backup=t.next_backup, base_backup=0,
            request=self.an_id(), session=b"s", at_ns=1000 + t.lsn))

    def assign(self):
        job = self.active()
        stream = job and self.pick(s for s in job.streams if s.state is not StreamState.DONE)
        if stream:
            self.add(ops.StreamAssigned(job=job.id, stream=stream.stream, epoch=stream.epoch + 1, agent="a1",
                media=self.rng.sample(MEDIA, 2), cause="agent_lost", from_agent=stream.agent,
                from_media=stream.media, next_seq=stream.next_seq, bad=[], detail="x", failover=stream.epoch
                > 0, at_ns=2000))
        if job and job.failovers:
            row = self.pick(job.failovers)
            self.add(ops.FailoverMeasured(job=job.id, stream=row.stream, epoch=row.epoch, gap_ns=7,
                bytes_resent=8))

    def commit(self):
        job = self.active()
        stream = job and self.pick(s for s in job.streams if s.state is StreamState.OPEN)
        if not stream:
            return
        new = [self.stored() for _ in range(self.rng.randrange(3))]
        old = [i for s in (ObjectState.LIVE, ObjectState.CONDEMNED) for i in self.objects(s)]
        old = self.rng.sample(old, min(len(old), 2))
        refs = [*(item.id for item in new), *(item.id for item in old)]
        self.add(ops.SegmentCommitted(job=job.id, backup=job.backup, stream=stream.stream,
            epoch=stream.epoch, ordinal=stream.ordinal, first=stream.next_seq, next=stream.next_seq + 3,
            manifest=self.stored(), containers=new, refs=b"".join(refs), revived=[i.id for i in old if
            i.state is ObjectState.CONDEMNED], domain="d", want=2, files=4, dirs=1, bytes_read=100,
            bytes_stored=50, at_ns=3000))

    def end_stream(self):
        job = self.active()
        stream = job and self.pick(s for s in job.streams if s.state is StreamState.OPEN)
        if stream:
            epoch = stream.epoch + 1
            self.add(ops.StreamEnded(job=job.id, stream=stream.stream, epoch=epoch, total=3, at_ns=4000))

    def seal(self):
        if job := self.active():
            self.add(ops.JobSealing(job=job.id, warnings=2, bytes_resent=9, at_ns=5000 + job.id))

    def finish(self):
        if job := self.active(self.rng.choice([JobState.RUNNING, JobState.SEALING])):
            sealed = job.state is JobState.SEALING
            state = "warnings" if sealed else "incomplete"
            self.add(ops.JobFinished(job=job.id, state=state, backup_state=state, message="m",
                epochs=[s.epoch + 1 for s in job.streams], lost=[] if sealed else [b"x" * 16], at_ns=6000,
                seal=self.stored() if sealed else None, seal_domain="d", seal_want=2))

    def prune(self):
        final = {BackupState.WARNINGS, BackupState.INCOMPLETE}
        if ended := [b.id for b in self.state.backups.values() if b.id > 1 and b.state in final]:
            self.add(ops.BackupsPruned(backups=self.rng.sample(ended, 1), at_ns=7000))

    def journal(self):
        pruned = [
            b for b in self.state.backups.values() if b.state is BackupState.PRUNED and not b.journalled
        ]
        if pruned:
            gone = [row.manifest for b in pruned for row in b.segments] + [b.seal for b in pruned if b.seal]
            self.add(ops.PruneJournalled(backups=[b.id for b in pruned], journal=self.stored(), domain="d",
                want=2, deleting=gone ))

    def used(self):
        return {
            ref
            for b in self.state.backups.values()
            if b.state is not BackupState.PRUNED
            for row in b.segments
            for ref in row.ref_ids()
        }

    def collect(self):
        used = self.used()
        if idle := [item.id for item in self.objects(ObjectState.LIVE) if item.id not in used]:
            self.add(ops.ContainersCondemned(containers=idle, at_ns=8000))
        elif idle := [item.id for item in self.objects(ObjectState.CONDEMNED)]:
            self.add(ops.ObjectsDeleting(objects=idle[:2]))

    def drop(self):
        if gone := [item.id for item in self.state.objects.values() if item.state is ObjectState.DELETING]:
            self.add(ops.ObjectsDropped(objects=gone[:2]))

    def copies(self):
        if item := self.pick(self.objects(ObjectState.LIVE)):
            if len(item.copies) > 1:
                self.add(ops.CopyDropped(object=item.id, copy=item.copies[0], reason="damaged"))
            else:
                name = self.an_id().hex()
                self.add(ops.CopyPlanned(object=item.id, medium="tape", name=name, at_ns=1))
                self.add(ops.CopyAdded(object=item.id, copy=CopyOf("tape", name)))

    def medium(self):
        self.add(ops.MediumChanged(name=self.rng.choice(MEDIA), state=self.rng.choice(["up", "lost"]),
            message="?", at_ns=9000 ))

    def new_epoch(self):
        self.epoch += 1
        self.add(ops.EpochBegun(epoch=self.epoch, at_ns=10))

    def configure(self):
        medium = self.state.media[self.rng.choice(MEDIA)]
        self.add(ops.MediumSet(name=medium.name, plugin="other", volume=medium.volume, failure_domain="z"))
        self.add(ops.ClientSet(name=f"client{self.rng.randrange(3)}", joined_ns=5))
# fmt: on


def contents(catalog):
    """Everything in tier 1, with containers by id."""
    rows = {table: sorted(map(repr, catalog._rows(f"FROM {table}"))) for table in TABLES + OBJECTS}
    refs = "SELECT backup, stream, ordinal, container FROM refs JOIN container_ids USING (container_no)"
    projection = catalog._rows("FROM projection")
    return {**rows, "refs": sorted(catalog._rows(refs)), "projection": projection}


@pytest.fixture
def opened(tmp_path):
    """Opens catalogs and closes them all."""
    catalogs = []

    def open_one(name="catalog"):
        catalogs.append(DuckCatalog(str(tmp_path / f"{name}.duckdb"), decode_manifest=None, threads=1))
        return catalogs[-1]

    yield open_one
    for catalog in catalogs:
        catalog.close()


def in_batches(rng, records):
    at = 0
    while at < len(records):
        size = rng.choice([1, 5, 50, 200])
        yield records[at : at + size]
        at += size


@pytest.mark.parametrize("number", range(4))
def test_a_replayed_log_equals_the_engines_state(opened, seed, number):
    log = RandomLog(seed + number).grow(120)
    replayed, loaded = opened("replayed"), opened("loaded")
    for batch in in_batches(log.rng, log.records):
        replayed.apply(batch)
    loaded.load_state(log.state.dump())
    assert contents(replayed) == contents(loaded)
    assert replayed.applied_lsn() == loaded.applied_lsn() == len(log.records)
    assert replayed.verify() == []
    assert len(replayed._rows("FROM segments")) > 3


def test_replaying_from_anywhere_below_changes_nothing(opened, seed):
    log = RandomLog(seed).grow(80)
    catalog = opened()
    catalog.apply(log.records)
    before = contents(catalog)
    for start in (0, 10, len(log.records) - 1, len(log.records)):
        catalog.apply(log.records[start:])
    assert contents(catalog) == before


def test_a_batch_that_fails_changes_nothing_and_the_rest_can_follow(opened, seed):
    log = RandomLog(seed).grow(60)
    catalog = opened()
    catalog.apply(log.records[:30])
    before = contents(catalog)
    broken = [*log.records[30:50], Record(log.records[50].epoch, 51, "no_such_op", {})]
    with pytest.raises(NewerFormat, match="no_such_op"):
        catalog.apply(broken)
    assert contents(catalog) == before
    catalog.apply(log.records[30:])
    assert catalog.applied_lsn() == len(log.records)


def test_a_gap_is_refused(opened, seed):
    log = RandomLog(seed).grow(20)
    catalog = opened()
    with pytest.raises(Corrupt, match="record 2 follows 0"):
        catalog.apply(log.records[1:])
    assert catalog.applied_lsn() == 0


def test_a_record_of_an_earlier_epoch_is_fenced(opened, seed):
    log = RandomLog(seed).grow(20)
    catalog = opened()
    catalog.apply(log.records)
    late = Record(
        log.records[-1].epoch - 1, len(log.records) + 1, "client_set", {"name": "x", "joined_ns": 1}
    )
    with pytest.raises(Fenced):
        catalog.apply([late])
    with pytest.raises(Fenced):
        catalog.load_state(RandomLog(1).state.dump())


def test_a_record_whose_arguments_are_wrong_is_corrupt(opened):
    with pytest.raises(Corrupt, match="client_set"):
        opened().apply([Record(1, 1, "client_set", {"name": 5})])


def test_what_was_applied_is_there_after_the_process_was_killed(opened, seed, tmp_path):
    """The file and its write-ahead log as they stand while it is open are what a kill leaves."""
    log = RandomLog(seed).grow(60)
    catalog = opened()
    catalog.apply(log.records[:40])
    catalog.apply(log.records[40:])
    expected = contents(catalog)
    for suffix in ("", ".wal"):
        source = tmp_path / f"catalog.duckdb{suffix}"
        (tmp_path / f"killed.duckdb{suffix}").write_bytes(source.read_bytes())
    assert os.path.getsize(tmp_path / "killed.duckdb.wal") > 0
    assert contents(opened("killed")) == expected


def test_every_op_is_projected_or_named_as_invisible():
    assert set(ops.TYPES.values()) == set(APPLIERS) | NOT_SHOWN
    assert not set(APPLIERS) & NOT_SHOWN


def test_a_newer_catalog_and_a_foreign_file_are_refused(opened, tmp_path):
    catalog = opened()
    catalog._connection.execute("UPDATE projection SET schema_version = 99")
    catalog.close()
    with pytest.raises(NewerFormat):
        opened()
    (tmp_path / "text.duckdb").write_text("this is no database " * 1000)
    with pytest.raises(Corrupt):
        opened("text")


def test_verify_names_what_dangles(opened, seed):
    log = RandomLog(seed).grow(120)
    catalog = opened()
    catalog.apply(log.records)
    for statement, finding in (
        (
            "DELETE FROM objects WHERE object IN (SELECT manifest FROM segments LIMIT 1)",
            "manifest is no known object",
        ),
        ("INSERT INTO copies VALUES ('ab', 'nowhere', 'n')", "copies on a medium that is not there"),
        ("INSERT INTO backups (SELECT * FROM backups LIMIT 1)", "backups that are there twice"),
        ("UPDATE segments SET first_seq = 1 WHERE ordinal = 0", "do not follow one another"),
        ("INSERT INTO refs SELECT 1, 0, 0, 99999", "references to a container that is not there"),
    ):
        catalog._connection.execute("BEGIN")
        catalog._connection.execute(statement)
        assert any(finding in line for line in catalog.verify()), finding
        catalog._connection.execute("ROLLBACK")
    assert catalog.verify() == []


def test_a_snapshot_is_a_whole_catalog_and_differs_in_nothing(opened, seed, tmp_path):
    log = RandomLog(seed).grow(120)
    catalog = opened()
    catalog.apply(log.records[:-5])
    assert catalog.snapshot(str(tmp_path / "copy.duckdb")) == len(log.records) - 5
    assert catalog.diff(str(tmp_path / "copy.duckdb")) == []
    copy = opened("copy")
    assert contents(copy) == contents(catalog)
    copy._connection.execute(
        "DELETE FROM copies WHERE object IN (SELECT seal FROM backups WHERE state = 'warnings')"
    )
    copy._connection.execute("UPDATE backups SET files = files + 1, state = 'complete' WHERE backup = 1")
    copy.close()
    found = catalog.diff(str(tmp_path / "copy.duckdb"))
    assert {(what, side) for what, side, _ in found} >= {("backups", "only there"), ("copies", "only here")}
    catalog.apply(log.records)
    assert catalog.applied_lsn() == len(log.records)


def test_changes_of_one_row_fold_in_order(opened):
    catalog = opened()
    catalog.apply([Record(1, 1, "client_set", {"name": "old", "joined_ns": 1})])
    changes = Changes({"clients": ("client",)})
    changes.add("clients", ("old",), {"joined_ns": 4})
    changes.insert("clients", {"client": "new", "joined_ns": 10})
    changes.add("clients", ("new",), {"joined_ns": 5})
    changes.update("clients", ("gone",), {"joined_ns": 1})
    changes.upsert("clients", ("made",), {"joined_ns": 3}, {})
    changes.add("clients", ("made",), {"joined_ns": 1})
    changes.insert("clients", {"client": "brief", "joined_ns": 1})
    changes.drop("clients", ("brief",))
    changes.update("clients", ("brief",), {"joined_ns": 2})
    assert changes.read(catalog._connection, "clients", ("old",)) == {"client": "old", "joined_ns": 5}
    changes.flush(catalog._connection)
    assert sorted(catalog._rows("FROM clients")) == [("made", 4), ("new", 15), ("old", 5)]
    changes.erase("clients", "client", ["old", "new"])
    changes.insert("clients", {"client": "new", "joined_ns": 1})
    changes.flush(catalog._connection)
    assert sorted(catalog._rows("FROM clients")) == [("made", 4), ("new", 1)]


def test_the_second_process_is_told_that_it_is_open(opened, tmp_path):
    import subprocess
    import sys

    opened()
    code = "import sys; from staddle.catalog.duck import DuckCatalog; DuckCatalog(sys.argv[1], None)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "catalog.duckdb")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "staddle.errors.Locked" in done.stderr
    assert issubclass(Fenced, StaddleError)
