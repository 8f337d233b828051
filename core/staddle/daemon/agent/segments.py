"""The threads of one served stream: records into segments, segments onto media.

One thread takes records; a finished segment is packed up and stored by another while the next one fills. What
has happened is told to the stream's driver through `Events`, always on the loop.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import zstandard

from staddle import typed
from staddle.api.types import Buffer, Kind, Receipt
from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.store import PutResult
from staddle.data.base import NeedContent
from staddle.data.container import SealedContainer
from staddle.data.crypto import KEY_BYTES, NONCE_BYTES, DomainKeys, digest
from staddle.data.manifest import ManifestHead
from staddle.data.packer import StoredContainer
from staddle.data.pipeline import StreamPlan
from staddle.data.records import decode_record
from staddle.data.sealed import seal_object
from staddle.data.segment import SegmentBuilder, SegmentResult
from staddle.engine.effects import Segment
from staddle.engine.messages import WHOLE_BASE, CopyOf, StoredObject, Ticket
from staddle.engine.receiver import Failure, Stored
from staddle.errors import Cancelled, MediumFailed, ProtocolError, StaddleError
from staddle.wire.channel import Data

log = logging.getLogger(__name__)

SEGMENT_ROWS_MAX = 32_768
SEGMENT_CHUNKS_MAX = 500_000
"""A segment with more is closed early: a row takes about a kilobyte while it fills, and four streams have
eight segments; its manifest must fit into memory several times over, too."""
PACKED_MANIFEST_MAX = 32 << 20
"""A longer one is not sent along with COMMIT: the catalog reads it from the media."""


class Events(Protocol):
    """What a worker tells its driver. Called on the loop."""

    def on_consumed(self, cost_bytes: int, full: bool) -> None:
        """A record was taken in; `full`: the segment must be closed now."""

    def on_stored(self, stored: Stored, packed_manifest: bytes) -> None:
        """The closed segment lies on enough media."""

    def on_failed(self, failures: list[Failure]) -> None:
        """Too few media, or this agent itself failed."""

    def on_refused(self, containers: list[bytes]) -> None:
        """A record refers to what can't be used."""

    def on_broken(self, error: StaddleError) -> None:
        """The client has sent what makes no sense."""

    def on_ended(self) -> None:
        """No thread works for this stream any more."""


