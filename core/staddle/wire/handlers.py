"""The operations that a side answers, and who may call them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from staddle.api.transport import Peer
from staddle.api.types import Buffer
from staddle.errors import Denied, StaddleError
from staddle.wire.assembly import CALL_PAYLOAD_BYTES_MAX
from staddle.wire.messages import JOINER, ROLES

if TYPE_CHECKING:
    from staddle.wire.channel import Channel
    from staddle.wire.link import Link


@dataclass(frozen=True, slots=True)
class Call:
    """One request or event, as its handler sees it.

    Attributes:
        peer: who calls, as proved.
        op: the operation's name.
        args: a dict, or the type that the handler was added with.
        payload: the bytes that came along; empty if none. A view keeps its memory alive.
        link: the link it came over.
        channel: the channel that the caller opened with this request. Grant credit to let it send. When the
            handler raises, the channel is cancelled with that error.
    """

    peer: Peer
    op: str
    args: Any
    payload: Buffer
    link: Link
    channel: Channel | None = None


HandlerResult = Any
"""None, the reply's args (a dict or Struct), or a tuple `(args, payload)`."""

HandlerFunction = Callable[[Call], Awaitable[HandlerResult]]


@dataclass(frozen=True, slots=True)
class Handler:
    """An operation: its function and rules."""

    function: HandlerFunction
    roles: frozenset[str]
    args: Any
    cancellable: bool
    opens_channel: bool
    payload_bytes_max: int


class Handlers:
    """Registry of operations by name. Filled before the first link, then only read."""

    def __init__(self) -> None:
        self._by_op: dict[str, Handler] = {}

    def add(
        self,
        op: str,
        function: HandlerFunction,
        *,
        roles: Iterable[str],
        args: Any = dict,
        cancellable: bool = False,
        opens_channel: bool = False,
        payload_bytes_max: int = CALL_PAYLOAD_BYTES_MAX,
    ) -> None:
        """Answer `op` for peers of the given roles.

        Args:
            op: the operation's name.
            function: gets a Call. A StaddleError that it raises reaches the caller as it is; anything else is
                logged here and reaches the caller as the code INTERNAL.
            roles: who may call; everybody else is Denied.
            args: the type that the arguments must have (a Struct, or dict).
            cancellable: whether the handler's task is cancelled when the caller gives up or is lost. False
                lets it run to its end, as anything must that changes state.
            opens_channel: whether the request opens a channel (`Link.open_channel`). A request that does not
                fit is refused.
            payload_bytes_max: a request with a longer payload is refused, the payload dropped as it comes.

        Raises: ValueError for an unknown role or an operation added twice.
        """
        allowed = frozenset(roles)
        if op in self._by_op or not allowed or allowed - {*ROLES, JOINER}:
            raise ValueError(
                f"cannot add the operation {op!r} for {sorted(allowed)}: added twice or unknown role"
            )
        self._by_op[op] = Handler(function, allowed, args, cancellable, opens_channel, payload_bytes_max)

    def find(self, op: str, peer: Peer) -> Handler:
        """The handler of `op` for `peer`.

        Raises:
            Denied: the peer's role may not call it (also when there is no such operation, for a joiner).
            StaddleError: code UNKNOWN_OP.
        """
        handler = self._by_op.get(op)
        if handler is not None and peer.role in handler.roles:
            return handler
        if handler is not None or peer.role == JOINER:
            raise Denied(
                f"{peer.role} {peer.name!r} may not call {op[:64]!r}",
                hint="an administrator may, on the host of the grid's home",
                retry="never",
            )
        raise StaddleError(
            f"there is no operation {op[:64]!r} here",
            code="UNKNOWN_OP",
            hint="the two sides may run different releases: compare `staddle --version`",
        )
