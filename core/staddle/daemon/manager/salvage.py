"""Makes one whole object out of copies that are damaged in different places, or says that it could."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from staddle.api.types import Buffer, Kind
from staddle.daemon.manager.adoption import Adoption
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.presence import Presence
from staddle.data.crypto import DomainKeys
from staddle.data.joining import join_copies
from staddle.engine.messages import CopyOf
from staddle.engine.tables import MediumStatus, Object
from staddle.errors import Corrupt, StaddleError, Unavailable
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops.admin import VerifyObject
from staddle.wire.ops.base import register
from staddle.wire.ops.repair import CHECK_TOGETHER, SALVAGE_OBJECT, CheckTogether, SalvageObject, Together

COPIES_MAX = 3
BYTES_MAX = 160 << 20
"""Of all copies that are in memory for one object; one object at a time is."""
_TIMEOUT_S = 120.0


class Salvager:
    """Reads damaged copies through the agents, whatever is left of them, and joins them here."""

    def __init__(
        self, manager: Manager, adoption: Adoption, presence: Presence, domains: Mapping[str, DomainKeys]
    ) -> None:
        self._manager = manager
        self._adoption = adoption
        self._presence = presence
        self._domains = domains
        self._turn = asyncio.Lock()

    def install(self, handlers: Handlers) -> None:
        """Add what administrators may ask."""
        register(handlers, CHECK_TOGETHER, self._asked)

    async def _asked(self, call: Call) -> Together:
        self._adoption.check_serving()
        args: CheckTogether = call.args
        item = self._manager.state.objects.get(args.id)
        if item is None:
            return Together(whole=False, message="nothing refers to it any more")
        named = {CopyOf(bad.medium, bad.name) for bad in args.bad}
        try:
            await self.joined(item, [copy for copy in item.placements() if copy in named or copy in item.bad])
        except StaddleError as error:
            return Together(whole=False, message=error.message)
        return Together(whole=True)

    async def joined(self, item: Object, copies: Sequence[CopyOf]) -> Buffer:
        """The object as it was stored. Raises Corrupt, or what kept the copies from being read."""
        up = [copy for copy in copies if self._manager.state.media[copy.medium].state is MediumStatus.UP]
        chosen = up[:COPIES_MAX]
        keys = self._domains.get(item.domain)
        if len(chosen) < 2 or keys is None:
            raise Corrupt("there is no second copy that could complete it")
        if item.size_bytes * (len(chosen) + 1) > BYTES_MAX:
            raise Corrupt(f"its copies have {item.size_bytes} bytes each, too many to be joined here")
        kind = Kind[item.kind.upper()]
        async with self._turn:
            blobs: list[Buffer] = []
            for copy in chosen:
                blob = await self._salvaged(item, copy)
                if len(blob) == item.size_bytes:
                    blobs.append(blob)
            if len(blobs) < 2:
                raise Unavailable("its copies can't be read now")
            return await asyncio.to_thread(join_copies, keys, kind, item.id, blobs, item.digest)

    async def _salvaged(self, item: Object, copy: CopyOf) -> Buffer:
        """Nothing of a copy that is not there."""
        request = SalvageObject(source=source_of(item, copy))
        try:
            reply = await self._presence.raw(
                SALVAGE_OBJECT, request, medium=copy.medium, timeout_s=_TIMEOUT_S
            )
        except StaddleError:
            return b""
        return reply.payload


def source_of(item: Object, copy: CopyOf) -> VerifyObject:
    """One copy, as agents are asked about it."""
    return VerifyObject(
        Kind[item.kind.upper()].value,
        item.id,
        copy.medium,
        copy.name,
        item.size_bytes,
        item.digest,
        item.domain,
        [],
    )
