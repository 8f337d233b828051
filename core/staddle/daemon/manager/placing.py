"""Small sealed objects of the manager's own, seals and journals, over whichever agents reach the media."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from staddle.api.types import Kind
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.presence import Presence
from staddle.data.crypto import KEY_BYTES, NONCE_BYTES, DomainKeys
from staddle.data.sealed import seal_object
from staddle.engine.messages import CopyOf, StoredObject
from staddle.errors import StaddleError
from staddle.wire.ops.data import PUT_OBJECT, PutObject
from staddle.wire.ops.jobs import is_name_of

log = logging.getLogger(__name__)

PUT_TIMEOUT_S = 60.0


class Placer:
    """Stores small objects."""

    def __init__(self, manager: Manager, presence: Presence) -> None:
        self._manager = manager
        self._presence = presence

    async def store(
        self, kind: Kind, keys: DomainKeys, plain: bytes, media: Iterable[str]
    ) -> StoredObject | None:
        """Store one object on as many of these media as there are; None if there is no copy at all.

        It is sealed here, once: no single agent need reach all media for the bytes to be the same everywhere.
        """
        sealed = seal_object(
            kind,
            self._manager.ids.new_id(),
            plain,
            keys,
            key=self._manager.ids.random(KEY_BYTES),
            wrap_nonce=self._manager.ids.random(NONCE_BYTES),
        )
        payload = b"".join(sealed.parts)
        left, copies = set(media), []
        for session in self._presence.serving():
            reach = sorted(left & set(self._manager.settings.media_of(session.name)))
            link = session.data_link()
            if not reach or link is None:
                continue
            request = PutObject(
                kind=kind.value, id=sealed.object_id, domain=keys.domain, media=reach, sealed=True
            )
            try:
                reply = await link.request(PUT_OBJECT.name, request, payload, timeout_s=PUT_TIMEOUT_S)
                answer = PUT_OBJECT.decode(reply)
            except StaddleError as error:
                log.warning("agent %s stored no %s: %s", session.name, kind.name.lower(), error)
                continue
            for medium, why in answer.failed.items():
                log.warning(
                    "agent %s: medium %s took no %s: %s", session.name, medium, kind.name.lower(), why
                )
            # An agent vouches for the media that it reaches and this object's own names, for nothing else.
            told = [
                CopyOf(m, n) for m, n in answer.copies if m in reach and is_name_of(n, kind, sealed.object_id)
            ]
            copies += told
            left -= {copy.medium for copy in told}
        if not copies:
            return None
        return StoredObject(
            id=sealed.object_id, size_bytes=sealed.size_bytes, digest=sealed.digest, copies=copies
        )
