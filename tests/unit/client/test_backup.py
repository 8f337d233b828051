"""A backup as a whole, with a manager that only takes notes."""

import asyncio
import os
from types import SimpleNamespace

from staddle.client.backup import Backup, BackupOptions
from staddle.client.base import BaseIndex
from staddle.client.units import Tally
from staddle.wire.ops.jobs import CREATE_JOB, FINISH_JOB, RENEW_JOB, Finished

from .kit import run


class Manager:
    """Answers what a backup without streams asks."""

    def __init__(self):
        self.renewed = asyncio.Event()

    async def call(self, operation, request, **_):
        assert operation is RENEW_JOB
        self.renewed.set()

    async def call_patiently(self, operation, request, **_):
        if operation is FINISH_JOB:
            return Finished(state="complete", message="", bytes_stored=0)
        assert operation is CREATE_JOB
        created = SimpleNamespace(job=1, backup=1, base_backup=0, streams=0, repeat=False, state="running")
        return SimpleNamespace(
            created=created, lease_s=4.0, segment_bytes=1 << 20, base_started_ns=0, pool="p"
        )


def test_the_lease_is_renewed_while_the_base_is_read(tmp_path):
    """A base of millions of files takes longer to read than a lease lasts."""

    class Slow(Backup):
        async def _base(self, opened):
            await self._grid.manager.renewed.wait()
            return BaseIndex(0)

    async def work():
        settings = SimpleNamespace(host="h", grid=b"", state_dir="")
        grid = SimpleNamespace(manager=Manager(), settings=settings, dial=None)
        options = BackupOptions(paths=[os.fsencode(tmp_path)], name="n")
        summary = await Slow(grid, options, Tally()).run()
        assert summary.state == "complete"

    run(work())
