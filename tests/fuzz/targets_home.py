"""Targets that lie in a home or come from a user: op-log, library, configuration, run files, command line."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from typing import Any
from unittest import mock

import click
import msgspec
from targets import Target, in_file, samples, scratch

from staddle import typed
from staddle.api.catalog import Record
from staddle.catalog import logformat
from staddle.catalog.logrecovery import scan_log
from staddle.catalog.snapshots import Snapshot, read_snapshot, write_snapshot
from staddle.cli import cli
from staddle.client import connection
from staddle.client.exclude import Excludes
from staddle.cluster.single import SingleClusterManager
from staddle.config import initial_text, load
from staddle.daemon import runfiles
from staddle.dedup.ownermap import OwnerMap
from staddle.engine import ops
from staddle.engine.state import GridState
from staddle.errors import StaddleError
from staddle.platform.durable import Files
from staddle.platform.lock import FileLock
from staddle.secrets import SecretRef, redact
from staddle.wrap.fault import FaultLayer

GRID = bytes(range(16))
SALT = bytes(range(32))
HEADER = logformat.LogHeader(grid=GRID, epoch=1, first_lsn=1, salt=SALT)


# --- op-log --------------------------------------------------------------------------------------


def _log_bytes(payloads: list[bytes]) -> bytes:
    data = logformat.encode_header(HEADER)
    for payload in payloads:
        check = logformat._check(SALT, len(data), payload)
        data += logformat._FRAME.pack(logformat.FRAME_MAGIC, len(payload), check) + payload
    return data


def _records() -> list[bytes]:
    grid = Record(1, 1, "grid_created", {"grid": GRID})
    return [
        msgspec.msgpack.encode([grid]),
        msgspec.msgpack.encode([Record(1, 2, "epoch_begun", {"epoch": 1, "at_ns": 5})]),
    ]


def _oplog(data: bytes) -> None:
    name = logformat.file_name(1, 1)
    in_file(f"oplog/{name}", data)
    scan_log(os.path.join(scratch(), "oplog"), GRID)


def _oplog_inside(payload: bytes) -> None:
    view = memoryview(_log_bytes([payload]))
    header = logformat.decode_header(view, "log", GRID)
    end = logformat.HEADER_BYTES
    for place, found in logformat.read_frames(view, header, "log"):
        end = place
        for record in found:
            with contextlib.suppress(KeyError, msgspec.ValidationError):
                ops.from_args(record.op, record.args)
    logformat.judge_tail(view, end, header)


def _op(data: bytes) -> None:
    """An op's arguments, as a record of the log or a snapshot has them."""
    kinds = list(ops.TYPES)
    try:
        args = typed.unpack(data[1:], dict[str, Any])
    except msgspec.MsgspecError:
        return
    state = GridState()
    state._decode(Record(1, 1, kinds[(data or b"\0")[0] % len(kinds)], args))


def _op_seeds() -> list[bytes]:
    return [
        bytes([number]) + msgspec.msgpack.encode(value)
        for number, kind in enumerate(ops.TYPES.values())
        for value in samples(kind)
    ]


def _snapshot(data: bytes) -> None:
    in_file(f"snapshots/snapshot-{5:016x}.snap", data)
    read_snapshot(os.path.join(scratch(), "snapshots"), GRID, 5)


def _snapshot_seeds() -> list[bytes]:
    directory = os.path.join(scratch(), "snapshot-seed")
    os.makedirs(directory, exist_ok=True)
    write_snapshot(directory, GRID, Snapshot(1, 5, GridState().dump()), Files())
    with open(os.path.join(directory, os.listdir(directory)[0]), "rb") as file:
        return [file.read()]


# --- home and user -------------------------------------------------------------------------------

CONFIG = initial_text(
    grid_id=GRID.hex(), grid_name="g", manager_url="tcp://127.0.0.1:7420",
    agent_urls=["tcp://127.0.0.1:7421", "tcp://127.0.0.1:7422"],
).encode()  # fmt: skip
_MORE = b"""
[medium.s3]
plugin = "directory"
path = "x"
deadline_s = 3.5
throttle_bytes_per_s = 100000000
failure_domain = "r1"
secret = {file = "a", env = "B"}
[domain.small]
chunk_min_bytes = 1024
chunk_average_bytes = 4096
chunk_max_bytes = 16384
[pool."q"]
media = ["m1", "s3"]
domain = "small"
copies = 2
"""


def _config(data: bytes) -> None:
    settings = load(os.path.dirname(in_file("home/staddle.toml", data)))
    for name in settings.agent:
        settings.media_of(name)
    for name in settings.medium:
        settings.path_of(name)


def _client_toml(data: bytes) -> None:
    connection.joined_settings(in_file("client/client.toml", data))


def _run_file(data: bytes) -> None:
    """A daemon holds the lock, and its file says anything."""
    home = os.path.dirname(os.path.dirname(in_file("running/run/manager.json", data)))
    _held(os.path.join(home, "run", "manager.lock"))
    runfiles.running(home, "manager")


@functools.cache
def _held(path: str) -> FileLock:
    lock = FileLock(path)
    assert lock.acquire()
    return lock


