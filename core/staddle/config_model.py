"""The typed settings, and the layout of a grid's home."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from staddle.api.types import HomePath
from staddle.config_convert import Place, Problems, convert_keys, fields_of, plain_message, rebase_paths

if TYPE_CHECKING:
    from staddle.plugins import PluginRegistry

CONFIG_NAME = "staddle.toml"

Policy = Literal["priority", "round_robin", "least_loaded"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=7 * 86400)]
Wait = Annotated[float, msgspec.Meta(ge=0, le=7 * 86400)]
ListenUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z][a-z0-9+.-]*://\S+$", extra={"wanted": "a URL such as tcp://127.0.0.1:7420"}
    ),
]


class GridSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[grid]`: `id` is the grid's UUID as 32 lower-case hex digits."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$", extra={"wanted": "32 lower-case hex digits"})]
    name: str = ""


class ManagerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[manager]`: `listen` is a URL such as `tcp://127.0.0.1:7420`."""

    listen: ListenUrl


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[agent.NAME]`. Without `media` it reaches all of them; `host` groups agents that fall together."""

    listen: ListenUrl
    media: tuple[str, ...] | None = None
    host: str = ""


class MediumSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[medium.NAME]`: what the core understands; `options` are the plugin's own, not checked yet.

    Attributes:
        name: the table's name.
        plugin: the media type.
        failure_domain: what falls with it; the medium's own name by default.
        deadline_s: for each call to the driver.
        fault_file: control file of injected faults (staddle.wrap.fault), for tests.
        throttle_bytes_per_s: bound on what is written and read; None for no bound.
        options: the rest of the table, as TOML has it.
    """

    name: str
    plugin: str
    failure_domain: str = ""
    deadline_s: Seconds = 30.0
    fault_file: HomePath | None = None
    throttle_bytes_per_s: Positive | None = None
    options: Mapping[str, Any] = {}


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[pool.NAME]`: media and policy. `domain` names the dedup domain."""

    media: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    copies: Positive = 1
    min_copies: Positive = 1
    policy: Policy = "least_loaded"
    wait_busy_s: Wait = 60.0
    wait_offline_s: Wait = 10.0
    segment_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 32)] = 64 << 20
    domain: str = "default"


class DomainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[domain.NAME]`: how a dedup domain cuts chunks. It is fixed once the domain has keys."""

    chunk_min_bytes: Annotated[int, msgspec.Meta(ge=1 << 10)] = 32 << 10
    chunk_average_bytes: Annotated[int, msgspec.Meta(ge=1 << 12)] = 128 << 10
    chunk_max_bytes: Annotated[int, msgspec.Meta(le=8 << 20)] = 512 << 10


# The keys of `[medium.NAME]` that are the core's; `name` and `options` are made, not written.
MEDIUM_KEYS = tuple(key for key in fields_of(MediumSettings) if key not in {"name", "options"})


class HomePaths(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are in a grid's home. All paths are absolute."""

    home: str
    config_file: str
    config_dir: str
    pki: str
    manager: str
    oplog: str
    catalog: str
    agents: str
    media: str
    run: str
    log: str

    def agent(self, name: str) -> str:
        """State directory of an agent."""
        return os.path.join(self.agents, name)

    def medium(self, name: str) -> str:
        """Where `init` puts a directory medium."""
        return os.path.join(self.media, name)


def home_paths(home: str) -> HomePaths:
    """The layout of a home. Touches nothing."""
    home = os.path.abspath(home)
    manager = os.path.join(home, "manager")
    return HomePaths(
        home=home,
        config_file=os.path.join(home, CONFIG_NAME),
        config_dir=os.path.join(home, "conf.d"),
        pki=os.path.join(home, "pki"),
        manager=manager,
        oplog=os.path.join(manager, "oplog"),
        catalog=os.path.join(manager, "catalog.duckdb"),
        agents=os.path.join(home, "agents"),
        media=os.path.join(home, "media"),
        run=os.path.join(home, "run"),
        log=os.path.join(home, "log"),
    )


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration.

    `places` maps (table, key), such as `("pool.main", "copies")`, to where it stands; key "" is the head.
    """

    home: str
    grid: GridSettings
    manager: ManagerSettings
    agent: Mapping[str, AgentSettings]
    medium: Mapping[str, MediumSettings]
    pool: Mapping[str, PoolSettings]
    domain: Mapping[str, DomainSettings]
    places: Mapping[tuple[str, str], Place]

    def path_of(self, medium: str) -> str:
        """The absolute path of a medium that has a `path`, for people; else empty."""
        path = self.medium[medium].options.get("path", "")
        return os.path.join(self.home, path) if isinstance(path, str) and path else ""

    def media_of(self, agent: str) -> tuple[str, ...]:
        """The media that an agent reaches."""
        chosen = self.agent[agent].media
        return tuple(self.medium) if chosen is None else chosen

    def medium_config(self, name: str, registry: PluginRegistry) -> msgspec.Struct:
        """A medium's options as an instance of its plugin's `config_type`, with absolute paths.

        Raises: ConfigError (all that is wrong, with places), PluginError.
        """
        medium = self.medium[name]
        config_type = registry.media_type(medium.plugin).config_type
        table = f"medium.{name}"
        problems = Problems()

        def place(key: str) -> Place:
            return self.places.get((table, key)) or self.places.get((table, "")) or Place(CONFIG_NAME, 1)

        convert_keys(medium.options, fields_of(config_type), place, problems, MEDIUM_KEYS)
        problems.raise_if_any()
        try:
            # As a whole, so that the plugin's own __post_init__ is heard too.
            return msgspec.convert(rebase_paths(dict(medium.options), config_type, self.home), config_type)
        except msgspec.ValidationError as error:
            problems.add(place(""), f"[{table}]: {plain_message(error)}")
            problems.raise_if_any()
            raise
