"""Who may hold a link to a server, and how many: so that no peer takes the places of all others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from staddle.errors import Unavailable
from staddle.wire.assembly import Budget
from staddle.wire.messages import JOINER

if TYPE_CHECKING:
    from staddle.wire.link import Link

LINKS_MAX = 1024
"""Links that a server has open at once."""
PEER_LINKS_MAX = 128
"""Of them, those of one member. The local administrator is one, with each command line."""
UNGREETED_MAX = 128
"""Of them, those that have not greeted yet."""
JOINERS_MAX = 32
"""Of them, those of peers without a certificate."""
JOINER_S = 60.0
"""How long such a peer may stay: it has two requests to make."""
MEMBER_BYTES_MAX = 512 << 20
"""Of one member's requests that are not worked off and answers that are not sent, over all of its links."""


class Admission:
    """The links of one server. Belongs to its event loop.

    Where there are too many peers that have proved nothing, the oldest of them gives way: whoever is honest
    is through in milliseconds. A member that is one too many is refused.
    """

    def __init__(self) -> None:
        self.links: set[Link] = set()
        self._ungreeted: dict[Link, None] = {}
        self._joiners: dict[Link, asyncio.TimerHandle] = {}
        self._of_peer: dict[tuple[str, str], int] = {}
        self._rooms: dict[tuple[str, str], Budget] = {}
        self._peers: dict[Link, tuple[str, str]] = {}

    def connected(self, link: Link) -> bool:
        """A new connection; False if there is no place for it."""
        if len(self._ungreeted) >= UNGREETED_MAX or (len(self.links) >= LINKS_MAX and self._ungreeted):
            self._put_out(next(iter(self._ungreeted)))
        if len(self.links) >= LINKS_MAX:
            return False
        self.links.add(link)
        self._ungreeted[link] = None
        return True

    def greeted(self, link: Link) -> Budget:
        """The peer is known now: the room for its payloads. Raises Unavailable."""
        self._ungreeted.pop(link, None)
        key = (link.peer.role, link.peer.name)
        if link.peer.role == JOINER:
            if len(self._joiners) >= JOINERS_MAX:
                self._put_out(next(iter(self._joiners)))
            self._joiners[link] = asyncio.get_running_loop().call_later(JOINER_S, self._put_out, link)
        elif self._of_peer.get(key, 0) >= PEER_LINKS_MAX:
            raise Unavailable(
                f"{link.peer.role} {link.peer.name!r} has {PEER_LINKS_MAX} links open already",
                hint="close some of them, or wait until they are gone",
                code="BUSY",
            )
        self._peers[link] = key
        self._of_peer[key] = self._of_peer.get(key, 0) + 1
        hint = "send less at once, and read answers before you ask for more"
        return self._rooms.setdefault(key, Budget(MEMBER_BYTES_MAX, hint))

    def ended(self, link: Link) -> None:
        """Its connection is gone."""
        self.links.discard(link)
        self._forget(link)
        key = self._peers.pop(link, None)
        if key is not None:
            self._of_peer[key] -= 1
            if not self._of_peer[key]:
                del self._of_peer[key], self._rooms[key]

    def _forget(self, link: Link) -> None:
        self._ungreeted.pop(link, None)
        timer = self._joiners.pop(link, None)
        if timer is not None:
            timer.cancel()

    def _put_out(self, link: Link) -> None:
        self._forget(link)
        link.abort(Unavailable("too many peers wait to be let in", hint="try again", code="BUSY"))
