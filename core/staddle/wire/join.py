"""Joining a grid with a token: the manager's desk, and the new member's side.

The joiner has no certificate and does not know the CA yet. It first fetches the CA certificate over a link
that proves nothing and sends nothing secret, and compares its fingerprint with the one in the token. Then it
connects again, verifies the manager by that CA, and only then shows the token, with a request to sign its own
fresh key.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec

from staddle.api.transport import Credentials, Peer, ProtocolFactory
from staddle.errors import Denied
from staddle.wire.endpoint import connect
from staddle.wire.greeting import LOCAL
from staddle.wire.handlers import Call, Handlers
from staddle.wire.messages import JOINER, Hello
from staddle.wire.pki import CertificateAuthority, Issued, fingerprint_of, new_csr, write_private
from staddle.wire.tcp import TcpTransport, address_of, open_tls
from staddle.wire.tokens import Token, check_token, read_token, used_token

_GREETING = Hello(name="", role=JOINER)


class CaAnswer(msgspec.Struct, frozen=True):
    """Reply of `join.ca`."""

    ca_pem: bytes


class SignRequest(msgspec.Struct, frozen=True):
    """Arguments of `join.sign`."""

    token: Annotated[str, msgspec.Meta(max_length=1024)]
    csr_pem: Annotated[bytes, msgspec.Meta(max_length=16_384)]


class SignAnswer(msgspec.Struct, frozen=True):
    """Reply of `join.sign`."""

    cert_pem: bytes


class JoinDesk:
    """The manager's side: the operations `join.ca` and `join.sign`, for joiners only.

    Args:
        ca: signs the new member's key.
        redeem: records durably that the token was used; False if it was used or withdrawn before.
    """

    def __init__(self, ca: CertificateAuthority, redeem: Callable[[Token], Awaitable[bool]]) -> None:
        self._ca = ca
        self._redeem = redeem

    def install(self, handlers: Handlers) -> None:
        """Add the operations. Serve with `TcpTransport(joiners=True)`."""
        handlers.add("join.ca", self._give_ca, roles=[JOINER], payload_bytes_max=0)
        handlers.add("join.sign", self._sign, roles=[JOINER], args=SignRequest, payload_bytes_max=0)

    async def _give_ca(self, call: Call) -> CaAnswer:
        return CaAnswer(self._ca.cert_pem)

    async def _sign(self, call: Call) -> SignAnswer:
        token = check_token(self._ca, call.args.token, time.time_ns())
        issued = self._ca.sign_csr(call.args.csr_pem, token.name, token.role)
        if not await self._redeem(token):
            raise used_token()
        return SignAnswer(issued.cert_pem)


class Joined(msgspec.Struct, frozen=True):
    """What a new member has afterwards: hand it to `write_credentials`."""

    token: Token
    ca_pem: bytes
    issued: Issued


async def join(url: str, token_text: str, *, timeout_s: float = 30.0) -> Joined:
    """Join the grid whose manager is at `url`.

    Raises: Denied (the token is wrong, used, expired, or the manager is not the one of the token), PathLost,
        DeadlineExceeded. After InDoubt or a lost link the token may be used up: ask for a new one.
    """
    token = read_token(token_text)
    link = await connect(
        url, _NOTHING, _GREETING, expect_role=None, timeout_s=timeout_s, transport=_BlindTransport()
    )
    try:
        ca_pem = (await link.request("join.ca", timeout_s=timeout_s, reply=CaAnswer)).args.ca_pem
    finally:
        await link.close()
    if fingerprint_of(ca_pem) != token.ca_fingerprint:
        raise Denied(
            f"{url} is not the manager that made this token", hint="check the address", retry="never"
        )
    csr_pem, key_pem = new_csr()
    with tempfile.TemporaryDirectory(prefix="staddle-join-") as directory:
        ca_file = os.path.join(directory, "ca.crt")
        write_private(ca_file, ca_pem)
        known = Credentials(ca_file=ca_file, cert_file="", key_file="")
        link = await connect(url, known, _GREETING, expect_role="manager", timeout_s=timeout_s)
    try:
        answer = await link.request(
            "join.sign", SignRequest(token_text.strip(), csr_pem), timeout_s=timeout_s, reply=SignAnswer
        )
    finally:
        await link.close()
    return Joined(token, ca_pem, Issued(answer.args.cert_pem, key_pem))


_NOTHING = Credentials(ca_file="", cert_file="", key_file="")


class _BlindTransport(TcpTransport):
    """TLS that proves nothing: only to fetch the public CA certificate, which the token then proves."""

    async def connect(
        self, url: str, credentials: Credentials, make: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseTransport:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return await open_tls(url, context, make, timeout_s)

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        return Peer("", LOCAL, address_of(transport))
