"""The built-in catalog plugin: `duckdb`. Imports the database only in `load`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from staddle.api.catalog import Catalog, CatalogType, ManifestDecoder
from staddle.api.types import API_VERSION
from staddle.hookspecs import hookimpl


@hookimpl
def staddle_catalogs() -> Sequence[CatalogType]:
    """The projection in one DuckDB file."""
    return [
        CatalogType(
            name="duckdb",
            version="1",
            api_version=API_VERSION,
            load=_load,
            summary="one DuckDB file beside the op-log; SQL over documented views",
        )
    ]


def _load() -> Callable[[str, ManifestDecoder], Catalog]:
    try:
        from staddle.catalog.duck import open_catalog
    except ImportError as error:
        from staddle.errors import PluginError

        raise PluginError(
            f"catalog duckdb: {error}", hint="install it: pip install 'staddle[manager]'"
        ) from error
    return open_catalog
