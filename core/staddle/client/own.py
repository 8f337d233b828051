"""Which directories of this host are the grid's own: a backup of them would be part of itself."""

from __future__ import annotations

import os
from collections.abc import Iterable

from staddle.client.scan import parents
from staddle.config import home_paths, load
from staddle.config_model import CONFIG_NAME
from staddle.errors import ConfigError, UsageError

Identity = tuple[int, int]
"""(st_dev, st_ino)"""


def own_directories(home: str | None) -> frozenset[Identity]:
    """Media, daemons' state, sockets and logs of the grid whose home is on this host, as far as they exist.

    Configuration and keys in the home are not among them.

    Args: home: as given; else STADDLE_HOME, or ~/.staddle.
    """
    return frozenset(filter(None, map(_identity, own_places(home))))


def own_places(home: str | None) -> list[str]:
    """The same by absolute paths, whether there is something or not. Args: as of `own_directories`."""
    chosen = home or os.environ.get("STADDLE_HOME") or os.path.join(os.path.expanduser("~"), ".staddle")
    if not os.path.exists(os.path.join(chosen, CONFIG_NAME)):
        return []
    paths = home_paths(chosen)
    places = [paths.manager, paths.agents, paths.media, paths.run, paths.log]
    try:
        settings = load(chosen)
    except ConfigError:
        pass  # whoever needs the configuration says what is wrong with it
    else:
        places += [settings.path_of(medium) for medium in settings.medium]
    return [os.path.abspath(place) for place in places if place]


def check_not_own(roots: Iterable[bytes], own: frozenset[Identity]) -> None:
    """Raises UsageError for a root, of sorted ones, that lies in one of the grid's own directories."""
    known: set[bytes] = set()
    for root in roots if own else ():
        above = [root, *parents(root)]
        for path in above:
            if path not in known and _identity(os.fsdecode(path)) in own:
                raise UsageError(
                    f"{os.fsdecode(root)!r} is this grid's own: a backup of it would be part of itself",
                    hint="copies on other media are made by the pool (`copies`), not by backups of media",
                )
        known = set(above)


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status is not None else None
