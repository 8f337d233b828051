"""Staddle: a plugin-based backup storage grid. This is the public door for plugin authors."""

from staddle.api.catalog import Catalog, CatalogType
from staddle.api.cluster import ClusterManager, ClusterType
from staddle.api.media import Deadline, MediaType, Medium, Volume
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
    "StreamTransport",
    "Surety",
    "TransportType",
    "Volume",
    "hookimpl",
]
