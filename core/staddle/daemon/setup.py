"""A new grid's home, and what its parts find there: identities, keys, local addresses."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time

import msgspec

from staddle import typed
from staddle.api.transport import Credentials
from staddle.config import Settings, home_paths, initial_text
from staddle.data import keyring as keyring_format
from staddle.data.crypto import ChunkerSpec, DomainKeys, RecoveryKey
from staddle.errors import ConfigError, Denied, Locked, UsageError
from staddle.ids import Ids
from staddle.platform.construction import marker_of, under_construction
from staddle.platform.durable import fsync_dir, make_directories
from staddle.wire.pki import CertificateAuthority, make_ca, write_credentials, write_private

AGENTS_MAX = 16
RECOVERY_KEY_NAME = "recovery.key"
_SOCKET_PATH_MAX = 100


class Identities:
    """Certificates and keys below `pki/`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pki = home_paths(settings.home).pki
        self.grid = bytes.fromhex(settings.grid.id)

    def credentials(self, member: str) -> Credentials:
        """Of a member: `manager`, `admin`, or `agent-NAME`. Raises ConfigError if they are missing."""
        directory = os.path.join(self._pki, member)
        found = Credentials(
            ca_file=os.path.join(directory, "ca.crt"),
            cert_file=os.path.join(directory, "own.crt"),
            key_file=os.path.join(directory, "own.key"),
        )
        if not os.path.exists(found.cert_file):
            raise ConfigError(
                f"there is no certificate for {member} in {self._pki}", hint="restore pki/ from a copy"
            )
        return found

    @property
    def authority_directory(self) -> str:
        """The certificate authority's."""
        return os.path.join(self._pki, "ca")

    @property
    def ticket_key_path(self) -> str:
        """The manager's signing key."""
        return os.path.join(self._pki, "ticket.key")

    def domains(self) -> dict[str, DomainKeys]:
        """The keys of all dedup domains, by name."""
        path = os.path.join(self._pki, "domains.keys")
        try:
            with open(path, "rb") as handle:
                found = typed.unpack(handle.read(), list[DomainKeys])
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"the domain keys {path} can't be read: {_why(error)}",
                hint="restore pki/ from a copy of this home",
            ) from error
        return {keys.domain: keys for keys in found}

    def keyring(self) -> bytes:
        """The sealed keyring, as it lies on every medium."""
        path = os.path.join(self._pki, "keyring")
        try:
            with open(path, "rb") as handle:
                return handle.read()
        except OSError as error:
            raise ConfigError(
                f"the keyring {path} can't be read: {_why(error)}",
                hint="restore pki/ from a copy of this home",
            ) from error

    def recovery_key(self) -> RecoveryKey | None:
        """The recovery key if it is still on this host."""
        try:
            with open(os.path.join(self._pki, RECOVERY_KEY_NAME), encoding="ascii") as handle:
                return RecoveryKey.parse(handle.read())
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise Denied(
                "this is no recovery key: it is no plain text", hint="take another copy of it"
            ) from None


def _why(error: OSError | msgspec.MsgspecError) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is damaged"


def local_url(home: str, part: str) -> str:
    """Where a part listens for its own host: a local socket, or loopback where there are none.

    A socket's path has a length limit (108 bytes on Linux, 104 on macOS); a deep home falls back to TLS.
    """
    path = os.path.join(home_paths(home).run, f"{part}.sock")
    if sys.platform == "win32" or len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        return "tcp://127.0.0.1:0"
    return f"unix://{path}"


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    held, ports = [], []
    for _ in range(count):
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        held.append(probe)
        ports.append(probe.getsockname()[1])
    for probe in held:
        probe.close()
    return ports


def initialise(home: str, agents: int, ids: Ids) -> str:
    """Make a grid in `home`; the recovery key's text. Raises Locked if there is one, UsageError."""
    if not 1 <= agents <= AGENTS_MAX:
        raise UsageError(
            f"--agents {agents}: between 1 and {AGENTS_MAX}", hint="more of them can be added to staddle.toml"
        )
    paths = home_paths(home)
    # The configuration comes last: a home without it is no grid, whatever else a crash has left there.
    with under_construction(paths.config_file, lambda: _check_free(home), lambda: _clear(home)) as finish:
        recovery, text = _make(home, agents, ids)
        finish(text.encode())
    return recovery.text()


def _check_free(home: str) -> None:
    final = home_paths(home).config_file
    if os.path.exists(final):
        raise Locked(
            f"{home} holds a grid already", hint="take another --home, or use this one with `staddle up`"
        )
    if os.path.lexists(home) and not os.path.isdir(home):
        raise Locked(f"{home} is no directory", hint="take a new or empty directory for --home")
    own = os.path.basename(marker_of(final))
    found = os.listdir(home) if os.path.isdir(home) else []
    if own not in found and not all(name.startswith(own) for name in found):
        raise Locked(f"{home} is not empty", hint="take an empty directory for --home")


def _clear(home: str) -> None:
    """Remove what a cut-off `init` has made: nobody has seen its recovery key."""
    own = os.path.basename(marker_of(home_paths(home).config_file))
    with os.scandir(home) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif not entry.name.startswith(own):
                os.unlink(entry.path)
    fsync_dir(home)


def _make(home: str, agents: int, ids: Ids) -> tuple[RecoveryKey, str]:
    """All but the configuration, durably; and its text."""
    paths = home_paths(home)
    names = [f"a{number}" for number in range(1, agents + 1)]
    for directory in (paths.pki, paths.manager, paths.run, paths.log, paths.config_dir):
        make_directories(directory)
    for number, name in enumerate(names, 1):
        make_directories(paths.agent(name))
        make_directories(paths.medium(f"m{number}"))
    grid = ids.new_id()
    _make_identities(paths.pki, grid, names)
    recovery = _make_keys(paths.pki, grid, ids)
    ports = free_ports(agents + 1)
    text = initial_text(
        grid_id=grid.hex(),
        grid_name=os.path.basename(os.path.abspath(home)),
        manager_url=f"tcp://127.0.0.1:{ports[0]}",
        agent_urls=[f"tcp://127.0.0.1:{port}" for port in ports[1:]],
    )
    return recovery, text


def _make_identities(pki: str, grid: bytes, agents: list[str]) -> None:
    authority: CertificateAuthority = make_ca(os.path.join(pki, "ca"), grid)
    members = [("manager", "manager", "manager"), ("admin", "admin", "admin")]
    members += [(f"agent-{name}", name, "agent") for name in agents]
    for directory, name, role in members:
        write_credentials(os.path.join(pki, directory), authority.cert_pem, authority.issue(name, role))


def _make_keys(pki: str, grid: bytes, ids: Ids) -> RecoveryKey:
    recovery = RecoveryKey(ids.random(32))
    domain = DomainKeys(
        domain="default",
        domain_id=ids.new_id(),
        fingerprint_key=ids.random(32),
        wrapping_keys={1: ids.random(32)},
        current=1,
        # 31 bits: what a C long holds on every system, so that each cuts the same data at the same places.
        chunker=ChunkerSpec(seed=int.from_bytes(ids.random(4), "big") >> 1),
        grid=grid,
    )
    keyring = keyring_format.encode(recovery, grid, [domain], ids.random(12), time.time_ns())
    write_private(os.path.join(pki, "domains.keys"), msgspec.msgpack.encode([domain]))
    write_private(os.path.join(pki, "keyring"), keyring)
    write_private(os.path.join(pki, RECOVERY_KEY_NAME), recovery.text().encode() + b"\n")
    return recovery
