"""Targets that a peer can reach: frames, messages, tickets, tokens, records, certificates."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import importlib
import pkgutil
import re
import tempfile
import warnings
from typing import Any

import msgspec
import numpy as np
from targets import Target, golden, msgpack_samples

from staddle.api.transport import Peer
from staddle.daemon.agent.context import AgentContext, Role
from staddle.data.crypto import DomainKeys
from staddle.data.entries import EntriesError
from staddle.data.records import FilesRecord, decode_record
from staddle.dedup.ownermap import OwnerMap
from staddle.engine.messages import AgentToClient, Flush, Ticket
from staddle.errors import StaddleError
from staddle.wire import join, ops
from staddle.wire.assembly import Assembler
from staddle.wire.frames import (
    BODY_BYTES_MAX,
    HEADER,
    Flag,
    FrameReader,
    FrameType,
    encode_head,
)
from staddle.wire.greeting import LOCAL
from staddle.wire.handlers import Handlers
from staddle.wire.identity import identity_of
from staddle.wire.limits import LinkLimits
from staddle.wire.link import Link
from staddle.wire.messages import (
    ErrorBody,
    Hello,
    ReplyMeta,
    RequestMeta,
    pack,
    unpack,
    unpack_error,
    unpack_hello,
)
from staddle.wire.ops.agents import EpochProof
from staddle.wire.ops.base import Operation
from staddle.wire.ops.reading import ReadTicket
from staddle.wire.pki import (
    UNREADABLE,
    CertificateAuthority,
    fingerprint_of,
    identity_of_cert,
    make_ca,
    new_csr,
)
from staddle.wire.tcp import parse_tcp_url
from staddle.wire.tickets import TicketSigner, open_ticket
from staddle.wire.tokens import check_token, create_token, read_token
from staddle.wire.unix import parse_unix_url

OPERATIONS: list[Operation[Any, Any]] = [
    each
    for module in sorted(pkgutil.iter_modules(ops.__path__))
    for each in vars(importlib.import_module(f"{ops.__name__}.{module.name}")).values()
    if isinstance(each, Operation)
]
HELLO = encode_head(FrameType.HELLO, meta=pack(Hello(name="c", role="client")))
SIGNER = TicketSigner(bytes(range(32)))


# --- frames and links ----------------------------------------------------------------------------


def _frames(stream: bytes) -> None:
    """The decoder, fed in pieces of a size that the input chooses."""
    assembler = Assembler(8)

    def on_frame(frame: Any) -> None:
        if frame.type is FrameType.REQUEST and frame.meta is None:
            assembler.finish_if_last(frame)
        elif frame.type is FrameType.REQUEST and frame.flags & Flag.MORE:
            assembler.begin(FrameType.REQUEST, frame.seq, 3000, wanted=bool(frame.seq % 2))

    reader = FrameReader(on_frame, assembler.place)
    reader.body_bytes_max = BODY_BYTES_MAX
    pieces, stream = (stream[0] + 1, stream[1:]) if stream else (1, b"")
    at = 0
    while at < len(stream):
        slot = reader.get_buffer()
        count = min(len(slot), pieces * 7, len(stream) - at)
        slot[:count] = stream[at : at + count]
        reader.buffer_updated(count)
        at += count


def _frame_seeds() -> list[bytes]:
    meta = pack(RequestMeta("echo", 3000, msgspec.Raw(pack({}))))
    request = encode_head(FrameType.REQUEST, seq=1, meta=meta)
    split = encode_head(FrameType.REQUEST, flags=Flag.MORE, seq=1, meta=meta)
    parts = encode_head(FrameType.REQUEST, flags=Flag.MORE, seq=1, payload_bytes=2000) + bytes(2000)
    parts += encode_head(FrameType.REQUEST, seq=1, payload_bytes=1000) + bytes(1000)
    small = [encode_head(kind) for kind in (FrameType.PING, FrameType.PONG, FrameType.CLOSE, FrameType.EVENT)]
    channel = encode_head(FrameType.DATA, channel=1, meta=b"\x80", payload_bytes=3) + b"abc"
    return [
        b"\x05" + each
        for each in (HELLO + request, HELLO + split + parts, HELLO + b"".join(small), HELLO + channel)
    ]


class _Sink(asyncio.Transport):
    def write(self, data: Any) -> None:
        pass

    def close(self) -> None:
        pass

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class _Here:
    def peer(self, transport: Any) -> Peer:
        return Peer("", LOCAL, "here")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: _troubles.append(context))
    return loop


_troubles: list[Any] = []


@functools.cache
def _handlers() -> Handlers:
    made = Handlers()

    async def echo(call: Any) -> Any:
        return call.args, call.payload

    async def stream(call: Any) -> None:
        call.channel.grant(4096)

    made.add("echo", echo, roles=["client"])
    made.add("stream", stream, roles=["client"], opens_channel=True)
    return made


def _link(stream: bytes) -> str:
    """A whole accepting link: whatever comes, it ends its link or goes on, and no callback fails."""
    loop = _loop()
    _troubles.clear()

    async def work() -> str:
        link = Link(
            _Here(), Hello(name="m", role="manager"), _handlers(), accepting=True, limits=LinkLimits()
        )
        link.connection_made(_Sink())
        at = 0
        while at < len(stream) and link.error is None:
            slot = link.get_buffer(-1)
            count = min(len(slot), len(stream) - at)
            slot[:count] = stream[at : at + count]
            link.buffer_updated(count)
            at += count
            await asyncio.sleep(0)
        ended = link.error
        link.connection_lost(None)
        await link._server.drain(1.0)
        assert not link.channels._channels
        return re.sub(r"[0-9]+", "N", str(ended))[:60]

    ended = loop.run_until_complete(work())
    assert not _troubles, _troubles
    return ended


def _link_seeds() -> list[bytes]:
    found = [seed[1:] for seed in _frame_seeds()]
    opening = pack(RequestMeta("stream", 0, msgspec.Raw(pack({}))))
    channel = encode_head(FrameType.REQUEST, seq=5, channel=1, meta=opening)
    granted = encode_head(FrameType.CREDIT, channel=1, seq=100)
    message = encode_head(FrameType.DATA, channel=1, payload_bytes=3) + b"abc"
    bye = encode_head(FrameType.CANCEL, channel=1, meta=msgpack_samples(ErrorBody)[0])
    return [
        *found,
        HELLO + channel + granted + message + encode_head(FrameType.CLOSE, channel=1),
        HELLO + channel + bye,
    ]


# --- messages ------------------------------------------------------------------------------------


def _bodies(kinds: list[Any], data: bytes) -> None:
    """The first byte picks the type."""
    if data:
        unpack(data[1:], kinds[data[0] % len(kinds)])


def _requests(data: bytes) -> None:
    """Likewise an operation's arguments, with what it checks before its handler runs."""
    if data:
        number = data[0] % len(REQUESTS)
        args = unpack(data[1:], REQUESTS[number])
        if number < len(OPERATIONS) and (check := OPERATIONS[number].check) is not None:
            check(args)


