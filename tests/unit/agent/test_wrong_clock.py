"""An agent's wall clock that is wrong decides nothing: what a running stream has stored is no orphan."""

import asyncio
import os
import time

from agentkit import back_up, make_tree, running

from staddle.ids import Ids, uuid7

YEAR_NS = 366 * 86400 * 10**9


class Behind(Ids):
    """Of a host whose clock has jumped back by a year."""

    def new_id(self):
        return uuid7(time.time_ns() - YEAR_NS, self.random(10))


def test_objects_of_an_agent_with_a_clock_behind_are_not_older_than_their_assignment(tmp_path, seed):
    # `engine.gc.orphans` takes what is older than every assignment in force for what nobody can commit.
    async def main():
        make_tree(tmp_path / "src", seed)
        async with running(tmp_path / "home") as grid:
            grid.agent.context.ids = Behind()
            before_ns = time.time_ns()
            _, finished, _ = await back_up(grid, os.fsencode(tmp_path / "src"))
            assert finished.state == "complete", finished
            stored = [o for o in grid.manager.state.objects.values() if o.kind in {"container", "manifest"}]
            assert {o.kind for o in stored} == {"container", "manifest"}
            born_ns = [int.from_bytes(o.id[:6], "big") * 1_000_000 for o in stored]
            assert min(born_ns) >= before_ns // 1_000_000 * 1_000_000
            assert len({o.id for o in stored}) == len(stored)

    asyncio.run(main())
