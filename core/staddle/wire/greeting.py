"""The greeting: do both sides speak a common version, and is the peer who it says it is?"""

from __future__ import annotations

from staddle.api.transport import Peer
from staddle.errors import Denied, NewerFormat
from staddle.wire.identity import NAME
from staddle.wire.messages import ROLES, Hello

LOCAL = "local"
"""Role in the Peer of a transport that proves the user but not the role: the greeting says the role then."""


def accept_greeting(
    own: Hello, said: Hello, proved: Peer, expect_role: str | None, expect_name: str | None
) -> Peer:
    """Who the peer is, from what it said and what its transport has proved.

    Raises:
        NewerFormat: no common wire version.
        Denied: it is of another grid, is not who it says, or is not who was expected.
    """
    if not set(said.versions) & set(own.versions):
        raise NewerFormat(
            f"the peer speaks wire versions {sorted(said.versions)}, this side {sorted(own.versions)}",
            hint=f"the releases are too far apart: {own.release or '?'} here, {said.release or '?'} there",
            scope="path",
        )
    if said.grid and own.grid and said.grid != own.grid:
        raise Denied(f"{said.role} {said.name!r} belongs to another grid ({said.grid.hex()})")
    if proved.role == LOCAL:
        if said.role not in ROLES or not NAME.fullmatch(said.name):
            raise Denied(f"{said.role!r} {said.name!r} is not a role and name of a member")
        peer = Peer(said.name, said.role, proved.address)
    else:
        peer = proved
        if (said.name, said.role) != (peer.name, peer.role):
            raise Denied(f"{peer.role} {peer.name!r} calls itself {said.role} {said.name!r}")
    if expect_role not in {None, peer.role} or expect_name not in {None, peer.name}:
        wanted = " ".join(filter(None, (expect_role or "member", expect_name)))
        raise Denied(
            f"{peer.address or 'the peer'} is {peer.role} {peer.name!r}, not {wanted}",
            hint="the address is of another member of the grid: check the configuration",
        )
    return peer
