"""The command line. Commands are imported when they are used, so `staddle --help` is instant."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from typing import Any, NoReturn

import click

from staddle import __version__
from staddle.cli import streams
from staddle.cli.problems import from_bug, from_click, from_os
from staddle.errors import Cancelled, ConfigError, StaddleError
from staddle.text import visible

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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a slip of the pen is told what was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], self.list_commands(ctx), 1)
            if close:
                raise click.UsageError(
                    f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx
                ) from error
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, but an interruption is ours to tell, and so is a broken connection."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # not of our own output (`streams`): click would end without a word
            raise from_bug(error) from error
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # the terminal has shown ^C
            raise Cancelled("interrupted", exit_code=130) from None

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
    try:
        print_error(error, as_json=as_json)
    except OSError:
        os._exit(error.exit_code)
    _end(error.exit_code)


def _tell(text: str, exit_code: int) -> NoReturn:
    """Print many lines for a person on stderr, and end."""
    try:
        click.echo(text, err=True)
    except OSError:
        os._exit(exit_code)
    _end(exit_code)


def _end(exit_code: int) -> NoReturn:
    """End with that code, also if nobody can be told why."""
    try:
        streams.flush()
    except OSError:
        os._exit(exit_code)
    sys.exit(exit_code)


def print_error(error: StaddleError, *, as_json: bool) -> None:
    """`staddle: what and where; what to do`, one line. Only a configuration's problems are a line each."""
    if as_json:
        text = {
            "message_type": "exit_error",
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        click.echo(json.dumps(text), err=True)
        return
    several = error.message.split("\n") if isinstance(error, ConfigError) else [error.message]
    lines = [visible(line) for line in several if line.strip()] or [error.code]
    if error.hint:
        lines[-1] += f"; {visible(error.hint)}"
    for line in lines:
        click.echo(f"staddle: {line}", err=True)


def _start_lightly() -> None:
    """Halve the time of the imports. Every process of the grid begins here, daemons too."""
    # What is imported stays: looking through it for garbage again and again finds none.
    gc.set_threshold(50_000, 20, 100)
    # numpy's linear algebra, which nobody calls, would start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> NoReturn:
    """Entry point: every error becomes one message and the right exit code."""
    as_json = "--json" in sys.argv[1:]
    try:
        streams.prepare()
        _start_lightly()
        code = cli.main(standalone_mode=False, prog_name="staddle")
        streams.flush()
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail(Cancelled("interrupted", exit_code=130), as_json=as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        _tell(error.format_message(), error.exit_code)
    except click.ClickException as error:
        fail(from_click(error), as_json=as_json)
    except StaddleError as error:
        fail(error, as_json=as_json)
    except OSError as error:
        fail(from_os(error), as_json=as_json)
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        fail(from_bug(error), as_json=as_json)
    sys.exit(code if isinstance(code, int) else 0)
