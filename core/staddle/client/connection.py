"""How a client finds its grid: the manager, and the agents that it is sent to."""

from __future__ import annotations

import os
import socket
import sys
from typing import Self

import msgspec

from staddle.api.transport import Credentials
from staddle.config import home_paths, load
from staddle.config_convert import plain_message
from staddle.config_model import CONFIG_NAME
from staddle.errors import ConfigError, Denied, PathLost, StaddleError
from staddle.platform.plainfile import read_plain
from staddle.wire.endpoint import connect
from staddle.wire.link import Link
from staddle.wire.messages import Hello
from staddle.wire.redial import Redial
from staddle.wire.schemes import split_url

CONNECT_TIMEOUT_S = 5.0
CLIENT_NAME = "client.toml"
CLIENT_TOML_BYTES_MAX = 1 << 20


class JoinedClient(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`client.toml`: `grid` as 32 hex digits, `managers` as URLs in the order in which they are tried."""

    name: str
    grid: str
    managers: list[str]


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the grid is and who we are in it.

    Attributes:
        name: who we are on a link, as a certificate says.
        host: under this name the backups of this client are kept.
        role: `client`, or `admin` on the grid's own host.
        grid: 16-byte grid id.
        manager_urls: tried in this order.
        credentials: certificate for `tcp`.
        state_dir: where this client keeps what it needs to go on after a crash; "" for nowhere.
    """

    name: str
    host: str
    role: str
    grid: bytes
    manager_urls: list[str]
    credentials: Credentials
    state_dir: str = ""


def host_name() -> str:
    """This host's name in a form that a grid takes."""
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname())
    return plain.strip("-._")[:64] or "localhost"


class GridConnection:
    """The manager's link, and links to agents on demand. Belongs to one event loop."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._hello = Hello(name=settings.name, role=settings.role, grid=settings.grid)
        self.manager = Redial(settings.manager_urls, settings.credentials, self._hello, expect_role="manager")

    async def __aenter__(self) -> Self:
        """Prove that the manager is there. Raises PathLost with what to do."""
        try:
            await self.manager.link(CONNECT_TIMEOUT_S)
        except StaddleError as error:
            if error.code not in {"PATH_LOST", "DEADLINE"}:
                raise
            raise PathLost(
                f"the manager does not answer: {error.message}",
                hint="start the grid with `staddle up`, or see `staddle status`",
                retry="after",
            ) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.close()

    async def dial(self, agent: str, urls: list[str]) -> Link:
        """A new link to an agent by the first URL that works. Raises what the last one said."""
        last: StaddleError = PathLost(f"agent {agent!r} has no address that this host can use")
        for url in urls:
            if not usable(url):
                continue
            try:
                return await connect(
                    url,
                    self.settings.credentials,
                    self._hello,
                    expect_role="agent",
                    expect_name=agent,
                    timeout_s=CONNECT_TIMEOUT_S,
                )
            except StaddleError as error:
                last = error
        raise last


def usable(url: str) -> bool:
    """Can this host try the URL: a local socket must be here, and ours to use."""
    try:
        parts = split_url(url)
    except ConfigError:
        return False
    if parts.scheme != "unix":
        return True
    return sys.platform != "win32" and os.access(parts.path, os.R_OK | os.W_OK)


def home_from_environment(home: str | None) -> str:
    """The grid's home: the option, else STADDLE_HOME, else the user's own. Raises ConfigError for none."""
    chosen = home or os.environ.get("STADDLE_HOME") or os.path.join(os.path.expanduser("~"), ".staddle")
    try:
        os.stat(os.path.join(chosen, CONFIG_NAME))
    except PermissionError as error:
        raise Denied(
            f"the grid's home {chosen!r} is closed to this user", hint="run as the user that runs the grid"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"there is no grid in {chosen!r}",
            hint="make one with `staddle init --home DIR`, or say where it is with --home or STADDLE_HOME",
        ) from error
    return os.path.abspath(chosen)


def client_directory() -> str:
    """Where a client that has joined keeps its settings and keys: STADDLE_CLIENT, else the user's own."""
    return os.environ.get("STADDLE_CLIENT") or os.path.join(
        os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config"), "staddle"
    )


def find_settings(home: str | None) -> ClientSettings:
    """The home that was named or is ours, else the grid that this client has joined.

    Raises ConfigError when there is neither.
    """
    named = home or os.environ.get("STADDLE_HOME")
    joined = os.path.join(client_directory(), CLIENT_NAME)
    if named is None and os.path.exists(joined):
        return joined_settings(joined)
    return local_settings(home_from_environment(home))


def _why(error: OSError | ValueError | RecursionError) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if isinstance(error, msgspec.ValidationError):
        return plain_message(error)
    # Of msgspec, of text that is no UTF-8, of a grid's id that is no hex, of numbers without end.
    return str(error) if isinstance(error, msgspec.DecodeError) else "it is damaged"


def joined_settings(path: str) -> ClientSettings:
    """Read a `client.toml`. Raises ConfigError."""
    try:
        table = msgspec.toml.decode(read_plain(path, CLIENT_TOML_BYTES_MAX), type=JoinedClient)
        grid = bytes.fromhex(table.grid)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {_why(error)}", hint="join again: `staddle client join`") from error
    directory = os.path.dirname(os.path.abspath(path))
    return ClientSettings(
        name=table.name,
        host=table.name,
        role="client",
        grid=grid,
        manager_urls=table.managers,
        credentials=Credentials(
            ca_file=os.path.join(directory, "ca.crt"),
            cert_file=os.path.join(directory, "own.crt"),
            key_file=os.path.join(directory, "own.key"),
        ),
        state_dir=directory,
    )


def local_settings(home: str) -> ClientSettings:
    """The administrator of a grid on its own host: by local socket, or by its certificate."""
    settings = load(home)
    paths = home_paths(home)
    directory = os.path.join(paths.pki, "admin")
    credentials = Credentials(
        ca_file=os.path.join(directory, "ca.crt"),
        cert_file=os.path.join(directory, "own.crt"),
        key_file=os.path.join(directory, "own.key"),
    )
    socket_path = os.path.join(paths.run, "manager.sock")
    urls = [f"unix://{socket_path}"] if usable(f"unix://{socket_path}") else []
    return ClientSettings(
        name="admin",
        host=host_name(),
        role="admin",
        grid=bytes.fromhex(settings.grid.id),
        manager_urls=[*urls, settings.manager.listen],
        credentials=credentials,
        state_dir=paths.run,
    )
