"""Mutual TLS, the grid's own CA, join tokens, joining, tickets: who gets in and who does not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import ssl

import pytest

from staddle.api.transport import Credentials
from staddle.errors import ConfigError, DeadlineExceeded, Denied, Locked, PathLost
from staddle.wire.endpoint import connect, serve
from staddle.wire.handlers import Handlers
from staddle.wire.limits import LinkLimits
from staddle.wire.messages import Hello
from staddle.wire.pki import (
    CertificateAuthority,
    make_ca,
    write_credentials,
)
from staddle.wire.tcp import parse_tcp_url

GRID, OTHER_GRID = bytes(range(16)), bytes(range(16, 32))


@dataclasses.dataclass
class Grid:
    """Two grids' authorities and the credentials of some members."""

    directory: str
    ca: CertificateAuthority
    other: CertificateAuthority
    imposter: CertificateAuthority

    def member(self, name, role, *, ca=None, days=10.0, trust=None):
        ca = ca or self.ca
        place = os.path.join(self.directory, os.urandom(6).hex())
        return write_credentials(place, (trust or ca).cert_pem, ca.issue(name, role, days))


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("pki"))
    ca = make_ca(os.path.join(directory, "ca"), GRID)
    other = make_ca(os.path.join(directory, "other"), OTHER_GRID)
    # Same key as our CA, but speaking for another grid: only the pinned grid id can tell.
    imposter = CertificateAuthority(ca.cert_pem, ca._key, ca.token_key)
    imposter.grid = OTHER_GRID
    return Grid(directory, ca, other, imposter)


def run(work, timeout_s=20):
    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


def handlers():
    made = Handlers()

    async def who(call):
        return {"role": call.peer.role, "name": call.peer.name}, call.payload

    made.add("who", who, roles=["client", "agent"])
    return made


async def serving(grid, credentials=None, name="m", role="manager", transport=None):
    credentials = credentials or grid.member(name, role)
    return await serve(
        "tcp://127.0.0.1:0", credentials, Hello(name=name, role=role), handlers(), transport=transport
    )


async def try_connect(server, credentials, *, name="c1", role="client", **expect):
    expect = expect or {"expect_role": "manager", "expect_name": "m"}
    link = await connect(server.url, credentials, Hello(name=name, role=role), timeout_s=5, **expect)
    try:
        return (await link.request("who", payload=bytes(3_000_000))).args
    finally:
        await link.close()


def test_members_prove_each_other_with_tls_1_3(grid):
    async def work():
        server = await serving(grid)
        assert await try_connect(server, grid.member("c1", "client")) == {"role": "client", "name": "c1"}
        link = await connect(
            server.url, grid.member("a1", "agent"), Hello(name="a1", role="agent"), expect_role="manager"
        )
        assert link._transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert not link._transport.get_extra_info("ssl_object").session_reused
        await link.close()
        await server.close()

    run(work())


def client_cases(grid):
    return {
        "other CA": (grid.member("c1", "client", ca=grid.other, trust=grid.ca), {}),
        "expired": (grid.member("c1", "client", days=-1), {}),
        "other grid": (grid.member("c1", "client", ca=grid.imposter, trust=grid.ca), {}),
        "another name than it says": (grid.member("c2", "client"), {}),
        "another role than it says": (grid.member("c1", "client"), {"role": "admin"}),
    }


@pytest.mark.parametrize(
    "case", ["other CA", "expired", "other grid", "another name than it says", "another role than it says"]
)
def test_a_client_that_proves_something_else_is_denied(grid, case):
    async def work():
        server = await serving(grid)
        credentials, said = client_cases(grid)[case]
        if case == "other grid":  # so that it is the server's check that bites
            with pytest.raises(Denied, match="another grid"):
                await try_connect(server, credentials, **said)
            await asyncio.sleep(0.05)
        else:
            with pytest.raises(Denied):
                await try_connect(server, credentials, **said)
        assert not server.links
        assert await try_connect(server, grid.member("c1", "client")) == {"role": "client", "name": "c1"}
        await server.close()

    run(work())


def test_the_server_too_pins_its_grid(grid):
    async def work():
        server = await serving(grid)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        alien = grid.member("c1", "client", ca=grid.imposter)
        context.load_cert_chain(alien.cert_file, alien.key_file)
        reader, writer = await asyncio.open_connection(*parse_tcp_url(server.url), ssl=context)
        said = await reader.read()
        assert b"another grid" in said
        writer.close()
        await writer.wait_closed()
        await server.close()

    run(work())


