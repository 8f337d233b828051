"""A manager node: it campaigns for the lease, serves through ManagerCore, and keeps house."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from staddle.api.types import Kind, object_name
from staddle.engine import gc, repair
from staddle.engine.commit import unusable
from staddle.engine.configure import decide_medium_state
from staddle.engine.health import Health, HealthLimits
from staddle.engine.jobs import decide_finish, decide_sealed, decide_waited
from staddle.engine.manager import Append, ManagerCore, ManagerEffect, Publish, Reply
from staddle.engine.messages import CopyOf, FinishJob, SealNeeded
from staddle.engine.state import GridState
from staddle.engine.tables import SEALED, BackupState, JobState, MediumStatus
from staddle.errors import Fenced, StaddleError
from staddle.testing.sim.media import Body
from staddle.testing.sim.world import MS, Actor, Backlog, S

if TYPE_CHECKING:
    from staddle.testing.sim.grid import Grid

TTL_NS = 900 * MS
HEALTH = HealthLimits(
    agent_silence_ns=1000 * MS, backoff_ns=60 * MS, backoff_max_ns=500 * MS, job_lease_ns=2 * S
)
GRACE_NS = 60 * MS
AGE_NS = 200 * MS
SKEW_NS = 20 * MS


class SimManager(Actor):
    """One of two nodes."""

    def __init__(self, grid: Grid, name: str) -> None:
        super().__init__(grid.world, name)
        self.grid = grid
        self.forget()

    def forget(self) -> None:
        """A crash. What its log has under way may land or not."""
        core: ManagerCore | None = getattr(self, "core", None)
        if core is not None:
            self.grid.log.cut(core.lease.epoch)
        self.core: ManagerCore | None = None
        self.serving = False
        self.busy: set[object] = set()

    def in_order(self, backlog: Backlog) -> Backlog:
        """A thread that waits for the disk may be the first to run, before any timer has noticed the gap."""
        return sorted(backlog, key=lambda item: item[0] != self._durable)

    # --- the lease ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Campaign, or renew."""
        started_ns = self.world.now_ns
        epoch = self.core.lease.epoch if self.core else 0
        self.after(self.world.between(1, 10) * MS, self._lease_call, epoch, started_ns)
        self.after((TTL_NS // 3) if self.core else self.world.between(80, 200) * MS, self.wake)

    def _lease_call(self, epoch: int, started_ns: int) -> None:
        lease = self.grid.lease
        if frozenset((self.name, "lease")) in self.world.cut:
            return
        if epoch:
            kept = lease.renew(self.name, epoch)
            self.after(self.world.between(1, 10) * MS, self._renewed, epoch, started_ns, kept)
        elif self.core is None and (granted := lease.acquire(self.name)):
            self.after(self.world.between(1, 10) * MS, self._take_office, granted, started_ns)

    def _renewed(self, epoch: int, started_ns: int, kept: bool) -> None:
        if self.core is not None and self.core.lease.epoch == epoch:
            if kept:
                self.core.lease.renewed(started_ns)
            else:
                self.step_down()

    def _take_office(self, epoch: int, started_ns: int) -> None:
        lease = self.grid.kit.lease(epoch, TTL_NS, 100 * MS)
        lease.renewed(started_ns)
        if not lease.may_serve(self.world.now_ns) or self.grid.lease.epoch != epoch:
            return
        state = GridState()
        for record in self.grid.log.take_over(epoch):
            state.apply(record)
        if self.world.chance(0.2):
            state = GridState.load(state.dump())
        self.world.trace(self.name, "takes office", epoch, "lsn", state.lsn)
        self.core = self.grid.kit.core(state, lease, Health(HEALTH, self.world.now_ns))
        self.serving = False
        self.grid.publish_records(self.grid.log.read(), state)
        self._do(self.core.begin(self.world.wall_ns))
        self.after(100 * MS, self._keep_house, epoch)

    def step_down(self) -> None:
        """Fenced: forget everything, be a candidate again."""
        if self.core is not None:
            self.world.trace(self.name, "steps down", self.core.lease.epoch)
        self.core, self.serving, self.busy = None, False, set()

    # --- requests -------------------------------------------------------------------------------

    def on_heartbeat(self, agent: str) -> None:
        """An agent lives."""
        if self.core is not None:
            self.core.health.agent_seen(agent, self.world.now_ns)

    def on_request(self, request: Any, tag: Any) -> None:
        """Of a client or an agent; a node that is not in office says nothing."""
        core = self.core
        if core is not None and self.serving:
            self._try(lambda: core.handle(request, tag, self.world.now_ns, self.world.wall_ns))

    def change(
        self, decide: Callable[..., Any], *args: Any, then: Callable[[Any], None] | None = None
    ) -> None:
        """A command of the manager's own; `then` is called with the answer once it is durable."""
        core = self.core
        if core is not None:
            tag = None if then is None else (self, then, ())
            self._try(lambda: core.change(decide, *args, tag=tag, now_ns=self.world.now_ns))

    def _try(self, action: Callable[[], list[ManagerEffect]]) -> None:
        try:
            self._do(action())
        except Fenced:
            self.step_down()

    def _do(self, effects: list[ManagerEffect]) -> None:
        core = self.core
        assert core is not None
        for effect in effects:
            match effect:
                case Append():
                    self._append(core, effect)
                case Publish():
                    self.grid.publish_records(effect.records, core.state)
                case Reply():
                    actor, call, context = effect.tag
                    if actor is self:
                        self.after(0, call, effect.message)
                    elif call is not None:
                        self.send(actor, call, *context, effect.message)

    def _append(self, core: ManagerCore, effect: Append) -> None:
        for record in effect.records:
            self.world.trace(self.name, f"logs {record.lsn}", record.op)
        last = effect.records[-1].lsn

        def done(ok: bool) -> None:
            self.receive(self._durable, (core, last, ok))

        self.grid.log.append(core.lease.epoch, effect.records, done)

    def _durable(self, core: ManagerCore, lsn: int, ok: bool) -> None:
        if self.core is not core:
            return
        if not ok:
            core.lease.fenced()
            self.step_down()
            return
        self.serving = True
        self._try(lambda: core.on_durable(lsn, self.world.now_ns))

    # --- the house ------------------------------------------------------------------------------

    def unusable(self, containers: Iterable[bytes], pool: str) -> list[bytes]:
        """What an agent asks before it uses its hits."""
        assert self.core is not None
        return unusable(self.core.state, containers, self.core.state.pools[pool])

    def _keep_house(self, epoch: int) -> None:
        core = self.core
        if core is None or core.lease.epoch != epoch:
            return
        self.after(120 * MS, self._keep_house, epoch)
        if not self.serving:
            return
        self._try(lambda: core.tick(self.world.now_ns, self.world.wall_ns))
        for task in (self._watch_media, self._seal, self._prune, self._journal, self._collect, self._orphans):
            task()
        self._scrub()
        self._repair()

    def _watch_media(self) -> None:
        for medium in self.grid.media.values():
            state = MediumStatus.UP if medium.works else MediumStatus.OFFLINE
            if medium.lost:
                state = MediumStatus.LOST
            self.change(decide_medium_state, medium.name, state, "probed", self.world.wall_ns)

    def _put_all(
        self, body: Body, kind: Kind, media: Iterable[str], done: Callable[[list[CopyOf]], None]
    ) -> None:
        """Put a small object on several media; `done` with its copies when all have answered."""
        copies: list[CopyOf] = []
        waiting = list(media)

        def one(copy: CopyOf, error: StaddleError | None) -> None:
            waiting.remove(copy.medium)
            if error is None:
                copies.append(copy)
            if not waiting:
                done(copies)

        for name in list(waiting):
            copy = CopyOf(name, object_name(kind, body.id, self.grid.placement()))

            def answered(error: StaddleError | None, copy: CopyOf = copy) -> None:
                self.receive(one, (copy, error))

            self.grid.media[name].put(copy.name, body, answered)

    def _seal(self) -> None:
        core = self.core
        if core is None:
            return
        for number in list(core.state.active):
            if core.state.jobs[number].state is JobState.SEALING and ("seal", number) not in self.busy:
                request = FinishJob(job=number, session=b"")
                self.change(decide_finish, request, self.world.wall_ns, then=self._put_seal)
                if self.world.chance(0.05):  # the pool's patience with media that are away is over
                    self.change(decide_waited, number, self.world.wall_ns)

    def _put_seal(self, needed: object) -> None:
        core = self.core
        if core is None or not isinstance(needed, SealNeeded) or not needed.media:
            return
        # The answer had to wait for the log: look again whether a seal is still needed.
        if core.state.jobs[needed.job].state is not JobState.SEALING or ("seal", needed.job) in self.busy:
            return
        self.busy.add(("seal", needed.job))
        body = Body(id=self.world.new_id(), kind="seal", seal=needed)

        def done(copies: list[CopyOf]) -> None:
            self.busy.discard(("seal", needed.job))
            stored = body.stored(copies)
            self.change(decide_sealed, needed.job, stored, needed.state, self.world.wall_ns)

        self._put_all(body, Kind.SEAL, needed.media, done)

    def _prune(self) -> None:
        core = self.core
        if core is None or not self.world.chance(0.2):
            return
        kept = [b for b in core.state.backups.values() if b.state in SEALED | {BackupState.INCOMPLETE}]
        if len(kept) > 1:
            victim = kept[self.world.between(0, len(kept) - 1 - self.world.between(0, 1))]
            self.change(gc.decide_prune, [victim.id], self.world.wall_ns)

    def _journal(self) -> None:
        if "journal" not in self.busy:
            self.change(lambda state: ([], gc.to_journal(state)), then=self._put_journal)

    def _put_journal(self, backups: list[int]) -> None:
        if not backups or "journal" in self.busy:
            return
        self.busy.add("journal")
        body = Body(id=self.world.new_id(), kind="journal", pruned=tuple(backups))

        def done(copies: list[CopyOf]) -> None:
            self.busy.discard("journal")
            self.change(gc.decide_journalled, backups, body.stored(copies))

        self._put_all(body, Kind.JOURNAL, [m.name for m in self.grid.media.values() if not m.lost], done)

    def _collect(self) -> None:
        wall_ns = self.world.wall_ns
        if self.world.chance(0.5):
            self.change(gc.decide_condemn, wall_ns)
            self.change(gc.decide_delete, GRACE_NS, wall_ns)
            self.change(gc.decide_drop)
        self.change(lambda state: ([], gc.to_delete(state)), then=self._delete)

    def _delete(self, found: list[tuple[bytes, CopyOf]]) -> None:
        for item, copy in found:
            if copy in self.busy:
                continue
            self.busy.add(copy)

            def done(ok: bool, item: bytes = item, copy: CopyOf = copy) -> None:
                self.receive(self._deleted, (item, copy, ok))

            self.grid.media[copy.medium].delete(copy.name, done)

    def _deleted(self, item: bytes, copy: CopyOf, ok: bool) -> None:
        self.busy.discard(copy)
        if ok:
            self.change(gc.decide_copies_deleted, [(item, copy)])

    def _orphans(self) -> None:
        core = self.core
        if core is None:
            return
        for medium in self.grid.media.values():
            if medium.works and self.world.chance(0.3):
                self.change(self._find_orphans, medium.name, sorted(medium.objects))
        self.change(
            lambda state: ([], {m: list(names) for m, names in state.doomed.items()}), then=self._remove
        )

    def _find_orphans(self, state: GridState, medium: str, names: list[str]) -> Any:
        found = gc.orphans(state, medium, names, age_ns=AGE_NS, skew_ns=SKEW_NS, wall_ns=self.world.wall_ns)
        return gc.decide_orphans(state, medium, found)

    def _remove(self, doomed: dict[str, list[str]]) -> None:
        for medium, names in doomed.items():
            for name in names:
                if (medium, name) in self.busy:
                    continue
                self.busy.add((medium, name))

                def done(ok: bool, medium: str = medium, name: str = name) -> None:
                    self.receive(self._removed, (medium, name, ok))

                self.grid.media[medium].delete(name, done)

    def _removed(self, medium: str, name: str, ok: bool) -> None:
        self.busy.discard((medium, name))
        if ok:
            self.change(gc.decide_orphans_removed, medium, [name])

    def _scrub(self) -> None:
        """Readers meet some copies and report bad ones; now and then one that is good."""
        core = self.core
        if core is None:
            return
        for item in list(core.state.objects.values()):
            for copy in list(item.copies):
                medium = self.grid.media[copy.medium]
                if medium.works and self.world.chance(0.1):
                    bad = medium.readable(copy.name) is None or self.world.chance(0.01)
                    if bad:
                        self.change(gc.decide_copy_lost, item.id, copy, "corrupt")

    def _repair(self) -> None:
        """Look again at bad copies, make one missing copy, logged before and after, and drop what is bad."""
        core = self.core
        if core is None or not self.world.chance(0.3):
            return
        for item_id in list(core.state.damaged):
            for copy in list(core.state.objects[item_id].bad):
                if self.grid.media[copy.medium].readable(copy.name) is not None:
                    self.change(repair.decide_copy_whole, item_id, copy)
            self.change(self.grid.kit.drop_bad, item_id)
        for item_id in repair.in_debt(core.state):
            item = core.state.objects[item_id]
            body = self.grid.read(repair.sources(core.state, item))
            free = [name for name in repair.targets(core.state, item) if self.grid.media[name].works]
            if body is None or not free or ("repair", item.id) in self.busy:
                continue
            self.busy.add(("repair", item.id))
            kind = {"container": Kind.CONTAINER, "manifest": Kind.MANIFEST, "seal": Kind.SEAL}.get(
                item.kind, Kind.JOURNAL
            )
            copy = CopyOf(free[0], object_name(kind, item.id, self.grid.placement()))
            self.change(
                gc.decide_plan_copy,
                item.id,
                copy.medium,
                copy.name,
                self.world.wall_ns,
                then=partial(self._copy, body, copy),
            )
            return

    def _copy(self, body: Body, copy: CopyOf, _: object) -> None:
        def done(error: StaddleError | None) -> None:
            self.receive(self._copied, (body, copy, error))

        self.grid.media[copy.medium].put(copy.name, body, done)

    def _copied(self, body: Body, copy: CopyOf, error: StaddleError | None) -> None:
        self.busy.discard(("repair", body.id))
        if error is None and not self.world.chance(0.3):  # or it dies before it could say so
            self.change(gc.decide_copy_added, body.id, copy)
