"""Peers that break the protocol: they lose their link, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
import tempfile

import pytest
from hostilewire import (
    CLIENT,
    HELLO,
    MANAGER,
    MIB,
    QUICK,
    attack,
    data,
    handlers,
    request,
    run,
    served,
    still_serves,
)

from staddle import errors
from staddle.api.transport import Peer
from staddle.errors import ProtocolError, StaddleError
from staddle.wire import frames
from staddle.wire.endpoint import NO_CREDENTIALS, connect
from staddle.wire.frames import HEADER, Flag, FrameType, encode_head
from staddle.wire.greeting import LOCAL
from staddle.wire.limits import LinkLimits
from staddle.wire.link import Link
from staddle.wire.messages import pack

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the attackers use local sockets")


ATTACKS = {
    "unknown type": [HEADER.pack(0, 99, 0, 0, 0)],
    "oversize": [HEADER.pack(2**31, FrameType.DATA, 0, 1, 0)],
    "oversize control": [HEADER.pack(5, FrameType.PING, 0, 0, 0)],
    "unknown flags": [HEADER.pack(0, FrameType.PING, 0x80, 0, 0)],
    "second greeting": [HELLO],
    "unknown channel": [data(7)],
    "credit for an unknown channel": [encode_head(FrameType.CREDIT, channel=9, seq=5)],
    "close of an unknown channel": [encode_head(FrameType.CLOSE, channel=9)],
    "channel of the other half": [request("stream", channel=2)],
    "channel opened twice": [request("stream", channel=1), request("stream", seq=2, channel=1)],
    "beyond its credit": [request("stream", channel=1), data(1, bytes(3000)), data(1, bytes(3000))],
    "credit for nothing": [request("stream", channel=1), encode_head(FrameType.CREDIT, channel=1, seq=0)],
    "endless credit": [request("stream", channel=1), encode_head(FrameType.CREDIT, channel=1, seq=2**63)],
    "data after close": [request("stream", channel=1), encode_head(FrameType.CLOSE, channel=1), data(1)],
    "bad msgpack": [encode_head(FrameType.REQUEST, seq=1, meta=b"\xc1\xc1")],
    "meta of another shape": [encode_head(FrameType.REQUEST, seq=1, meta=pack({"op": 1}))],
    "request without meta": [encode_head(FrameType.REQUEST, seq=1)],
    "part of nothing": [encode_head(FrameType.REQUEST, seq=1, payload_bytes=3) + b"abc"],
    "payload that is not as said": [request(size=5, payload=b"abc")],
    "announced payload too large": [request(size=65 * MIB, flags=Flag.MORE)],
    "same request twice": [request(size=9, flags=Flag.MORE), request(size=9, flags=Flag.MORE)],
    "too many split payloads": [request(seq=n, size=9, flags=Flag.MORE) for n in range(1, 40)],
    "event without meta": [encode_head(FrameType.EVENT)],
    "broken cancel": [request("stream", channel=1), encode_head(FrameType.CANCEL, channel=1, meta=b"\xc1")],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_its_own_link_with_a_protocol_error(name):
    async def work():
        async with served() as server:
            told = await attack(server, *ATTACKS[name])
            assert [type(error) for error in told] == [ProtocolError], told
            await still_serves(server)

    run(work())


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        request(),
        encode_head(FrameType.PING),
        encode_head(FrameType.HELLO, meta=b"\xc1"),
    ],
)
def test_who_does_not_greet_gets_nothing(first):
    async def work():
        async with served() as server:
            told = await attack(server, first, greet=False)
            assert [type(error) for error in told] == [ProtocolError]
            await still_serves(server)

    run(work())


def test_who_connects_and_says_nothing_is_dropped_in_time():
    async def work():
        async with served() as server:
            loop = asyncio.get_running_loop()
            start_s = loop.time()
            assert await attack(server, greet=False) == []
            assert loop.time() - start_s < 1.5
            assert await attack(server, HELLO[:7], greet=False) == []
            await still_serves(server)

    run(work())


def test_a_frame_that_drips_in_is_cut_off():
    async def work():
        async with served() as server:
            _, writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
            writer.write(HELLO + HEADER.pack(1000, FrameType.REQUEST, 1, 0, 1))
            drips = 0
            with contextlib.suppress(ConnectionError):
                while server.links or not drips:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.02)
                    drips += 1
            assert drips < 60
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await still_serves(server)

    run(work())


def test_a_peer_that_stops_is_lost_by_silence_even_over_a_real_socket():
    async def work():
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "stopped")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            listener.setblocking(False)
            task = asyncio.create_task(
                connect(f"unix://{path}", NO_CREDENTIALS, CLIENT, expect_role="manager", limits=QUICK)
            )
            loop = asyncio.get_running_loop()
            peer, _ = await loop.sock_accept(listener)
            await loop.sock_sendall(peer, encode_head(FrameType.HELLO, meta=pack(MANAGER)))
            await loop.sock_sendall(peer, encode_head(FrameType.PONG))
            link = await task  # from here on the peer is as good as stopped
            start_s = loop.time()
            with pytest.raises(errors.InDoubt, match="silent"):
                await link.request("echo", payload=bytes(1000))
            with pytest.raises(errors.PathLost, match="silent"):
                await link.request("echo")
            assert loop.time() - start_s < 1.5
            await link.wait_closed()
            peer.close()
            listener.close()

    run(work())


def test_a_server_that_never_greets_fails_the_connect_in_time():
    async def work():
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "mute")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                with pytest.raises(errors.PathLost, match="greet"):
                    await connect(
                        f"unix://{path}", NO_CREDENTIALS, CLIENT, expect_role="manager", timeout_s=0.2
                    )

    run(work())


def test_who_provokes_answers_and_reads_none_holds_no_memory():
    async def work():
        async with served(LinkLimits(ping_s=0.1, silence_s=5, frame_s=5)) as server:
            _, writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
            writer.transport.pause_reading()
            writer.write(HELLO)
            flood = b"".join(request("no_such_thing", seq=n, args={"x": "y" * 100}) for n in range(1000))
            most = 0
            with contextlib.suppress(ConnectionError):
                for _ in range(400):
                    writer.write(flood)
                    await writer.drain()
                    most = max([most, *(link._transport.get_write_buffer_size() for link in server.links)])
                    if most and not server.links:
                        break
            assert most < 10 * MIB
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await still_serves(server)

    run(work())


class Sink(asyncio.Transport):
    """Swallows what is written; reports its end at once."""

    def __init__(self):
        super().__init__()
        self.closed = False
        self.written = 0

    def write(self, data):
        self.written += len(data)

    def close(self):
        self.closed = True

    abort = close

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return 0


class Here:
    def peer(self, transport):
        return Peer("", LOCAL, "here")


def random_stream(rng):
    """Random bytes, or plausible frames with damage."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(300))
    parts = []
    for _ in range(rng.randrange(1, 6)):
        pick = rng.randrange(6)
        if pick == 0:
            parts.append(
                HEADER.pack(
                    rng.randrange(64), rng.randrange(14), rng.randrange(4), rng.randrange(4), rng.randrange(3)
                )
            )
        elif pick == 1:
            parts.append(rng.randbytes(rng.randrange(64)))
        elif pick == 2:
            parts.append(
                request(rng.choice(["echo", "stream", "?"]), seq=rng.randrange(4), channel=rng.randrange(4))
            )
        elif pick == 3:
            parts.append(data(rng.randrange(4), rng.randbytes(rng.randrange(64))))
        else:
            parts.append(rng.choice(rng.choice(list(ATTACKS.values()))))
    stream = bytearray(b"".join(parts))
    for _ in range(rng.randrange(3)):
        if stream:
            stream[rng.randrange(len(stream))] = rng.randrange(256)
    return bytes(stream)


def test_ten_thousand_random_byte_strings_neither_crash_nor_hang(caplog):
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)

    async def work():
        ends = 0
        loop = asyncio.get_running_loop()
        troubles = []
        loop.set_exception_handler(lambda _, context: troubles.append(context))
        registry = handlers()
        for number in range(10_000):
            link = Link(Here(), MANAGER, registry, accepting=True, limits=LinkLimits())
            sink = Sink()
            link.connection_made(sink)
            stream = (HELLO if number % 10 else b"") + random_stream(rng)
            position = 0
            while position < len(stream) and link.error is None:
                slot = link.get_buffer(-1)
                piece = min(len(slot), rng.randrange(1, 400), len(stream) - position)
                slot[:piece] = stream[position : position + piece]
                link.buffer_updated(piece)
                position += piece
            await asyncio.sleep(0)
            if link.error is not None:
                assert isinstance(link.error, StaddleError)
                assert sink.closed
                ends += 1
            link.connection_lost(None)
            await asyncio.sleep(0)
            assert len(link.channels._channels) == 0
        assert not troubles, troubles
        return ends

    assert run(work(), 60) > 5000
    assert "Traceback" not in caplog.text
    assert frames.WIRE_VERSION in frames.WIRE_VERSIONS
