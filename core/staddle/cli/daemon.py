"""`staddle daemon`: run one daemon in the foreground, as `staddle up` and systemd do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from staddle.cli.params import GIVEN
from staddle.cli.problems import from_os

home_option = click.option("--home", type=GIVEN, metavar="DIR", required=True, help="The grid's home.")


@contextlib.contextmanager
def _in_home(home: str) -> Iterator[None]:
    """What the system refuses without naming a file, such as room for one, it refuses in the home."""
    try:
        yield
    except OSError as error:
        raise from_os(error, error.filename or home) from error


@click.group()
def daemon() -> None:
    """Run a daemon in the foreground. `staddle up` starts them all in the background."""


@daemon.command("manager")
@home_option
def manager(home: str) -> None:
    """Run the manager of a home."""
    from staddle.daemon.manager.main import main

    with _in_home(home):
        main(home)


@daemon.command("agent")
@click.argument("name")
@home_option
def agent(name: str, home: str) -> None:
    """Run an agent of a home: its control process, which starts its data process."""
    from staddle.daemon.agent.control import main

    with _in_home(home):
        main(home, name)


@daemon.command("catalog", hidden=True)
@home_option
def catalog(home: str) -> None:
    """Run the process that owns the catalog; the manager starts it."""
    from staddle.daemon.manager.catalog_process import main

    with _in_home(home):
        main(home)


@daemon.command("agent-data", hidden=True)
@click.argument("name")
@home_option
def agent_data(name: str, home: str) -> None:
    """Run an agent's data process; its control process starts it."""
    from staddle.daemon.agent.data import main

    with _in_home(home):
        main(home, name)
