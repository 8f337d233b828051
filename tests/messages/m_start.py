"""Daemons that do not start, and keys that are missing."""

import os
import shutil

from staddle.config import home_paths

from .lab import listening, port_of, replace
from .mistake import group

start = group("Starting")
keys = group("Keys")


def pki(home, *names):
    return os.path.join(home_paths(home).pki, *names)


@start(0, "everything runs already", "", stdout=True)
def up_twice(lab):
    """`up` when all runs already: no mistake."""
    return lab.run("up", "--home", lab.home, as_json=False)


@start(0, "nothing runs", "", stdout=True)
def down_twice(lab):
    """`down` when nothing runs: no mistake."""
    return lab.run("down", "--home", lab.cold, as_json=False)


@start(11, "manager of HOME runs already", "see `staddle status`, or stop it with `staddle down`")
def a_second_manager(lab):
    """A second manager for the same home."""
    return lab.run("daemon", "manager", "--home", lab.home, as_json=False)


@start(11, "agent-a1 of HOME runs already", "see `staddle status`, or stop it with `staddle down`")
def a_second_agent(lab):
    """The same agent twice."""
    return lab.run("daemon", "agent", "a1", "--home", lab.home, as_json=False)


@start(10, "there is no [agent.a9] in the configuration of DIR/cold", "agents: a1")
def an_agent_that_is_not_configured(lab):
    """An agent that the configuration does not know."""
    return lab.run("daemon", "agent", "a9", "--home", lab.cold, as_json=False)


@start(
    11,
    (
        "manager did not start: cannot listen on tcp://127.0.0.1:PORT: address already in use; choose"
        " another port"
    ),
    "its log is HOME/log/manager.out",
    code="START_FAILED",
)
def the_port_of_the_manager_is_taken(lab):
    """Another program listens on the manager's port."""
    home = lab.new_home()
    with listening(("127.0.0.1", port_of(home))):
        return lab.run("up", "--home", home, as_json=False)


@start(
    11,
    (
        "agent-a1 did not start: cannot listen on tcp://127.0.0.1:PORT: address already in use; "
        "choose another port"
    ),
    "its log is HOME/log/agent-a1.out",
)
def the_port_of_an_agent_is_taken(lab):
    """Another program listens on an agent's port."""
    home = lab.new_home()
    with listening(("127.0.0.1", port_of(home, "a1"))):
        return lab.run("up", "--home", home, as_json=False)


@start(
    10,
    (
        "manager did not start: cannot listen on tcp://192.0.2.7:PORT: cannot assign requested "
        "address; is this an address of this host?"
    ),
    "its log is HOME/log/manager.out",
)
def an_address_of_another_host(lab):
    """The manager is to listen on an address that this host does not have."""
    return lab.run("up", "--home", lab.new_home(replace("127.0.0.1", "192.0.2.7", 1)), as_json=False)


@start(
    10,
    (
        "manager did not start: 'http://127.0.0.1:PORT' is not an address; write tcp://host:port, or "
        "tcp://[::1]:port for IPv6"
    ),
    "its log is HOME/log/manager.out",
)
def an_unknown_scheme(lab):
    """An address with a scheme that does not exist."""
    return lab.run("up", "--home", lab.new_home(replace("tcp://", "http://", 1)), as_json=False)


@keys(
    10,
    (
        "manager did not start: the domain keys HOME/pki/domains.keys can't be read: no such file or "
        "directory; restore pki/ from a copy of this home"
    ),
    "its log is HOME/log/manager.out",
    code="START_FAILED",
)
def no_domain_keys(lab):
    """The keys of the data are missing."""
    home = lab.new_home()
    os.unlink(pki(home, "domains.keys"))
    return lab.run("up", "--home", home)


@keys(
    10,
    (
        "manager did not start: the domain keys HOME/pki/domains.keys can't be read: it is damaged; "
        "restore pki/ from a copy of this home"
    ),
    "its log is HOME/log/manager.out",
)
def damaged_domain_keys(lab):
    """The keys of the data are damaged."""
    home = lab.new_home()
    with open(pki(home, "domains.keys"), "wb") as file:
        file.write(b"\xff" * 100)
    return lab.run("up", "--home", home, as_json=False)


@keys(
    10,
    (
        "manager did not start: the keyring HOME/pki/keyring can't be read: no such file or "
        "directory; restore pki/ from a copy of this home"
    ),
    "its log is HOME/log/manager.out",
)
def no_keyring(lab):
    """The sealed keyring is missing."""
    home = lab.new_home()
    os.unlink(pki(home, "keyring"))
    return lab.run("up", "--home", home, as_json=False)


@keys(
    10,
    "manager did not start: there is no certificate for manager in HOME/pki; restore pki/ from a copy",
    "its log is HOME/log/manager.out",
)
def no_certificate_of_the_manager(lab):
    """The manager's certificate is missing."""
    home = lab.new_home()
    shutil.rmtree(pki(home, "manager"))
    return lab.run("up", "--home", home, as_json=False)


@keys(
    10,
    "agent-a1 did not start: there is no certificate for agent-a1 in HOME/pki; restore pki/ from a copy",
    "its log is HOME/log/agent-a1.out",
)
def no_certificate_of_an_agent(lab):
    """An agent's certificate is missing."""
    home = lab.new_home()
    shutil.rmtree(pki(home, "agent-a1"))
    return lab.run("up", "--home", home, as_json=False)


@keys(
    10,
    (
        "manager did not start: no certificate authority in HOME/pki/ca: ca.crt: no such file or "
        "directory; restore pki/ from a copy of this home"
    ),
    "its log is HOME/log/manager.out",
)
def no_authority(lab):
    """The grid's certificate authority is missing."""
    home = lab.new_home()
    shutil.rmtree(pki(home, "ca"))
    return lab.run("up", "--home", home, as_json=False)


@keys(
    4,
    "the recovery key is no longer in this home",
    "it was printed by `staddle init`, and exported to a file",
)
def no_recovery_key(lab):
    """The recovery key was moved away, as it should be."""
    home = lab.new_home()
    os.unlink(pki(home, "recovery.key"))
    return lab.run("key", "show", "--home", home, as_json=False)


@keys(12, "the recovery key has a typing error", "compare it letter by letter with the print")
def a_damaged_recovery_key(lab):
    """The recovery key has a typing error."""
    home = lab.new_home()
    with open(pki(home, "recovery.key"), "r+b") as file:
        file.seek(7)
        file.write(b"ZZZ")
    return lab.run("key", "show", "--home", home, as_json=False)


@keys(11, "DIR/source/letters/letter-0 exists already", "name a new file: a key is never overwritten")
def a_key_onto_a_file(lab):
    """`key export` onto a file that exists."""
    return lab.run(
        "key", "export", os.path.join(lab.source, "letters", "letter-0"), "--home", lab.home, as_json=False
    )


@keys(1, "DIR/nowhere/key: no such file or directory", "check the path")
def a_key_into_no_directory(lab):
    """`key export` into a directory that does not exist."""
    return lab.run("key", "export", lab.path("nowhere", "key"), "--home", lab.home, as_json=False)
