"""The process that owns the catalog: the manager's child, reached over a local link, ended by its pipe."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

import msgspec

from staddle import typed
from staddle.api.catalog import ManifestRows, Record
from staddle.catalog.process import CatalogOwner
from staddle.catalog.renewal import open_or_renew
from staddle.config import load
from staddle.daemon import loops
from staddle.daemon.setup import Identities, local_url
from staddle.data import manifest as manifest_format
from staddle.obs import logs
from staddle.platform import memory, process
from staddle.plugins import PluginRegistry
from staddle.wire.endpoint import serve
from staddle.wire.handlers import Call, Handlers
from staddle.wire.messages import Hello
from staddle.wire.ops.base import Nothing, register
from staddle.wire.ops.catalog import APPLY, ASK, INGEST, Applied, Apply, Ask, Ingest, Told

log = logging.getLogger(__name__)

TRIM_ABOVE_BYTES = 256 << 20

_records: typed.Decoder[list[Record]] = typed.decoder(list[Record])


class CatalogServer:
    """Answers the manager from the catalog's thread."""

    def __init__(self, owner: CatalogOwner) -> None:
        self._owner = owner

    def handlers(self) -> Handlers:
        """The operations of the manager's link."""
        handlers = Handlers()
        register(handlers, APPLY, self._apply)
        register(handlers, INGEST, self._ingest)
        register(handlers, ASK, self._ask)
        return handlers

    async def _apply(self, call: Call) -> Applied:
        args: Apply = call.args
        records = _records.decode(call.payload) if args.count else []
        return Applied(await asyncio.wrap_future(self._owner.apply(records)))

    async def _ingest(self, call: Call) -> Nothing:
        args: Ingest = call.args
        rows = ManifestRows(backup=args.backup, manifest=args.manifest, plain=bytes(call.payload))
        await asyncio.wrap_future(self._owner.ingest([rows]))
        return Nothing()

    async def _ask(self, call: Call) -> Told:
        args: Ask = call.args
        value = await asyncio.wrap_future(self._owner.call(args.method, args.arguments))
        return Told(_plain(value))


def _plain(value: Any) -> Any:
    """Rows of a database in types that msgpack knows."""
    return msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=str)


async def _serve(home: str, path: str) -> None:
    settings = load(home)
    open_catalog = PluginRegistry().catalog_type("duckdb").load()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    owner = CatalogOwner(
        lambda: open_or_renew(path, lambda: open_catalog(path, manifest_format.decode)), on_end=end
    )
    process.exit_with_parent(end)
    identities = Identities(settings)
    hello = Hello(name="manager", role="manager", grid=identities.grid)
    server = await serve(
        local_url(home, "catalog"),
        identities.credentials("manager"),
        hello,
        CatalogServer(owner).handlers(),
    )
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    try:
        await stop.wait()
    finally:
        await server.close()
        await asyncio.to_thread(owner.close)


def main(home: str) -> None:
    """Run until the parent's pipe closes."""
    from staddle.config import home_paths

    load(home)  # a place that is no home gets no file of ours
    paths = home_paths(home)
    os.makedirs(paths.manager, mode=0o700, exist_ok=True)
    logs.configure("catalog", path=os.path.join(paths.log, "catalog.jsonl"))
    memory.trim_above(TRIM_ABOVE_BYTES)
    loops.run(_serve(home, paths.catalog))
