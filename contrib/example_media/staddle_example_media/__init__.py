"""The `example` medium: what there is. The driver is imported when a medium is opened."""

from importlib import import_module

import msgspec

from staddle import API_VERSION, Cap, Durability, MediaType, hookimpl
from staddle.api.types import HomePath, Limits


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `[medium.NAME]`: `path`, a directory on a local file system."""

    path: HomePath


@hookimpl
def staddle_media() -> list[MediaType]:
    """Offer one media type."""
    return [
        MediaType(
            name="example",
            version="0.1.0",
            api_version=API_VERSION,
            config_type=Config,
            capabilities=Cap.RANDOM_READ | Cap.MULTI_WRITER | Cap.CONDITIONAL_PUT | Cap.CAPACITY,
            durability=Durability.POWER_LOSS,
            limits=Limits(object_bytes_max=900_000_000, parallel_puts=1),
            load=lambda: import_module("staddle_example_media.driver").ExampleMedium,
            summary="objects in one SQLite file: an example to copy",
        )
    ]
