"""Plugin discovery: lazy and isolated. Listing imports nothing, and a broken plugin is data, never a crash.

The loop over entry points is our own: the stock one of pluggy stops at the first plugin that fails. Each
plugin gets a plugin manager to itself, so that one with a bad hook can't spoil another.
"""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from staddle import hookspecs
from staddle.api.catalog import CatalogType
from staddle.api.cluster import ClusterType
from staddle.api.media import MediaType
from staddle.api.transport import TransportType
from staddle.api.types import API_VERSION, Cap, Capability, Surety
from staddle.errors import PluginError

if TYPE_CHECKING:
    import click

GROUP = "staddle.plugins"
CORE_DISTRIBUTION = "staddle"
TYPES_MAX = 256  # of one hook of one plugin

# Which distribution usually has a word, for the hint when it is missing.
USUAL_DISTRIBUTION = {
    "nas_smb": "staddle-nas-smb",
    "san_block": "staddle-san-block",
    "s3": "staddle-s3",
    "tape": "staddle-tape",
    "iscsi": "pyiscsi",
    "sg": "staddle-scsi",
    "etcd": "staddle-cluster-etcd",
    "fsspec": "staddle-fsspec",
    "duckdb": "staddle[manager]",
}

# Hook -> (type that its results have, attribute that names one).
_FAMILIES: dict[str, tuple[type, str]] = {
    "staddle_media": (MediaType, "name"),
    "staddle_transports": (TransportType, "scheme"),
    "staddle_catalogs": (CatalogType, "name"),
    "staddle_cluster_managers": (ClusterType, "name"),
}


class PluginProblem(msgspec.Struct, frozen=True):
    """Why a plugin, or a part of it, is not offered.

    Attributes:
        name: the entry point's name.
        distribution: which has it.
        code: METADATA, DUPLICATE, IMPORT, HOOKS, HOOK_FAILED, RESULT or API_VERSION.
        message: what happened.
        hint: what to do.
    """

    name: str
    distribution: str
    code: str
    message: str
    hint: str = ""


class PluginInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `plugin list`, known without an import.

    `state` is `found` (not imported yet), `loaded` or `broken`; `provides` is filled once it is loaded:
    `media:directory`, `transport:tcp`, …
    """

    name: str
    distribution: str
    version: str
    module: str
    state: str = "found"
    provides: tuple[str, ...] = ()
    summary: str = ""


class _Plugin:
    """An entry point and what became of it."""

    def __init__(self, entry_point: metadata.EntryPoint, distribution: str, version: str) -> None:
        self.entry_point = entry_point
        self.distribution = distribution
        self.version = version
        self.loaded = False
        self.broken = False
        self.types: dict[str, list[Any]] = {}
        self.manager: pluggy.PluginManager | None = None

    @property
    def name(self) -> str:
        return self.entry_point.name


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class PluginRegistry:
    """All installed plugins. Safe for use by several threads.

    Args:
        distributions: where to look for entry points; the installed ones by default.
    """

    def __init__(self, distributions: Callable[[], Iterable[metadata.Distribution]] | None = None) -> None:
        self._distributions = distributions or metadata.distributions
        self._lock = threading.RLock()
        self._plugins: dict[str, _Plugin] | None = None
        self._problems: list[PluginProblem] = []

    def media_type(self, name: str) -> MediaType:
        """The media type behind `plugin = "name"`. Raises PluginError."""
        found = self._find("staddle_media", name)
        assert isinstance(found, MediaType)
        return found

    def transport(self, scheme: str) -> TransportType:
        """The transport of a URL scheme. Raises PluginError."""
        found = self._find("staddle_transports", scheme)
        assert isinstance(found, TransportType)
        return found

    def catalog_type(self, name: str) -> CatalogType:
        """A catalog type by name. Raises PluginError."""
        found = self._find("staddle_catalogs", name)
        assert isinstance(found, CatalogType)
        return found

    def cluster_type(self, name: str) -> ClusterType:
        """A cluster manager type by name. Raises PluginError."""
        found = self._find("staddle_cluster_managers", name)
        assert isinstance(found, ClusterType)
        return found

    def commands(self) -> list[click.Command]:
        """The commands that plugins add. Imports every plugin."""
        import click

        commands: list[click.Command] = []
        with self._lock:
            for plugin in self._load_all():
                if plugin.manager is not None:
                    commands += self._call(plugin, "staddle_commands", click.Command)
        return commands

    def all(self, *, load: bool = False) -> list[PluginInfo]:
        """Every plugin, by name. Imports nothing unless `load` is set (`doctor`, `plugin show`)."""
        with self._lock:
            if load:
                self._load_all()
            return [self._info(plugin) for plugin in self._discover().values()]

    def types(self, name: str) -> list[MediaType | TransportType | CatalogType | ClusterType]:
        """Everything that one plugin, named by its entry point, offers. Raises PluginError."""
        with self._lock:
            plugin = self._discover().get(name)
            if plugin is None or not self._load(plugin):
                raise self._missing("plugin", name, list(self._discover()))
            return [item for family in _FAMILIES for item in plugin.types.get(family, [])]

    def problems(self, *, load: bool = False) -> list[PluginProblem]:
        """What is broken, as far as it is known; with `load` every plugin is imported first."""
        with self._lock:
            if load:
                self._load_all()
            else:
                self._discover()
            return list(self._problems)

    # -- discovery

    def _discover(self) -> dict[str, _Plugin]:
        if self._plugins is None:
            found = sorted(self._scan(), key=lambda p: (p.distribution != CORE_DISTRIBUTION, p.distribution))
            plugins: dict[str, _Plugin] = {}
            for plugin in found:
                first = plugins.setdefault(plugin.name, plugin)
                if first is not plugin:
                    self._report(
                        plugin,
                        "DUPLICATE",
                        f"the name {plugin.name!r} is taken by distribution {first.distribution!r}",
                        "uninstall one of the two; until then only the first is used",
                    )
            self._plugins = dict(sorted(plugins.items()))
        return self._plugins

    def _scan(self) -> Iterator[_Plugin]:
        seen: set[str] = set()
        for distribution in self._distributions():
            try:
                name = _normalized(distribution.metadata["Name"] or "")
                # The first on sys.path counts, as for an import.
                if not name or name in seen:
                    continue
                seen.add(name)
                points = [point for point in distribution.entry_points if point.group == GROUP]
                version = distribution.version
            except Exception as error:  # noqa: BLE001 - any damage in foreign metadata
                where = str(getattr(distribution, "_path", distribution))
                message = f"its metadata can't be read: {_describe(error)}"
                self._problems.append(PluginProblem("?", where, "METADATA", message, "install it again"))
                continue
            for point in points:
                yield _Plugin(point, name, version)

    # -- loading

    def _load_all(self) -> list[_Plugin]:
        plugins = list(self._discover().values())
        return [plugin for plugin in plugins if self._load(plugin)]

    def _load(self, plugin: _Plugin) -> bool:
        """Import a plugin and collect its types, once. False if it is broken as a whole."""
        if not plugin.loaded:
            plugin.loaded = True
            plugin.broken = not self._import(plugin)
        return not plugin.broken

    def _import(self, plugin: _Plugin) -> bool:
        try:
            module = plugin.entry_point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit at import too is only a broken plugin
            hint = "install what it needs" if isinstance(error, ImportError) else "report it to its author"
            self._report(plugin, "IMPORT", f"its import failed: {_describe(error)}", hint)
            return False
        manager = pluggy.PluginManager("staddle")
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(module, plugin.name)
            manager.check_pending()
        except Exception as error:  # noqa: BLE001 - pluggy inspects foreign objects
            hint = "compare its functions with staddle/hookspecs.py"
            self._report(plugin, "HOOKS", f"its hooks don't fit: {_describe(error)}", hint)
            return False
        if not manager.get_hookcallers(module):
            hint = "mark its functions with @staddle.hookimpl"
            self._report(plugin, "HOOKS", f"{plugin.entry_point.value} implements no hook", hint)
            return False
        plugin.manager = manager
        for hook, (kind, _) in _FAMILIES.items():
            results = self._call(plugin, hook, kind)
            plugin.types[hook] = [item for item in results if self._accept(plugin, hook, item)]
        return True

    def _call(self, plugin: _Plugin, hook: str, kind: type) -> list[Any]:
        """What one hook of one plugin returns; what is wrong with it becomes a problem."""
        assert plugin.manager is not None
        try:
            parts = getattr(plugin.manager.hook, hook)()
            results = [item for part in parts for item in islice(part, TYPES_MAX)]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - as above: foreign code
            self._report(
                plugin, "HOOK_FAILED", f"{hook} raised {_describe(error)}", "report it to its author"
            )
            return []
        good = [item for item in results if isinstance(item, kind)]
        if len(good) < len(results):
            wrong = next(item for item in results if not isinstance(item, kind))
            message = f"{hook} returned {type(wrong).__name__}, wanted {kind.__name__}"
            self._report(plugin, "RESULT", message, "return a list of such objects")
        return good

    def _accept(self, plugin: _Plugin, hook: str, item: Any) -> bool:
        name = getattr(item, _FAMILIES[hook][1])
        if wrong := _wrong_fields(item, _FAMILIES[hook][1]):
            message = f"{hook} returned a {type(item).__name__} whose {wrong} is not of its type"
            self._report(plugin, "RESULT", message, "compare it with staddle/api")
            return False
        if item.api_version != API_VERSION:
            newer = item.api_version > API_VERSION
            self._report(
                plugin,
                "API_VERSION",
                f"{name!r} is built for API version {item.api_version}, this is {API_VERSION}",
                "upgrade staddle" if newer else f"upgrade {plugin.distribution}",
            )
            return False
        for other in self._discover().values():
            if other is not plugin and any(
                getattr(theirs, _FAMILIES[hook][1]) == name for theirs in other.types.get(hook, [])
            ):
                message = f"{hook}: {name!r} is offered by distribution {other.distribution!r} already"
                self._report(plugin, "DUPLICATE", message, "uninstall one of the two")
                return False
        return True

    # -- look-up

    def _find(self, hook: str, name: str) -> object:
        """The type called `name`; imports as little as possible.

        The entry point of that name is tried first, then Staddle's own, then the others.
        """
        attribute = _FAMILIES[hook][1]
        with self._lock:
            plugins = self._discover().values()
            order = sorted(plugins, key=lambda p: (p.name != name, p.distribution != CORE_DISTRIBUTION))
            names: list[str] = []
            for plugin in order:
                if self._load(plugin):
                    for item in plugin.types[hook]:
                        if getattr(item, attribute) == name:
                            return item
                        names.append(getattr(item, attribute))
            family = hook.removeprefix("staddle_").replace("_", " ").removesuffix("s")
            raise self._missing(f"{family} plugin", name, names)

    def _missing(self, what: str, name: str, names: Sequence[str]) -> PluginError:
        for problem in self._problems:
            if problem.name == name:
                return PluginError(
                    f"{what} {name!r} of {problem.distribution} is broken: {problem.message}",
                    hint=problem.hint,
                )
        hints = []
        if close := difflib.get_close_matches(name, names, 1):
            hints.append(f"did you mean {close[0]!r}")
        if usual := USUAL_DISTRIBUTION.get(name):
            hints.append(f'it usually comes with: pip install "{usual}"')
        hints.append("installed: " + (", ".join(sorted(names)) or "none"))
        return PluginError(f"no {what} {name!r} is installed", hint="; ".join(hints), code="PLUGIN_MISSING")

    def _info(self, plugin: _Plugin) -> PluginInfo:
        provides: list[str] = []
        summaries: list[str] = []
        for hook, (_, attribute) in _FAMILIES.items():
            family = hook.removeprefix("staddle_").removesuffix("s")
            for item in plugin.types.get(hook, []):
                provides.append(f"{family}:{getattr(item, attribute)}")
                summaries.append(item.summary)
        state = "broken" if plugin.broken else "loaded" if plugin.loaded else "found"
        return PluginInfo(
            name=plugin.name,
            distribution=plugin.distribution,
            version=plugin.version,
            module=plugin.entry_point.value,
            state=state,
            provides=tuple(provides),
            summary="; ".join(filter(None, summaries)),
        )

    def _report(self, plugin: _Plugin, code: str, message: str, hint: str) -> None:
        self._problems.append(PluginProblem(plugin.name, plugin.distribution, code, message, hint))


def _wrong_fields(item: Any, name: str) -> str:
    """Nothing checks a Struct when it is made: which of the fields that are used here is of another type."""
    wanted: dict[str, type] = {name: str, "version": str, "summary": str, "api_version": int}
    wrong = [field for field, kind in wanted.items() if type(getattr(item, field)) is not kind]
    if not callable(getattr(item, "load", len)):
        wrong.append("load")
    return ", ".join(wrong)


def _describe(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001 - its own __str__ may raise anything
        text = ""
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def declared(media_type: MediaType) -> list[Capability]:
    """The capabilities that a media type declares, not yet probed on any backend."""
    source = f"declared by {media_type.name} {media_type.version}"
    return [
        Capability(str(cap.name), Surety.DECLARED, source) for cap in Cap if cap in media_type.capabilities
    ]


def merge_capabilities(
    declarations: Sequence[Capability], findings: Sequence[Capability]
) -> list[Capability]:
    """Declared capabilities with what `Medium.probe` found on the very backend, sorted by name.

    A finding outweighs a declaration, also where it disproves it (`holds=False`). What was not probed stays
    declared.
    """
    merged = {capability.name: capability for capability in declarations}
    merged |= {finding.name: finding for finding in findings}
    return [merged[name] for name in sorted(merged)]
