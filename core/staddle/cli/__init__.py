"""The command line. Commands are imported when they are used, so `staddle --help` is instant."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from typing import NoReturn

import click

from staddle import __version__
from staddle.errors import Cancelled, StaddleError, UsageError

# name -> (module, help line): help is printed from here, without importing the command.
BARE: dict[str, tuple[str, str]] = {
    "init": ("staddle.cli.grid", "Make a new grid: home, keys, certificates, media."),
    "up": ("staddle.cli.grid", "Start what is missing of this home's daemons."),
    "down": ("staddle.cli.grid", "Stop this home's daemons."),
    "status": ("staddle.cli.grid", "Manager, agents and media, and how they are."),
    "backup": ("staddle.cli.backup", "Back up files and directories."),
    "restore": ("staddle.cli.restore", "Restore a backup, or parts of it."),
    "ls": ("staddle.cli.browse", "List backups, or a directory in a backup."),
    "find": ("staddle.cli.browse", "Find files by name in all backups."),
    "verify": ("staddle.cli.verify", "Check that backups can be restored."),
    "prune": ("staddle.cli.prune", "Remove backups, and free what only they used."),
    "doctor": ("staddle.cli.doctor", "Check this home and its plugins; say what to do."),
    "sql": ("staddle.cli.browse", "Query the catalog's documented views."),
    "demo": ("staddle.cli.demo", "One job survives the loss of its agent and of a medium."),
}
NOUNS: dict[str, tuple[str, str]] = {
    "job": ("staddle.cli.job", "Jobs: list, show, watch, cancel."),
    "client": ("staddle.cli.client", "Clients on other hosts: token, join."),
    "plugin": ("staddle.cli.plugin", "Plugins: list, show."),
    "catalog": ("staddle.cli.catalog", "The catalog: rebuild, verify, diff."),
    "key": ("staddle.cli.key", "The recovery key: show, export."),
    "daemon": ("staddle.cli.daemon", "Run a daemon in the foreground."),
}


class LazyGroup(click.Group):
    """A group whose commands are named in a table and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the table's order; plugins' commands are asked for only when one is missing."""
        return [*BARE, *NOUNS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and take the attribute of its name; else ask the plugins."""
        entry = BARE.get(cmd_name) or NOUNS.get(cmd_name)
        if entry is None:
            return _plugin_command(cmd_name)
        module = importlib.import_module(entry[0])
        command = getattr(module, cmd_name.replace("-", "_"))
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry[0]}.{cmd_name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table itself: no import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in BARE.items()])
        with formatter.section("Objects"):
            formatter.write_dl([(name, text) for name, (_, text) in NOUNS.items()])


def _plugin_command(name: str) -> click.Command | None:
    from staddle.plugins import PluginRegistry

    return next((command for command in PluginRegistry().commands() if command.name == name), None)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="staddle")
def cli() -> None:
    """Staddle: a backup grid whose jobs survive the loss of an agent, a path or a medium, in mid-stream."""


def fail(error: StaddleError, *, as_json: bool) -> NoReturn:
    """Print one error for a person or a program, and end with its exit code."""
    if as_json:
        text = {
            "message_type": "exit_error",
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        click.echo(json.dumps(text), err=True)
    else:
        click.echo(f"staddle: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
    sys.exit(error.exit_code)


def _start_lightly() -> None:
    """Halve the time of the imports. Every process of the grid begins here, daemons too."""
    # What is imported stays: looking through it for garbage again and again finds none.
    gc.set_threshold(50_000, 20, 100)
    # numpy's linear algebra, which nobody calls, would start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> NoReturn:
    """Entry point: every error becomes one message and the right exit code."""
    as_json = "--json" in sys.argv[1:]
    _start_lightly()
    try:
        code = cli.main(standalone_mode=False, prog_name="staddle")
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail(Cancelled("interrupted", exit_code=130), as_json=as_json)
    except click.ClickException as error:
        if as_json:
            fail(UsageError(error.format_message(), hint="--help"), as_json=True)
        error.show()
        sys.exit(2)
    except StaddleError as error:
        fail(error, as_json=as_json)
    except BrokenPipeError:
        # The reader of our output went away; nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        what = f"{error.strerror or error}" + (f": {error.filename!r}" if error.filename else "")
        fail(StaddleError(what, hint="check the path and its permissions"), as_json=as_json)
    sys.exit(code if isinstance(code, int) else 0)
