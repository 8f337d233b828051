"""The op-log against a list, with reopening, torn tails, snapshots and truncation."""

import os
import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from staddle.api.catalog import Record
from staddle.catalog.logformat import LogHeader, encode_frame, encode_header, encode_records, file_name
from staddle.catalog.logrecovery import log_names
from staddle.catalog.oplog import OpLog

GRID = b"g" * 16
arguments = st.dictionaries(
    st.sampled_from("abc"), st.one_of(st.integers(), st.binary(max_size=40)), max_size=3
)
arguments = arguments.map(lambda args: {k: v % 2**64 if isinstance(v, int) else v for k, v in args.items()})


class OpLogMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.directory = tempfile.mkdtemp(prefix="staddle-oplog-")
        self.model = []
        self.epoch = 0
        self.first = 1
        self.snapshots = {}
        self.dropped = 0
        self.open()

    def open(self):
        self.epoch += 1
        self.log = OpLog(self.directory, GRID, self.epoch, segment_bytes=400)

    def teardown(self):
        if hasattr(self, "log"):
            self.log.close()
            shutil.rmtree(self.directory)

    @rule(batches=st.lists(st.lists(arguments, min_size=1, max_size=3), min_size=1, max_size=4))
    def append(self, batches):
        futures = []
        for batch in batches:
            records = [
                Record(self.epoch, len(self.model) + 1 + n, f"op{n}", args) for n, args in enumerate(batch)
            ]
            futures.append((self.log.append(records), records[-1].lsn))
            self.model += records
        for future, lsn in futures:
            assert future.result(10) == lsn

    @rule(torn=st.integers(0, 300), noise=st.binary(max_size=20))
    def crash(self, torn, noise):
        """A write was under way: any part of its frame is there, and perhaps a block of something else."""
        self.log.close()
        _, _, name = log_names(self.directory)[-1]
        path = os.path.join(self.directory, name)
        log = self.log._logs[-1]
        lost = [Record(self.epoch, len(self.model) + 1, "never", {"x": b"y" * 100})]
        frame = encode_frame(encode_records(lost), log.header.salt, log.end)
        with open(path, "r+b") as file:
            file.seek(log.end)
            file.write(frame[: min(torn, len(frame) - 1)] + b"\0" + noise)
        self.open()

    @rule()
    def reopen(self):
        self.log.close()
        self.open()

    @rule(lsn=st.integers(0, 30))
    def zombie(self, lsn):
        """The manager before us goes on writing to its file: a frame that is valid, but of an older epoch."""
        oldest = self.log._logs[0].header.epoch
        log = [each for each in self.log._logs if each.header.epoch == oldest][-1]  # it has closed the others
        if log.header.epoch == self.epoch or log.superseded:
            return
        late = [Record(log.header.epoch, log.next_lsn, "zombie", {})]
        with open(log.path, "r+b") as file:
            file.seek(log.end)
            file.write(encode_frame(encode_records(late), log.header.salt, log.end))
        place = self.log.last_lsn + 1 + lsn
        header = LogHeader(grid=GRID, epoch=log.header.epoch, first_lsn=place, salt=b"s" * 32)
        with open(os.path.join(self.directory, file_name(log.header.epoch, place)), "wb") as file:
            file.write(encode_header(header))

    @rule(back=st.integers(0, 5))
    def snapshot(self, back):
        lsn = len(self.model) - back
        if lsn > max(self.snapshots, default=0):
            self.log.write_snapshot(lsn, b"state %d" % lsn)
            self.snapshots[lsn] = b"state %d" % lsn

    @rule(floor=st.integers(0, 40))
    def truncate(self, floor):
        self.log.truncate([floor])
        bound = min(sorted(self.snapshots)[-2], floor) if len(self.snapshots) > 1 else 0
        self.dropped = max(self.dropped, bound)  # what went at an earlier, higher floor does not come back
        assert self.log.first_lsn <= self.dropped + 1

    @invariant()
    def equals_the_list(self):
        if not hasattr(self, "log"):
            return
        assert self.log.durable_lsn == self.log.last_lsn == len(self.model)
        assert list(self.log.replay(self.log.first_lsn - 1)) == self.model[self.log.first_lsn - 1 :]
        newest = self.log.newest_snapshot()
        assert (newest and newest.state) == self.snapshots.get(max(self.snapshots, default=None))


OpLogMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
test_oplog_equals_a_list = OpLogMachine.TestCase
