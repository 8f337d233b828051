"""A catalog that can not be read is set aside and made anew: the log and the manifests say all of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress

from staddle.api.catalog import Catalog
from staddle.errors import Corrupt

log = logging.getLogger(__name__)

ASIDE = ".damaged"


def open_or_renew(path: str, open_catalog: Callable[[], Catalog]) -> Catalog:
    """Open the catalog file at `path`, or an empty one instead of a damaged one (kept beside, the last only).

    Raises: what `open_catalog` raises, but Corrupt only if an empty catalog can't be opened either.
    """
    try:
        return open_catalog()
    except Corrupt as error:
        log.error("%s; it is set aside, and made again from the op-log", error.message)
        for name in (path, path + ".wal"):
            with suppress(FileNotFoundError):
                os.replace(name, name + ASIDE)
        return open_catalog()
