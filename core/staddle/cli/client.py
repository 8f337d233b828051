"""`staddle client`: hosts that are no part of the grid, but back up to it."""

from __future__ import annotations

import os

import click

from staddle.cli.output import dump, say
from staddle.cli.params import GIVEN
from staddle.cli.session import grid_options, with_grid
from staddle.errors import UsageError
from staddle.platform.eventloop import run_loop


@click.group()
def client() -> None:
    """Clients on other hosts: each joins once, with a token, and gets a certificate of its own."""


@client.command("token")
@click.argument("name")
@click.option(
    "--valid",
    type=click.FloatRange(1, 30 * 86400),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it may be used, up to 30 days.",
)
@grid_options
def token(name: str, valid: float, home: str | None, as_json: bool) -> None:
    """Make a token with which the host NAME can join, once. Run it on the manager's host."""
    from staddle.wire.ops.admin import CREATE_TOKEN, CreateToken

    made = with_grid(
        home, lambda grid: grid.manager.call(CREATE_TOKEN, CreateToken(name=name, valid_s=valid))
    )
    text = f"{made.token}@{made.url.removeprefix('tcp://')}"
    if as_json:
        dump({"name": name, "token": text, "valid_s": valid})
    else:
        say(text)


@client.command("join")
@click.argument("token")
@click.option(
    "--dir",
    "directory",
    type=GIVEN,
    metavar="DIR",
    help="Where keys are kept; else STADDLE_CLIENT, ~/.config/staddle.",
)
@click.option("--manager", metavar="HOST:PORT", help="The manager, if it is not reached as the token says.")
def join(token: str, directory: str | None, manager: str | None) -> None:
    """Join the grid that made TOKEN. Then `staddle backup` and the others work on this host."""
    from staddle.client.connection import client_directory
    from staddle.client.joining import membership
    from staddle.wire.join import join as join_grid

    text, _, where = token.strip().partition("@")
    address = manager or where
    if not address:
        raise UsageError("the token does not say where the manager is", hint="add --manager HOST:PORT")
    target = os.path.abspath(directory or client_directory())
    url = f"tcp://{address}"
    with membership(target) as keep:
        table = keep(run_loop(join_grid(url, text)), url)
    say(f"{table.name} has joined; its keys are in {target}")
