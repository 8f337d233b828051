"""The `memory` media type, for tests and demonstrations."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from staddle import __version__
from staddle.api.media import MediaType, MediumFactory
from staddle.api.types import API_VERSION, Cap, Durability, Limits
from staddle.hookspecs import hookimpl
from staddle.media.options import MemoryConfig


@hookimpl
def staddle_media() -> list[MediaType]:
    """One type."""
    return [
        MediaType(
            name="memory",
            version=__version__,
            api_version=API_VERSION,
            config_type=MemoryConfig,
            capabilities=(
                Cap.RANDOM_READ
                | Cap.MULTI_WRITER
                | Cap.CONDITIONAL_PUT
                | Cap.FENCE
                | Cap.CAPACITY
                | Cap.EARLY_WARNING
            ),
            durability=Durability.MEMORY,
            limits=Limits(parallel_puts=16, parallel_gets=16),
            load=lambda: cast("MediumFactory", import_module("staddle.media.memory").MemoryMedium),
            summary="the memory of one process: for tests, nothing survives its end",
        )
    ]
