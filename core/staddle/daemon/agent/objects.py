"""Single objects: what the manager has stored, deleted, listed and read, and what readers have checked."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from staddle.api.types import Buffer, Kind, ObjectInfo, parse_object_name
from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.proof import check_bytes, prove_volume
from staddle.daemon.agent.store import OBJECT_BYTES_MAX
from staddle.data import container as container_format
from staddle.data import label as label_format
from staddle.data.container import ContainerReader
from staddle.data.crypto import KEY_BYTES, NONCE_BYTES, digest
from staddle.data.envelope import HEAD_BYTES, decode_head
from staddle.data.sealed import checked_footer, open_object, seal_object
from staddle.errors import Corrupt, NotFound, StaddleError
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops import data as wire
from staddle.wire.ops import repair as repair_wire
from staddle.wire.ops.admin import Findings, VerifyObject
from staddle.wire.ops.base import Nothing, register

log = logging.getLogger(__name__)

THREADS = 4
"""Objects looked at at once; whole containers are in memory meanwhile."""
SCAN_MAX = 1000
PLACEMENT_BYTES = 8
SALVAGE_BYTES = 64 << 10
"""Read at once of a damaged copy: so much may be lost for one bad sector."""

T = TypeVar("T")

_NOT_THE_OBJECT = frozenset({"medium", "volume", "path", "agent"})
"""Scopes of errors that say nothing about the object that was asked for."""


class ObjectDesk:
    """Answers one question about one or a few objects at a time, in threads."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._media = context.media
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="object")
        self._reading = asyncio.Semaphore(2)

    def install_for_clients(self, handlers: Handlers) -> None:
        """Add what readers may ask."""
        register(handlers, wire.CHECK_OBJECT, self._check, cancellable=True)
        register(handlers, repair_wire.CHECK_MEDIUM, self._check_medium, cancellable=True)

    def install_for_manager(self, handlers: Handlers) -> None:
        """Add what the manager may ask, over its own link."""
        register(handlers, wire.PUT_OBJECT, self._put)
        register(handlers, wire.DELETE_OBJECT, self._delete)
        register(handlers, wire.SCAN_MEDIUM, self._scan, cancellable=True)
        register(handlers, wire.GET_OBJECT, self._get, cancellable=True)
        register(handlers, wire.LABEL_MEDIUM, self._label)
        register(handlers, wire.CHECK_OBJECT, self._check, cancellable=True)
        register(handlers, repair_wire.COPY_OBJECT, self._copy)
        register(handlers, repair_wire.FETCH_OBJECT, self._fetch, cancellable=True)
        register(handlers, repair_wire.SALVAGE_OBJECT, self._salvage, cancellable=True)
        register(handlers, repair_wire.PROVE_VOLUME, self._prove)

    def close(self) -> None:
        """End the threads. Call from a thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    # --- checking ---------------------------------------------------------------------------------------

    async def _check(self, call: Call) -> Findings:
        args: wire.CheckObject = call.args
        if not args.read_data:
            return await self._run(self._checked, args.object, False)
        async with self._reading:
            return await self._run(self._checked, args.object, True)

    def _checked(self, item: VerifyObject, read_data: bool) -> Findings:
        what = f"{item.name} on medium {item.medium!r}"
        try:
            self._check_size(item)
            if read_data:
                self._read_checked(item)
        except StaddleError as error:
            if error.scope in _NOT_THE_OBJECT:
                raise  # nothing was found out about the object
            return Findings([f"{what}: {error.code}: {error.message}"], error.code)
        return Findings([])

    def _check_size(self, item: VerifyObject) -> None:
        info = self._media.volume(item.medium).stat(item.name, self._media.deadline(item.medium))
        if info.size_bytes != item.size_bytes:
            raise Corrupt(f"{info.size_bytes} bytes instead of {item.size_bytes}")

    def _read_checked(self, item: VerifyObject) -> Buffer:
        """All bytes of one copy. Raises Corrupt if one of them is not as it was stored."""
        kind, *_ = _parsed(item.name)  # `item.kind` is a word for people
        blob = self._media.get(item.medium, item.name, item.size_bytes)
        check_bytes(self._context, kind, item, blob)
        return blob

    async def _check_medium(self, call: Call) -> repair_wire.MediumChecked:
        args: repair_wire.CheckMedium = call.args
        return repair_wire.MediumChecked(await self._run(self._label_and_keyring, args.medium))

    def _label_and_keyring(self, medium: str) -> list[repair_wire.MediumProblem]:
        """What is wrong with them. Raises StaddleError where the medium does not tell."""
        problems: list[repair_wire.MediumProblem] = []

        def note(name: str, error: StaddleError) -> None:
            problems.append(repair_wire.MediumProblem(name, error.code, error.message))

        volume = self._media.volume(medium)
        try:
            label = label_format.decode(self._media.medium(medium).read_label(self._media.deadline(medium)))
            if label != volume.label:
                raise Corrupt("it is the label of another volume, or an older one")
        except StaddleError as error:
            note("", error)
        keyrings = volume.list("", self._media.deadline(medium), f"{Kind.KEYRING.value}/")
        names = [info.name for info in itertools.islice(keyrings, SCAN_MAX)]
        if not names:
            kind = f"{Kind.KEYRING.value}/"
            note(kind, NotFound("it is missing: with the recovery key alone this medium can't be read"))
        for name in names:
            try:
                self._check_keyring(medium, name)
            except StaddleError as error:
                note(name, error)
        return problems

    def _check_keyring(self, medium: str, name: str) -> None:
        """A keyring's placement is the beginning of its digest."""
        info = self._media.volume(medium).stat(name, self._media.deadline(medium))
        blob = self._media.get(medium, name, info.size_bytes)
        if digest([blob])[:PLACEMENT_BYTES] != _parsed(name)[2]:
            raise Corrupt("its bytes are not those that were stored")

    # --- repair -----------------------------------------------------------------------------------------

    async def _copy(self, call: Call) -> repair_wire.Copied:
        async with self._reading:
            return await self._run(self._copied, call.args)

    def _copied(self, args: repair_wire.CopyObject) -> repair_wire.Copied:
        try:
            blob = self._read_checked(args.source)
        except StaddleError as error:
            if error.scope in _NOT_THE_OBJECT:
                raise
            return repair_wire.Copied(code=error.code, problem=error.message)
        self._put_named(args.medium, args.name, blob)
        return repair_wire.Copied()

    async def _fetch(self, call: Call) -> tuple[Nothing, Buffer]:
        args: repair_wire.FetchObject = call.args
        async with self._reading:
            return Nothing(), await self._run(self._read_checked, args.source)

    async def _salvage(self, call: Call) -> tuple[Nothing, Buffer]:
        args: repair_wire.SalvageObject = call.args
        async with self._reading:
            return Nothing(), await self._run(self._salvaged, args.source)

    def _salvaged(self, item: VerifyObject) -> Buffer:
        if not 0 < item.size_bytes <= OBJECT_BYTES_MAX:
            raise Corrupt(f"{item.name}: {item.size_bytes} bytes are too many")
        volume, deadline = self._media.volume(item.medium), self._media.deadline(item.medium)
        there = volume.stat(item.name, deadline).size_bytes
        data = bytearray(item.size_bytes)
        for at in range(0, min(there, item.size_bytes), SALVAGE_BYTES):
            length = min(SALVAGE_BYTES, there - at, item.size_bytes - at)
            with contextlib.suppress(Corrupt):  # another copy may have it
                data[at : at + length] = volume.get(item.name, at, length, deadline)
        return data

    def _put_named(self, medium: str, name: str, blob: Buffer) -> None:
        """Store sealed bytes under a name that the manager has planned. Raises what the medium said."""
        kind, object_id, placement = _parsed(name)
        result = self._media.put(kind, object_id, [blob], digest([blob]), [medium], placement=placement)
        if medium in result.failed:
            raise result.failed[medium]

    # --- storing and deleting ---------------------------------------------------------------------------

    async def _put(self, call: Call) -> wire.ObjectStored:
        return await self._run(self._stored, call.args, call.payload)

    def _stored(self, args: wire.PutObject, payload: Buffer) -> wire.ObjectStored:
        kind, parts = Kind(args.kind), [payload]
        if not args.sealed:
            ids = self._context.ids
            keys = self._context.keys(args.domain)
            key, nonce = ids.random(KEY_BYTES), ids.random(NONCE_BYTES)
            sealed = seal_object(kind, args.id, payload, keys, key=key, wrap_nonce=nonce)
            parts = list(sealed.parts)
        whole = digest(parts)
        placement = whole[:PLACEMENT_BYTES] if kind is Kind.KEYRING else args.placement or None
        reach = [name for name in args.media if name in self._media.names]
        result = self._media.put(kind, args.id, parts, whole, reach, placement=placement)
        failed = {name: str(error) for name, error in result.failed.items()}
        failed.update({name: "this agent does not reach it" for name in args.media if name not in reach})
        return wire.ObjectStored(
            size_bytes=sum(len(part) for part in parts),
            digest=whole,
            copies=[(name, receipt.name) for name, receipt in result.receipts.items()],
            failed=failed,
        )

    async def _delete(self, call: Call) -> Nothing:
        args: wire.DeleteObject = call.args

        def delete() -> None:
            volume = self._media.volume(args.medium)
            for name in args.names:
                volume.delete(name, self._media.deadline(args.medium))

        await self._run(delete)
        return Nothing()

    # --- reading ----------------------------------------------------------------------------------------

    async def _get(self, call: Call) -> tuple[Nothing, bytes]:
        return Nothing(), await self._run(self._opened, call.args)

    def _opened(self, args: wire.GetObject) -> bytes:
        kind, object_id, _ = _parsed(args.name)
        info = self._media.volume(args.medium).stat(args.name, self._media.deadline(args.medium))
        blob = self._media.get(args.medium, args.name, info.size_bytes)
        if kind is Kind.KEYRING:  # sealed by the recovery key, which no agent has
            return bytes(blob)
        return open_object(self._context.keys(args.domain), kind, object_id, blob)

    async def _scan(self, call: Call) -> wire.Scanned:
        args: wire.ScanMedium = call.args
        found = await self._run(self._listed, args)
        if args.names_only:
            return wire.Scanned([wire.ScannedObject(i.name, i.size_bytes, b"", 0, 0, "") for i in found])
        looked = await asyncio.gather(*(self._run(self._look, args.medium, info) for info in found))
        return wire.Scanned(list(looked))

    def _listed(self, args: wire.ScanMedium) -> list[ObjectInfo]:
        limit = max(1, min(args.limit, SCAN_MAX))
        volume = self._media.volume(args.medium)
        found: list[ObjectInfo] = []
        listing = volume.list(args.after, self._media.deadline(args.medium), f"{Kind(args.kind).value}/")
        for info in listing:
            found.append(info)
            if len(found) == limit:
                break
        return found

    def _look(self, medium: str, info: ObjectInfo) -> wire.ScannedObject:
        """Digest and counts by the object's own word; what is wrong with it stands in `problem`."""
        try:
            kind, object_id, _ = _parsed(info.name)
            if kind is Kind.CONTAINER:
                return self._look_at_container(medium, info, object_id)
            blob = self._media.get(medium, info.name, info.size_bytes)
            checked_footer(blob, info.name, max(container_format.VERSION, 1))
            domain = ""
            if kind is not Kind.KEYRING:
                domain = self._domain(kind, bytes(memoryview(blob)[:HEAD_BYTES]))
                # Whole, but another object's bytes: it must not hide the right ones on the next medium.
                open_object(self._context.keys(domain), kind, object_id, blob)
            return wire.ScannedObject(info.name, info.size_bytes, digest([blob]), 0, 0, domain)
        except StaddleError as error:
            if error.scope in _NOT_THE_OBJECT:
                raise
            return wire.ScannedObject(info.name, info.size_bytes, b"", 0, 0, "", f"{error.code}: {error}")

    def _look_at_container(self, medium: str, info: ObjectInfo, object_id: bytes) -> wire.ScannedObject:
        if info.size_bytes > OBJECT_BYTES_MAX:
            raise Corrupt(f"{info.name}: {info.size_bytes} bytes are too many")
        volume = self._media.volume(medium)

        def get(offset: int, length: int) -> bytes:
            return volume.get(info.name, offset, length, self._media.deadline(medium))

        domain = self._domain(Kind.CONTAINER, get(0, min(HEAD_BYTES, info.size_bytes)))
        reader = ContainerReader(self._context.keys(domain), get, info.size_bytes, object_id)
        raw_bytes = int(reader.directory.raw_lengths.sum(dtype="u8"))
        return wire.ScannedObject(
            info.name, info.size_bytes, reader.content_digest, raw_bytes, len(reader.directory), domain
        )

    def _domain(self, kind: Kind, head: bytes) -> str:
        fields = decode_head(head, kind, "object", container_format.VERSION)
        return self._context.keys_by_id(bytes.fromhex(fields.get("domain", ""))).domain

    async def _prove(self, call: Call) -> repair_wire.VolumeProved:
        return await self._run(prove_volume, self._context, call.args)

    # --- labels -----------------------------------------------------------------------------------------

    async def _label(self, call: Call) -> wire.LabelFound:
        return wire.LabelFound(await self._run(self._labelled, call.args))

    def _labelled(self, args: wire.LabelMedium) -> bytes:
        medium = self._media.medium(args.medium)
        if args.label:
            medium.initialize(label_format.decode(args.label), args.label, self._media.deadline(args.medium))
            return args.label
        try:
            return medium.read_label(self._media.deadline(args.medium))
        except NotFound:
            return b""


def _parsed(name: str) -> tuple[Kind, bytes, bytes]:
    try:
        return parse_object_name(name)
    except ValueError as error:
        raise Corrupt(str(error), hint="it was not put there by Staddle") from error
