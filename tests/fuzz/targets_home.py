"""Targets that lie in a home: op-log, owner map, run files, and what else a part reads back."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from importlib import metadata
from typing import Any

import msgspec
from targets import Target, in_file, samples, scratch, scratch_dir
from targets_user import TOML_WORDS

from staddle import typed
from staddle.api.catalog import Record
from staddle.api.transport import Credentials
from staddle.catalog import logformat
from staddle.catalog.logrecovery import scan_log
from staddle.catalog.snapshots import Snapshot, read_snapshot, write_snapshot
from staddle.client import connection
from staddle.cluster.single import SingleClusterManager
from staddle.daemon import runfiles
from staddle.daemon.agent import control
from staddle.daemon.agent.epochfile import load_epoch
from staddle.daemon.manager.joining import TokenDesk
from staddle.daemon.setup import Identities
from staddle.data.crypto import DomainKeys
from staddle.dedup.ownermap import OwnerMap
from staddle.engine import ops
from staddle.engine.state import GridState
from staddle.platform.durable import Files
from staddle.platform.lock import FileLock
from staddle.plugins import PluginRegistry
from staddle.secrets import SecretRef, redact
from staddle.wire import pki
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


def _epoch(data: bytes) -> None:
    load_epoch(in_file("epoch/manager-epoch", data))


def _domain_keys(data: bytes) -> None:
    """The unpacked keys of a home's dedup domains."""
    in_file("keys/pki/domains.keys", data)
    identities: Any = object.__new__(Identities)
    identities._pki = scratch_dir("keys/pki")
    for name, keys in identities.domains().items():
        assert isinstance(name, str)
        keys.fingerprint(b"x")


def _used_tokens(data: bytes) -> None:
    in_file("tokens/used-tokens", data)
    desk: Any = object.__new__(TokenDesk)
    desk._path = os.path.join(scratch_dir("tokens"), "used-tokens")
    desk._used()


def _ready(line: bytes) -> None:
    """What an agent's data process says to its control process."""
    control._read_ready(io.BytesIO(line))


@functools.cache
def _authority() -> dict[str, bytes]:
    directory = scratch_dir("authority-seed")
    pki.make_ca(directory, GRID)
    found = {}
    for name in pki._CA_FILES:
        with open(os.path.join(directory, name), "rb") as file:
            found[name] = file.read()
    return found


def _ca_files(data: bytes) -> None:
    """The first byte says which file of the authority is another one."""
    other = pki._CA_FILES[(data or b"0")[0] % len(pki._CA_FILES)]
    for name, sound in _authority().items():
        in_file(f"authority/{name}", data[1:] if name == other else sound)
    pki.CertificateAuthority.load(scratch_dir("authority"))


def _own_certificate(pem: bytes) -> None:
    path = in_file("own/own.crt", pem)
    authority = in_file("own/ca.crt", _authority()[pki._CA_FILES[0]])
    with warnings.catch_warnings(action="ignore"):  # of certificates that a later parser will refuse
        pki.check_own(Credentials(ca_file=authority, cert_file=path, key_file=path))


def _own_seeds() -> list[bytes]:
    _ca_files(b"0" + _authority()[pki._CA_FILES[0]])
    return [pki.CertificateAuthority.load(scratch_dir("authority")).issue("a1", "agent").cert_pem]


class _Installed(metadata.Distribution):
    """A distribution by its two files, behind NUL the entry points."""

    def __init__(self, data: bytes) -> None:
        head, _, points = data.decode("utf-8", "surrogateescape").partition("\0")
        self._files = {"METADATA": head, "entry_points.txt": points}

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


def _plugin_metadata(data: bytes) -> str:
    """A broken plugin is a line, never a crash; nothing is imported."""
    registry = PluginRegistry(lambda: [_Installed(data)])
    for info in registry.all():
        assert info.state == "found"
    for problem in registry.problems():
        assert problem.code in {"METADATA", "DUPLICATE"}
    return f"{len(registry.all())} found, {[problem.message[:60] for problem in registry.problems()]}"


def _owner_map(data: bytes) -> None:
    OwnerMap.from_bytes(data).masks("a1")


def _secret(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    redact(text)
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        ref = msgspec.json.decode(data, type=SecretRef)
        if ref.file is None:
            ref.resolve()


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
    Target(
        "client-toml",
        _client_toml,
        lambda: [b'name = "h"\ngrid = "00"\nmanagers = ["tcp://h:1"]\n'],
        "text",
        words=TOML_WORDS,
    ),
    Target(
        "run-file",
        _run_file,
        lambda: [b'{"part":"manager","pid":3,"pids":[3,4],"urls":["unix:///x"]}'],
        "text",
    ),
    Target("agent-epoch", _epoch, lambda: [b"5\n", b"17 3c1c8d1d\n"], "text"),
    Target(
        "domain-keys",
        _domain_keys,
        lambda: [msgspec.msgpack.encode(each) for each in (samples(list[DomainKeys]), [])],
        "msgpack",
    ),
    Target("used-tokens", _used_tokens, lambda: [b'{"00ff":5,"aa":9223372036854775807}'], "text"),
    Target("ready", _ready, lambda: [b'{"urls":["unix:///x"],"pid":5}\n'], "text"),
    Target(
        "ca-files",
        _ca_files,
        lambda: [b"%d" % at + data for at, data in enumerate(_authority().values())],
        "text",
        words=[b"-----BEGIN", b"-----END", b"PRIVATE KEY-----", b"\n"],
    ),
    Target("own-certificate", _own_certificate, _own_seeds, "text"),
    Target(
        "plugin-metadata",
        _plugin_metadata,
        lambda: [b"Metadata-Version: 2.1\nName: x\nVersion: 1\n\0[staddle.plugins]\nx = a.b:c [d]\n"],
        "text",
        words=[b"\0", b"[staddle.plugins]\n", b"[", b"]", b" = ", b"Name: ", b"Version: "],
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
]
