"""Configuration: `staddle.toml` and `conf.d/*.toml` of a grid's home, to typed settings.

Tables are merged by name; a table that stands twice is an error. Everything that is wrong is reported at
once, each with file, line and, where it may be a slip of the pen, a suggestion. A medium's own options are
checked against its plugin's `config_type` when the plugin is needed (`Settings.medium_config`), so that
reading the configuration imports no plugin.
"""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from staddle.config_convert import (
    LineIndex,
    Place,
    Problems,
    convert_keys,
    fields_of,
    rebase_paths,
    suggest,
    why_not_toml,
)
from staddle.config_model import (
    CONFIG_NAME,
    MEDIUM_KEYS,
    AgentSettings,
    DomainSettings,
    GridSettings,
    HomePaths,
    ManagerSettings,
    MediumSettings,
    PoolSettings,
    Settings,
    home_paths,
)
from staddle.errors import ConfigError, Denied
from staddle.platform.plainfile import read_plain

__all__ = [
    "AgentSettings",
    "DomainSettings",
    "GridSettings",
    "HomePaths",
    "ManagerSettings",
    "MediumSettings",
    "Place",
    "PoolSettings",
    "Settings",
    "home_paths",
    "initial_text",
    "load",
]

CONFIG_BYTES_MAX = 4 << 20
# A throttled medium must be able to take one container and its neighbours within its deadline.
THROTTLED_OBJECT_BYTES = 64 << 20

# Names become names of directories and certificates.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")

# Tables that stand once, and families of named ones.
_SINGLE: dict[str, type[msgspec.Struct]] = {"grid": GridSettings, "manager": ManagerSettings}
_FAMILY: dict[str, type[msgspec.Struct]] = {
    "agent": AgentSettings,
    "medium": MediumSettings,
    "pool": PoolSettings,
    "domain": DomainSettings,
}


def load(home: str) -> Settings:
    """Read a home's configuration. Raises ConfigError that names every problem found."""
    paths = home_paths(home)
    loader = _Loader(paths.home)
    loader.read(paths.config_file)
    for path in _parts(paths.config_dir):
        loader.read(path)
    # A file that is no TOML hides its tables: what would be missing then is no news.
    if loader.unreadable:
        loader.problems.raise_if_any()
    for table in _SINGLE:
        if table not in loader.tables:
            loader.problems.add(Place(paths.config_file, 1), f"[{table}] is missing")
    loader.check_references()
    grid, manager = loader.build("grid", GridSettings), loader.build("manager", ManagerSettings)
    families = {
        family: {name: loader.build(f"{family}.{name}", struct) for name in loader.names(family)}
        for family, struct in _FAMILY.items()
    }
    loader.problems.raise_if_any()
    domains = families["domain"]
    domains.setdefault("default", DomainSettings())
    return Settings(
        home=paths.home,
        grid=grid,
        manager=manager,
        agent=families["agent"],
        medium=families["medium"],
        pool=families["pool"],
        domain=domains,
        places=loader.places,
    )


