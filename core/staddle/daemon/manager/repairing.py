"""Makes damaged, missing and owed copies again, and then has the bad ones removed (`engine.repair`).

A copy is called bad by a reader (an agent, while it serves a restore or a backup) or by `verify --repair`.
Before anything is changed it is read once more: what was only a bad moment of a disk or a host counts again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from staddle.api.catalog import Record
from staddle.api.types import Buffer, Kind, object_name
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.orphans import OrphanSweeper
from staddle.daemon.manager.presence import Presence
from staddle.daemon.manager.salvage import Salvager, source_of
from staddle.daemon.manager.sealing import Sealer
from staddle.data.sealed import logged_digest
from staddle.engine import repair
from staddle.engine.gc import decide_copy_added, decide_copy_lost, decide_orphans, decide_plan_copy
from staddle.engine.messages import CopyOf
from staddle.engine.tables import MediumStatus, Object, ObjectState
from staddle.errors import Corrupt, StaddleError, Unavailable
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops.admin import VerifyObject
from staddle.wire.ops.base import register
from staddle.wire.ops.data import (
    CHECK_OBJECT,
    DELETE_OBJECT,
    PUT_OBJECT,
    CheckObject,
    DeleteObject,
    PutObject,
)
from staddle.wire.ops.repair import (
    COPY_OBJECT,
    FETCH_OBJECT,
    REPAIR_OBJECT,
    BadPlacement,
    Copied,
    CopyObject,
    FetchObject,
    Repaired,
    RepairObject,
)

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
DEBT_EVERY_NS = 600 * 1_000_000_000
"""Between two looks at all objects for copies that are owed; damage is told, and needs no looking for."""
PAUSE_MIN_NS = 60 * 1_000_000_000
PAUSE_MAX_NS = 3600 * 1_000_000_000
"""What can't be repaired now is tried again later, and ever later."""
PLAN_AGE_NS = 3600 * 1_000_000_000
_TIMEOUT_S = 120.0
_BAD_CODES = frozenset({"CORRUPT", "NOT_FOUND"})


