"""New members: join tokens made for administrators, redeemed once."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec

from staddle import typed
from staddle.daemon.manager.core import Manager
from staddle.engine.configure import decide_client
from staddle.errors import Corrupt, UsageError
from staddle.platform.durable import write_file_durable
from staddle.wire.handlers import Call, Handlers
from staddle.wire.join import JoinDesk
from staddle.wire.ops.admin import CREATE_TOKEN, CreateToken, TokenMade
from staddle.wire.ops.base import register
from staddle.wire.pki import CertificateAuthority
from staddle.wire.tokens import Token, create_token

TOKEN_S_MAX = 30 * 24 * 3600.0


class TokenDesk:
    """Makes tokens, and remembers which were used until they would have expired anyway."""

    def __init__(self, manager: Manager, directory: str) -> None:
        """Args: directory: of the certificate authority; the used tokens are kept beside it."""
        self._manager = manager
        self._authority = CertificateAuthority.load(directory)
        self._path = os.path.join(directory, "used-tokens")
        self._turn = asyncio.Lock()

    def install(self, handlers: Handlers) -> None:
        """Add the operations, those for joiners too."""
        register(handlers, CREATE_TOKEN, self._create)
        JoinDesk(self._authority, self._redeem).install(handlers)

    async def _create(self, call: Call) -> TokenMade:
        args: CreateToken = call.args
        if not 0 < args.valid_s <= TOKEN_S_MAX:
            raise UsageError(f"a token is valid for up to {TOKEN_S_MAX:.0f} s, not {args.valid_s:g}")
        try:
            text = create_token(
                self._authority, args.name, "client", time.time_ns() + int(args.valid_s * 1e9)
            )
        except ValueError:
            raise UsageError(
                f"{args.name!r} is no name for a client",
                hint="take 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit",
            ) from None
        return TokenMade(token=text, url=self._manager.settings.manager.listen)

    async def _redeem(self, token: Token) -> bool:
        """Use a token up, durably, before its certificate goes out."""
        async with self._turn:
            used = self._used()
            if token.token_id.hex() in used:
                return False
            now_ns = time.time_ns()
            kept = {name: end for name, end in used.items() if end > now_ns}
            kept[token.token_id.hex()] = token.expires_ns
            await asyncio.to_thread(write_file_durable, self._path, msgspec.json.encode(kept))
            await self._manager.change(decide_client, token.name, now_ns)
            return True

    def _used(self) -> dict[str, int]:
        """Token ids that were used -> when they expire. Raises Corrupt."""
        try:
            with open(self._path, "rb") as handle:
                return typed.from_json(handle.read(), dict[str, int])
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError:
            raise Corrupt(
                f"{self._path} is damaged: which tokens were used can't be told, so nobody can join",
                hint="remove it once no token that was made before is valid any more (30 days at most)",
                retry="operator",
            ) from None
