"""The manager's core: decides, logs, and answers only when the answer is durable and the lease still holds.

Theory of operation: a request is decided on the state *as it is*, with everything logged before it applied,
durable or not. Its ops are applied at once and handed to the log; its answer waits until the log says that
the last record on which it may rest is durable. That holds for answers without a record of their own, too: a
repeated COMMIT must not be told OK while the first one is still on its way to the disk. When records are
durable the lease is checked again (K3), since a record written after a takeover counts for nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from staddle.api.catalog import Record
from staddle.engine import ops
from staddle.engine.assign import decide_assign
from staddle.engine.commit import decide_commit
from staddle.engine.health import Health
from staddle.engine.jobs import (
    decide_cancel,
    decide_close_stream,
    decide_create_job,
    decide_expire,
    decide_failover_done,
    decide_finish,
    decide_renew,
)
from staddle.engine.lease import ManagerLease
from staddle.engine.messages import (
    Assign,
    CancelJob,
    CloseStream,
    Commit,
    CommitOk,
    CreateJob,
    FailoverDone,
    FinishJob,
    Renewed,
    RenewJob,
)
from staddle.engine.state import GridState
from staddle.engine.tables import ObjectState
from staddle.errors import StaddleError, Unavailable

PENDING_MAX = 100_000
"""Answers that may wait for the log at once; beyond it requests are refused, to be asked again."""

Request = Assign | Commit | CreateJob | RenewJob | CloseStream | FailoverDone | FinishJob | CancelJob


class Append(msgspec.Struct, frozen=True):
    """Write these records to the log; call `on_durable` with the last LSN when they are."""

    records: list[Record]


class Reply(msgspec.Struct, frozen=True):
    """Answer the request that was handed in with `tag`; a StaddleError is answered as an error."""

    tag: Any
    message: Any


class Publish(msgspec.Struct, frozen=True):
    """These records are durable, in the order of the log: for the catalog and the library (S2)."""

    records: list[Record]


ManagerEffect = Append | Reply | Publish


class ManagerCore:
    """One manager's term. Called by one thread.

    Args:
        state: replayed from the log, whole.
        lease: of this term.
        health: volatile; new for every term.
    """

    def __init__(self, state: GridState, lease: ManagerLease, health: Health) -> None:
        self.state = state
        self.lease = lease
        self.health = health
        self.durable_lsn = state.lsn
        self._waiting: deque[tuple[int, Any, Any]] = deque()
        self._unpublished: deque[Record] = deque()

    def begin(self, wall_ns: int) -> list[ManagerEffect]:
        """First of all: the term's own record. Serve nothing before it is durable."""
        return self._log([ops.EpochBegun(epoch=self.lease.epoch, at_ns=wall_ns)])

    def change(
        self,
        decide: Callable[..., Any],
        *args: Any,
        tag: Any = None,
        now_ns: int,
    ) -> list[ManagerEffect]:
        """Run any `decide_*(state, *args)`. It returns its ops, or (ops, answer); the answer goes to `tag`.

        A question about what is durable is a command without ops: `lambda t: ([], gc.to_delete(t))`.

        Raises Fenced when the lease can't be proved, and without a tag whatever the command raises.
        """
        self.lease.check(now_ns)
        if len(self._waiting) >= PENDING_MAX:
            raise Unavailable("the manager's log is behind", hint="ask again")
        answer: Any = None
        decided: list[ops.Op] = []
        try:
            outcome = decide(self.state, *args)
            decided, answer = outcome if isinstance(outcome, tuple) else (outcome, None)
        except StaddleError as error:
            if tag is None:
                raise  # nobody else would hear of it
            answer = error
        effects = self._log(decided)
        if tag is not None:
            self._waiting.append((self.state.lsn, tag, answer))
        return effects + self._answers(now_ns)

    def handle(self, request: Request, tag: Any, now_ns: int, wall_ns: int) -> list[ManagerEffect]:
        """A request of a client or an agent whose right to make it was checked. Raises Fenced."""
        match request:
            case Assign():
                self.health.failed(
                    request.job, request.stream, request.expected_epoch, request.exclude, now_ns
                )
                self.health.renew(request.job, now_ns)
                return self.change(
                    decide_assign, request, self.health, now_ns, wall_ns, tag=tag, now_ns=now_ns
                )
            case Commit():
                return self.change(self._commit, request, wall_ns, tag=tag, now_ns=now_ns)
            case CreateJob():
                return self.change(self._create_job, request, now_ns, wall_ns, tag=tag, now_ns=now_ns)
            case RenewJob():
                return self.change(self._renew, request, now_ns, tag=tag, now_ns=now_ns)
            case CloseStream():
                return self.change(decide_close_stream, request, wall_ns, tag=tag, now_ns=now_ns)
            case FailoverDone():
                return self.change(decide_failover_done, request, now_ns=now_ns)
            case FinishJob():
                return self.change(decide_finish, request, wall_ns, tag=tag, now_ns=now_ns)
            case CancelJob():
                return self.change(decide_cancel, request, wall_ns, tag=tag, now_ns=now_ns)

    def _create_job(
        self, state: GridState, request: CreateJob, now_ns: int, wall_ns: int
    ) -> tuple[list[ops.Op], Any]:
        decided, created = decide_create_job(state, request, wall_ns)
        # The lease begins with the job: the client can't renew what it has not heard of.
        self.health.renew(created.job, now_ns)
        return decided, created

    def _commit(self, state: GridState, request: Commit, wall_ns: int) -> tuple[list[ops.Op], Any]:
        decided, answer = decide_commit(state, request, wall_ns)
        if isinstance(answer, CommitOk):
            media = {copy.medium for item in (request.manifest, *request.containers) for copy in item.copies}
            self.health.worked(request.agent, media)
        return decided, answer

    def _renew(self, state: GridState, request: RenewJob, now_ns: int) -> tuple[list[ops.Op], Any]:
        ended = decide_renew(state, request)
        if ended is None:
            self.health.renew(request.job, now_ns)
        return [], ended or Renewed()

    def tick(self, now_ns: int, wall_ns: int) -> list[ManagerEffect]:
        """Time has passed: jobs whose lease ran out end. Raises Fenced."""
        expired = self.health.expired(self.state.active, now_ns)
        return self.change(decide_expire, expired, wall_ns, now_ns=now_ns) if expired else []

    # --- the log --------------------------------------------------------------------------------

    def _log(self, decided: Iterable[ops.Op]) -> list[ManagerEffect]:
        records = []
        for op in decided:
            record = Record(self.lease.epoch, self.state.lsn + 1, ops.NAMES[type(op)], ops.to_args(op))
            self.state.apply(record)
            records.append(record)
        self._unpublished.extend(records)
        return [Append(records)] if records else []

    def on_durable(self, lsn: int, now_ns: int) -> list[ManagerEffect]:
        """Everything up to `lsn` is durable. Raises Fenced: then nothing may be said, ever again."""
        self.lease.check(now_ns)
        self.durable_lsn = max(self.durable_lsn, lsn)
        ready: list[Record] = []
        while self._unpublished and self._unpublished[0].lsn <= self.durable_lsn:
            ready.append(self._unpublished.popleft())
        published: list[ManagerEffect] = [Publish(ready)] if ready else []
        return published + self._answers(now_ns)

    def _answers(self, now_ns: int) -> list[ManagerEffect]:
        if not self._waiting or self._waiting[0][0] > self.durable_lsn:
            return []
        self.lease.check(now_ns)
        answers: list[ManagerEffect] = []
        while self._waiting and self._waiting[0][0] <= self.durable_lsn:
            _, tag, message = self._waiting.popleft()
            answers.append(Reply(tag, message))
        return answers


class LibraryChange(msgspec.Struct, frozen=True):
    """What a record means for the fingerprint library (S2): containers to publish, and to withdraw."""

    lsn: int
    domain: str
    publish: list[bytes]
    withdraw: list[bytes]


def library_change(record: Record, state: GridState) -> LibraryChange | None:
    """Read a durable record for the library; None if it says nothing to it.

    `state` has applied the record (and maybe later ones): what is being deleted by now is not published.
    """
    op = ops.from_args(record.op, record.args)
    match op:
        case ops.SegmentCommitted():
            ids = [item.id for item in op.containers]
            domain = op.domain
        case ops.ObjectsImported():
            ids = [item.id for item in op.objects if item.kind == "container"]
            domain = op.objects[0].domain if op.objects else ""
        case ops.ObjectsDeleting():
            return LibraryChange(record.lsn, "", [], op.objects)
        case _:
            return None
    live = [i for i in ids if i in state.objects and state.objects[i].state is not ObjectState.DELETING]
    return LibraryChange(record.lsn, domain, live, []) if live else None
