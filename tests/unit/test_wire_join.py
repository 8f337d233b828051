"""The grid's own CA, join tokens, joining, tickets."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import stat
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.api.transport import Credentials
from staddle.errors import ConfigError, Corrupt, Denied, Locked
from staddle.wire.endpoint import connect, serve
from staddle.wire.handlers import Handlers
from staddle.wire.join import JoinDesk, join
from staddle.wire.messages import Hello
from staddle.wire.pki import (
    CertificateAuthority,
    identity_of_cert,
    make_ca,
    new_csr,
    write_credentials,
)
from staddle.wire.tcp import TcpTransport
from staddle.wire.tickets import TicketSigner, open_ticket
from staddle.wire.tokens import check_token, create_token, read_token

GRID, OTHER_GRID = bytes(range(16)), bytes(range(16, 32))
HOUR_NS = 3600 * 10**9


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


async def try_connect(server, credentials, *, name="c1", role="client", **expect):
    expect = expect or {"expect_role": "manager", "expect_name": "m"}
    link = await connect(server.url, credentials, Hello(name=name, role=role), timeout_s=5, **expect)
    try:
        return (await link.request("who", payload=bytes(3_000_000))).args
    finally:
        await link.close()


def test_the_authority_keeps_its_files_private_and_is_never_overwritten(grid, tmp_path):
    directory = str(tmp_path / "ca")
    made = make_ca(directory, GRID)
    if sys.platform != "win32":
        for name in os.listdir(directory):
            assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600
    with pytest.raises(Locked):
        make_ca(directory, GRID)
    again = CertificateAuthority.load(directory)
    assert (again.grid, again.fingerprint, again.token_key) == (GRID, made.fingerprint, made.token_key)
    with open(os.path.join(directory, "ca.key"), "wb") as file:
        file.write(b"rubbish")
    with pytest.raises(Corrupt):
        CertificateAuthority.load(directory)
    with pytest.raises(ConfigError):
        CertificateAuthority.load(str(tmp_path / "nowhere"))
    place = str(tmp_path / "member")
    write_credentials(place, made.cert_pem, made.issue("a1", "agent"))
    with pytest.raises(Locked):
        write_credentials(place, made.cert_pem, made.issue("a1", "agent"))


def test_certificates_name_grid_role_and_member_and_bad_names_are_refused(grid):
    who = identity_of_cert(grid.ca.issue("a-1.x", "agent").cert_pem)
    assert who == (GRID, "agent", "a-1.x")
    for name, role in (
        ("", "agent"),
        ("a/b", "agent"),
        ("x" * 65, "agent"),
        ("-a", "agent"),
        ("a", "king"),
        ("a", "joiner"),
    ):
        with pytest.raises(ValueError, match="role is one of"):
            grid.ca.issue(name, role)
    with pytest.raises(Denied):
        identity_of_cert(grid.ca.cert_pem)


def test_a_certificate_request_needs_its_own_signature(grid):
    csr, key = new_csr()
    assert identity_of_cert(grid.ca.sign_csr(csr, "c9", "client").cert_pem) == (GRID, "client", "c9")
    assert key.startswith(b"-----BEGIN PRIVATE KEY")
    for bad in (b"", b"rubbish", grid.ca.cert_pem):
        with pytest.raises(Denied):
            grid.ca.sign_csr(bad, "c9", "client")


def test_tokens_say_whose_they_are_and_every_change_is_noticed(grid):
    now_ns = time.time_ns()
    text = create_token(grid.ca, "c1", "client", now_ns + HOUR_NS)
    assert text.startswith("stj1.")
    token = check_token(grid.ca, f"  {text}\n", now_ns)
    assert (token.name, token.role, token.grid, token.ca_fingerprint) == (
        "c1",
        "client",
        GRID,
        grid.ca.fingerprint,
    )
    assert read_token(text) == token
    with pytest.raises(Denied, match="expired"):
        check_token(grid.ca, text, now_ns + HOUR_NS)
    with pytest.raises(Denied, match="another grid"):
        check_token(grid.other, text, now_ns)
    for position in range(5, len(text) - 1):
        changed = text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]
        with pytest.raises(Denied):
            check_token(grid.ca, changed, now_ns)
    for bad in ("", "stj1.", "stj2." + text[5:], text[:-9], text + "x" * 2000, "stj1.é"):
        with pytest.raises(Denied):
            check_token(grid.ca, bad, now_ns)
    with pytest.raises(ValueError, match="role"):
        create_token(grid.ca, "c1", "king", now_ns)


@given(st.text(max_size=80))
def test_no_other_text_is_a_token(text):
    for candidate in (text, "stj1." + text):
        with pytest.raises(Denied):
            read_token(candidate)


def joinable(grid, used):
    async def redeem(token):
        fresh = token.token_id not in used
        used.add(token.token_id)
        return fresh

    made = handlers()
    JoinDesk(grid.ca, redeem).install(made)
    return serve(
        "tcp://127.0.0.1:0",
        grid.member("m", "manager"),
        Hello(name="m", role="manager"),
        made,
        transport=TcpTransport(joiners=True),
    )


def test_a_token_joins_once_and_the_new_member_is_let_in(grid, tmp_path):
    async def work():
        server = await joinable(grid, set())
        text = create_token(grid.ca, "newc", "client", time.time_ns() + HOUR_NS)
        joined = await join(server.url, text)
        credentials = write_credentials(str(tmp_path), joined.ca_pem, joined.issued)
        assert await try_connect(server, credentials, name="newc") == {"role": "client", "name": "newc"}
        with pytest.raises(Denied, match="used already"):
            await join(server.url, text)
        with pytest.raises(Denied, match="expired"):
            await join(server.url, create_token(grid.ca, "late", "client", time.time_ns() - 1))
        with pytest.raises(Denied, match="not the manager"):
            await join(server.url, create_token(grid.other, "x", "client", time.time_ns() + HOUR_NS))
        await server.close()

    run(work())


def test_a_joiner_may_only_join(grid):
    async def work():
        server = await joinable(grid, set())
        bare = Credentials(ca_file=grid.member("c1", "client").ca_file, cert_file="", key_file="")
        link = await connect(server.url, bare, Hello(name="", role="joiner"), expect_role="manager")
        for op in ("who", "no_such_thing"):
            with pytest.raises(Denied):
                await link.request(op)
        await link.close()
        with pytest.raises(Denied):  # saying more than was proved
            await connect(server.url, bare, Hello(name="c1", role="client"), expect_role="manager")
        await server.close()

    run(work())


def test_a_joiner_shows_its_token_to_nobody_but_the_tokens_manager(grid):
    shown = []

    async def work():
        async def steal(call):
            shown.append(call.args)

        async def give_ca(call):
            return {"ca_pem": grid.ca.cert_pem}  # public, so a thief has it

        made = Handlers()
        made.add("join.ca", give_ca, roles=["joiner"])
        made.add("join.sign", steal, roles=["joiner"])
        thief = await serve(
            "tcp://127.0.0.1:0",
            grid.member("m", "manager", ca=grid.other),
            Hello(name="m", role="manager"),
            made,
            transport=TcpTransport(joiners=True),
        )
        with pytest.raises(Denied):
            await join(thief.url, create_token(grid.ca, "c", "client", time.time_ns() + HOUR_NS))
        await thief.close()

    run(work())
    assert shown == []


@given(st.binary(max_size=200), st.integers(0, 263))
def test_tickets_open_only_unchanged_and_with_the_right_key(blob, position):
    signer, stranger = TicketSigner(bytes(32)), TicketSigner(bytes([1]) * 32)
    ticket = signer.sign(blob)
    assert open_ticket(ticket, signer.public_key) == blob
    changed = bytearray(ticket)
    changed[position % len(changed)] ^= 1
    for bad, key in (
        (bytes(changed), signer.public_key),
        (ticket[1:], signer.public_key),
        (ticket, stranger.public_key),
        (b"", signer.public_key),
        (ticket, b"short"),
    ):
        with pytest.raises(Denied):
            open_ticket(bad, key)


def test_the_ticket_key_is_made_once(tmp_path):
    path = str(tmp_path / "ticket.key")
    first, second = TicketSigner.at(path), TicketSigner.at(path)
    assert first.public_key == second.public_key
    assert open_ticket(first.sign(b"x"), second.public_key) == b"x"
    with open(path, "wb") as file:
        file.write(b"short")
    with pytest.raises(ConfigError):
        TicketSigner.at(path)
