"""An agent: one StreamReceiver per ticket, packing, dedup hits, puts and commits."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from staddle.api.types import Kind, object_name
from staddle.engine.effects import Accept, CloseSegment, ReceiverEffect, Segment, Send, SendCommit, Stop
from staddle.engine.found import FoundManifest
from staddle.engine.messages import Commit, CommitReply, CopyOf, Stale, Ticket
from staddle.engine.receiver import Failure, Stored, StreamReceiver
from staddle.errors import StaddleError
from staddle.testing.sim.media import Body
from staddle.testing.sim.world import MS, Actor, Violation

if TYPE_CHECKING:
    from staddle.testing.sim.client import Record, SimClient
    from staddle.testing.sim.grid import Grid

PACK = 3  # contents of a container
TRIES = 3  # of a put whose outcome is in doubt


Key = tuple[int, int, int]
"""Job, stream, epoch: what a link serves."""


def key_of(ticket: Ticket) -> Key:
    """The link's key of a ticket."""
    return ticket.job, ticket.stream, ticket.epoch


class Serving:
    """What an agent holds for one ticket."""

    def __init__(self, receiver: StreamReceiver, client: SimClient) -> None:
        self.receiver = receiver
        self.client = client
        self.records: dict[int, Record] = {}
        self.inbox: deque[tuple[int, Record | None, bool]] = deque()  # record, or flush


class Storing:
    """The puts of one segment."""

    def __init__(self, segment: Segment, manifest: Body, containers: list[Body], refs: list[bytes]) -> None:
        self.segment = segment
        self.manifest = manifest
        self.containers = containers
        self.refs = refs
        self.copies: dict[bytes, list[CopyOf]] = {body.id: [] for body in (manifest, *containers)}
        self.failed: list[Failure] = []
        self.open = 0


