"""Every hook on one page.

A plugin is a module named by an entry point in the group `staddle.plugins`. Its functions, marked with
`@staddle.hookimpl`, return *types*: what there is, not yet an object that does I/O. Import an SDK in `load`.

    from staddle import hookimpl, MediaType

    @hookimpl
    def staddle_media():
        return [MediaType(name="shelf", …, load=lambda: import_module("my_shelf.medium").Shelf)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from staddle.api.catalog import CatalogType
    from staddle.api.cluster import ClusterType
    from staddle.api.media import MediaType
    from staddle.api.transport import TransportType

hookspec = pluggy.HookspecMarker("staddle")
hookimpl = pluggy.HookimplMarker("staddle")


@hookspec
def staddle_media() -> Sequence[MediaType]:  # type: ignore[empty-body]
    """Media types: the words that may stand in `plugin = "…"` of a `[medium.NAME]` table (M1-M10)."""


@hookspec
def staddle_transports() -> Sequence[TransportType]:  # type: ignore[empty-body]
    """Transports, by URL scheme: stream links and SCSI transports (T1-T6)."""


@hookspec
def staddle_catalogs() -> Sequence[CatalogType]:  # type: ignore[empty-body]
    """Catalogs: projections of the op-log (C1-C4)."""


@hookspec
def staddle_cluster_managers() -> Sequence[ClusterType]:  # type: ignore[empty-body]
    """Cluster managers: who may be the manager (K1-K4)."""


@hookspec
def staddle_commands() -> Sequence[click.Command]:  # type: ignore[empty-body]
    """Commands for the command line; a group adds a noun."""
