"""The command line as a target: at a home where nothing runs, with a manager that reads what it sends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import subprocess
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import click
import msgspec
from targets import Target, in_file, samples, scratch, scratch_dir
from targets_user import SHORT_CONFIG, USAGE

from staddle import plugins, typed
from staddle.cli import cli, print_error
from staddle.cli.problems import from_click, from_os
from staddle.client import connection
from staddle.errors import PathLost, StaddleError, Unavailable
from staddle.platform import memory
from staddle.wire import join
from staddle.wire.messages import RequestMeta, pack
from staddle.wire.ops import admin, jobs, reading
from staddle.wire.ops.base import Operation
from staddle.wire.serving import decode_args
from staddle.wire.tcp import parse_tcp_url
from staddle.wire.tokens import read_token

_STARTS = ("up", "demo", "init", "daemon")
"""Commands that would start processes or write homes: they get words that they refuse."""
_CALLS_ANSWERED = 3
_ENTRY = ["backup", "manifest", "path", "mode", "uid", "gid", "size_bytes", "mtime_ns", "type", "link"]
_ROWS = {
    reading.LIST_BACKUPS.name: (
        ["id", "name", "client", "started_ns", "state", "files", "bytes_read", "bytes_stored", "warnings"],
        [
            [3, "n", "c\x1b[2J", 2**62, "complete", 1, 2**63 - 1, 5, 0],
            [2, "", "", None, "failed", 0, 0, 0, 9],
        ],
    ),
    reading.LIST_DIRECTORY.name: (
        _ENTRY,
        [
            [3, b"m", b"/a\xff\n", 0o4755, 0, 0, 2**63 - 1, -(2**63), 1, ""],
            [3, b"m", b"/l", 0, 0, 0, 0, 2**63 - 1, 3, "x"],
        ],
    ),
    reading.FIND.name: (_ENTRY, [[3, b"m", b"/a", 0o644, 0, 0, 5, 0, 9, ""]]),
    reading.QUERY.name: (["a", "b"], [[3, "\u202e\x1b"], [2**63, None], [0, b"\xff"]]),
}
_ANSWERED = {
    *_ROWS,
    *(jobs.LIST_JOBS.name, jobs.CANCEL_JOB.name, admin.STATUS.name, admin.PRUNE.name),
    *(admin.REBUILD_CATALOG.name, admin.VERIFY_CATALOG.name, admin.SNAPSHOT_CATALOG.name),
    admin.CREATE_TOKEN.name,
}


class _Grid:
    """A manager that takes each request as a real one does, and answers some."""

    def __init__(self, settings: Any) -> None:
        self.settings, self.manager, self.calls = settings, self, 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def call(self, operation: Operation[Any, Any], request: Any, **_: Any) -> Any:
        sent = _taken(operation, request)
        if operation.check is not None:
            operation.check(sent)
        self.calls += 1
        if self.calls > _CALLS_ANSWERED or operation.name not in _ANSWERED:
            raise Unavailable("the manager is going down")
        return _answer(operation)

    async def call_patiently(self, operation: Any, request: Any, **_: Any) -> Any:
        return await self.call(operation, request)

    async def dial(self, *_: Any) -> Any:
        raise PathLost("there is no agent")


def _taken(operation: Operation[Any, Any], request: Any) -> Any:
    """A request as the manager reads it, or refuses it."""
    head = RequestMeta(operation.name, 0, msgspec.Raw(pack(request)))
    return decode_args(head, SimpleNamespace(args=operation.request))  # type: ignore[arg-type]


@functools.cache
def _answer(operation: Operation[Any, Any]) -> Any:
    if operation.name in _ROWS:
        return operation.reply(*_ROWS[operation.name])
    return typed.convert(samples(operation.reply)[0], operation.reply, builtin_types=(bytes,))


@functools.cache
def _registry(kind: type[plugins.PluginRegistry] = plugins.PluginRegistry) -> plugins.PluginRegistry:
    return kind()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _run(work: Any) -> Any:
    """`asyncio.run` without a new loop and selector each time."""
    return _loop().run_until_complete(asyncio.wait_for(work, 5.0))


async def _no_join(url: str, token: str, **_: Any) -> Any:
    read_token(token)
    parse_tcp_url(url)
    raise PathLost("nobody is there")


@functools.cache
def _patches() -> list[Any]:
    """No processes and no network. Made once: a mock costs as much as the parser."""
    return [
        mock.patch.object(connection, "GridConnection", _Grid),
        mock.patch.object(plugins, "PluginRegistry", _registry),
        mock.patch.object(join, "join", _no_join),
        mock.patch.object(asyncio, "run", _run),
        mock.patch.object(subprocess, "Popen", mock.Mock(side_effect=OSError("not in a test"))),
        mock.patch.object(memory, "keep_freed"),
    ]


_VARIABLES = ("STADDLE_HOME", "STADDLE_CLIENT", "HOME")


@contextlib.contextmanager
def _here() -> Any:
    """The process as the command line is to find it; afterwards as it was."""
    home, place = _cli_home(), os.getcwd()
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, home))
    os.chdir(scratch_dir("cli-here"))
    try:
        with contextlib.ExitStack() as stack:
            for patch in _patches():
                stack.enter_context(patch)
            yield
    finally:
        os.chdir(place)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _cli(data: bytes) -> None:
    """A command line against a home where nothing runs. Arguments are separated by NUL or line ends."""
    words = data.decode("utf-8", "surrogateescape").replace("\n", "\0").split("\0")[:40]
    if any(word in _STARTS for word in words):
        words.append("--no-such-option")
    quiet = io.StringIO()
    quiet.isatty = lambda: False  # type: ignore[method-assign]
    with _here(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            cli.main([word for word in words if word], standalone_mode=False, prog_name="staddle")
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.ClickException as error:
            raise _told(from_click(error)) from None
        except OSError as error:
            raise _told(from_os(error)) from None
        except StaddleError as error:
            raise _told(error) from None


def _told(error: StaddleError) -> StaddleError:
    """Print it as the command line does."""
    for as_json in (False, True):
        print_error(error, as_json=as_json)
    assert error.message
    assert 0 < error.exit_code < 256
    return error


@functools.cache
def _cli_home() -> str:
    in_file("cli-home/staddle.toml", SHORT_CONFIG)
    return os.path.join(scratch(), "cli-home")


_COMMANDS = """\
status
ls
ls 3 /etc
ls latest
find *.txt --backup 3 --limit 4
find a --json
sql select%201 --limit 5 --json
backup /tmp --name n --pool p --exclude *.o --streams 2 --full --json
backup / -x --nodump --exclude-caches --exclude-larger-than 5M --exclude-if-present .x:y --iexclude A*
backup --stdin n
backup --stdin n --stdin-from-command -- false
backup --image x --name n
backup --files-from list --exclude-file list
restore latest --to x --name n /a
restore 3 --to x --overwrite never --include *.c --exclude b --owner-map root:1 --group-map 0:0
restore 3 --in-place --delete --dry-run -v
restore 3 --to - /a
restore 3 --onto x --no-owner /a
restore 3 --to x --numeric-ids --json
verify --json
verify 3 --read-data --repair
prune 1 2 --dry-run
prune --keep-last 3 --name n --yes
doctor --json
job list --limit 3
job list --json
job show 3
job watch 3
job cancel 3
client token h --valid 5
client join stj1.x@h:1
client join stj1.x --manager h:1 --dir d
plugin list --json
plugin show directory
catalog verify
catalog rebuild --json
catalog snapshot f
catalog diff f f
key show
key export f
down --json
--help
--version
ls --help
bakcup
""".splitlines()
_CLI_WORDS = [
    *sorted({word.replace("%20", " ").encode() for line in _COMMANDS for word in line.split()}),
    *(b"\0", b"--", b"-", b"=", b"--home", b"--yes", b"99999999999999999999", b"9" * 5000, b"\xff", b"/"),
]
_CLI_EXPECTED = (*USAGE, click.exceptions.Exit, click.Abort, OSError, SystemExit)


def _line(text: str) -> bytes:
    return text.replace(" ", "\0").replace("%20", " ").encode()


TARGETS = [Target("cli", _cli, lambda: list(map(_line, _COMMANDS)), "text", _CLI_EXPECTED, _CLI_WORDS)]
