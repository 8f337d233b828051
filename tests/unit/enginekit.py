"""A bench for the manager's state machine: ops go in, the state is looked at."""

import msgspec

from staddle.api.catalog import Record
from staddle.engine import gc, ops
from staddle.engine.assign import decide_assign
from staddle.engine.commit import decide_commit
from staddle.engine.configure import decide_pool
from staddle.engine.health import Health, HealthLimits
from staddle.engine.jobs import (
    decide_close_stream,
    decide_create_job,
    decide_finish,
    decide_sealed,
)
from staddle.engine.messages import (
    Assign,
    Cause,
    CloseStream,
    Commit,
    CommitOk,
    CopyOf,
    CreateJob,
    FinishJob,
    StoredObject,
)
from staddle.engine.state import GridState

S = 10**9
EPOCH = 3


def pool_op(**changes):
    made = ops.PoolSet(
        name="p",
        media=["m", "n", "o"],
        domain="d",
        copies=2,
        min_copies=1,
        policy="priority",
        agents=[],
        wait_busy_s=0,
        wait_offline_s=0,
        segment_bytes=4,
    )
    return msgspec.structs.replace(made, **changes)


class Bench:
    """A state with its log, and short words for what the tests do all the time."""

    def __init__(self, **pool):
        self.state = GridState()
        self.records = []
        self.health = Health(HealthLimits(), 0)
        self.epoch = EPOCH
        self.log(ops.EpochBegun(epoch=EPOCH, at_ns=0))
        for name in "ab":
            self.log(ops.AgentSet(name=name, urls=[f"mem://{name}"]))
        for name in "mno":
            self.log(ops.MediumSet(name=name, plugin="x", volume=name.encode(), failure_domain=name))
        self.log(*decide_pool(self.state, pool_op(**pool)))

    def log(self, *decided):
        for op in decided:
            record = Record(self.epoch, self.state.lsn + 1, ops.NAMES[type(op)], ops.to_args(op))
            record = msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record)
            self.records.append(record)
            self.state.apply(record)

    def do(self, outcome):
        decided, reply = outcome
        self.log(*decided)
        return reply

    def job(self, request=b"r", **changes):
        made = CreateJob(request=request, session=b"s", client="c", name="x", roots=[b"/"], pool="p")
        return self.do(decide_create_job(self.state, msgspec.structs.replace(made, **changes), 1))

    def assign(self, job, expected, cause=Cause.START, now=1, **more):
        request = Assign(job=job, stream=0, expected_epoch=expected, cause=cause, session=b"s", **more)
        return self.do(decide_assign(self.state, request, self.health, now, 10 * S))

    def commit(self, ticket, first=0, count=1, *, new=(), refs=(), media=("m", "n"), **changes):
        made = Commit(
            job=ticket.job,
            stream=0,
            epoch=ticket.epoch,
            agent=ticket.agent,
            first=first,
            next=first + count,
            manifest=thing(b"f%d.%d" % (ticket.job, first), media),
            containers=[thing(item, media) for item in new],
            refs=[ident(item) for item in (*new, *refs)],
        )
        return self.do(decide_commit(self.state, msgspec.structs.replace(made, **changes), 2))

    def backup(self, request, *, new=(), refs=()):
        """A whole backup of one segment."""
        job = self.job(request)
        ticket = self.assign(job.job, 0).ticket
        assert isinstance(self.commit(ticket, new=new, refs=refs), CommitOk)
        self.do(
            decide_close_stream(
                self.state, CloseStream(job=job.job, stream=0, epoch=ticket.epoch, total=1), 3
            )
        )
        needed = self.do(decide_finish(self.state, FinishJob(job=job.job, session=b"s"), 4))
        seal = thing(b"seal%d" % job.job, ("m", "n"))
        return self.do(decide_sealed(self.state, job.job, seal, needed.state, 5))

    def close(self, ticket, total=1):
        request = CloseStream(job=ticket.job, stream=0, epoch=ticket.epoch, total=total)
        return self.do(decide_close_stream(self.state, request, 3))

    def journal(self, backups):
        body = thing(b"journal", ("m", "n", "o"))
        self.log(*gc.decide_journalled(self.state, backups, body))


def ident(name):
    return name.rjust(16, b"\0")


def thing(name, media):
    return StoredObject(
        id=ident(name),
        size_bytes=9,
        digest=name.ljust(32, b"."),
        copies=[CopyOf(medium, f"{name.decode()}.{medium}") for medium in media],
    )