class Repairer:
    """One object at a time: repair must not slow down backups."""

    def __init__(
        self,
        manager: Manager,
        adoption: Adoption,
        presence: Presence,
        *,
        sweeper: OrphanSweeper,
        salvager: Salvager,
        sealer: Sealer,
        keyring: bytes,
    ) -> None:
        """Args: sweeper: removes bad placements. keyring: as it lies on every medium."""
        self._manager = manager
        self._adoption = adoption
        self._presence = presence
        self._sweeper = sweeper
        self._salvager = salvager
        self._sealer = sealer
        self._keyring = keyring
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._later: dict[bytes, tuple[int, int]] = {}  # object -> when to try again, and the pause before
        self._debt_at_ns = time.monotonic_ns() + int(LOOK_EVERY_S * 1e9)
        self._planned: set[str] = set()  # names of copies that are being made now
        manager.subscribe(self._on_records)

    def install(self, handlers: Handlers) -> None:
        """Add what administrators may ask."""
        register(handlers, REPAIR_OBJECT, self._asked)

    async def run(self) -> None:
        """Repair what is told, and look for the rest now and then. Until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.step()
            except StaddleError as error:
                log.warning("repair goes on later: %s", error)
            except Exception:
                log.exception("repair failed")

    async def step(self) -> None:
        """One pass over everything that is damaged or owed now."""
        if self._adoption.rebuild_needed:
            return  # this log does not know what the media hold
        state, now_ns = self._manager.state, time.monotonic_ns()
        due = list(state.damaged)
        if now_ns >= self._debt_at_ns:
            self._debt_at_ns = now_ns + DEBT_EVERY_NS
            due += [item for item in repair.in_debt(state) if item not in state.damaged]
            await self._forget_plans()
        self._later = {item: when for item, when in self._later.items() if item in state.objects}
        due += [item for item in self._later if item not in state.damaged]  # owed, and not made at first
        for item in dict.fromkeys(due):
            if self._later.get(item, (0, 0))[0] <= time.monotonic_ns():
                await self.repair(item)

    def _on_records(self, records: list[Record]) -> None:
        if any(record.op == "pool_set" for record in records):
            self._debt_at_ns = 0  # media that have left a pool are emptied
            self._wake.set()
        if any(record.op == "copy_dropped" and record.args["reason"] != "deleted" for record in records):
            self._wake.set()

    async def _forget_plans(self) -> None:
        """Copies that an earlier term or a failed medium has left half made: removed as orphans are."""
        stale = list(repair.stale_plans(self._manager.state, time.time_ns() - PLAN_AGE_NS))
        for medium, name in stale:
            if name not in self._planned:
                await self._manager.change(decide_orphans, medium, [name])

    # --- what is asked for ----------------------------------------------------------------------------

    async def _asked(self, call: Call) -> Repaired:
        self._adoption.check_serving()
        args: RepairObject = call.args
        if args.id == self._manager.state.grid:
            return await self._repair_keyring(args.bad)
        for bad in args.bad:
            if bad.code in _BAD_CODES:
                log.error("verify: copy %s on %s: %s", bad.name, bad.medium, bad.code)
                copy = CopyOf(bad.medium, bad.name)
                await self._manager.change(decide_copy_lost, args.id, copy, bad.code.lower())
        return await self.repair(args.id)

    async def _repair_keyring(self, bad: Sequence[BadPlacement]) -> Repaired:
        """A keyring is always of the same name, so the damaged one goes first; every medium holds another."""
        try:
            for each in bad:
                if each.name.startswith(f"{Kind.KEYRING.value}/") and each.code == "CORRUPT":
                    request = DeleteObject(medium=each.medium, names=[each.name])
                    await self._presence.call(DELETE_OBJECT, request, medium=each.medium)
                put = PutObject(
                    kind=Kind.KEYRING.value,
                    id=self._manager.state.grid,
                    domain="",
                    media=[each.medium],
                    sealed=True,
                )
                answer = await self._presence.call(PUT_OBJECT, put, self._keyring, medium=each.medium)
                if answer.failed:
                    return Repaired(state="waiting", message="; ".join(answer.failed.values()))
        except StaddleError as error:
            return Repaired(state="waiting", message=str(error))
        return Repaired(state="whole")

    # --- one object -----------------------------------------------------------------------------------

    async def repair(self, item_id: bytes) -> Repaired:
        """Do for one object what can be done now; say how it stands then."""
        async with self._turn:
            outcome = await self._repair(item_id)
        if outcome.state in {"whole", "gone"}:
            self._later.pop(item_id, None)
        else:
            pause_ns = min(2 * self._later.get(item_id, (0, PAUSE_MIN_NS // 2))[1], PAUSE_MAX_NS)
            self._later[item_id] = time.monotonic_ns() + pause_ns, pause_ns
            log.warning("object %s: %s %s", item_id.hex(), outcome.state, outcome.message)
        return outcome

    async def _repair(self, item_id: bytes) -> Repaired:
        state = self._manager.state
        item = state.objects.get(item_id)
        if item is None or item.state is not ObjectState.LIVE:
            return Repaired(state="gone", message="nothing refers to it any more")
        why = await self._look_again(item)
        if len(item.bad) > 1 and not item.copies:
            why = await self._join(item)
        for _ in range(len(state.media)):  # bounded: each turn makes a copy, or ends
            if not repair.missing_copies(state, item):
                break
            made, said = await self._make_copy(item)
            if not made:
                why = said if item.copies else why
                break
            why = ""
        if item.kind == "seal" and not item.copies and await self._sealer.reseal(item_id):
            log.warning("seal %s had no whole copy: a new one says the same", item_id.hex())
            return Repaired(state="whole")
        await self._drop_bad(item)
        if not item.bad and not repair.missing_copies(state, item):
            return Repaired(state="whole")
        if not item.copies:
            return Repaired(state="lost", message=f"no copy of it is whole: {why}")
        return Repaired(state="waiting", message=why or "a medium with one of its copies is not up")

    async def _look_again(self, item: Object) -> str:
        """Read bad copies once more; one that is whole counts again. What the last one said otherwise."""
        why = "its media are not up"
        for copy in list(item.bad):
            if self._manager.state.media[copy.medium].state is not MediumStatus.UP:
                continue
            request = CheckObject(object=source_of(item, copy), read_data=True)
            try:
                found = await self._presence.call(
                    CHECK_OBJECT, request, medium=copy.medium, timeout_s=_TIMEOUT_S
                )
            except StaddleError as error:
                why = str(error)
                continue
            if found.problems:
                why = "; ".join(found.problems)
            else:
                log.warning("copy %s on %s is whole after all", copy.name, copy.medium)
                await self._manager.change(repair.decide_copy_whole, item.id, copy)
        return why

    async def _join(self, item: Object) -> str:
        """A whole copy out of several bad ones, if they are not all bad in one place; else why not."""
        try:
            blob = await self._salvager.joined(item, item.bad)
        except StaddleError as error:
            return str(error)
        why = "no medium of its pool is up"
        for medium in repair.targets(self._manager.state, item):

            async def put(name: str, medium: str = medium) -> Copied:
                return await self._put(blob, source_of(item, CopyOf(medium, name)))

            try:
                await self._new_copy(item, medium, put)
            except StaddleError as error:
                why = f"medium {medium}: {error}"
            else:
                return ""
        return why

    async def _make_copy(self, item: Object) -> tuple[bool, str]:
        """One more copy, from whichever good one and on whichever medium it can be."""
        state = self._manager.state
        why = "no copy that is whole lies on a medium that is up"
        for source in repair.sources(state, item):
            media = repair.targets(state, item)
            if not media:
                return False, "no other medium of its pool is up"
            for medium in media:
                try:
                    copied = await self._copy(item, source, medium)
                except StaddleError as error:
                    why = f"medium {medium}: {error}"
                    continue
                if not copied.code:
                    return True, ""
                why = copied.problem
                if copied.code in _BAD_CODES:
                    await self._manager.change(decide_copy_lost, item.id, source, copied.code.lower())
                break
        return False, why

    async def _copy(self, item: Object, source: CopyOf, medium: str) -> Copied:
        return await self._new_copy(
            item, medium, lambda name: self._carry(source_of(item, source), medium, name)
        )

    async def _new_copy(self, item: Object, medium: str, make: Callable[[str], Awaitable[Copied]]) -> Copied:
        """Planned in the log, made under the name, and logged. Raises what kept it from being made."""
        name = object_name(Kind[item.kind.upper()], item.id, self._manager.ids.random(8))
        await self._manager.change(decide_plan_copy, item.id, medium, name, time.time_ns())
        self._planned.add(name)
        copied = Copied(code="UNAVAILABLE")
        try:
            copied = await make(name)
            if not copied.code:
                await self._manager.change(decide_copy_added, item.id, CopyOf(medium, name))
                log.info("object %s has a new copy on %s", item.id.hex(), medium)
        finally:
            self._planned.discard(name)
            if copied.code:  # whatever has landed is removed, now or by a later pass
                await self._manager.change(decide_orphans, medium, [name])
        return copied

    async def _carry(self, source: VerifyObject, medium: str, name: str) -> Copied:
        """By an agent that reaches both media, or by two with the bytes passing through here."""
        reach = self._manager.settings.media_of
        for session in self._presence.serving(source.medium):
            link = session.data_link()
            if link is not None and medium in reach(session.name):
                request = CopyObject(source=source, medium=medium, name=name)
                reply = await link.request(COPY_OBJECT.name, request, timeout_s=_TIMEOUT_S)
                return COPY_OBJECT.decode(reply)
        got = await self._presence.raw(
            FETCH_OBJECT, FetchObject(source=source), medium=source.medium, timeout_s=_TIMEOUT_S
        )
        # What one agent hands over goes to another's medium: it is looked at on its way.
        await asyncio.to_thread(check_whole, got.payload, source)
        return await self._put(got.payload, msgspec.structs.replace(source, medium=medium, name=name))

    async def _put(self, blob: Buffer, copy: VerifyObject) -> Copied:
        """Whole sealed bytes, on the place that `copy` says. Raises what kept them from it."""
        put = PutObject(
            kind=copy.name.split("/", 1)[0],
            id=copy.id,
            domain=copy.domain,
            media=[copy.medium],
            sealed=True,
            placement=bytes.fromhex(copy.name[-16:]),
        )
        answer = await self._presence.call(
            PUT_OBJECT, put, bytes(blob), medium=copy.medium, timeout_s=_TIMEOUT_S
        )
        if (copy.medium, copy.name) not in answer.copies:
            raise Unavailable(f"it took no copy: {answer.failed.get(copy.medium, 'no agent said why')}")
        return Copied()

    async def _drop_bad(self, item: Object) -> None:
        """Doom the bad placements if all copies are there, and remove them."""
        media = {copy.medium for copy in item.bad}
        await self._manager.change(repair.decide_bad_dropped, item.id)
        for medium in media if not item.bad else ():
            try:
                await self._sweeper.remove(medium)
            except StaddleError as error:
                log.warning("medium %s: bad copies are removed later: %s", medium, error)


def check_whole(blob: Buffer, source: VerifyObject) -> None:
    """Are these the bytes that were committed. Raises Corrupt, which says nothing about any copy."""
    if len(blob) != source.size_bytes or logged_digest(Kind(source.kind), blob) != source.digest:
        raise Corrupt(
            f"{source.name} on medium {source.medium!r}: an agent hands over other bytes than were stored",
            hint="`staddle verify --read-data` tells whether it is the medium",
            scope="agent",
        )
