"""A link to one peer that is made again when it is lost: how agents and clients hold on to the manager."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from staddle.api.transport import Credentials
from staddle.api.types import Buffer
from staddle.errors import Denied, StaddleError, Unavailable
from staddle.wire.calls import Reply
from staddle.wire.endpoint import connect
from staddle.wire.handlers import Handlers
from staddle.wire.limits import LinkLimits
from staddle.wire.link import Link
from staddle.wire.messages import Hello
from staddle.wire.ops.base import Operation

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Redial:
    """One peer, reached by any of its URLs. All methods belong to one event loop."""

    def __init__(
        self,
        urls: Sequence[str],
        credentials: Credentials,
        hello: Hello,
        *,
        expect_role: str,
        expect_name: str | None = None,
        handlers: Handlers | None = None,
        on_connected: Callable[[Link], Awaitable[None]] | None = None,
        limits: LinkLimits | None = None,
    ) -> None:
        """Args: urls: tried in this order. on_connected: runs before the first call over each new link."""
        self._urls = list(urls)
        self._credentials = credentials
        self._hello = hello
        self._expect = (expect_role, expect_name)
        self._handlers = handlers
        self._on_connected = on_connected
        self._limits = limits
        self._link: Link | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def link(self, timeout_s: float = 10.0) -> Link:
        """The open link, made if there is none. Raises what the last URL said."""
        async with self._turn:
            if self._closed:
                raise Unavailable("this side is closing", retry="never")
            if self._link is not None and self._link.error is None:
                return self._link
            self._link = None
            last: StaddleError = Unavailable(f"{self._expect[0]} has no address")
            for url in self._urls:
                try:
                    link = await self._dial(url, timeout_s)
                except StaddleError as error:
                    last = error
                else:
                    self._link = link
                    return link
            raise last

    async def _dial(self, url: str, timeout_s: float) -> Link:
        link = await connect(
            url,
            self._credentials,
            self._hello,
            self._handlers,
            expect_role=self._expect[0],
            expect_name=self._expect[1],
            timeout_s=timeout_s,
            limits=self._limits,
        )
        if self._on_connected is not None:
            try:
                await self._on_connected(link)
            except BaseException:
                await link.close()
                raise
        return link

    async def call(
        self,
        operation: Operation[Request, Answer],
        request: Request,
        payload: Buffer | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> Answer:
        """One call over the present link, or a new one. Raises as `Link.request` does."""
        return operation.decode(await self.raw(operation, request, payload, timeout_s=timeout_s))

    async def raw(
        self,
        operation: Operation[Request, Answer],
        request: Request,
        payload: Buffer | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> Reply:
        """Like `call`, for replies whose payload is bulk data."""
        link = await self.link()
        return await link.request(operation.name, request, payload, timeout_s=timeout_s)

    async def call_patiently(
        self,
        operation: Operation[Request, Answer],
        request: Request,
        payload: Buffer | None = None,
        *,
        patience_s: float,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Call until there is an answer: the peer may be away for a while. The operation must be idempotent.

        Raises: what the handler said; the last transport error once `patience_s` has passed.
        """
        loop = asyncio.get_running_loop()
        end_s, wait_s = loop.time() + patience_s, RETRY_FIRST_S
        while True:
            try:
                return await self.call(operation, request, payload, timeout_s=timeout_s)
            except StaddleError as error:
                if not is_transport_error(error) or self._closed or loop.time() >= end_s:
                    raise
                log.debug("%s: %s; again in %.2f s", operation.name, error, wait_s)
            # Jitter, so that a thousand agents do not come back in one instant.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    async def close(self) -> None:
        """Close the link for good. Idempotent."""
        self._closed = True
        if self._link is not None:
            await self._link.close()


_TRANSPORT_CODES = frozenset({"PATH_LOST", "IN_DOUBT", "DEADLINE", "UNAVAILABLE", "PROTOCOL"})


def is_transport_error(error: StaddleError) -> bool:
    """Did the way to the peer fail, and not the request: may the same call succeed later."""
    return error.code in _TRANSPORT_CODES and not isinstance(error, Denied)