class SegmentWorker:
    """Segments of one ticket. `feed`, `close` and `cancel` never wait."""

    def __init__(
        self, context: AgentContext, ticket: Ticket, make_plan: Callable[[Any], StreamPlan], events: Events
    ) -> None:
        """Args: make_plan: the stream's plan around a store function. events: the driver."""
        self._context = context
        self._ticket = ticket
        self._plan = make_plan(self._store)
        self._events = events
        self._queue: queue.SimpleQueue[Data | Segment | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._builder: SegmentBuilder | None = None
        self._finishing: tuple[SegmentBuilder, threading.Thread] | None = None
        self._placed: dict[bytes, list[CopyOf]] = {}
        self._failed: dict[str, Failure] = {}
        self._cancelled = False
        self._thread = threading.Thread(
            target=self._run, name=f"stream-{ticket.job}-{ticket.stream}", daemon=True
        )

    # --- called on the loop -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take records."""
        self._thread.start()

    def feed(self, data: Data) -> None:
        """The next record of the segment that fills."""
        self._queue.put(data)

    def close(self, segment: Segment) -> None:
        """No further record belongs to this segment: store it."""
        self._queue.put(segment)

    @property
    def storing(self) -> bool:
        """Is a closed segment on its way to the media."""
        return self._finishing is not None

    def cancel(self) -> None:
        """Give up what is not stored. `Events.on_ended` follows. Idempotent."""
        with self._lock:
            self._cancelled = True
            builders = [self._builder, self._finishing[0] if self._finishing else None]
        for builder in builders:
            if builder is not None:
                builder.cancel()
        self._queue.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the threads. Call from a thread, after `cancel`."""
        self._thread.join(timeout_s)

    # --- the stream's thread ------------------------------------------------------------------------

    def _tell(self, event: Callable[..., None], *args: Any) -> None:
        try:
            self._context.loop.call_soon_threadsafe(event, *args)
        except RuntimeError:
            log.debug("the loop has ended before %s", event)

    def _run(self) -> None:
        try:
            self._take_all()
        except Exception as error:  # noqa: BLE001 - it crosses threads: the driver tells the client
            self._tell_failure(error)
        finally:
            try:
                self._clean_up()
            finally:
                self._tell(self._events.on_ended)

    def _take_all(self) -> None:
        while not self._cancelled:
            item = self._queue.get()
            if isinstance(item, Data):
                self._add(item)
            elif item is not None:
                self._begin_finish(item)
            del item  # it keeps a receive buffer alive

    def _add(self, data: Data) -> None:
        record = decode_record(data.meta or b"", len(data.payload))
        builder = self._builder
        if builder is None:
            builder = SegmentBuilder(self._context.pipeline, self._plan, self._head(data.seq))
            with self._lock:
                self._builder = builder
                if self._cancelled:
                    builder.cancel()
        builder.add(record, data.payload)
        full = builder.rows >= SEGMENT_ROWS_MAX or builder.chunks >= SEGMENT_CHUNKS_MAX
        self._tell(self._events.on_consumed, data.cost_bytes, full)

    def _begin_finish(self, segment: Segment) -> None:
        with self._lock:
            builder = self._builder
            if builder is None:
                raise StaddleError(
                    "a segment was closed that holds no record", code="INTERNAL", scope="agent"
                )
            thread = threading.Thread(
                target=self._finish,
                args=(builder, segment),
                name=f"store-{self._ticket.job}-{self._ticket.stream}",
                daemon=True,
            )
            thread.start()  # before it is handed over: where no thread is left, `_clean_up` must see to it
            self._builder, self._finishing = None, (builder, thread)

    def _clean_up(self) -> None:
        with self._lock:
            self._cancelled = True
            builder, finishing = self._builder, self._finishing
        for each in (builder, finishing[0] if finishing else None):
            if each is not None:
                each.cancel()
        if finishing is not None:
            finishing[1].join(self._context.pipeline.settings.wait_s)
        if builder is not None:
            try:
                builder.abort()
            except StaddleError as error:
                log.warning("job %d stream %d: %s", self._ticket.job, self._ticket.stream, error)

    def _tell_failure(self, error: Exception) -> None:
        if self._cancelled and isinstance(error, Cancelled):
            return
        if isinstance(error, NeedContent):
            self._tell(self._events.on_refused, error.containers or [WHOLE_BASE])
        elif isinstance(error, ProtocolError):
            self._tell(self._events.on_broken, error)
        else:
            self._tell(self._events.on_failed, self._failures(error))

    def _failures(self, error: Exception) -> list[Failure]:
        """Whom to blame: the media that took no copy, or else this agent."""
        if not isinstance(error, StaddleError):
            log.error("job %d stream %d failed", self._ticket.job, self._ticket.stream, exc_info=error)
            error = StaddleError(f"the agent failed: {error!r}", code="INTERNAL", scope="agent")
        if isinstance(error, TooFewCopies) and self._failed:
            return list(self._failed.values())
        failure = Failure.of("", error)
        return [failure if error.code == "FENCED" else msgspec.structs.replace(failure, scope="agent")]

    # --- storing ------------------------------------------------------------------------------------

    def _head(self, first: int, segment: Segment | None = None) -> ManifestHead:
        """Head of a manifest; ordinal and predecessor are known once the segment is closed."""
        ticket, keys = self._ticket, self._plan.keys
        return ManifestHead(
            grid=ticket.grid,
            domain=keys.domain_id,
            client=ticket.client,
            name=ticket.name,
            job=ticket.job,
            backup=ticket.backup,
            stream=ticket.stream,
            epoch=ticket.epoch,
            ordinal=segment.ordinal if segment else 0,
            first=first,
            next=segment.next if segment else 0,
            previous_id=(segment.previous_manifest or None) if segment else None,
            previous_digest=(segment.previous_digest or None) if segment else None,
            created_ns=time.time_ns(),
        )

    def _finish(self, builder: SegmentBuilder, segment: Segment) -> None:
        try:
            result = builder.finish(segment.next)
            plain = with_head(result.manifest, self._head(segment.first, segment))
            stored = self._stored(result, plain)
            packed = zstandard.ZstdCompressor(level=1).compress(plain)
        except Exception as error:  # noqa: BLE001 - as in _run
            self._tell_failure(error)
        else:
            payload = packed if len(packed) <= PACKED_MANIFEST_MAX else b""
            self._remember(result)
            self._tell(self._events.on_stored, stored, payload)
        finally:
            with self._lock:
                self._finishing = None

    def _remember(self, result: SegmentResult) -> None:
        for container in result.containers:
            self._context.written.put(
                container.container_id,
                (container.fingerprints, container.raw_lengths),
                container.fingerprints.nbytes + container.raw_lengths.nbytes,
            )

    def _stored(self, result: SegmentResult, plain: bytes) -> Stored:
        manifest = self._store_manifest(plain, self._plan.keys)
        containers = [self._object(container) for container in result.containers]
        with self._lock:
            failed = list(self._failed.values())
        return Stored(
            first=result.first,
            manifest=manifest,
            containers=containers,
            refs=result.refers,
            files=result.files,
            dirs=result.dirs,
            bytes_read=result.bytes_read,
            bytes_stored=result.bytes_stored + manifest.size_bytes,
            failed=failed,
            plain_digest=digest([plain]),
        )

    def _object(self, container: StoredContainer) -> StoredObject:
        with self._lock:
            copies = self._placed.pop(container.container_id)
        return StoredObject(
            id=container.container_id,
            size_bytes=container.size_bytes,
            digest=container.digest,
            copies=copies,
            raw_bytes=int(container.raw_lengths.sum(dtype="u8")),
            chunks=len(container.raw_lengths),
        )

    def _store_manifest(self, plain: bytes, keys: DomainKeys) -> StoredObject:
        ids = self._plan.ids
        sealed = seal_object(
            Kind.MANIFEST,
            ids.new_id(),
            plain,
            keys,
            key=ids.random(KEY_BYTES),
            wrap_nonce=ids.random(NONCE_BYTES),
        )
        result = self._put(Kind.MANIFEST, sealed.object_id, sealed.parts, sealed.digest)
        return StoredObject(
            id=sealed.object_id, size_bytes=sealed.size_bytes, digest=sealed.digest, copies=copies_of(result)
        )

    def _store(self, sealed: SealedContainer) -> list[Receipt]:
        """Called by the pipeline's store threads."""
        result = self._put(Kind.CONTAINER, sealed.container_id, sealed.parts, sealed.digest)
        with self._lock:
            self._placed[sealed.container_id] = copies_of(result)
        return list(result.receipts.values())

    def _put(self, kind: Kind, object_id: bytes, parts: Any, digest: bytes) -> PutResult:
        with self._lock:
            # A medium that has failed once is not tried again under this ticket: it costs one deadline only.
            media = [name for name in self._ticket.media if name not in self._failed]
        views: list[Buffer] = list(parts)
        result = self._context.media.put(kind, object_id, views, digest, media)
        with self._lock:
            for name, error in result.failed.items():
                log.warning("job %d: medium %s took no copy: %s", self._ticket.job, name, error)
                self._failed.setdefault(name, Failure.of(name, error))
        if len(result.receipts) < max(self._ticket.min_copies, 1):
            raise TooFewCopies(
                f"{len(result.receipts)} copies were stored, {self._ticket.min_copies} must be there"
            )
        return result


class TooFewCopies(MediumFailed):
    """Fewer receipts than `min_copies`; which media failed is kept beside it."""

    default_code = "TOO_FEW_COPIES"


def with_head(plain: bytes, head: ManifestHead) -> bytes:
    """A manifest with another head: its predecessor was not known yet when the segment began.

    A manifest is a map of columns, and none but the head is looked at.
    """
    parts = typed.unpack(plain, dict[str, msgspec.Raw])
    parts["head"] = msgspec.Raw(msgspec.msgpack.encode(head))
    return msgspec.msgpack.encode(parts)


def copies_of(result: PutResult) -> list[CopyOf]:
    """Receipts as the log keeps them."""
    return [CopyOf(medium, receipt.name) for medium, receipt in sorted(result.receipts.items())]
