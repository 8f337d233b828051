"""A grid's home made by `init`, a client's membership made by `join`: whole, or made again."""

import os
import ssl

import pytest
from crashkit import Scenario, cut_everywhere, forgets, kill_everywhere, notices, tape_of

from staddle.client.connection import joined_settings
from staddle.client.joining import membership
from staddle.config import home_paths, load
from staddle.daemon.setup import Identities, initialise
from staddle.data import keyring
from staddle.data.crypto import RecoveryKey
from staddle.errors import Locked
from staddle.ids import Ids
from staddle.wire.join import Joined
from staddle.wire.pki import CertificateAuthority, check_own, make_ca
from staddle.wire.tickets import TicketSigner
from staddle.wire.tokens import create_token, read_token


class HomeScenario(Scenario):
    """`staddle init`, then the first start of the manager, which makes its ticket key."""

    states = 100
    exhaustive = 0
    samples = 1
    recovery_every = 100

    def work(self, root, tape):
        home = os.path.join(root, "grid")
        tape.mark(("recovery", initialise(home, 1, Ids())))
        tape.mark(("ticket", TicketSigner.at(Identities(load(home)).ticket_key_path).public_key))

    def again(self, root, tape):
        self.recover(root)
        home = os.path.join(root, "grid")
        identities = Identities(load(home))
        tape.mark(("recovery", identities.recovery_key().text()))
        tape.mark(("ticket", TicketSigner.at(identities.ticket_key_path).public_key))

    def recover(self, root):
        try:
            initialise(os.path.join(root, "grid"), 1, Ids())
        except Locked:  # made before the cut
            load(os.path.join(root, "grid"))

    def check(self, root, marks):
        """`init` was done, or works now; then every key and certificate is there and fits the others."""
        home, seen = os.path.join(root, "grid"), dict(marks)
        paths = home_paths(home)
        if os.path.exists(paths.config_file):
            with pytest.raises(Locked):
                initialise(home, 1, Ids())
        else:
            assert not marks
            seen["recovery"] = initialise(home, 1, Ids())
        identities = Identities(load(home))
        for member in ("manager", "admin", "agent-a1"):
            check_own(identities.credentials(member))
            load_key(identities.credentials(member))
        assert CertificateAuthority.load(identities.authority_directory).grid == identities.grid
        recovery = identities.recovery_key()
        if "recovery" in seen:
            assert recovery == RecoveryKey.parse(seen["recovery"])
        ring = keyring.decode(recovery, identities.keyring())
        assert {each.domain: each for each in ring.domains} == identities.domains()
        for path in (paths.manager, paths.run, paths.log, paths.agent("a1"), paths.medium("m1")):
            assert os.path.isdir(path)
        signer = TicketSigner.at(identities.ticket_key_path)
        assert signer.public_key == TicketSigner.at(identities.ticket_key_path).public_key
        assert seen.get("ticket", signer.public_key) == signer.public_key
        assert not [name for _, _, names in os.walk(home) for name in names if name.endswith(".tmp")]
        assert {name for name in os.listdir(home) if name.startswith("staddle.toml")} <= {
            "staddle.toml",
            "staddle.toml.new.lock",  # empty, in nobody's way
        }


