"""Peers that take places or memory of others: connections, links, channels, payloads, floods."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
import tempfile
import tracemalloc

import msgspec
import pytest
from hostilewire import (
    CLIENT,
    HELLO,
    MANAGER,
    MIB,
    QUICK,
    attack,
    handlers,
    request,
    run,
    served,
    still_serves,
)

from staddle import errors
from staddle.api.transport import Credentials
from staddle.client.connection import usable
from staddle.errors import ProtocolError, StaddleError
from staddle.wire import admission, frames, gate
from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve
from staddle.wire.frames import Flag, FrameType, encode_head
from staddle.wire.limits import LinkLimits
from staddle.wire.messages import JOINER, Hello, RequestMeta, pack
from staddle.wire.pki import make_ca, write_credentials
from staddle.wire.tcp import TcpTransport, open_tls, parse_tcp_url

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the attackers use local sockets")


def small_handlers():
    made = handlers()

    async def small(call):
        return {}

    async def slow(call):
        await asyncio.sleep(30)

    made.add("small", small, roles=["client"], payload_bytes_max=0)
    made.add("slow", slow, roles=["client"], cancellable=True, payload_bytes_max=0)
    return made


async def linger(server, *parts):
    """A raw connection that stays open; the caller closes it."""
    reader, writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
    writer.write(b"".join(parts))
    await writer.drain()
    return reader, writer


async def close_all(connections):
    for _, writer in connections:
        writer.close()
    for _, writer in connections:
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def until(ready, limit_s=10.0):
    async with asyncio.timeout(limit_s):
        while not ready():  # noqa: ASYNC110 - what is waited for has no event for tests
            await asyncio.sleep(0.01)


def test_a_payload_that_an_operation_does_not_take_costs_no_memory():
    async def work():
        with tempfile.TemporaryDirectory() as directory:
            server = await serve(f"unix://{directory}/s", NO_CREDENTIALS, MANAGER, small_handlers())
            link = await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")
            with pytest.raises(StaddleError, match="at most 0") as caught:
                await link.request("small", payload=bytes(32 * MIB))
            assert caught.value.code == "BAD_REQUEST"
            tracemalloc.start()
            announced = [
                await linger(
                    server, HELLO, *(request("small", n, size=60 * MIB, flags=Flag.MORE) for n in range(4))
                )
                for _ in range(4)
            ]
            await until(lambda: sum(each._assembler._open != {} for each in server.links) == 4)
            assert tracemalloc.get_traced_memory()[1] < 32 * MIB
            tracemalloc.stop()
            assert (await link.request("small")).args == {}
            await close_all(announced)
            await link.close()
            await server.close(0.1)

    run(work())


def test_a_thousand_channels_of_one_peer_end_its_link_alone():
    async def work():
        async with served(LinkLimits(ping_s=0.2, silence_s=5)) as server:
            honest = await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")
            opening = [request("stream", seq=n, channel=2 * n + 1) for n in range(1, frames.CHANNELS_MAX + 2)]
            told = await attack(server, *opening, wait_s=15.0)
            assert [type(error) for error in told] == [ProtocolError], told
            assert (await honest.request("echo", payload=b"y")).payload == b"y"
            await honest.close()

    run(work(), 40)


def test_events_that_nobody_knows_are_logged_once(caplog):
    async def work():
        async with served() as server:
            meta = pack(RequestMeta("no_such", 0, msgspec.Raw(pack({}))))
            flood = encode_head(FrameType.EVENT, meta=meta) * 2000
            told = await attack(server, flood, encode_head(FrameType.CLOSE))
            assert told == []
            await still_serves(server)

    run(work())
    assert caplog.text.count("was dropped") == 1


def test_one_member_does_not_take_the_places_of_all(monkeypatch):
    monkeypatch.setattr(admission, "PEER_LINKS_MAX", 4)

    async def work():
        async with served(LinkLimits()) as server:
            links = [
                await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager") for _ in range(4)
            ]
            with pytest.raises(StaddleError, match="4 links open already"):
                await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")
            other = await connect(
                server.url, NO_CREDENTIALS, Hello(name="d", role="client"), expect_role="manager"
            )
            assert (await other.request("echo", payload=b"z")).payload == b"z"
            await links.pop().close()
            await until(lambda: len(server.links) == 4)
            links.append(await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager"))
            for link in (*links, other):
                await link.close()
            await until(lambda: not server.links)
            assert not server.admission._of_peer
            assert not server.admission._peers

    run(work())


def test_connections_that_say_nothing_keep_nobody_out(monkeypatch):
    monkeypatch.setattr(admission, "UNGREETED_MAX", 5)

    async def work():
        async with served(LinkLimits()) as server:
            silent = [await linger(server) for _ in range(20)]
            await until(lambda: len(server.links) <= 5)
            for _ in range(8):
                await still_serves(server)
            assert len(server.admission._ungreeted) <= 5
            await close_all(silent)
            await until(lambda: not server.links)

    run(work())


@contextlib.asynccontextmanager
async def over_tls(handlers_of, *, joiners=False):
    with tempfile.TemporaryDirectory() as directory:
        ca = make_ca(os.path.join(directory, "ca"), bytes(16))

        def member(name, role):
            place = os.path.join(directory, f"{role}-{name}")
            return write_credentials(place, ca.cert_pem, ca.issue(name, role, 1.0))

        server = await serve(
            "tcp://127.0.0.1:0",
            member("m", "manager"),
            Hello(name="m", role="manager", grid=bytes(16)),
            handlers_of(),
            limits=LinkLimits(),
            transport=TcpTransport(joiners=joiners),
        )
        try:
            yield server, member("c", "client")
        finally:
            await server.close(0.1)


async def served_over_tls(server, credentials):
    link = await connect(server.url, credentials, CLIENT, expect_role="manager")
    assert (await link.request("echo", payload=b"x")).payload == b"x"
    await link.close()


def test_handshakes_that_never_end_keep_nobody_out(monkeypatch):
    monkeypatch.setattr(gate, "HANDSHAKES_MAX", 6)

    async def work():
        async with over_tls(handlers) as (server, credentials):
            host, port = parse_tcp_url(server.url)
            half = [await asyncio.open_connection(host, port) for _ in range(30)]
            for _, writer in half[::2]:
                writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            pending = server._listening._gate._pending
            await until(lambda: len(pending) <= 6)
            for _ in range(4):
                await served_over_tls(server, credentials)
            await close_all(half)
            await until(lambda: not pending)

    run(work(), 40)


def test_what_is_no_tls_at_all_is_dropped_quietly(caplog):
    async def work():
        async with over_tls(handlers) as (server, credentials):
            host, port = parse_tcp_url(server.url)
            for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(300), b""):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(junk)
                writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                await close_all([(reader, writer)])
            await served_over_tls(server, credentials)

    run(work())
    assert "Traceback" not in caplog.text


def test_peers_without_a_certificate_neither_stay_nor_crowd(monkeypatch):
    monkeypatch.setattr(admission, "JOINERS_MAX", 3)
    monkeypatch.setattr(admission, "JOINER_S", 0.5)

    async def work():
        async with over_tls(handlers, joiners=True) as (server, credentials):
            ca_only = Credentials(ca_file=credentials.ca_file, cert_file="", key_file="")
            joiner = Hello(name="", role=JOINER)
            links = [await connect(server.url, ca_only, joiner, expect_role="manager") for _ in range(8)]
            await until(lambda: len(server.admission._joiners) <= 3)
            with pytest.raises(errors.Denied):
                await links[-1].request("echo")
            await served_over_tls(server, credentials)
            await until(lambda: all(link.error is not None for link in links))
            assert all(link.error.code == "BUSY" for link in links)
            for link in links:
                await link.close()

    run(work())


def test_a_mistake_of_ours_in_a_callback_costs_that_peer_its_link_alone(caplog):
    async def work():
        made = handlers()

        def broken(data):
            raise RuntimeError("a mistake")

        async def listening(call):
            call.channel.grant(4096)
            call.channel.listen(broken)

        made.add("broken", listening, roles=["client"], opens_channel=True)
        with tempfile.TemporaryDirectory() as directory:
            server = await serve(f"unix://{directory}/s", NO_CREDENTIALS, MANAGER, made, limits=QUICK)
            honest = await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")
            channel, _ = await honest.open_channel("stream")
            other = await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")
            provoking, _ = await other.open_channel("broken")
            await provoking.send(0, payload=b"x")
            await until(lambda: other.error is not None)
            assert other.error.code == "INTERNAL"
            await other.close()
            assert (await honest.request("echo", payload=b"y")).payload == b"y"
            channel.close()
            await honest.close()
            await server.close(0.1)

    run(work())
    assert "a mistake" in caplog.text


@pytest.mark.parametrize(
    "url", ["tcp://[::1:1", "tcp://..:1", f"tcp://{'a' * 70}:1", "unix:///a\0b", "tcp://[h[[::1"]
)
def test_an_address_that_is_none_is_an_error_like_any_other(url):
    async def work():
        with pytest.raises((errors.ConfigError, errors.PathLost)):
            await connect(url, NO_CREDENTIALS, CLIENT, expect_role="agent", timeout_s=5.0)

    if url.startswith("tcp"):
        with pytest.raises((errors.ConfigError, errors.PathLost)):
            run(open_tls(url, ssl.create_default_context(), lambda: None, 5.0))
    else:
        run(work())
    assert not usable(url) or url.startswith("tcp")


def test_answers_that_a_peer_does_not_read_are_bounded_over_all_of_its_links(monkeypatch):
    monkeypatch.setattr(admission, "MEMBER_BYTES_MAX", 32 * MIB)
    made = handlers()

    async def big(call):
        return {}, bytearray(8 * MIB)

    made.add("big", big, roles=["client"])

    async def work():
        with tempfile.TemporaryDirectory() as directory:
            patient = LinkLimits(silence_s=60)
            server = await serve(f"unix://{directory}/s", NO_CREDENTIALS, MANAGER, made, limits=patient)
            tracemalloc.start()
            asks = [request("big", seq) for seq in range(1, 17)]
            deaf = [await linger(server, HELLO, *asks) for _ in range(4)]
            await until(lambda: sum(len(each._server._tasks) for each in server.links) == 4)
            assert tracemalloc.get_traced_memory()[1] < 64 * MIB
            tracemalloc.stop()
            other = Hello(name="other", role="client")
            link = await connect(server.url, NO_CREDENTIALS, other, expect_role="manager")
            for _ in range(8):
                assert len((await link.request("big")).payload) == 8 * MIB
            await close_all(deaf)
            await link.close()
            await until(lambda: not server.links)
            assert not server.admission._rooms
            await server.close(0.1)

    run(work())


def test_large_events_of_a_peer_that_floods_do_not_fill_the_memory_nor_the_log(caplog):
    made, go = handlers(), asyncio.Event()

    async def slow(call):
        await go.wait()
        raise StaddleError("no")

    made.add("slow", slow, roles=["client"])

    async def work():
        with tempfile.TemporaryDirectory() as directory:
            server = await serve(f"unix://{directory}/s", NO_CREDENTIALS, MANAGER, made)
            meta = pack(RequestMeta("slow", 0, msgspec.Raw(pack({"x": bytes(200_000)}))))
            flood = [encode_head(FrameType.EVENT, meta=meta)] * 50
            await attack(server, *flood)  # it ends: the server closes the connection
            await until(lambda: not server.links)
            go.set()
            await until(lambda: len(caplog.records) > 0)
            small = encode_head(FrameType.EVENT, meta=pack(RequestMeta("slow", 0, msgspec.Raw(pack({})))))
            opens = encode_head(FrameType.EVENT, meta=pack(RequestMeta("stream", 0, msgspec.Raw(pack({})))))
            caplog.clear()
            assert await attack(server, (small + opens) * 400, encode_head(FrameType.CLOSE)) == []
            assert len(caplog.records) == 1, "one line for each link"
            await server.close(0.1)

    run(work())


def test_payloads_that_a_peer_announces_are_bounded_over_all_of_its_links(monkeypatch):
    monkeypatch.setattr(admission, "MEMBER_BYTES_MAX", 32 * MIB)
    made = handlers()

    async def large(call):
        return {"bytes": len(call.payload)}

    made.add("large", large, roles=["client"], payload_bytes_max=16 * MIB)

    async def work():
        with tempfile.TemporaryDirectory() as directory:
            server = await serve(f"unix://{directory}/s", NO_CREDENTIALS, MANAGER, made)
            tracemalloc.start()
            asks = [request("large", seq, size=16 * MIB, flags=Flag.MORE) for seq in range(1, 9)]
            halves = [await linger(server, HELLO, *asks) for _ in range(4)]
            await until(lambda: sum(len(each._server._waiting) for each in server.links) == 2)
            assert tracemalloc.get_traced_memory()[1] < 48 * MIB
            tracemalloc.stop()
            other = Hello(name="other", role="client")
            link = await connect(server.url, NO_CREDENTIALS, other, expect_role="manager")
            assert (await link.request("large", payload=bytes(16 * MIB))).args == {"bytes": 16 * MIB}
            await close_all(halves)
            await until(lambda: len(server.links) == 1)
            again = await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")
            for _ in range(4):
                assert (await again.request("large", payload=bytes(16 * MIB))).args == {"bytes": 16 * MIB}
            await again.close()
            await link.close()
            await until(lambda: not server.links)
            assert not server.admission._rooms
            await server.close(0.1)

    run(work())