class SimAgent(Actor):
    """Drives the receivers as the agent's daemon does."""

    def __init__(self, grid: Grid, name: str) -> None:
        super().__init__(grid.world, name)
        self.grid = grid
        self.serving: dict[Key, Serving] = {}
        self.opened: set[Key] = set()

    def wake(self) -> None:
        """Say hello to the managers, again and again."""
        for manager in self.grid.managers:
            self.send(manager, manager.on_heartbeat, self.name)
        self.after(400 * MS, self.wake)

    def forget(self) -> None:
        """A crash takes every receiver. Its clients see a broken link, or silence."""
        for serving in self.serving.values():
            if self.world.chance(0.5):
                key = key_of(serving.receiver.ticket)
                self.send(serving.client, serving.client.on_link_lost, key)
        self.serving.clear()
        self.opened.clear()

    # --- from clients ---------------------------------------------------------------------------

    def on_open(self, client: SimClient, ticket: Ticket) -> None:
        """OPEN. A ticket is opened once; another link with it is told to ask again."""
        key = key_of(ticket)
        if key in self.opened:
            if key not in self.serving:
                self.send(client, client.on_link_lost, key)
            return
        for job, stream, epoch in list(self.serving):
            if (job, stream) == key[:2] and epoch < ticket.epoch:
                del self.serving[job, stream, epoch]
        self.opened.add(key)
        serving = Serving(self.grid.kit.receiver(ticket, self.grid.limits, self.world.now_ns), client)
        self.serving[key] = serving
        self._do(serving, serving.receiver.open(self.world.now_ns))

    def on_data(self, client: SimClient, key: Key, seq: int, record: Record) -> None:
        """DATA."""
        self._take(client, key, (seq, record, False))

    def on_flush(self, client: SimClient, key: Key, upto: int, cut: bool) -> None:
        """FLUSH."""
        self._take(client, key, (upto, None, cut))

    def _take(self, client: SimClient, key: Key, item: tuple[int, Record | None, bool]) -> None:
        serving = self._find(client, key)
        if serving is not None:
            serving.inbox.append(item)
            self._pump(serving)

    def _pump(self, serving: Serving) -> None:
        """Hand over what has come, unless a full segment waits."""
        now_ns = self.world.now_ns
        while serving.inbox and serving.receiver.wants_data:
            seq, record, cut = serving.inbox.popleft()
            if record is None:
                self._do(serving, serving.receiver.on_flush(seq, cut, now_ns))
                continue
            for effect in serving.receiver.on_data(seq, record.size, now_ns):
                if isinstance(effect, Accept):
                    serving.records[seq] = record
                else:
                    self._do(serving, [effect])
        self._arm(serving)

    def on_close(self, key: Key) -> None:
        """The client has closed the link."""
        self.serving.pop(key, None)

    def _find(self, client: SimClient, key: Key) -> Serving | None:
        serving = self.serving.get(key)
        if serving is None and key not in self.opened:
            self.send(client, client.on_link_lost, key)
        return serving

    def _do(self, serving: Serving, effects: list[ReceiverEffect]) -> None:
        key = key_of(serving.receiver.ticket)
        for effect in effects:
            match effect:
                case Send():
                    self.send(serving.client, serving.client.on_message, key, effect.message)
                case CloseSegment():
                    self._pack(serving, effect.segment)
                case SendCommit():
                    self._commit(key, effect.commit)
                case Stop():
                    self.world.trace(self.name, "stops", key, effect.message)
                    self.serving.pop(key, None)
                case _:
                    raise AssertionError(effect)
        self._arm(serving)

    def _arm(self, serving: Serving) -> None:
        self.arm(serving.receiver.next_wake_ns, self._tick)

    def _tick(self) -> None:
        for serving in list(self.serving.values()):
            self._do(serving, serving.receiver.tick(self.world.now_ns))

    # --- packing and storing --------------------------------------------------------------------

    def _pack(self, serving: Serving, segment: Segment) -> None:
        ticket = serving.receiver.ticket
        records = [serving.records.pop(seq) for seq in range(segment.first, segment.next)]
        contents = [record.content for record in records if not record.unchanged]
        hits = self._hits(ticket, contents)
        rows: list[tuple[int, bytes]] = []
        new: list[int] = []
        for record in records:
            if record.unchanged:
                found = self.grid.base_container(ticket.base_backup, record.content)
                if found is None or found in ticket.bad:
                    bad = [found] if found else []
                    self._do(serving, serving.receiver.refuse(bad, self.world.now_ns))
                    return
                rows.append((record.content, found))
            elif record.content in hits:
                rows.append((record.content, hits[record.content]))
            else:
                new.append(record.content)
                rows.append((record.content, b""))
        containers, where = [], {}
        for at in range(0, len(new), PACK):
            container = self.world.new_id()
            pairs = tuple((content, container) for content in new[at : at + PACK])
            where.update(dict(pairs))
            containers.append(Body(id=container, kind="container", rows=pairs))
        rows = [(content, found or where[content]) for content, found in rows]
        manifest = self._manifest(ticket, segment, rows)
        self._store(serving, Storing(segment, manifest, containers, sorted({ref for _, ref in rows})))

    def _hits(self, ticket: Ticket, contents: list[int]) -> dict[int, bytes]:
        library = self.grid.library
        hits = {
            content: library[content]
            for content in contents
            if content in library and library[content] not in ticket.bad
        }
        if self.grid.asks_before_hits and (leader := self.grid.leader()) is not None:
            bad = leader.unusable(sorted(set(hits.values())), ticket.pool)
            hits = {content: found for content, found in hits.items() if found not in bad}
        return hits

    def _manifest(self, ticket: Ticket, segment: Segment, rows: list[tuple[int, bytes]]) -> Body:
        item = self.world.new_id()
        head = FoundManifest(
            id=item,
            size_bytes=100 + len(rows),
            digest=b"digest" + item[6:],
            domain=ticket.domain,
            copies=[],
            job=ticket.job,
            backup=ticket.backup,
            client=ticket.client,
            name=ticket.name,
            stream=ticket.stream,
            epoch=ticket.epoch,
            ordinal=segment.ordinal,
            first=segment.first,
            next=segment.next,
            previous_manifest=segment.previous_manifest,
            previous_digest=segment.previous_digest,
            refs=sorted({ref for _, ref in rows}),
            created_ns=self.world.wall_ns,
            files=len(rows),
        )
        return Body(id=item, kind="manifest", rows=tuple(rows), head=head)

    def _store(self, serving: Serving, storing: Storing) -> None:
        bodies = [*storing.containers, storing.manifest]
        self.grid.bodies.update((body.id, body) for body in bodies)
        storing.open = len(bodies) * len(serving.receiver.ticket.media)
        for body in bodies:
            kind = Kind.CONTAINER if body.kind == "container" else Kind.MANIFEST
            for medium in serving.receiver.ticket.media:
                name = object_name(kind, body.id, self.grid.placement())
                self._put(serving, storing, body, CopyOf(medium, name), 1)
        if self.grid.kit.publish_early:
            self.grid.publish(storing.containers)

    def _put(self, serving: Serving, storing: Storing, body: Body, copy: CopyOf, tries: int) -> None:
        def done(error: StaddleError | None) -> None:
            self.receive(self._put_done, (serving, storing, body, copy, tries, error))

        self.grid.media[copy.medium].put(copy.name, body, done)

    def _put_done(self, *args: Any) -> None:
        serving, storing, body, copy, tries, error = args
        if error is not None and error.outcome == "in_doubt" and error.retry == "now" and tries < TRIES:
            self._put(serving, storing, body, copy, tries + 1)  # the same name: M4
            return
        storing.open -= 1
        if error is None:
            storing.copies[body.id].append(copy)
        else:
            storing.failed.append(Failure.of(copy.medium, error))
        key = key_of(serving.receiver.ticket)
        if storing.open == 0 and key in self.serving and self.serving[key] is serving:
            self._all_put(serving, storing)

    def _all_put(self, serving: Serving, storing: Storing) -> None:
        receiver, now_ns = serving.receiver, self.world.now_ns
        fewest = min(len(copies) for copies in storing.copies.values())
        if fewest < receiver.ticket.min_copies:
            self._do(serving, receiver.on_store_failed(storing.failed, now_ns))
            return
        stored = Stored(
            first=storing.segment.first,
            manifest=storing.manifest.stored(storing.copies[storing.manifest.id]),
            containers=[body.stored(storing.copies[body.id]) for body in storing.containers],
            refs=storing.refs,
            files=len(storing.manifest.rows),
            failed=storing.failed,
        )
        self._do(serving, receiver.on_stored(stored, now_ns))

    # --- the manager ----------------------------------------------------------------------------

    def _commit(self, key: Key, commit: Commit) -> None:
        for manager in self.grid.managers:
            self.send(manager, manager.on_request, commit, (self, self.on_commit_reply, (key, commit.first)))

    def on_commit_reply(self, key: Key, first: int, reply: CommitReply) -> None:
        """The manager's answer to a COMMIT."""
        serving = self.serving.get(key)
        if serving is None or isinstance(reply, StaddleError):
            return
        if isinstance(reply, Stale) and 0 < reply.epoch <= serving.receiver.ticket.epoch:
            raise Violation(f"{self.name} is told to stop though its epoch {key} is current")
        self._do(serving, serving.receiver.on_commit_reply(first, reply, self.world.now_ns))
        self._pump(serving)