def _parts(directory: str) -> list[str]:
    """The files of conf.d in their order. Unread in silence, they would be a grid without media."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(directory, error) from error
    # As shells and other daemons do, hidden ones are an editor's.
    return [
        os.path.join(directory, name)
        for name in sorted(names)
        if name.endswith(".toml") and not name.startswith(".")
    ]


def _unreadable(path: str, error: OSError) -> ConfigError | Denied:
    kind = Denied if isinstance(error, PermissionError) else ConfigError
    hint = "run as the user that runs the grid" if kind is Denied else "check the file and its disk"
    return kind(f"{path} can't be read: {(error.strerror or '').lower()}", hint=hint)


def _has_port(url: str) -> bool:
    try:
        return bool(urlsplit(url).port)
    except ValueError:
        return False


class _Loader:
    """Reads the files of one home; keeps tables, places and problems."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.problems = Problems()
        self.unreadable = False
        self.places: dict[tuple[str, str], Place] = {}
        self.tables: dict[str, dict[str, Any]] = {}

    def place(self, table: str, key: str = "") -> Place:
        return self.places.get((table, key)) or self.places.get((table, "")) or Place(CONFIG_NAME, 1)

    def names(self, family: str) -> list[str]:
        prefix = family + "."
        return [table.removeprefix(prefix) for table in self.tables if table.startswith(prefix)]

    def read(self, path: str) -> None:
        """Take in one file."""
        try:
            data = read_plain(path, CONFIG_BYTES_MAX + 1)
        except FileNotFoundError:
            if os.path.islink(path):
                raise ConfigError(f"{path} is a link to nothing", hint="correct it there") from None
            hint = "make a grid with `staddle init`, or set STADDLE_HOME"
            raise ConfigError(f"{path} does not exist", hint=hint) from None
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(data) > CONFIG_BYTES_MAX:
            raise ConfigError(f"{path} is larger than {CONFIG_BYTES_MAX} bytes")
        try:
            # Windows' editors put a byte order mark before UTF-8.
            data = data.removeprefix(codecs.BOM_UTF8)
            text = data.decode()
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            self.unreadable = True
            line, what = why_not_toml(error, data)
            self.problems.add(Place(path, line), f"not valid TOML: {what}")
            return
        lines = LineIndex(text)
        for name, table in document.items():
            self._take(path, name, table, lines)

    def _take(self, path: str, name: str, table: Any, lines: LineIndex) -> None:
        place = Place(path, lines.line((name,)))
        if name not in _SINGLE and name not in _FAMILY:
            self.problems.add(place, f"unknown table {name!r}{suggest(name, [*_SINGLE, *_FAMILY])}")
        elif not isinstance(table, dict):
            self.problems.add(place, f"{name!r} is a table: write [{name}]")
        elif name in _SINGLE:
            self._store(path, table, lines, (name,))
        else:
            for item, content in table.items():
                self._take_named(path, (name, item), content, lines)

    def _take_named(self, path: str, at: tuple[str, str], content: Any, lines: LineIndex) -> None:
        family, name = at
        place = Place(path, lines.line(at))
        if not isinstance(content, dict):
            self.problems.add(place, f"[{family}] holds named tables: write [{family}.NAME]")
        elif not _NAME.fullmatch(name):
            self.problems.add(place, f"{family} {name!r}: a name has letters, digits, '-', '_', at most 63")
        else:
            self._store(path, content, lines, at)

    def _store(self, path: str, content: dict[str, Any], lines: LineIndex, at: tuple[str, ...]) -> None:
        table = ".".join(at)
        place = Place(path, lines.line(at))
        if table in self.tables:
            self.problems.add(place, f"[{table}] stands also at {self.place(table)}")
            return
        self.tables[table] = content
        self.places[table, ""] = place
        for key in content:
            self.places[table, key] = Place(path, lines.line((*at, key)))

    def build(self, table: str, struct: type[msgspec.Struct]) -> Any:
        """A table as its struct; None, with the problems noted, where it does not fit."""
        content = dict(self.tables.get(table, {}))
        fields = fields_of(struct)
        if struct is MediumSettings:
            options = {key: content.pop(key) for key in list(content) if key not in MEDIUM_KEYS}
            # A slip in a core key would pass for an option here; the plugin's check finds it later.
            name = table.removeprefix("medium.")
            content |= {
                "name": name,
                "options": options,
                "failure_domain": content.get("failure_domain", name),
            }
        content = rebase_paths(content, struct, self.home)
        values = convert_keys(content, fields, lambda key: self.place(table, key), self.problems)
        required = {key for key, field in fields.items() if field.required}
        return struct(**values) if required <= values.keys() else None

    # -- what holds between tables

    def check_references(self) -> None:
        """Note every reference to what is not there, and every number that can't be kept."""
        media = self.names("medium")
        for family in ("agent", "pool"):
            for name in self.names(family):
                self._check_media(f"{family}.{name}", media)
        for name in self.names("pool"):
            self._check_pool(f"pool.{name}")
        for name in media:
            self._check_throttle(f"medium.{name}")
        for name in self.names("domain"):
            self._check_domain(f"domain.{name}")
        self._check_places(media)
        self._check_listeners()

    def _check_media(self, table: str, media: list[str]) -> None:
        chosen = self.tables[table].get("media", [])
        if not isinstance(chosen, list):
            return
        for medium in chosen:
            if isinstance(medium, str) and medium not in media:
                text = f"no medium {medium!r}{suggest(medium, media)}"
                self.problems.add(self.place(table, "media"), text)
        if len({str(medium) for medium in chosen}) < len(chosen):
            self.problems.add(self.place(table, "media"), "a medium is named twice")

    def _check_pool(self, table: str) -> None:
        pool = self.tables[table]
        domain = pool.get("domain", "default")
        if isinstance(domain, str) and domain != "default" and domain not in self.names("domain"):
            text = f"no dedup domain {domain!r}{suggest(domain, ['default', *self.names('domain')])}"
            self.problems.add(self.place(table, "domain"), text)
        copies, least = pool.get("copies", 1), pool.get("min_copies", 1)
        if (
            not isinstance(copies, int)
            or not isinstance(least, int)
            or not isinstance(pool.get("media"), list)
        ):
            return
        if least > copies:
            text = f"min_copies = {least} is more than copies = {copies}"
            self.problems.add(self.place(table, "min_copies"), text)
        media = [m for m in pool["media"] if isinstance(m, str)]
        apart = {str(self.tables.get(f"medium.{m}", {}).get("failure_domain", m)) for m in media}
        if media and copies > len(apart):
            text = f"copies = {copies}, but its media lie in {len(apart)} failure domain(s)"
            self.problems.add(self.place(table, "copies"), text)

    def _check_throttle(self, table: str) -> None:
        medium = self.tables[table]
        rate, deadline_s = medium.get("throttle_bytes_per_s"), medium.get("deadline_s", 30.0)
        if not isinstance(rate, int) or not isinstance(deadline_s, (int, float)) or rate < 1:
            return
        # TOML's integers may be longer than any float.
        if min(rate, THROTTLED_OBJECT_BYTES**2) * deadline_s < THROTTLED_OBJECT_BYTES:
            needed_s = -(-THROTTLED_OBJECT_BYTES // rate)
            text = f"{THROTTLED_OBJECT_BYTES >> 20} MiB don't pass within deadline_s; it needs {needed_s}"
            self.problems.add(self.place(table, "throttle_bytes_per_s"), text)

    def _check_domain(self, table: str) -> None:
        sizes = [
            self.tables[table].get(f"chunk_{key}_bytes", getattr(DomainSettings(), f"chunk_{key}_bytes"))
            for key in ("min", "average", "max")
        ]
        if all(isinstance(size, int) for size in sizes) and not sizes[0] < sizes[1] < sizes[2]:
            text = "chunk_min_bytes < chunk_average_bytes < chunk_max_bytes does not hold"
            self.problems.add(self.place(table, "chunk_average_bytes"), text)

    def _check_listeners(self) -> None:
        taken: dict[str, str] = {}
        for table in ("manager", *(f"agent.{name}" for name in self.names("agent"))):
            url = self.tables.get(table, {}).get("listen")
            if not isinstance(url, str):
                continue
            if taken.setdefault(url, table) != table:
                self.problems.add(self.place(table, "listen"), f"{url} is the address of [{taken[url]}] too")
            elif url.startswith("tcp://") and not _has_port(url):
                self.problems.add(self.place(table, "listen"), f"{url}: a port from 1 to 65535 is needed")

    def _check_places(self, media: list[str]) -> None:
        """Two tables for one place would be one medium under two names."""
        taken: dict[tuple[Any, ...], str] = {}
        for name in media:
            table = self.tables[f"medium.{name}"]
            path = table.get("path")
            if not isinstance(path, str):
                continue
            # The same path on another server, in another share, is another place.
            words = {key: value for key, value in table.items() if isinstance(value, str)}
            words |= {"path": os.path.normpath(os.path.join(self.home, path)), "failure_domain": ""}
            if (first := taken.setdefault(tuple(sorted(words.items())), name)) != name:
                text = f"{path!r} is the place of [medium.{first}] too"
                self.problems.add(self.place(f"medium.{name}", "path"), text)


def initial_text(
    *, grid_id: str, grid_name: str, manager_url: str, agent_urls: Sequence[str], media: Sequence[str] = ()
) -> str:
    """The `staddle.toml` that `staddle init` writes: agents a1, a2, … and as many directory media m1, m2, ….

    Args:
        grid_id: 32 hex digits.
        grid_name: for people.
        manager_url: where the manager listens.
        agent_urls: one for each agent; at least one.
        media: directories of the media, relative to home or absolute; `media/m1`, … by default.
    """
    directories = media or [f"media/m{number}" for number in range(1, len(agent_urls) + 1)]
    copies = min(2, len(directories))
    parts = [
        _INITIAL_HEAD.format(id=_quote(grid_id), name=_quote(grid_name), url=_quote(manager_url)),
        *(f"\n[agent.a{n}]\nlisten = {_quote(url)}\n" for n, url in enumerate(agent_urls, 1)),
        _INITIAL_MEDIA,
        *(
            f'\n[medium.m{n}]\nplugin = "directory"\npath = {_quote(path)}\n'
            for n, path in enumerate(directories, 1)
        ),
        _INITIAL_POOL.format(
            media=", ".join(f'"m{n}"' for n in range(1, len(directories) + 1)), copies=copies
        ),
    ]
    return "".join(parts)


def _quote(text: str) -> str:
    """A TOML basic string."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


_INITIAL_HEAD = """\
# Staddle: configuration of one grid. It may be split over conf.d/*.toml.
# Unknown keys are errors. Secrets never stand here, only references:
#   {{file = "…"}}, {{env = "NAME"}} or {{credential = "NAME"}} (systemd).
# Relative paths start at the directory of this file.

[grid]
id = {id}
name = {name}

[manager]
listen = {url}

# Agents move data between clients and media. An agent reaches all media
# unless it names some: media = ["m1"]
"""

_INITIAL_MEDIA = """
# Media hold the data. Media that would fall together (one disk, one array)
# should share a failure_domain: copies are spread over distinct ones.
"""

_INITIAL_POOL = """
# A backup goes to a pool. `copies` are made; a job goes on as long as
# `min_copies` of them can be, and the missing ones are made up for later.
[pool.main]
media = [{media}]
copies = {copies}
min_copies = 1
"""
