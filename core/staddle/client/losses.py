"""Which files of a backup can't be restored, by the objects that are lost: asked of the catalog, in pages."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence

from staddle.client.connection import GridConnection
from staddle.wire.ops.reading import LIST_BACKUPS, ListBackups
from staddle.wire.ops.repair import FILES_LOST, FilesLost

OBJECTS_PER_ASK = 2048
PAGE_FILES = 1000
_TIMEOUT_S = 120.0
_PATIENCE_S = 30.0


async def files_lost(grid: GridConnection, backup: int, objects: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Paths of all files of a backup that need one of these containers or manifests, each once.

    Memory is 16 bytes and some for each of them. Raises StaddleError when the catalog can't tell.
    """
    seen: set[bytes] = set()
    for at in range(0, len(objects), OBJECTS_PER_ASK):
        after, more = b"", True
        while more:
            request = FilesLost(
                backup=backup, objects=list(objects[at : at + OBJECTS_PER_ASK]), after=after, limit=PAGE_FILES
            )
            page = await grid.manager.call_patiently(
                FILES_LOST, request, patience_s=_PATIENCE_S, timeout_s=_TIMEOUT_S
            )
            for path in page.paths:
                mark = hashlib.blake2b(path, digest_size=16).digest()
                if mark not in seen:
                    seen.add(mark)
                    yield path
            after, more = page.next, bool(page.next)


async def names_of_backups(grid: GridConnection) -> dict[int, str]:
    """Number -> `name of client`, for people."""
    rows = await grid.manager.call_patiently(LIST_BACKUPS, ListBackups(), patience_s=_PATIENCE_S)
    at = {name: rows.columns.index(name) for name in ("id", "name", "client")}
    return {row[at["id"]]: f"{row[at['name']]} of {row[at['client']]}" for row in rows.rows}
