"""Join tokens: one text that lets a new member join once, and lets it know the right manager."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os

import msgspec

from staddle.errors import Denied, ProtocolError
from staddle.wire.identity import check_identity
from staddle.wire.messages import unpack
from staddle.wire.pki import CertificateAuthority

_PREFIX = "stj1."
_TEXT_CHARS_MAX = 1024
_MAC_BYTES = 32


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What a token says.

    Attributes:
        token_id: 16 random bytes; the manager records which are used.
        grid: 16-byte grid id.
        ca_fingerprint: SHA-256 of the grid's CA certificate.
        name: the new member's name.
        role: the new member's role.
        expires_ns: UTC, nanoseconds since the epoch.
    """

    token_id: bytes
    grid: bytes
    ca_fingerprint: bytes
    name: str
    role: str
    expires_ns: int


def create_token(ca: CertificateAuthority, name: str, role: str, expires_ns: int) -> str:
    """A token text, `stj1.…`, with an HMAC-SHA256 (RFC 2104). Raises ValueError for a bad name or role."""
    check_identity(ca.grid, role, name)
    body = msgspec.msgpack.encode(Token(os.urandom(16), ca.grid, ca.fingerprint, name, role, expires_ns))
    mac = hmac.digest(ca.token_key, body, hashlib.sha256)
    return _PREFIX + base64.urlsafe_b64encode(body + mac).decode().rstrip("=")


def read_token(text: str) -> Token:
    """What a token says, for the joiner: it cannot check the token, only the manager can. Raises Denied."""
    return _split(text)[0]


def check_token(ca: CertificateAuthority, text: str, now_ns: int) -> Token:
    """The token, if this grid made it and it has not expired. Whether it was used, its maker must look up.

    Raises: Denied, in words for the person who typed it.
    """
    token, body, mac = _split(text)
    if token.grid != ca.grid:
        raise Denied("the token is of another grid", hint="create one on this grid's manager", retry="never")
    if not hmac.compare_digest(mac, hmac.digest(ca.token_key, body, hashlib.sha256)):
        raise Denied("the token was not made by this grid", hint="copy the whole token", retry="never")
    if now_ns >= token.expires_ns:
        raise Denied("the token has expired", hint="create a new one on the manager", retry="never")
    return token


def used_token() -> Denied:
    """The error for a token that was used before."""
    return Denied("the token was used already", hint="create a new one on the manager", retry="never")


def _split(text: str) -> tuple[Token, bytes, bytes]:
    text = text.strip()
    wrong = Denied(
        "this is not a join token", hint=f"it begins with {_PREFIX}; copy the whole text", retry="never"
    )
    if not text.startswith(_PREFIX) or len(text) > _TEXT_CHARS_MAX:
        raise wrong
    encoded = text.removeprefix(_PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        token = unpack(body, Token)
        check_identity(token.grid, token.role, token.name)
    except (binascii.Error, ValueError, ProtocolError):
        raise wrong from None
    return token, body, mac
