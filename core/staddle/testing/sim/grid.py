"""A whole grid for one seed: its parts, their truth, and the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from staddle.api.catalog import Record
from staddle.engine import ops
from staddle.engine.lease import ManagerLease
from staddle.engine.manager import LibraryChange, ManagerCore, library_change
from staddle.engine.messages import CopyOf, Ticket
from staddle.engine.receiver import ReceiverLimits, StreamReceiver
from staddle.engine.repair import decide_bad_dropped
from staddle.engine.sender import StreamSender
from staddle.engine.state import GridState
from staddle.engine.tables import Tables
from staddle.engine.window import SenderLimits
from staddle.testing.sim.agent import SimAgent
from staddle.testing.sim.client import SimClient
from staddle.testing.sim.log import LeaseService, SimLog
from staddle.testing.sim.manager import TTL_NS, SimManager
from staddle.testing.sim.media import Body, Medium
from staddle.testing.sim.world import MS, S, Violation, World

RUN_NS_MAX = 25 * S
EVENTS_MAX = 60_000


class Kit:
    """The classes under test: those that the daemons import. A mutant puts others in their place."""

    sender: type[StreamSender] = StreamSender
    receiver: type[StreamReceiver] = StreamReceiver
    core: type[ManagerCore] = ManagerCore
    lease: type[ManagerLease] = ManagerLease
    drop_bad: Callable[[Tables, bytes], list[ops.Op]] = staticmethod(decide_bad_dropped)
    publish_early = False
    fixed_names = False


class Grid:
    """Managers, agents, media and clients, and what an observer knows of them."""

    def __init__(self, seed: int, kit: type[Kit] = Kit, *, verbose: bool = False) -> None:
        self.world = world = World(seed, verbose=verbose)
        self.kit = kit
        self.copies = world.rng.choice((1, 2, 2))
        self.min_copies = world.between(1, self.copies)
        self.asks_before_hits = world.chance(0.3)
        segment, window = world.rng.choice(((3, 7), (4, 8), (4, 3), (2, 9)))
        self.segment_bytes = segment
        self.sender_limits = SenderLimits(
            window_bytes_max=window,
            silence_ns=260 * MS,
            ask_repeat_ns=150 * MS,
            flush_repeat_ns=120 * MS,
        )
        age_ns = world.rng.choice((150 * MS, 1000 * S))
        self.limits = ReceiverLimits(segment_age_ns=age_ns, commit_repeat_ns=120 * MS, progress_ns=80 * MS)
        self.media = {name: Medium(world, name) for name in ("m0", "m1", "m2")}
        put_ms_max = world.rng.choice((6, 6, 60))
        for medium in self.media.values():
            medium.put_ms_max = put_ms_max
        self.agents = [SimAgent(self, f"a{number}") for number in range(3)]
        self.lease = LeaseService(world, TTL_NS)
        self.log = SimLog(world, fences=world.chance(0.5))
        self.managers = [SimManager(self, f"M{number}") for number in range(2)]
        self.clients = [SimClient(self, f"c{n}", world.between(2, 4)) for n in range(world.between(1, 2))]
        self.library: dict[int, bytes] = {}
        self.bodies: dict[bytes, Body] = {}
        self.expected: dict[int, list[list[int]]] = {}
        self.promised: dict[int, str] = {}
        self.acked: dict[tuple[int, int], int] = {}
        self._published_lsn = 0
        self._base_rows: dict[int, dict[int, bytes]] = {}
        self._contents = 0
        self._configure()

    def _configure(self) -> None:
        """The first manager's configuration, as the log's first records."""
        policy = self.world.rng.choice(("priority", "round_robin", "least_loaded"))
        made: list[ops.Op] = [ops.GridCreated(grid=self.world.new_id())]
        made += [ops.AgentSet(name=agent.name, urls=[f"mem://{agent.name}"]) for agent in self.agents]
        made += [
            ops.MediumSet(name=name, plugin="sim", volume=name.encode(), failure_domain=f"rack-{name}")
            for name in self.media
        ]
        made.append(
            ops.PoolSet(
                name="pool",
                media=list(self.media),
                domain="all",
                copies=self.copies,
                min_copies=self.min_copies,
                policy=policy,
                agents=[],
                wait_busy_s=0,
                wait_offline_s=0,
                segment_bytes=self.segment_bytes,
            )
        )
        self.config = made
        self.log.files[0] = [
            Record(0, lsn, ops.NAMES[type(op)], ops.to_args(op)) for lsn, op in enumerate(made, 1)
        ]

    # --- the run --------------------------------------------------------------------------------

    def run(self) -> None:
        """Until every client has its backups and the house is in order; raises Violation."""
        for actor in (*self.managers, *self.agents, *self.clients):
            actor.wake()
        if not self.world.run(self.settled, RUN_NS_MAX, EVENTS_MAX):
            waiting = [client.name for client in self.clients if not client.finished]
            raise Violation(f"no progress: {waiting or 'the house'} at {self.world.now_ns / S:.1f} s")

    def settled(self) -> bool:
        """Every client is content, every prune has reached the media."""
        if not all(client.finished for client in self.clients):
            return False
        leader = self.leader()
        if leader is None or leader.core is None or leader.core.state.active:
            return False
        core = leader.core
        pruned = (b for b in core.state.backups.values() if b.state == "pruned" and not b.journalled)
        return core.durable_lsn == core.state.lsn and not any(pruned)

    def leader(self) -> SimManager | None:
        """The manager in office, if there is one."""
        for manager in self.managers:
            core = manager.core
            awake = core and manager.serving and manager.alive and not manager.paused
            if core and awake and core.lease.may_serve(self.world.now_ns):
                return manager
        return None

    def agent(self, name: str) -> SimAgent:
        """An agent by name."""
        return next(agent for agent in self.agents if agent.name == name)

    def placement(self) -> bytes:
        """8 random bytes for one put (M4)."""
        return bytes(8) if self.kit.fixed_names else self.world.rng.randbytes(8)

    # --- sources --------------------------------------------------------------------------------

    def next_source(self, client: str, before: list[list[int]]) -> list[list[int]]:
        """What a client has to back up now: like the last time, with changes, or all new."""
        rng = self.world.rng
        if not before:
            return [
                [self._content() for _ in range(self.world.between(5, 12))]
                for _ in range(self.world.between(1, 2))
            ]
        shared = [content for contents in self.expected.values() for part in contents for content in part]
        after = []
        for part in before:
            after.append([self._changed(content, shared) for content in part if rng.random() > 0.1])
            after[-1].append(self._content())
        return after

    def _changed(self, content: int, shared: list[int]) -> int:
        chance = self.world.rng.random()
        if chance < 0.6 or not shared:
            return content
        return self.world.rng.choice(shared) if chance < 0.8 else self._content()

    def _content(self) -> int:
        self._contents += 1
        return self._contents

    def expect(self, backup: int, contents: list[list[int]]) -> None:
        """What a backup must hold in the end."""
        self.expected[backup] = contents

    def contents_of(self, backup: int) -> set[int]:
        """Everything in a backup."""
        return {content for part in self.expected.get(backup, []) for content in part}

    # --- what is on the media -------------------------------------------------------------------

    def read(self, copies: Iterable[CopyOf]) -> Body | None:
        """An object by any copy that can be read now."""
        for copy in copies:
            found = self.media[copy.medium].readable(copy.name)
            if found is not None:
                return found
        return None

    def readable(self) -> dict[bytes, Body]:
        """Everything that can be read now, by id."""
        return {
            body.id: body
            for m in self.media.values()
            if m.works
            for name, body in m.objects.items()
            if name not in m.rotten
        }

    def contents_before(self, ticket: Ticket) -> int | None:
        """How many contents the committed segments of a stream hold; None if that can't be read now."""
        if ticket.next_seq == 0:
            return 0
        found = self.readable()
        at, count = ticket.previous_manifest, 0
        while at:
            if at not in found:
                return None
            count += len(found[at].rows)
            at = found[at].head.previous_manifest
        return count

    def base_container(self, backup: int, content: int) -> bytes | None:
        """Where an unchanged file's data lies, by the base backup's manifests."""
        if backup not in self._base_rows:
            found = self.readable()
            seals = [body.seal for body in found.values() if body.seal and body.seal.backup == backup]
            rows: dict[int, bytes] = {}
            for end in seals[0].streams if seals else []:
                at = end.last_manifest
                while at:
                    if at not in found:
                        return None
                    rows.update(found[at].rows)
                    at = found[at].head.previous_manifest
            if not rows:
                return None
            self._base_rows[backup] = rows
        return self._base_rows[backup].get(content)

    # --- the library (S2) -----------------------------------------------------------------------

    def publish_records(self, records: Iterable[Record], state: GridState) -> None:
        """Durable records reach the fingerprint library, late."""
        for record in records:
            if record.lsn > self._published_lsn:
                self._published_lsn = record.lsn
                change = library_change(record, state)
                if change is not None:
                    late_ms = 900 if change.withdraw else 100
                    self.world.at(self.world.between(1, late_ms) * MS, self._apply, change)

    def _apply(self, change: LibraryChange) -> None:
        self.publish(self.bodies[item] for item in change.publish)
        gone = set(change.withdraw)
        for content in [content for content, found in self.library.items() if found in gone]:
            del self.library[content]

    def publish(self, containers: Iterable[Body]) -> None:
        """Hits become possible."""
        for body in containers:
            self.library.update(body.rows)

    # --- what an observer notes -----------------------------------------------------------------

    def acknowledged(self, sender: StreamSender) -> None:
        """The client has let go of everything below."""
        key = (sender.job, sender.stream)
        self.acked[key] = max(self.acked.get(key, 0), sender.window.base)

    def check_failovers(self, sender: StreamSender) -> None:
        """Bytes sent again for one failover are bounded by the window."""
        for failover in sender.failovers:
            if failover.bytes_resent > self.sender_limits.window_bytes_max:
                raise Violation(f"{failover.bytes_resent} bytes sent again for one failover: {failover}")
