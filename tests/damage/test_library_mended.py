"""A fingerprint library that was damaged on disk is filled again by the agent itself."""

import asyncio
import glob
import os

import numpy as np
import pytest
from agentkit import back_up, make_tree, running

from staddle.daemon.agent import mending, publisher
from staddle.daemon.agent.locator import Locator
from staddle.errors import MediumFailed

LIMIT_S = 30.0


async def until(holds):
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110 - a library tells nobody
            await asyncio.sleep(0.02)


async def stored_bytes(grid, path, number):
    """What a backup of the same tree adds in containers."""
    before = set(grid.manager.state.objects)
    await back_up(grid, path, number)
    return sum(
        item.size_bytes
        for key, item in grid.manager.state.objects.items()
        if key not in before and item.kind == "container"
    )


def damage_run(directory):
    """Some bytes of each row's place are other ones."""
    [path] = glob.glob(os.path.join(directory, "run.*"))
    with open(path, "r+b") as file:
        data = bytearray(file.read())
        for at in range(len(data) // 4, len(data), 97):
            data[at] ^= 0x55
        file.seek(0)
        file.write(data)


def damage_manifest(directory):
    for path in glob.glob(os.path.join(directory, "*")):
        if not os.path.basename(path).startswith(("run.", "lock")):
            with open(path, "r+b") as file:
                file.write(bytes(16))


@pytest.mark.parametrize("damage", [damage_run, damage_manifest])
def test_what_a_library_has_lost_is_known_again(tmp_path, seed, damage):
    async def main():
        make_tree(tmp_path / "src", seed, files=20, big=2 << 20)
        source = os.fsencode(tmp_path / "src")
        async with running(tmp_path / "home") as grid:
            assert await stored_bytes(grid, source, 1) > 1 << 20
            library = grid.agent.context.libraries["default"]
            await grid.agent.publisher.catch_up(LIMIT_S)
            await until(lambda: library.stats().entries > 0)
            library.merge()
            whole = library.stats().entries
            await grid.agent.stop()
            damage(library_path(grid))
            await grid.start_agent()
            await until(lambda: "default" in grid.agent.context.libraries)
            library = grid.agent.context.libraries["default"]
            fingerprints = np.random.default_rng(seed % 2**32).integers(0, 256, (70_000, 32), dtype=np.uint8)
            library.lookup(fingerprints)  # somebody looks at every partition
            grid.agent.publisher.wake()
            await until(lambda: library.stats().entries == whole and not library.damaged())
            assert not library.lookup(fingerprints).unknown.any()
            assert await stored_bytes(grid, source, 2) < 1 << 16

    asyncio.run(main())


def test_no_partition_is_called_whole_while_a_medium_is_away(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(mending, "AGAIN_S", 0.05)
    monkeypatch.setattr(publisher, "IDLE_S", 0.05)

    async def main():
        make_tree(tmp_path / "src", seed, files=20, big=2 << 20)
        async with running(tmp_path / "home") as grid:
            await stored_bytes(grid, os.fsencode(tmp_path / "src"), 1)
            library = grid.agent.context.libraries["default"]
            await grid.agent.publisher.catch_up(LIMIT_S)
            await until(lambda: library.stats().entries > 0)
            library.merge()
            whole = library.stats().entries
            await grid.agent.stop()
            damage_run(library_path(grid))
            tried = []

            def away(*_):
                tried.append(1)
                raise MediumFailed("not mounted", scope="path")

            with monkeypatch.context() as unmounted:
                unmounted.setattr(Locator, "directory", away)
                await grid.start_agent()
                await until(lambda: "default" in grid.agent.context.libraries)
                library = grid.agent.context.libraries["default"]
                fingerprints = np.random.default_rng(1).integers(0, 256, (70_000, 32), dtype=np.uint8)
                library.lookup(fingerprints)  # somebody looks at every partition
                await until(lambda: len(tried) >= 5)
                assert library.damaged()
            await until(lambda: library.stats().entries == whole and not library.damaged())

    asyncio.run(main())


def library_path(grid):
    return os.path.join(grid.agent.context.directory, "library", "default")
