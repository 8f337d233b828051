"""The tools that are compared, each on a fresh repository at its defaults with encryption, and the floors.

A tool is a set of commands; nothing of how they are measured stands here. `floor` is no backup tool: it does
the least that any of them must do, so that one sees how much is left to be gained.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from measuring import Failed

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.path.dirname(os.path.dirname(HERE)), ".bench")
BORG = "1.4.5"
STEPS = ("first", "unchanged", "second", "verify", "restore")
PREPARE_S = 900.0
LONG_NAME = "on-a-path-that-is-too-long-for-a-local-socket-" + "x" * 64
Command = Callable[[str, str], list[str]]


@dataclass
class Tool:
    """Commands of one tool.

    Attributes:
        name: as in the tables.
        config: version and configuration, for the report.
        commands: by step, from (source, place for restored files). A step it has not is left out.
        store: directory whose growth is what it stores.
        beside: directories of caches and catalogs that it could do without.
        environment: what its commands get beside ours.
        daemons: process ids of those that serve it.
    """

    name: str
    config: str
    commands: dict[str, Command]
    store: str
    beside: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    daemons: list[int] = field(default_factory=list)


def ask(argv: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a command that prepares something, unmeasured; what it printed. Raises Failed."""
    try:
        done = subprocess.run(
            argv, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False,
            timeout=PREPARE_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"`{' '.join(argv)}`: {error}") from error
    if done.returncode:
        raise Failed(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def staddle_program() -> list[str]:
    """The command as users call it: the script beside this Python."""
    script = shutil.which("staddle", path=os.path.dirname(sys.executable))
    return [script] if script else [sys.executable, "-m", "staddle"]


def borg_program(cache: str = CACHE) -> str:
    """Borg of the release line that the targets name: built once from PyPI, else whatever is installed."""
    directory = os.path.join(cache, f"borg-{BORG}-python{platform.python_version()}")
    program = os.path.join(directory, "bin", "borg")
    if not os.path.exists(program) and not os.environ.get("STADDLE_NO_INSTALL"):
        print(f"building borg {BORG} in {directory}", file=sys.stderr, flush=True)
        pip = [os.path.join(directory, "bin", "python"), "-m", "pip", "--disable-pip-version-check"]
        try:
            ask([sys.executable, "-m", "venv", "--clear", directory])
            ask([*pip, "install", "--quiet", f"borgbackup=={BORG}"])
        except Failed as problem:
            shutil.rmtree(directory, ignore_errors=True)
            print(f"borg {BORG} can't be built: {str(problem)[-600:]}", file=sys.stderr)
    if os.path.exists(program):
        return program
    found = shutil.which("borg")
    if found is None:
        raise Failed("borg is not installed")
    return found


@contextlib.contextmanager
def borg(work: str, name: str) -> Iterator[Tool]:
    """Borg at its defaults; encryption as its manual advises for x86-64."""
    program, repo = borg_program(), os.path.join(work, "borg")
    environment = {"BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": os.path.join(work, "borg-base")}
    ask([program, "init", "-e", "repokey-blake2", repo], environment)
    numbers = iter(range(1000))
    last = ""

    def create(source: str, _out: str) -> list[str]:
        nonlocal last
        last = f"{repo}::{next(numbers)}"
        return [program, "create", last, source]

    commands: dict[str, Command] = dict.fromkeys(("first", "unchanged", "second"), create)
    commands["verify"] = lambda source, out: [program, "check", "--verify-data", repo]
    commands["restore"] = lambda source, out: [program, "extract", last]
    version = ask([program, "--version"]).strip()
    yield Tool(
        name, f"{version}, repokey-blake2", commands, repo, [environment["BORG_BASE_DIR"]], environment
    )


@contextlib.contextmanager
def restic(work: str, name: str) -> Iterator[Tool]:
    """Restic at its defaults: it always encrypts."""
    if not shutil.which("restic"):
        raise Failed("restic is not installed")
    environment = {
        "RESTIC_PASSWORD": "bench",
        "RESTIC_REPOSITORY": os.path.join(work, "restic"),
        "RESTIC_CACHE_DIR": os.path.join(work, "restic-cache"),
    }
    ask(["restic", "init"], environment)
    commands: dict[str, Command] = dict.fromkeys(
        ("first", "unchanged", "second"), lambda source, out: ["restic", "backup", "-q", source]
    )
    commands["verify"] = lambda source, out: ["restic", "check", "-q", "--read-data"]
    commands["restore"] = lambda source, out: ["restic", "restore", "-q", "latest", "--target", out]
    store, cache = environment["RESTIC_REPOSITORY"], environment["RESTIC_CACHE_DIR"]
    yield Tool(name, ask(["restic", "version"]).strip(), commands, store, [cache], environment)


@contextlib.contextmanager
def grid(home: str, *, tls: bool = False) -> Iterator[list[int]]:
    """A running grid of a manager, one agent and one directory medium; the daemons' process ids.

    Raises: Failed if it does not talk over what was asked for.
    """
    program = staddle_program()
    ask([*program, "init", "--home", home])
    try:
        ask([*program, "up", "--home", home])
        sockets = list(Path(home, "run").glob("*.sock"))
        if tls and sockets:
            raise Failed(f"{home} should be too long for local sockets, but there are {len(sockets)}")
        if not tls and not sockets:
            raise Failed(f"{home} is too long a path for local sockets: take a shorter --dir")
        status = json.loads(ask([*program, "status", "--json", "--home", home]))
        yield [part["pid"] for part in (status["manager"], *status["agents"])]
    finally:
        ask([*program, "down", "--home", home])


@contextlib.contextmanager
def staddle(work: str, name: str, *, tls: bool = False, streams: int = 1) -> Iterator[Tool]:
    """A grid on this host, `copies = 1`, over local sockets; or over tcp with TLS."""
    home = os.path.join(work, LONG_NAME if tls else name)
    program, environment = staddle_program(), {"STADDLE_HOME": home}
    more = ["--streams", str(streams)] if streams > 1 else []
    commands: dict[str, Command] = dict.fromkeys(
        ("first", "unchanged", "second"),
        lambda source, out: [*program, "backup", source, "--name", "bench", *more],
    )
    commands["verify"] = lambda source, out: [*program, "verify", "--read-data"]
    commands["restore"] = lambda source, out: [*program, "restore", "latest", "--name", "bench", "--to", out]
    link = "tcp with TLS on loopback" if tls else "local socket"
    config = f"{ask([*program, '--version']).strip()}, one agent, copies = 1, {link}, {streams} stream(s)"
    beside = [os.path.join(home, part) for part in ("manager", "agents")]
    with grid(home, tls=tls) as daemons:
        yield Tool(name, config, commands, os.path.join(home, "media"), beside, environment, daemons)


@contextlib.contextmanager
def floor(work: str, name: str, *, new: str = "") -> Iterator[Tool]:
    """The least that must be done: compress all new data, look at each file, write it again."""
    out = os.path.join(work, "floor.zst")
    program = [sys.executable, os.path.join(HERE, "floors.py")]
    commands: dict[str, Command] = {
        "first": lambda source, to: [*program, "zstd", os.path.join(source, new), out],
        "unchanged": lambda source, to: [*program, "stat", source],
        "restore": lambda source, to: ["cp", "-a", source, to],
    }
    config = f"{ask([*program, 'version']).strip()}; a walk with lstat; cp -a"
    yield Tool(name, config, commands, out)


TOOLS: dict[str, Callable[..., contextlib.AbstractContextManager[Tool]]] = {
    "staddle": staddle,
    "staddle-tls": lambda work, name: staddle(work, name, tls=True),
    "staddle-4": lambda work, name: staddle(work, name, streams=4),
    "borg": borg,
    "restic": restic,
    "floor": floor,
}
