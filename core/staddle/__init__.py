"""Staddle: a plugin-based backup storage grid. This is the public door for plugin authors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from staddle.api.catalog import Catalog, CatalogType
    from staddle.api.cluster import ClusterManager, ClusterType
    from staddle.api.media import Deadline, MediaType, Medium, Volume
    from staddle.api.simple import StoreMedium
    from staddle.api.transport import ScsiTransport, StreamTransport, TransportType
    from staddle.api.types import API_VERSION, Buffer, Cap, Durability, Label, Receipt, Surety
    from staddle.errors import StaddleError
    from staddle.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "Buffer",
    "Cap",
    "Catalog",
    "CatalogType",
    "ClusterManager",
    "ClusterType",
    "Deadline",
    "Durability",
    "Label",
    "MediaType",
    "Medium",
    "Receipt",
    "ScsiTransport",
    "StaddleError",
    "StoreMedium",
    "StreamTransport",
    "Surety",
    "TransportType",
    "Volume",
    "hookimpl",
]

_DOORS = {
    "staddle.api.catalog": {"Catalog", "CatalogType"},
    "staddle.api.cluster": {"ClusterManager", "ClusterType"},
    "staddle.api.media": {"Deadline", "MediaType", "Medium", "Volume"},
    "staddle.api.simple": {"StoreMedium"},
    "staddle.api.transport": {"ScsiTransport", "StreamTransport", "TransportType"},
    "staddle.api.types": {"API_VERSION", "Buffer", "Cap", "Durability", "Label", "Receipt", "Surety"},
    "staddle.errors": {"StaddleError"},
    "staddle.hookspecs": {"hookimpl"},
}
# What is behind the door is imported when it is used: `staddle --help` needs none of it.


def __getattr__(name: str) -> Any:
    for module, names in _DOORS.items():
        if name in names:
            globals()[name] = found = getattr(import_module(module), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
