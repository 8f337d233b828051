"""Tickets: bytes that the manager has signed (Ed25519, RFC 8032). An assignment is one.

ticket = blob | signature (64 bytes) over "staddle ticket 1" NUL blob
"""

from __future__ import annotations

import os
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from staddle.errors import ConfigError, Denied
from staddle.platform.durable import fsync_dir
from staddle.wire.pki import write_private

SIGNATURE_BYTES = 64
KEY_BYTES = 32
_DOMAIN = b"staddle ticket 1\0"


class TicketSigner:
    """Signs tickets with the manager's key.

    Attributes:
        public_key: 32 bytes, for `open_ticket` on the agents.
    """

    def __init__(self, secret: bytes) -> None:
        """Take a raw 32-byte secret key."""
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public_key = self._key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    @classmethod
    def at(cls, path: str) -> Self:
        """The signer whose key is in the file at `path`; a new key is made (mode 0600) if there is none."""
        if not os.path.exists(path):
            write_private(path, os.urandom(KEY_BYTES))
        else:
            fsync_dir(os.path.dirname(path))  # whoever made it may have died before its sync
        with open(path, "rb") as file:
            secret = file.read()
        if len(secret) != KEY_BYTES:
            raise ConfigError(f"{path} is not a ticket key: {len(secret)} bytes, not {KEY_BYTES}")
        return cls(secret)

    def sign(self, blob: bytes) -> bytes:
        """A ticket that carries `blob`."""
        return blob + self._key.sign(_DOMAIN + blob)


def open_ticket(ticket: bytes, public_key: bytes) -> bytes:
    """The blob of a ticket that the holder of the key has signed. Raises Denied for any other bytes."""
    blob, signature = ticket[:-SIGNATURE_BYTES], ticket[-SIGNATURE_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _DOMAIN + blob)
    except (InvalidSignature, ValueError):
        raise Denied("the ticket is not signed by this grid's manager", retry="never") from None
    return blob
