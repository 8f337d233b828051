"""`staddle doctor`: what is wrong with this home and its plugins, and what to do."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from staddle.cli.grid import gaps, home_option, json_option
from staddle.cli.output import say
from staddle.config import Settings
from staddle.errors import StaddleError
from staddle.obs.health import Finding, Level, worst
from staddle.platform.eventloop import run_loop

if TYPE_CHECKING:
    from staddle.client.connection import ClientSettings

_PROBLEM_LIMIT = 100


@click.command()
@home_option
@json_option
def doctor(home: str | None, as_json: bool) -> None:
    """Check plugins, configuration, keys, daemons and media. Exit 1 if something is broken."""
    findings = list(_findings(home))[:_PROBLEM_LIMIT]
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(finding) for finding in findings]))
    else:
        for finding in findings:
            say(f"{finding.level.value:4} {finding.code:20} {finding.message}")
            if finding.hint:
                say(f"{'':25} {finding.hint}")
        say(f"{worst(findings).value:4} in all")
    if worst(findings) is Level.ERR:
        sys.exit(1)


def _findings(home: str | None) -> Iterator[Finding]:
    from staddle.cli.joined import in_words, joined_grid
    from staddle.client.connection import home_from_environment, local_settings
    from staddle.config import load
    from staddle.plugins import PluginRegistry

    registry = PluginRegistry()
    problems = registry.problems(load=True)
    for problem in problems:
        yield Finding(Level.ERR, "PLUGIN_LOAD_FAILED", f"{problem.name}: {problem.message}", problem.hint)
    if not problems:
        yield Finding(Level.OK, "PLUGINS", f"{len(registry.all())} plugins can be loaded")
    try:
        if joined := joined_grid(home):
            yield Finding(Level.OK, "CONFIG", in_words(joined))
            yield from run_loop(_grid(joined, set(), set()))
            return
        settings = load(home_from_environment(home))
        for name in settings.medium:
            settings.medium_config(name, registry)
    except StaddleError as error:
        yield Finding(Level.ERR, "CONFIG", error.message, error.hint)
        return
    if lacking := "; ".join(gaps(settings)):
        yield Finding(Level.ERR, "CONFIG", lacking, "add the table, then staddle down and staddle up")
    yield Finding(Level.OK, "CONFIG", f"{len(settings.agent)} agents, {len(settings.medium)} media")
    yield from _keys(settings)
    yield from run_loop(_grid(local_settings(settings.home), set(settings.agent), set(settings.medium)))


def _keys(settings: Settings) -> Iterator[Finding]:
    from staddle.config import home_paths
    from staddle.daemon.setup import RECOVERY_KEY_NAME, Identities

    pki = home_paths(settings.home).pki
    try:
        Identities(settings).domains()
    except StaddleError as error:
        yield Finding(Level.ERR, "KEYS_UNREADABLE", error.message, error.hint)
    if os.name == "posix" and stat.S_IMODE(os.stat(pki).st_mode) & 0o077:
        yield Finding(Level.ERR, "KEYS_EXPOSED", f"{pki} can be read by others", f"chmod 700 {pki}")
    kept = os.path.exists(os.path.join(pki, RECOVERY_KEY_NAME))
    if kept and not os.path.exists(os.path.join(pki, "recovery.exported")):
        yield Finding(
            Level.WARN,
            "RECOVERY_KEY_HERE",
            "the recovery key was not exported: with this host everything would be lost",
            "staddle key export FILE, then move FILE away from this host",
        )
    else:
        yield Finding(Level.OK, "RECOVERY_KEY", "the recovery key was exported")


async def _grid(settings: ClientSettings, agents: set[str], media: set[str]) -> list[Finding]:
    """What the manager says; `agents` and `media` are those that this host's configuration names."""
    from staddle.cli.joined import ask_status

    try:
        found = await ask_status(settings)
    except StaddleError as error:
        return [Finding(Level.ERR, "MANAGER_DOWN", error.message, error.hint or "staddle up")]
    findings = [
        Finding(Level.OK, "MANAGER", f"epoch {found.epoch}, commits take {found.commit_ms_p50:.1f} ms")
    ]
    if found.state != "up":
        hint = "run `staddle catalog rebuild`"
        findings = [Finding(Level.ERR, "REBUILD_NEEDED", "the log does not know what is on the media", hint)]
    for agent in found.agents:
        level = Level.OK if agent.state == "up" else Level.ERR
        code = "AGENT" if level is Level.OK else "AGENT_DOWN"
        # On a host that has joined there is nothing to start.
        hint = "" if level is Level.OK else "staddle up" if agents else "on the grid's own host: staddle up"
        findings.append(Finding(level, code, f"{agent.name} is {agent.state}", hint))
    for medium in found.media:
        level = Level.OK if medium.state == "up" else Level.ERR
        code = "MEDIUM" if level is Level.OK else "MEDIUM_DOWN"
        text = f"{medium.name} is {medium.state}" + (f": {medium.message}" if medium.message else "")
        findings.append(Finding(level, code, text))
    missing = sorted(agents - {agent.name for agent in found.agents})
    missing += sorted(media - {medium.name for medium in found.media})
    if missing:
        text = f"{', '.join(missing)}: in the configuration, but not in the grid that runs"
        findings.append(Finding(Level.WARN, "NOT_IN_USE", text, "staddle down, then staddle up"))
    if found.commit_ms_p99 > 5.0:
        text = f"1 of 100 commits of the log takes more than {found.commit_ms_p99:.1f} ms"
        findings.append(Finding(Level.WARN, "LOG_SLOW", text, "put the home's manager/ on a faster disk"))
    return findings
