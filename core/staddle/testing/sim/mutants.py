"""The protocol broken on purpose, one rule at a time. A simulator that does not notice proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from staddle.engine import commit, manager
from staddle.engine.effects import ReceiverEffect, Send, SendFlush, SendRecord
from staddle.engine.lease import ManagerLease
from staddle.engine.manager import ManagerCore, ManagerEffect
from staddle.engine.messages import Commit, CommitReply, Durable
from staddle.engine.receiver import Stored, StreamReceiver
from staddle.engine.repair import decide_bad_dropped
from staddle.engine.sender import StreamSender
from staddle.engine.tables import ObjectState, Pool, Tables
from staddle.testing.sim.grid import Kit

Patch = tuple[Any, str, Any]

_decide_commit = commit.decide_commit
_usable = commit.usable


def _no_fence(t: Tables, request: Commit, wall_ns: int) -> tuple[list[Any], CommitReply]:
    job = t.jobs.get(request.job)
    if job is not None and request.stream < len(job.streams):
        stream = job.streams[request.stream]
        request = msgspec.structs.replace(request, epoch=stream.epoch, agent=stream.agent)
    return _decide_commit(t, request, wall_ns)


def _no_repeat(*_: object) -> None:
    return None


def _any_state(t: Tables, container: bytes, pool: Pool, domains: dict[str, str] | None = None) -> bool:
    item = t.objects.get(container)
    if item is None or item.state is ObjectState.DELETING:
        return True
    return _usable(t, container, pool, domains)


def _any_copies(t: Tables, container: bytes, *_: object) -> bool:
    item = t.objects.get(container)
    return item is not None and item.kind == "container" and item.state is not ObjectState.DELETING


def _bad_counts(t: Tables, container: bytes, pool: Pool, domains: dict[str, str] | None = None) -> bool:
    item = t.objects.get(container)
    if item is None or not item.bad:
        return _usable(t, container, pool, domains)
    copies, item.copies = item.copies, item.placements()
    try:
        return _usable(t, container, pool, domains)
    finally:
        item.copies = copies


def _drops_at_once(t: Tables, item_id: bytes) -> list[Any]:
    present = Tables.copies_present
    Tables.copies_present = lambda _, item: item.want  # type: ignore[method-assign,assignment]
    try:
        return decide_bad_dropped(t, item_id)
    finally:
        Tables.copies_present = present  # type: ignore[method-assign]


def _nothing_held(*_: object) -> list[int]:
    return []


class _EarlyReceiver(StreamReceiver):
    def on_stored(self, stored: Stored, now_ns: int) -> list[ReceiverEffect]:
        effects = super().on_stored(stored, now_ns)
        if effects and self._commit is not None:
            effects.append(Send(Durable(epoch=self.ticket.epoch, upto=self._commit.next)))
        return effects


class _NeverFlushes(StreamSender):
    def poll(self, now_ns: int) -> SendRecord | SendFlush | None:
        item = super().poll(now_ns)
        return None if isinstance(item, SendFlush) else item


class _NoCheckAfter(ManagerCore):
    def on_durable(self, lsn: int, now_ns: int) -> list[ManagerEffect]:
        lease, self.lease = self.lease, _Trusting(self.lease.epoch, 2, 1)
        try:
            return super().on_durable(lsn, now_ns)
        finally:
            self.lease = lease


class _Trusting(ManagerLease):
    def may_serve(self, now_ns: int) -> bool:
        return True


class _RepliesEarly(ManagerCore):
    def _answers(self, now_ns: int) -> list[ManagerEffect]:
        durable, self.durable_lsn = self.durable_lsn, self.state.lsn
        try:
            return super()._answers(now_ns)
        finally:
            self.durable_lsn = durable


def _kit(**changes: object) -> type[Kit]:
    return type("MutantKit", (Kit,), changes)


MUTANTS: dict[str, tuple[type[Kit], list[Patch]]] = {
    "no-fence": (Kit, [(manager, "decide_commit", _no_fence)]),
    "early-acknowledgement": (_kit(receiver=_EarlyReceiver), []),
    "uncommitted-hit": (_kit(publish_early=True), []),
    "no-flush": (_kit(sender=_NeverFlushes), []),
    "no-container-states": (Kit, [(commit, "usable", _any_state)]),
    "hit-ignores-copies": (Kit, [(commit, "usable", _any_copies)]),
    "lease-not-checked-after-write": (_kit(core=_NoCheckAfter), []),
    "reply-before-durable": (_kit(core=_RepliesEarly), []),
    "repeat-not-recognised": (Kit, [(commit, "committed_before", _no_repeat)]),
    "bad-copy-counts": (Kit, [(commit, "usable", _bad_counts)]),
    "bad-copy-dropped-at-once": (_kit(drop_bad=staticmethod(_drops_at_once)), []),
    "base-not-held": (Kit, [(Tables, "held", _nothing_held)]),
    "names-reused": (_kit(fixed_names=True), []),
}


@contextmanager
def mutant(name: str) -> Iterator[type[Kit]]:
    """The kit of a mutant, its patches in force meanwhile. The empty name is the real thing."""
    if not name:
        yield Kit
        return
    kit, patches = MUTANTS[name]
    saved = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in patches]
    for owner, attribute, value in patches:
        setattr(owner, attribute, value)
    try:
        yield kit
    finally:
        for owner, attribute, value in saved:
            setattr(owner, attribute, value)
