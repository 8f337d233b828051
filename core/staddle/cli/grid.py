"""`staddle init`, `up`, `down` and `status`: a grid in one command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from staddle.cli.output import say, size_text, table
from staddle.cli.params import GIVEN
from staddle.cli.problems import from_os
from staddle.cli.verify import damage_lines
from staddle.errors import StaddleError
from staddle.platform.eventloop import run_loop

if TYPE_CHECKING:
    from staddle.config import Settings

UP_WAIT_S = 8.0
"""How long `up` waits for agents and media to be seen by the manager."""

home_option = click.option(
    "--home", type=GIVEN, metavar="DIR", envvar="STADDLE_HOME", help="The grid's home (STADDLE_HOME)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.command()
@click.option(
    "--home",
    type=GIVEN,
    metavar="DIR",
    envvar="STADDLE_HOME",
    help="An empty or new directory (STADDLE_HOME).",
)
@click.option("--agents", default=1, show_default=True, help="How many agents, and as many media.")
@json_option
def init(home: str | None, agents: int, as_json: bool) -> None:
    """Make a new grid: home, configuration, certificates, keys, directories for its media.

    With one agent there is one medium and one copy. With more, every agent reaches all media and each backup
    has two copies. The recovery key is printed once: with it and the media alone everything can be brought
    back.
    """
    from staddle.daemon.setup import initialise
    from staddle.ids import Ids

    where = os.path.abspath(home or os.path.join(os.path.expanduser("~"), ".staddle"))
    try:
        recovery = initialise(where, agents, Ids())
    except OSError as error:
        raise from_os(error, error.filename or where) from error
    if as_json:
        click.echo(json.dumps({"home": where, "agents": agents, "recovery_key": recovery}))
        return
    for line in (
        *(f"A grid was made in {where}.", ""),
        *("Its recovery key, to be kept on paper, away from this host:", "", f"  {recovery}", ""),
        f"Next: staddle up --home {where}",
    ):
        say(line)


@click.command()
@home_option
@json_option
def up(home: str | None, as_json: bool) -> None:
    """Start what is missing of this home's daemons. What runs is left alone.

    Agents and media that are not there yet are warned of; the exit code is 0 all the same, for what was to be
    started runs. `staddle status` goes on saying how they are.
    """
    from staddle.client.connection import home_from_environment
    from staddle.config import load
    from staddle.daemon.supervise import start_missing

    settings = load(home_from_environment(home))
    _check_media(settings)
    started = start_missing(settings)
    away = run_loop(_await_usable(settings))
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(run) for run in started]))
    else:
        for run in started:
            say(f"{run.part} is up (pid {run.pid})")
        if not started:
            say("everything runs already")
    for line in [*gaps(settings), *away]:
        say(f"staddle: warning: {line}", err=True)
    if away and not started:
        say("staddle: after a change of staddle.toml: `staddle down`, then `staddle up`", err=True)


def _check_media(settings: Settings) -> None:
    """A slip in a medium's table is told before anything starts. Raises ConfigError.

    What is wrong with a plugin is that medium's trouble alone: the others can work.
    """
    from staddle.errors import PluginError
    from staddle.plugins import PluginRegistry

    registry = PluginRegistry()
    for name in settings.medium:
        with contextlib.suppress(PluginError):
            settings.medium_config(name, registry)


def gaps(settings: Settings) -> list[str]:
    """What a configuration lacks to be of use, in words."""
    wanted = {"agent": settings.agent, "medium": settings.medium, "pool": settings.pool}
    return [f"no [{family}.NAME] is in staddle.toml" for family, tables in wanted.items() if not tables]


async def _await_usable(settings: Settings) -> list[str]:
    """Wait a moment for agents and media to be seen; those that are still away, in words."""
    end = time.monotonic() + UP_WAIT_S
    while True:
        document = await _status(settings)
        away = [f"agent {a['name']} is {a['state']}" for a in document["agents"] if a["state"] != "up"]
        bad = [m for m in document["media"] if m["state"] not in {"up", "busy"}]
        # One that was taken out of the configuration does not come back by waiting.
        awaited = away or any(m["state"] != "retired" for m in bad)
        if not awaited or time.monotonic() >= end:
            return away + [
                f"medium {m['name']}{' at ' + m['path'] if m['path'] else ''} is {m['state']}: {m['message']}"
                for m in bad
            ]
        await asyncio.sleep(0.1)


@click.command()
@home_option
@json_option
def down(home: str | None, as_json: bool) -> None:
    """Stop this home's daemons, agents first."""
    from staddle.client.connection import home_from_environment
    from staddle.config import load
    from staddle.daemon.supervise import stop_all

    stopped = stop_all(load(home_from_environment(home)))
    if as_json:
        click.echo(json.dumps(stopped))
        return
    for part in stopped:
        say(f"{part} is down")
    if not stopped:
        say("nothing runs")