def load_key(credentials):
    """The key is whole and fits the certificate."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(credentials.cert_file, credentials.key_file)


class MembershipScenario(Scenario):
    """`staddle client join`: certificate and key, then `client.toml`."""

    states = 40
    exhaustive = 6
    recovery_every = 10

    def __init__(self, authority):
        self.authority = authority

    def joined(self):
        token = read_token(create_token(self.authority, "laptop", "client", 1 << 62))
        return Joined(token, self.authority.cert_pem, self.authority.issue("laptop", "client"))

    def join(self, root):
        with membership(os.path.join(root, "client")) as keep:
            return keep(self.joined(), "tcp://127.0.0.1:1")

    def work(self, root, tape):
        self.join(root)
        tape.mark("joined")

    def again(self, root, tape):
        self.recover(root)
        tape.mark("joined")

    def recover(self, root):
        try:
            self.join(root)
        except Locked:
            assert os.path.exists(os.path.join(root, "client", "client.toml"))

    def check(self, root, marks):
        """Joined, or a new token joins it; a directory that only has keys of others is not touched."""
        directory = os.path.join(root, "client")
        if not os.path.exists(os.path.join(directory, "client.toml")):
            assert not marks
            assert self.join(root).name == "laptop"
        settings = joined_settings(os.path.join(directory, "client.toml"))
        assert settings.name == check_own(settings.credentials).name == "laptop"
        load_key(settings.credentials)
        with pytest.raises(Locked):
            self.join(root)
        assert {*os.listdir(directory)} - {"client.toml.new.lock"} == {
            "ca.crt",
            "own.crt",
            "own.key",
            "client.toml",
        }


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory):
    base = tmp_path_factory.mktemp("places")
    home, member = HomeScenario(), MembershipScenario(make_ca(str(base / "ca"), bytes(range(16))))
    return {
        "home": (home, tape_of(home, base / "home")),
        "membership": (member, tape_of(member, base / "membership")),
    }


@pytest.mark.parametrize("name", ["home", "membership"])
def test_it_is_whole_or_is_made_again(scenarios, tmp_path, name):
    scenario, tape = scenarios[name]
    states, nested = cut_everywhere(scenario, tape, tmp_path)
    print(f"seed {scenario.seed}: {len(tape.ops)} operations, {states} states, {nested} in recovery")
    assert states > scenario.states
    assert nested > 10


@pytest.mark.parametrize("name", ["home", "membership"])
def test_a_kill_before_the_power_cut_loses_nothing(scenarios, tmp_path, name):
    scenario, tape = scenarios[name]
    assert kill_everywhere(scenario, tape, tmp_path) > 20


def root_not_synced(tape):
    return tape.without(lambda op: op.kind == "sync_dir" and not op.path)


MUTANTS = {
    ("home", "a key is not synced"): forgets("sync", "domains.keys"),
    ("home", "the configuration is not synced"): forgets("sync", "staddle.toml"),
    ("home", "the configuration's name is not made sure"): forgets("sync_dir", "grid"),
    ("home", "pki is not made sure"): forgets("sync_dir", "grid/pki"),
    ("home", "the ticket key is not synced"): forgets("sync", "ticket.key"),
    ("home", "the home is not made sure"): root_not_synced,
    ("membership", "the key is not synced"): forgets("sync", "own.key"),
    ("membership", "the settings are not synced"): forgets("sync", "client.toml"),
    ("membership", "names are not made sure"): forgets("sync_dir", "client"),
    ("membership", "the directory is not made sure"): root_not_synced,
}


@pytest.mark.parametrize(("name", "mutant"), MUTANTS)
def test_the_check_notices(scenarios, tmp_path, name, mutant):
    scenario, tape = scenarios[name]
    notices(scenario, MUTANTS[name, mutant](tape), tmp_path)


def test_a_home_that_lost_its_configuration_keeps_its_keys(tmp_path):
    home = str(tmp_path / "grid")
    initialise(home, 1, Ids())
    os.unlink(home_paths(home).config_file)
    with pytest.raises(Locked):
        initialise(home, 1, Ids())
    assert os.path.exists(os.path.join(home_paths(home).pki, "keyring"))


def test_keys_without_settings_are_not_overwritten(tmp_path):
    scenario = MembershipScenario(make_ca(str(tmp_path / "ca"), bytes(16)))
    scenario.join(str(tmp_path))
    os.unlink(tmp_path / "client" / "client.toml")
    before = (tmp_path / "client" / "own.key").read_bytes()
    with pytest.raises(Locked):
        scenario.join(str(tmp_path))
    assert (tmp_path / "client" / "own.key").read_bytes() == before


def test_an_init_that_fails_leaves_an_empty_directory(tmp_path, monkeypatch):
    home = tmp_path / "grid"
    monkeypatch.setattr("staddle.daemon.setup.free_ports", lambda _count: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        initialise(str(home), 1, Ids())
    assert os.listdir(home) == []
    monkeypatch.undo()
    initialise(str(home), 1, Ids())