def _body_seeds(kinds: list[Any]) -> list[bytes]:
    return [bytes([number]) + each for number, kind in enumerate(kinds) for each in msgpack_samples(kind)]


REQUESTS = [*(operation.request for operation in OPERATIONS), join.SignRequest]
REPLIES = [*(operation.reply for operation in OPERATIONS), join.CaAnswer, join.SignAnswer, DomainKeys]
META = [RequestMeta, ReplyMeta]


def _events(data: bytes) -> None:
    unpack(data, AgentToClient)


def _flush(data: bytes) -> None:
    unpack(data, Flush)


def _record(meta: bytes) -> None:
    """DATA meta, as the agent takes it; then all that its users ask of the rows."""
    size = int.from_bytes(meta[:4], "big") & 0xFFFFF
    record = decode_record(meta[4:], size)
    batch = record.batch
    assert len(batch.paths()) == len(batch)
    for path in batch.paths():
        assert path.startswith(b"/")
        assert b"/../" not in path + b"/"
        assert b"\0" not in path
    for row in range(min(len(batch), 64)):
        batch.link(row)
        try:
            batch.extra(row)
        except ValueError as error:
            raise EntriesError(str(error)) from None
    if isinstance(record, FilesRecord):
        assert int(record.content_lengths.sum(dtype=np.uint64)) == size


def _record_seeds() -> list[bytes]:
    return [(7000).to_bytes(4, "big") + golden("record-files"), bytes(4) + golden("record-part")]


# --- tickets and tokens --------------------------------------------------------------------------


@functools.cache
def _agent() -> AgentContext:
    """A context that knows its manager's key, and nothing else."""
    context = object.__new__(AgentContext)
    context.name = "a1"
    context._role = Role(
        grid=bytes(16),
        manager_epoch=1,
        ticket_key=SIGNER.public_key,
        domains={},
        owner_map=OwnerMap.everyone(),
    )
    return context


