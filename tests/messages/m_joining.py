"""Clients on other hosts: tokens, certificates, addresses."""

import os
import shutil
import time

from staddle.config import home_paths, load
from staddle.wire.pki import CertificateAuthority, write_credentials
from staddle.wire.tokens import create_token

from .lab import free_port, listening, port_of
from .mistake import group

joining = group("Joining and connecting")


def authority(home):
    return CertificateAuthority.load(os.path.join(home_paths(home).pki, "ca"))


def address(home):
    return load(home).manager.listen.removeprefix("tcp://")


def token(home, *, valid_s=600.0, name="laptop"):
    return create_token(authority(home), name, "client", time.time_ns() + int(valid_s * 1e9))


def join(lab, text, *words):
    """Twice the same mistake, each into a directory of its own."""
    target = lab.path("joined-new")
    shutil.rmtree(target, ignore_errors=True)
    return lab.run("client", "join", text, "--dir", target, *words, as_json=False)


def member(lab):
    """A client that has joined, to be copied and spoilt."""

    def made():
        target = lab.path("joined")
        lab.must("client", "join", f"{token(lab.home)}@{address(lab.home)}", "--dir", target)
        return target

    return lab.once("member", made)


def used(lab):
    """A token that a client has joined with."""

    def made():
        text = f"{token(lab.home, name='desktop')}@{address(lab.home)}"
        lab.must("client", "join", text, "--dir", lab.path("joined-first"))
        return text

    return lab.once("used token", made)


def as_member(lab, change):
    """`ls` as a client whose directory was changed by `change`."""
    target = lab.path("spoilt")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(member(lab), target)
    change(target)
    return lab.run("ls", env={"STADDLE_CLIENT": target})


@joining(12, "this is not a join token; it begins with stj1.", "copy the whole text")
def no_token(lab):
    """A text that is no token."""
    return join(lab, f"secret@{address(lab.home)}")


@joining(12, "this is not a join token; it begins with stj1.", "copy the whole text")
def half_a_token(lab):
    """A token that was not copied whole."""
    return join(lab, f"{token(lab.home)[:-8]}@{address(lab.home)}")


@joining(2, "the token does not say where the manager is", "add --manager HOST:PORT")
def a_token_without_an_address(lab):
    """A token without the manager's address."""
    return join(lab, token(lab.home))


@joining(12, "the token was not made by this grid", "copy the whole token")
def a_forged_token(lab):
    """A token that the grid has not made."""
    text = token(lab.home)
    return join(lab, f"{text[:-4]}{'AAAA' if not text.endswith('AAAA') else 'BBBB'}@{address(lab.home)}")


@joining(12, "the token has expired", "create a new one on the manager")
def an_expired_token(lab):
    """A token that has expired."""
    return join(lab, f"{token(lab.home, valid_s=-1.0)}@{address(lab.home)}")


@joining(12, "the token was used already", "create a new one on the manager", prepare=used)
def a_used_token(lab):
    """A token that was used."""
    return join(lab, used(lab))


@joining(12, "tcp://127.0.0.1:PORT is not the manager that made this token", "check the address")
def a_token_of_another_grid(lab):
    """A token of another grid than the one at the address."""
    return join(lab, f"{token(lab.cold)}@{address(lab.home)}")


@joining(
    5, "cannot reach tcp://127.0.0.1:PORT: connection refused", "is it running, and is this its address?"
)
def a_manager_that_is_not_there(lab):
    """Nobody listens at the token's address."""
    return join(lab, f"{token(lab.home)}@127.0.0.1:{free_port()}")


@joining(
    10, "'tcp://backup.example' is not an address", "write tcp://host:port, or tcp://[::1]:port for IPv6"
)
def an_address_that_is_no_address(lab):
    """An address without a port."""
    return join(lab, token(lab.home), "--manager", "backup.example")


@joining(
    11,
    "DIR/joined/client.toml exists: this host has joined a grid already",
    "take another --dir",
    prepare=member,
)
def joining_twice(lab):
    """A host that has joined already."""
    target = member(lab)
    text = f"{token(lab.home)}@{address(lab.home)}"
    return lab.run("client", "join", text, "--dir", target, as_json=False)


