"""Finds and reads stored objects: where the manager says that they lie, from whichever copy can be read."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from staddle.api.types import Buffer, Kind
from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.lru import ByteLru
from staddle.data import manifest as manifest_format
from staddle.data.container import ContainerReader, Directory
from staddle.data.crypto import DomainKeys
from staddle.data.manifest import Manifest
from staddle.data.reader import Copy, no_copy_left
from staddle.data.sealed import open_object
from staddle.errors import Corrupt, MediumFailed, NotFound, StaddleError
from staddle.wire.ops.agents import BAD_COPY, LOCATE, BadCopy, Locate, Located

log = logging.getLogger(__name__)

PLACES_MAX = 20_000
PLACE_TTL_S = 60.0
LOCATE_IDS_MAX = 4096
"""Ids of one question: a frame's meta is bounded."""
PLAIN_CACHE_BYTES = 24 << 20
MANIFEST_CACHE_BYTES = 40 << 20
MANAGER_PATIENCE_S = 10.0


class Locator:
    """Objects by id. Called from threads, never from the loop."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._places: OrderedDict[bytes, tuple[float, Located]] = OrderedDict()
        self._lock = threading.Lock()
        self._plain: ByteLru[bytes, bytes] = ByteLru(PLAIN_CACHE_BYTES)
        self._manifests: ByteLru[bytes, Manifest] = ByteLru(MANIFEST_CACHE_BYTES)

    # --- where ------------------------------------------------------------------------------------

    def locate(self, kind: Kind, ids: Sequence[bytes]) -> dict[bytes, Located]:
        """What the manager knows of these objects, a minute old at most."""
        oldest_s = time.monotonic() - PLACE_TTL_S
        with self._lock:
            places = {item: self._places.get(item) for item in ids}
        known = {
            item: place[1] for item, place in places.items() if place is not None and place[0] >= oldest_s
        }
        ask = [item for item in places if item not in known]
        for at in range(0, len(ask), LOCATE_IDS_MAX):
            request = Locate(kind=kind.value, ids=ask[at : at + LOCATE_IDS_MAX])
            answer = self._context.ask(LOCATE, request, patience_s=MANAGER_PATIENCE_S)
            known.update(self._keep(answer.objects))
        return known

    def manifests_of(self, backup: int) -> list[bytes]:
        """Ids of all manifests of a backup, in its order."""
        request = Locate(kind=Kind.MANIFEST.value, ids=[], backup=backup)
        objects = self._context.ask(LOCATE, request, patience_s=MANAGER_PATIENCE_S).objects
        self._keep(objects)
        return [item.id for item in objects]

    def _keep(self, objects: Sequence[Located]) -> dict[bytes, Located]:
        now_s = time.monotonic()
        with self._lock:
            for item in objects:
                self._places[item.id] = now_s, item
                self._places.move_to_end(item.id)
            while len(self._places) > PLACES_MAX:
                self._places.popitem(last=False)
        return {item.id: item for item in objects}

    def place(self, kind: Kind, object_id: bytes) -> Located:
        """One object. Raises NotFound."""
        found = self.locate(kind, [object_id]).get(object_id)
        if found is None:
            raise NotFound(f"the manager knows no object {object_id.hex()}", retry="elsewhere")
        return found

    def copies(self, container_id: bytes) -> list[Copy]:
        """Copies of a container that this agent can open now. Raises NotFound, MediumFailed."""
        return self._copies(self.place(Kind.CONTAINER, container_id))

    def _copies(self, place: Located) -> list[Copy]:
        found: list[Copy] = []
        errors: list[StaddleError] = []
        for medium, name in place.copies:
            if medium not in self._context.media.names:
                continue
            try:
                found.append(Copy(self._context.media.volume(medium), name, place.size_bytes))
            except StaddleError as error:
                errors.append(error)
        if not found:
            why = "; ".join(str(error) for error in errors) or _not_reached(place)
            raise _out_of_reach(place, why)
        return found

    # --- bad copies ---------------------------------------------------------------------------------

    def bad_copy(self, object_id: bytes, copy: Copy, error: StaddleError) -> None:
        """A copy could not be read: a damaged or missing one is reported, a failing medium opened anew."""
        medium = copy.volume.label.medium
        log.warning("copy of %s on medium %s: %s", object_id.hex(), medium, error)
        with self._lock:
            self._places.pop(object_id, None)
        if error.scope == "object":
            report = BadCopy(id=object_id, medium=medium, name=copy.name, code=error.code)
            # The reader goes on with the next copy: it does not wait for the manager to have noted this one.
            asyncio.run_coroutine_threadsafe(self._report(report), self._context.loop)
        elif error.scope in {"medium", "volume", "path"}:
            self._context.media.forget(medium)

    async def _report(self, report: BadCopy) -> None:
        try:
            await self._context.manager.call_patiently(BAD_COPY, report, patience_s=30.0)
        except StaddleError as error:
            log.warning("the bad copy %s on %s was not reported: %s", report.name, report.medium, error)

    # --- sealed objects -----------------------------------------------------------------------------

    def sealed(self, kind: Kind, object_id: bytes, keys: DomainKeys) -> bytes:
        """The plain bytes of a sealed object, from any copy. Raises Corrupt, or what the last copy said."""
        place = self.place(kind, object_id)
        said: dict[str, StaddleError] = {}
        for copy in self._copies(place):
            medium = copy.volume.label.medium
            try:
                blob: Buffer = self._context.media.get(medium, copy.name, copy.size_bytes)
                return open_object(keys, kind, object_id, blob)
            except StaddleError as error:
                said[medium] = error
                self.bad_copy(object_id, copy, error)
        if all(isinstance(error, Corrupt | NotFound) for error in said.values()):
            raise no_copy_left(f"{kind.name.lower()} {object_id.hex()}", said)
        raise list(said.values())[-1]

    def plain_manifest(self, manifest_id: bytes, keys: DomainKeys) -> bytes:
        """The plain bytes of a manifest; kept for a while."""
        plain = self._plain.get(manifest_id)
        if plain is None:
            plain = self.sealed(Kind.MANIFEST, manifest_id, keys)
            self._plain.put(manifest_id, plain, len(plain))
        return plain

    def manifest(self, manifest_id: bytes, keys: DomainKeys) -> Manifest:
        """A manifest, decoded; kept for a while."""
        found = self._manifests.get(manifest_id)
        if found is None:
            plain = self.plain_manifest(manifest_id, keys)
            found = manifest_format.decode(plain, f"manifest {manifest_id.hex()}")
            self._manifests.put(manifest_id, found, len(plain))
        return found

    def directory(self, place: Located, keys: DomainKeys) -> Directory:
        """The directory of a container, from any copy.

        Raises what a copy said: as long as one can't be reached now, that; else that they are bad.
        """
        said: list[StaddleError] = []
        for medium, name in place.copies:
            if medium not in self._context.media.names:
                continue
            try:
                copy = Copy(self._context.media.volume(medium), name, place.size_bytes)
                get = functools.partial(self._get, copy)
                return ContainerReader(keys, get, copy.size_bytes, place.id).directory
            except StaddleError as error:
                said.append(error)
        if not said:
            raise _out_of_reach(place, _not_reached(place))
        raise next((error for error in said if error.scope != "object"), said[-1])

    def _get(self, copy: Copy, offset: int, length: int) -> bytes:
        deadline = self._context.media.deadline(copy.volume.label.medium)
        return copy.volume.get(copy.name, offset, length, deadline)


def _not_reached(place: Located) -> str:
    media = ", ".join(dict.fromkeys(medium for medium, _ in place.copies))
    return f"this agent reaches none of its media ({media})" if media else "it has no copy"


def _out_of_reach(place: Located, why: str) -> MediumFailed:
    return MediumFailed(
        f"object {place.id.hex()} can't be read here: {why}",
        hint="another agent may reach a copy; see `staddle status`",
        retry="elsewhere",
        scope="path",
    )
