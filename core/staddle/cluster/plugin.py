"""The `single` cluster manager type: one manager on one host, told apart by a file lock."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

import msgspec

from staddle import __version__
from staddle.api.cluster import ClusterManager, ClusterType
from staddle.api.types import API_VERSION, HomePath
from staddle.hookspecs import hookimpl


class SingleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options: `path` is a directory on a local file system, for the lock and the epoch."""

    path: HomePath


@hookimpl
def staddle_cluster_managers() -> list[ClusterType]:
    """One type."""
    return [
        ClusterType(
            name="single",
            version=__version__,
            api_version=API_VERSION,
            config_type=SingleConfig,
            load=lambda: cast(
                "Callable[[object], ClusterManager]",
                import_module("staddle.cluster.single").SingleClusterManager,
            ),
            summary="one manager on one host, by a file lock",
        )
    ]