@click.command()
@home_option
@json_option
def status(home: str | None, as_json: bool) -> None:
    """Manager, agents and media, and how they are. Works when the manager is down, too.

    On a host that has joined a grid: what the manager says of it.
    """
    from staddle.cli.joined import in_words, joined_grid, joined_status
    from staddle.client.connection import home_from_environment
    from staddle.config import load

    where = ""
    if joined := joined_grid(home):
        document = run_loop(joined_status(joined))
    else:
        settings = load(home_from_environment(home))
        document, where = run_loop(_status(settings)), settings.home
    if as_json:
        click.echo(json.dumps(document))
        return
    if joined:
        say(in_words(joined))
    else:
        for line in gaps(settings):
            say(f"staddle: {line}", err=True)
    _show_status(document, where)


def _show_status(document: dict[str, Any], home: str) -> None:
    """In words. `home` is empty on a host that has joined."""
    manager = document["manager"]
    say(f"manager {manager['state']}  {manager['url']}  pid {manager['pid'] or '-'}")
    table(
        ["agent", "state", "url", "pid"],
        [[a["name"], a["state"], a["url"], a["pid"] or "-"] for a in document["agents"]],
    )
    rows = [[m["name"], m["state"], m["plugin"], _free_text(m), m["path"]] for m in document["media"]]
    table(["medium", "state", "plugin", "free", "path"], rows)
    if manager["state"] in {"down", "silent"}:
        # It is the reason why all of them are unknown: said once.
        why = (
            "the manager does not answer; `staddle up` starts what is missing" if home else manager["message"]
        )
        say(f"staddle: {why}", err=True)
        return
    if home and not manager["pid"]:
        say(
            f"staddle: a manager of this grid answers at {manager['url']}, but none was started from "
            f"{home}; is this a copy of another home? two must not be used at once",
            err=True,
        )
    for medium in document["media"]:
        if medium["message"]:
            say(f"staddle: medium {medium['name']}: {medium['message']}", err=True)
    for line in damage_lines(document):
        say(f"staddle: {line}", err=True)


def _free_text(medium: dict[str, Any]) -> str:
    return size_text(medium["free_bytes"]) if medium["free_bytes"] or medium["state"] == "up" else "-"


async def _status(settings: Settings) -> dict[str, Any]:
    from staddle.client.connection import GridConnection, local_settings
    from staddle.daemon import runfiles
    from staddle.wire.ops.admin import STATUS, Status

    home = settings.home
    found = None
    try:
        async with GridConnection(local_settings(home)) as grid:
            found = await grid.manager.call(STATUS, Status(), timeout_s=5.0)
    except StaddleError as error:
        problem = error.message
    run = runfiles.running(home, "manager")
    manager = {
        "pid": run.pid if run else 0,
        "pids": run.pids if run else [],
        "url": settings.manager.listen,
        "state": found.state if found else ("silent" if run else "down"),
    }
    agents = []
    for name, agent in settings.agent.items():
        run = runfiles.running(home, f"agent-{name}")
        known = next((each for each in found.agents if each.name == name), None) if found else None
        state = known.state if known and run else ("unknown" if run else "down")
        agents.append(
            {
                "name": name,
                "pid": run.pid if run else 0,
                "pids": run.pids if run else [],
                "url": agent.listen,
                "state": state,
            }
        )
    media = [
        {
            "name": name,
            "plugin": medium.plugin,
            "state": "unknown",
            "path": settings.path_of(name),
            "free_bytes": 0,
            "message": "" if found else problem,
            "bad_copies": 0,
        }
        for name, medium in settings.medium.items()
    ]
    if found:
        media = [msgspec.to_builtins(medium) for medium in found.media]
    damage = {"damaged": found.damaged if found else 0, "lost": found.lost if found else 0}
    return {"manager": manager, "agents": agents, "media": media, "damage": damage}
