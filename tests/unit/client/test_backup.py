"""A backup as a whole, with a manager that only takes notes."""

import asyncio
import os
from types import SimpleNamespace

import pytest

from staddle.client.backup import Backup, BackupOptions
from staddle.client.base import BaseIndex
from staddle.client.units import Tally
from staddle.wire.ops.jobs import CANCEL_JOB, CREATE_JOB, FINISH_JOB, RENEW_JOB, Finished

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


def test_a_job_that_was_being_made_is_cancelled_when_its_backup_is_interrupted(tmp_path):
    class Slow(Manager):
        """Makes the job at once, and says so later."""

        def __init__(self):
            super().__init__()
            self.asked, self.may_answer, self.cancelled = asyncio.Event(), asyncio.Event(), []

        async def call_patiently(self, operation, request, **words):
            self.asked.set()
            await self.may_answer.wait()
            return await super().call_patiently(operation, request, **words)

        async def call(self, operation, request, **_):
            assert operation is CANCEL_JOB
            self.cancelled.append(request.job)

    async def work():
        manager = Slow()
        settings = SimpleNamespace(host="h", grid=b"", state_dir="")
        grid = SimpleNamespace(manager=manager, settings=settings, dial=None)
        options = BackupOptions(paths=[os.fsencode(tmp_path)], name="n")
        running = asyncio.create_task(Backup(grid, options, Tally()).run())
        await manager.asked.wait()
        running.cancel()
        await asyncio.sleep(0)
        manager.may_answer.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert manager.cancelled == [1]

    run(work())
