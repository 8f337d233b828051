"""What the commands of daily use share: the options, and a connection to the grid round their work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from staddle.cli.params import GIVEN

if TYPE_CHECKING:
    from staddle.client.connection import GridConnection
    from staddle.wire.ops.jobs import Rows

FREED_KEPT_BYTES = 256 << 20
TRIM_ABOVE_BYTES = 160 << 20
"""A client ends with its work: what it has taken once it may keep."""

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


def grid_options(command: Command) -> Command:
    """Add `--home` and `--json`."""
    command = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")(command)
    return click.option(
        "--home",
        type=GIVEN,
        metavar="DIR",
        help="The grid's home; else STADDLE_HOME, the grid joined, ~/.staddle.",
    )(command)


def with_grid(home: str | None, work: Callable[[GridConnection], Awaitable[T]]) -> T:
    """Connect, do the work, close. Raises the one error that ended it, never a group."""
    from staddle.client.backup import unwrap
    from staddle.client.connection import GridConnection, find_settings
    from staddle.platform import memory
    from staddle.platform.eventloop import run_loop

    memory.keep_freed(FREED_KEPT_BYTES)
    memory.trim_above(TRIM_ABOVE_BYTES)
    settings = find_settings(home)

    async def connected() -> T:
        async with GridConnection(settings) as grid:
            return await work(grid)

    try:
        return run_loop(connected())
    except BaseExceptionGroup as group:
        raise unwrap(group) from None


def query(home: str | None, sql: str, *parameters: Any, limit: int = 10_000) -> Rows:
    """Rows of a read-only query over the documented views."""
    from staddle.wire.ops.reading import QUERY, Query

    request = Query(sql=sql, parameters=parameters, limit=limit)
    return with_grid(home, lambda grid: grid.manager.call(QUERY, request, timeout_s=120.0))