def _ticket(signed: bytes) -> None:
    open_ticket(signed, SIGNER.public_key)


def _ticket_inside(blob: bytes) -> None:
    kind = {b"r": ReadTicket, b"e": EpochProof}.get(blob[:1], Ticket)
    _agent().opened(SIGNER.sign(blob[1:]), kind)


def _ticket_seeds() -> list[bytes]:
    found = [b"t" + each for each in msgpack_samples(Ticket)]
    found += [b"e" + each for each in msgpack_samples(EpochProof)]
    return found + [b"r" + each for each in msgpack_samples(ReadTicket)]


@functools.cache
def _ca() -> CertificateAuthority:
    with tempfile.TemporaryDirectory() as directory:
        return make_ca(directory, bytes(range(16)))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _token(data: bytes) -> None:
    read_token(_text(data))


def _token_inside(body: bytes) -> None:
    import base64

    mac = hmac.digest(_ca().token_key, body, hashlib.sha256)
    check_token(_ca(), "stj1." + base64.urlsafe_b64encode(body + mac).decode().rstrip("="), 5)


def _token_seeds() -> list[bytes]:
    return [create_token(_ca(), "host-1", "client", 10**18).encode()]


def _token_bodies() -> list[bytes]:
    import base64

    text = _token_seeds()[0].decode().removeprefix("stj1.")
    return [base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[:-32]]


def _csr(pem: bytes) -> None:
    with warnings.catch_warnings(action="ignore"):
        _ca().sign_csr(pem, "host-1", "client")


def _certificate(pem: bytes) -> None:
    """What a joiner gets from whoever answers."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of certificates that a later parser will refuse
            fingerprint_of(pem)
            identity_of_cert(pem)
    except UNREADABLE as error:  # `identity_of_cert` passes them on; `own_identity` makes ConfigError of them
        raise EntriesError(str(error)) from None


def _urls(data: bytes) -> None:
    text, last = _text(data), None
    for parse in (parse_tcp_url, parse_unix_url, lambda each: identity_of([each])):
        try:
            parse(text)
        except StaddleError as error:
            last = error
        else:
            return
    assert last is not None
    raise last


_WORDS = [kind.to_bytes(1, "big") for kind in range(12)] + [
    HEADER.pack(0, kind, 0, 0, 0) for kind in range(12)
]

TARGETS = [
    Target("frames", _frames, _frame_seeds, words=_WORDS),
    Target("link", _link, _link_seeds, words=_WORDS),
    Target("requests", _requests, lambda: _body_seeds(REQUESTS), "tagged"),
    Target("replies", functools.partial(_bodies, REPLIES), lambda: _body_seeds(REPLIES), "tagged"),
    Target("meta", functools.partial(_bodies, META), lambda: _body_seeds(META), "tagged"),
    Target("hello", unpack_hello, lambda: msgpack_samples(Hello), "msgpack"),
    Target("error", unpack_error, lambda: msgpack_samples(ErrorBody), "msgpack"),
    Target("agent-events", _events, lambda: msgpack_samples(AgentToClient), "msgpack"),
    Target("flush", _flush, lambda: msgpack_samples(Flush), "msgpack"),
    Target("record", _record, _record_seeds, "sized", (StaddleError, EntriesError)),
    Target("ticket", _ticket, lambda: [SIGNER.sign(each[1:]) for each in _ticket_seeds()]),
    Target("ticket-inside", _ticket_inside, _ticket_seeds, "tagged"),
    Target("token", _token, _token_seeds, "text", words=[b"stj1.", b"=", b"_", b"-"]),
    Target("token-inside", _token_inside, _token_bodies, "msgpack"),
    Target("csr", _csr, lambda: [new_csr()[0]], "text", words=[b"-----BEGIN", b"CERTIFICATE REQUEST-----"]),
    Target("certificate", _certificate, lambda: [_ca().cert_pem], "text", (StaddleError, EntriesError)),
    Target(
        "urls",
        _urls,
        lambda: [b"tcp://h:1", b"unix:///a/b", b"staddle:" + b"0" * 32 + b"/agent/a1"],
        "text",
        words=[b"tcp://", b"unix://", b"[::1]", b"%00", b"%2e", b"staddle:"],
    ),
]
