"""The `directory` media type. Its driver is imported when a medium is opened."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from staddle import __version__
from staddle.api.media import MediaType, MediumFactory
from staddle.api.types import API_VERSION, Cap, Durability, Limits
from staddle.hookspecs import hookimpl
from staddle.media.options import DirectoryConfig


@hookimpl
def staddle_media() -> list[MediaType]:
    """One type."""
    return [
        MediaType(
            name="directory",
            version=__version__,
            api_version=API_VERSION,
            config_type=DirectoryConfig,
            # No FENCE: a directory can't keep an old holder out.
            capabilities=(
                Cap.RANDOM_READ | Cap.MULTI_WRITER | Cap.CONDITIONAL_PUT | Cap.CAPACITY | Cap.EARLY_WARNING
            ),
            durability=Durability.POWER_LOSS,
            limits=Limits(parallel_puts=4, parallel_gets=8),
            load=lambda: cast("MediumFactory", import_module("staddle.media.directory").DirectoryMedium),
            summary="files below a directory, also of a mounted NFS or CIFS share",
        )
    ]
