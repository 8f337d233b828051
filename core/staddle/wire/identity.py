"""Identity in a certificate: which grid, which role, which name."""

from __future__ import annotations

import re
from typing import NamedTuple

from staddle.errors import Denied
from staddle.wire.messages import ROLES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URI = re.compile(r"staddle:(?P<grid>[0-9a-f]{32})/(?P<role>[a-z]+)/(?P<name>[A-Za-z0-9._-]+)")


class Identity(NamedTuple):
    """What a certificate proves. `grid` is the 16-byte grid id."""

    grid: bytes
    role: str
    name: str

    @property
    def uri(self) -> str:
        """The URI that stands as subject alternative name (RFC 5280 section 4.2.1.6)."""
        return f"staddle:{self.grid.hex()}/{self.role}/{self.name}"


def check_identity(grid: bytes, role: str, name: str) -> Identity:
    """Make an Identity. Raises ValueError for an unknown role or a name that is not `NAME`."""
    if role not in ROLES or not NAME.fullmatch(name) or len(grid) != 16:
        raise ValueError(
            f"{role} {name!r}: a role is one of {', '.join(ROLES)}, "
            "a name has 1-64 letters, digits, '.', '_' or '-' and begins with a letter or digit"
        )
    return Identity(grid, role, name)


def identity_of(uris: list[str]) -> Identity:
    """The identity among the URIs of a certificate. Raises Denied unless there is exactly one."""
    found = [match for uri in uris if (match := _URI.fullmatch(uri)) is not None]
    if len(found) != 1 or found[0]["role"] not in ROLES or not NAME.fullmatch(found[0]["name"]):
        raise Denied("the certificate names no member of a Staddle grid")
    return Identity(bytes.fromhex(found[0]["grid"]), found[0]["role"], found[0]["name"])
