"""A grid whose repairer does nothing by itself."""

import contextlib
import os
import pathlib

from agentkit import back_up, make_tree, running

from staddle.daemon.manager.orphans import OrphanSweeper
from staddle.daemon.manager.repairing import Repairer
from staddle.daemon.manager.salvage import Salvager


@contextlib.asynccontextmanager
async def mended(home, **options):
    """A grid in one process with one backup and its repairer, which does nothing by itself."""
    async with running(home, **options) as grid:
        want = make_tree(home.parent / "src", 1, files=4, big=2 << 20)
        opened, *_ = await back_up(grid, os.fsencode(home.parent / "src"))
        grid.want, grid.backup = want, opened.created.backup
        sweeper = OrphanSweeper(grid.manager, grid.adoption, grid.presence)
        grid.repairer = Repairer(
            grid.manager,
            grid.adoption,
            grid.presence,
            sweeper=sweeper,
            salvager=Salvager(grid.manager, grid.adoption, grid.presence, {"default": grid.keys}),
            sealer=grid.sealer,
            keyring=b"the keyring",
        )
        grid.ops = []
        grid.manager.subscribe(lambda records: grid.ops.extend(record.op for record in records))
        yield grid


def one(grid, kind):
    return next(item for item in grid.manager.state.objects.values() if item.kind == kind)


def path_of(grid, copy):
    return pathlib.Path(grid.home, "media", copy.medium, copy.name)