def _lease(data: bytes) -> None:
    in_file("cluster/manager.epoch", data)
    from staddle.cluster.plugin import SingleConfig

    SingleClusterManager(SingleConfig(path=os.path.join(scratch(), "cluster")))._read("manager")


def _fault(data: bytes) -> None:
    FaultLayer(in_file("faults.json", data), sleep=lambda _: None)._read()


def _owner_map(data: bytes) -> None:
    OwnerMap.from_bytes(data).masks("a1")


def _secret(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    redact(text)
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        ref = msgspec.json.decode(data, type=SecretRef)
        if ref.file is None:
            ref.resolve()


def _exclude(data: bytes) -> None:
    patterns, _, path = data.partition(b"\n")
    directory, _, name = path[:200].rpartition(b"/")
    Excludes([each for each in patterns[:200].split(b"|") if each]).match(directory, name)


_STARTS = ("up", "demo", "init", "daemon")
"""Commands that would start processes or write homes: they get words that they refuse."""


def _cli(data: bytes) -> None:
    """A command line against a home where nothing runs. Arguments are separated by NUL or line ends."""
    words = data.decode("utf-8", "replace").replace("\n", "\0").split("\0")[:40]
    if any(word in _STARTS for word in words):
        words.append("--no-such-option")
    quiet = io.StringIO()
    environment = {"STADDLE_HOME": _cli_home(), "STADDLE_CLIENT": _cli_home(), "HOME": _cli_home()}
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch("staddle.client.connection.CONNECT_TIMEOUT_S", 0.2),
        mock.patch("subprocess.Popen", side_effect=OSError("no processes here")),
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        cli.main([word for word in words if word], standalone_mode=False, prog_name="staddle")


@functools.cache
def _cli_home() -> str:
    in_file("cli-home/staddle.toml", CONFIG.replace(b":742", b":1742"))
    return os.path.join(scratch(), "cli-home")


_COMMANDS = """\
status
ls
ls 3 /etc
ls latest
find *.txt --backup 3 --limit 4
sql 'select 1' --limit 5 --json
backup /tmp --name n --pool p --exclude *.o --streams 2 --full --json
restore latest --to /x --name n /a
restore 3 --to /x
verify --json
verify 3
prune 1 2 --dry-run
prune --keep 3
doctor --json
job list
job show 3
job watch 3
job cancel 3
client token h --valid 5
client join stj1.x@h:1
plugin list
plugin show directory
catalog verify
catalog rebuild --yes
key show
key export f
down --json
--help
--version
ls --help
""".splitlines()
_OPTIONS = [word.encode() for line in _COMMANDS for word in line.split()] + [
    b"\0",
    b"--",
    b"-",
    b"=",
    b"--home",
    b"--yes",
]
_CLI_EXPECTED = (StaddleError, click.ClickException, click.exceptions.Exit, click.Abort, OSError, SystemExit)
_TOML = [
    b"[medium.",
    b"]\n",
    b" = ",
    b"[",
    b'"""',
    b"'''",
    b"{",
    b"}",
    b"inf",
    b"nan",
    b"1979-05-27",
    b"0x",
    b"\\u0000",
]

TARGETS = [
    Target(
        "oplog",
        _oplog,
        lambda: [_log_bytes(_records()), _log_bytes(_records()) + bytes(4096)],
        words=[b"\xf5SLF"],
    ),
    Target("oplog-inside", _oplog_inside, _records, "msgpack"),
    Target("op", _op, _op_seeds, "tagged"),
    Target("snapshot", _snapshot, _snapshot_seeds),
    Target("state", GridState.load, lambda: [GridState().dump()], "msgpack"),
    Target(
        "owner-map",
        _owner_map,
        lambda: [OwnerMap.everyone().move(3, "a1").to_bytes()],
        "text",
        words=[b'""', b"null"],
    ),
    Target("config", _config, lambda: [CONFIG, CONFIG + _MORE], "text", words=_TOML),
    Target(
        "client-toml",
        _client_toml,
        lambda: [b'name = "h"\ngrid = "00"\nmanagers = ["tcp://h:1"]\n'],
        "text",
        words=_TOML,
    ),
    Target(
        "run-file",
        _run_file,
        lambda: [b'{"part":"manager","pid":3,"pids":[3,4],"urls":["unix:///x"]}'],
        "text",
    ),
    Target("lease", _lease, lambda: [b'{"version":1,"epoch":5,"holder":"3","ttl_s":15.0}'], "text"),
    Target(
        "fault-rules",
        _fault,
        lambda: [b'[{"op":"put","error":"io","after_calls":3,"probability":0.5}]'],
        "text",
    ),
    Target(
        "secret",
        _secret,
        lambda: [b'{"env":"X"}', b"password=hunter2 x:/" + b"/u:p@h Bearer abcdefghij"],
        "text",
    ),
    Target(
        "exclude",
        _exclude,
        lambda: [b"*.o|/a/**/b|[a-z]x|\\[\n/home/u/x.o", b"*a*b*c\n/a/b"],
        "text",
        words=[b"*", b"**", b"[!", b"]"],
    ),
    Target(
        "cli",
        _cli,
        lambda: [line.replace(" ", "\0").encode() for line in _COMMANDS],
        "text",
        _CLI_EXPECTED,
        _OPTIONS,
    ),
]
