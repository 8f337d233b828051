"""`staddle daemon`: run one daemon in the foreground, as `staddle up` and systemd do."""

from __future__ import annotations

import click

home_option = click.option("--home", required=True, help="The grid's home.")


@click.group()
def daemon() -> None:
    """Run a daemon in the foreground. `staddle up` starts them all in the background."""


@daemon.command("manager")
@home_option
def manager(home: str) -> None:
    """Run the manager of a home."""
    from staddle.daemon.manager.main import main

    main(home)


@daemon.command("agent")
@click.argument("name")
@home_option
def agent(name: str, home: str) -> None:
    """Run an agent of a home: its control process, which starts its data process."""
    from staddle.daemon.agent.control import main

    main(home, name)


@daemon.command("catalog", hidden=True)
@home_option
def catalog(home: str) -> None:
    """Run the process that owns the catalog; the manager starts it."""
    from staddle.daemon.manager.catalog_process import main

    main(home)


@daemon.command("agent-data", hidden=True)
@click.argument("name")
@home_option
def agent_data(name: str, home: str) -> None:
    """Run an agent's data process; its control process starts it."""
    from staddle.daemon.agent.data import main

    main(home, name)
