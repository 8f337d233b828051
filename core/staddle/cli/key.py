"""`staddle key`: the recovery key, which with the media alone brings everything back."""

from __future__ import annotations

import os

import click

from staddle.cli.grid import home_option
from staddle.cli.output import say
from staddle.cli.params import GIVEN
from staddle.cli.problems import from_os
from staddle.errors import Locked, NotFound


@click.group()
def key() -> None:
    """The recovery key: with it and the media alone everything can be brought back."""


@key.command("show")
@home_option
def show(home: str | None) -> None:
    """Print the recovery key. Keep it away from this host."""
    say(_recovery(home))


@key.command("export")
@click.argument("file", type=GIVEN)
@home_option
def export(file: str, home: str | None) -> None:
    """Write the recovery key to FILE, which must not exist, and note that it was exported."""
    from staddle.client.connection import home_from_environment
    from staddle.config import home_paths
    from staddle.wire.pki import write_private

    text = _recovery(home)
    if os.path.exists(file):
        raise Locked(f"{file} exists already", hint="name a new file: a key is never overwritten")
    try:
        write_private(os.path.abspath(file), text.encode() + b"\n")
    except OSError as error:
        raise from_os(error, file) from error
    marker = os.path.join(home_paths(home_from_environment(home)).pki, "recovery.exported")
    write_private(marker, b"exported\n", may_exist=True)
    say(f"The recovery key is in {file}. Move it away from this host.")


def _recovery(home: str | None) -> str:
    from staddle.client.connection import home_from_environment
    from staddle.config import load
    from staddle.daemon.setup import Identities

    found = Identities(load(home_from_environment(home))).recovery_key()
    if found is None:
        raise NotFound(
            "the recovery key is no longer in this home",
            hint="it was printed by `staddle init`, and exported to a file",
        )
    return found.text()