@joining(
    12,
    "DIR/spoilt/own.crt has expired (DATE)",
    "join the grid again with a token of its manager",
    code="DENIED",
    prepare=member,
)
def an_expired_certificate(lab):
    """The client's certificate has expired."""

    def change(target):
        issued = authority(lab.home).issue("laptop", "client", days=-1.0)
        for name in ("ca.crt", "own.crt", "own.key"):
            os.unlink(os.path.join(target, name))
        write_credentials(target, authority(lab.home).cert_pem, issued)

    return as_member(lab, change)


@joining(
    12,
    "DIR/spoilt/own.crt belongs to another grid: it is not of the CA in DIR/spoilt/ca.crt",
    "join the grid again with a token of its manager",
    code="DENIED",
    prepare=member,
)
def a_certificate_of_another_grid(lab):
    """The client's certificate is of another grid than the CA beside it."""

    def change(target):
        shutil.copy(os.path.join(home_paths(lab.cold).pki, "ca", "ca.crt"), os.path.join(target, "ca.crt"))

    return as_member(lab, change)


@joining(
    12,
    (
        "tcp://127.0.0.1:PORT belongs to another grid: its certificate is not of this grid's CA "
        "(self-signed certificate in certificate chain)"
    ),
    "check the address, or join that grid with a token of its manager",
    code="DENIED",
    prepare=member,
)
def the_manager_of_another_grid(lab):
    """At the manager's address there is another grid's manager."""

    def change(target):
        issued = authority(lab.cold).issue("laptop", "client")
        for name in ("ca.crt", "own.crt", "own.key"):
            os.unlink(os.path.join(target, name))
        write_credentials(target, authority(lab.cold).cert_pem, issued)

    return as_member(lab, change)


@joining(
    10,
    "cannot load the certificate DIR/spoilt/own.crt with own.key: damaged, or not a pair",
    "a client joins again with a token; in a grid's home restore pki/ from a copy",
    code="CONFIG",
    prepare=member,
)
def a_damaged_certificate(lab):
    """The client's certificate is damaged."""

    def change(target):
        with open(os.path.join(target, "own.crt"), "wb") as file:
            file.write(b"no certificate")

    return as_member(lab, change)


@joining(
    10,
    "cannot load the certificate DIR/spoilt/own.crt with own.key: no such file or directory",
    "a client joins again with a token; in a grid's home restore pki/ from a copy",
    code="CONFIG",
    prepare=member,
)
def a_missing_key_file(lab):
    """The client's key is missing."""
    return as_member(lab, lambda target: os.unlink(os.path.join(target, "own.key")))


@joining(
    10,
    "DIR/spoilt/client.toml: Invalid value (at line 1, column 8)",
    "join again: `staddle client join`",
    code="CONFIG",
    prepare=member,
)
def a_damaged_client_toml(lab):
    """client.toml is no TOML."""

    def change(target):
        with open(os.path.join(target, "client.toml"), "w", encoding="utf-8") as file:
            file.write("name = laptop")

    return as_member(lab, change)


@joining(
    5,
    (
        "the manager does not answer: tcp://127.0.0.1:PORT is no Staddle port, or broke off (wrong "
        "version number)"
    ),
    "start the grid with `staddle up`, or see `staddle status`",
    code="PATH_LOST",
)
def an_answer_that_is_not_staddle(lab):
    """Something else listens at the manager's address."""
    home = lab.new_home()
    with listening(("127.0.0.1", port_of(home)), answer=b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        return lab.run("ls", "--home", home)


@joining(
    12,
    "client 'laptop' may not call 'catalog.verify'",
    "an administrator may, on the host of the grid's home",
    code="DENIED",
    prepare=member,
)
def what_a_client_may_not_do(lab):
    """A client asks for what only the grid's own host may."""
    return lab.run("catalog", "verify", env={"STADDLE_CLIENT": member(lab)})
