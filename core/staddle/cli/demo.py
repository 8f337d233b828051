"""`staddle demo`: break a real grid in the middle of a job, and see that nothing is lost."""

from __future__ import annotations

import json
import os
import sys
import sysconfig

import click

from staddle.cli.output import say
from staddle.cli.params import GIVEN
from staddle.errors import NotFound


@click.command()
@click.option(
    "--source",
    type=GIVEN,
    metavar="DIR",
    help="A tree to back up. Default: the Python installation's library.",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object, the timeline on stderr.")
def demo(source: str | None, as_json: bool) -> None:
    """Show how one job survives the loss of its agent and of a medium, in mid-stream.

    A manager, three agents and three media are started in a temporary directory. While a backup runs one
    agent is killed and one medium taken away; the same job goes on, and is restored with both still broken.
    Then the manager's directory is deleted and made again from the media, and the rescue reader restores
    without Staddle. Exit 1 if a fault did not bite or anything differs.
    """
    from staddle.demo.run import run

    if source is not None and not os.path.isdir(source):
        raise NotFound(f"--source {source}: no such directory", hint="name a tree with at least 16 MiB")

    summary = run(source or sysconfig.get_paths()["stdlib"], lambda text: say(text, err=as_json))
    if as_json:
        click.echo(json.dumps(summary))
    else:
        say("")
        say(f"{'all is well' if summary['identical'] else 'NOT identical'}: {summary['duration_s']} s")
    if not summary["identical"] or summary["rebuild_diff_rows"]:
        sys.exit(1)
