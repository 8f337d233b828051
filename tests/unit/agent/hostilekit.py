"""What the tests of hostile peers share."""

import asyncio
import functools
import os

import pytest
from agentkit import GRID, back_up, check, make_tree, restore

from staddle.errors import Denied
from staddle.wire.endpoint import NO_CREDENTIALS, connect
from staddle.wire.messages import Hello

LIMIT_S = 120.0
BOMB = b"\x28\xb5\x2f\xfd\xe0" + (1 << 45).to_bytes(8, "little") + b"\x01\x00\x00"
"""A zstd frame that says that it unpacks to 32 TiB (RFC 8878, 3.1.1)."""


def in_loop(test):
    """Run an async test; it ends in time."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        async def bounded():
            async with asyncio.timeout(LIMIT_S):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


async def as_peer(grid, name, role="client"):
    hello = Hello(name=name, role=role, grid=GRID)
    return await connect(grid.manager_url, NO_CREDENTIALS, hello, expect_role="manager")


async def at_agent(grid, name="c2", role="client"):
    return await grid.dial("a1", [grid.agent_url], Hello(name=name, role=role, grid=GRID))


async def refused(link, operation, request, kind=Denied, code=None):
    with pytest.raises(kind) as caught:
        await link.request(operation.name, request, timeout_s=20.0)
    assert code is None or caught.value.code == code, caught.value
    return caught.value


async def still_backs_up(grid, tmp_path, number=9):
    tree = tmp_path / f"honest-{number}"
    tree.mkdir()
    want = make_tree(tree, number, files=5, big=1 << 20)
    opened, finished, _ = await back_up(grid, os.fsencode(tree), number)
    assert finished.state == "complete"
    check(await restore(grid, opened.created.backup), want)