def test_a_client_that_shows_no_or_a_bad_certificate_does_not_get_past_the_handshake(grid):
    async def work():
        greeted = []
        server = await serve(
            "tcp://127.0.0.1:0",
            grid.member("m", "manager"),
            Hello(name="m", role="manager"),
            handlers(),
            on_link=greeted.append,
        )
        bare = Credentials(ca_file=grid.member("c1", "client").ca_file, cert_file="", key_file="")
        with pytest.raises((Denied, PathLost), match=r"(?i)certificate"):
            await try_connect(server, bare)
        bad = [grid.member("c1", "client", ca=grid.other), grid.member("c1", "client", days=-1)]
        for member in bad:  # a client that does not look at its own certificate first
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.load_cert_chain(member.cert_file, member.key_file)
            reader, writer = await asyncio.open_connection(*parse_tcp_url(server.url), ssl=context)
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await writer.wait_closed()
        assert greeted == []
        assert not server.links
        await server.close()

    run(work())


@pytest.mark.parametrize("case", ["other CA", "expired", "other grid", "role", "name", "client as server"])
def test_a_server_that_is_not_the_expected_one_is_denied(grid, case):
    async def work():
        wrong = {
            "other CA": (
                grid.member("m", "manager", ca=grid.other, trust=grid.ca),
                "m",
                "manager",
                "another grid",
            ),
            "expired": (grid.member("m", "manager", days=-1), "m", "manager", "expired"),
            "other grid": (grid.member("m", "manager", ca=grid.imposter), "m", "manager", "another grid"),
            "role": (grid.member("m", "agent"), "m", "agent", "not manager"),
            "name": (grid.member("m2", "manager"), "m2", "manager", "not manager m"),
            "client as server": (grid.member("m", "client"), "m", "client", "(?i)certificate"),
        }
        credentials, name, role, words = wrong[case]
        server = await serving(grid, credentials, name, role)
        with pytest.raises(Denied, match=words):
            await try_connect(server, grid.member("c1", "client"))
        await server.close()

    run(work())


def test_addresses_that_answer_nothing_or_something_else(grid):
    async def work():
        credentials = grid.member("c1", "client")
        plain = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        mute_writers = []
        mute = await asyncio.start_server(lambda reader, writer: mute_writers.append(writer), "127.0.0.1", 0)
        for server, kind in ((plain, PathLost), (mute, DeadlineExceeded)):
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(kind) as caught:
                await connect(
                    f"tcp://127.0.0.1:{port}",
                    credentials,
                    Hello(name="c1", role="client"),
                    expect_role="manager",
                    timeout_s=0.3,
                )
            assert caught.value.outcome == "not_done"
        for writer in mute_writers:
            writer.close()
            await writer.wait_closed()
        for server in (plain, mute):
            server.close()
            await server.wait_closed()
        with pytest.raises(PathLost):
            await connect(
                f"tcp://127.0.0.1:{port}", credentials, Hello(name="c1", role="client"), expect_role="manager"
            )

    run(work())


def test_a_taken_port_is_locked_and_wrong_addresses_are_configuration_errors(grid):
    async def work():
        server = await serving(grid)
        with pytest.raises(Locked):
            await serve(server.url, grid.member("m", "manager"), Hello(name="m", role="manager"), handlers())
        await server.close()
        missing = Credentials(ca_file="/nowhere", cert_file="/nowhere", key_file="/nowhere")
        with pytest.raises(ConfigError):
            await serve("tcp://127.0.0.1:0", missing, Hello(name="m", role="manager"), handlers())

    run(work())
    for bad in ("tcp://", "tcp://host", "tcp://host:port", "http://h:1", "tcp://h:1/x", "tcp://[::1:2"):
        with pytest.raises(ConfigError):
            parse_tcp_url(bad)
    assert parse_tcp_url("tcp://[::1]:7420") == ("::1", 7420)


def test_a_silent_tls_peer_is_noticed(grid):
    async def work():
        server = await serving(grid)
        limits = LinkLimits(ping_s=0.05, silence_s=0.3)
        link = await connect(
            server.url,
            grid.member("c1", "client"),
            Hello(name="c1", role="client"),
            expect_role="manager",
            limits=limits,
        )
        there = next(iter(server.links))
        there._transport.pause_reading()
        there._timer.cancel()
        await link.wait_closed()
        assert isinstance(link.error, PathLost)
        assert "silent" in link.error.message
        there._transport.resume_reading()
        await server.close()

    run(work())
