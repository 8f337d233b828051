"""An agent whose fingerprint library met a full disk uses it again by itself; no backup fails meanwhile."""

import asyncio
import os
import types

from agentkit import back_up, check, make_tree, restore, running, until

from staddle.daemon.agent import greeter, publisher
from staddle.dedup.library import Library
from staddle.platform.durable import Files


class Disk(Files):
    """As long as it is full, nothing new can be written; the beginning of it is."""

    full = False

    def create(self, path):
        self.refuse()
        return super().create(path)

    def write(self, fd, data):
        if self.full:
            super().write(fd, memoryview(data).cast("B")[:9])
        self.refuse()
        super().write(fd, data)

    def refuse(self):
        if self.full:
            raise OSError(28, "No space left on device")


def on(disk, monkeypatch):
    """Libraries lie on this disk, and the agent is impatient."""
    opened = types.SimpleNamespace(open=lambda *given: Library.open(*given, files=disk))
    monkeypatch.setattr(greeter, "Library", opened)
    monkeypatch.setattr(greeter, "LOOK_AGAIN_S", 0.1)
    for name in ("BUSY_S", "IDLE_S", "AGAIN_MIN_S"):
        monkeypatch.setattr(publisher, name, 0.05)


def test_a_library_that_met_a_full_disk_knows_everything_again_without_a_restart(
    tmp_path, seed, monkeypatch, caplog
):
    disk = Disk()
    on(disk, monkeypatch)

    async def main():
        want = make_tree(tmp_path / "src", seed)
        async with running(tmp_path / "home") as grid:
            library = grid.agent.context.libraries["default"]
            disk.full = True
            opened, *_ = await back_up(grid, os.fsencode(tmp_path / "src"))
            await until(lambda: library.refused, 60.0)
            reads = caplog.text.count("takes no changes")
            await asyncio.sleep(0.5)
            assert caplog.text.count("takes no changes") == reads, "what does not mend itself is said once"
            assert not library.stats().entries
            disk.full = False
            await until(lambda: library.stats().entries and not library.refused, 60.0)
            check(await restore(grid, opened.created.backup), want)

    asyncio.run(main())


def test_a_library_that_could_not_be_made_is_made_when_there_is_room(tmp_path, seed, monkeypatch):
    disk = Disk()
    disk.full = True
    on(disk, monkeypatch)

    async def main():
        make_tree(tmp_path / "src", seed)
        async with running(tmp_path / "home") as grid:
            await back_up(grid, os.fsencode(tmp_path / "src"))
            assert grid.agent.context.libraries == {}
            disk.full = False
            libraries = grid.agent.context.libraries
            await until(lambda: libraries and libraries["default"].applied_lsn, 60.0)
            assert libraries["default"].stats().entries

    asyncio.run(main())
