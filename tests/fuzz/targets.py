"""Every parser of the product as a function from bytes to nothing: it returns, or raises what it documents.

A target that raises anything else, tells a user what Python says, takes more than a second, or makes memory
grow is a finding. Formats with checksums or seals have two targets: the bytes as they are, and (`…-inside`)
the inner part mutated and sealed again by who has the keys, since checksums would stop nearly every mutation
at the door.

Where bytes and text come from outside, and which targets read them:

- a peer (`targets_wire`): frames, link, hello, meta, error, requests, replies, agent-events, flush, record,
  ticket, token, csr, certificate, urls. Operations are found by themselves, in every module of `wire.ops`.
- a medium (`targets_media`): label, head, container, sealed, manifest, extra, seal, journal, keyring,
  object-name; the recovery key, and the rescue reader.
- a manifest, whoever gave it (`targets_backup`): restore, restore-one, extra-set, base, catalog-rows,
  committed-manifest, segment-head, read-desk.
- a home (`targets_home`, `targets_dedup`): op-log, op, state, snapshot, owner-map, dedup-…, lease, run-file,
  ready, agent-epoch, domain-keys, ca-files, own-certificate, used-tokens, client-toml, fault-rules, secret.
- a user (`targets_user`, `targets_cli`): config, cli, option, exclude, exclude-file, files-from, glob, sql.
- other distributions: plugin-metadata.

No targets of their own have: a backup's claim (16 bytes, any of them will do), names in a directory of a
medium (`object-name`), the log of a daemon that did not start (shown, not read), what /proc says, and formats
that a library reads (TLS, DuckDB files).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from staddle.errors import StaddleError

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(TESTS, "golden", "v1")


class Target(NamedTuple):
    """One parser.

    Attributes:
        name: as given to run.py.
        run: takes an input. What it returns, if it is text, tells one accepted input from another.
        seeds: where mutation begins: sound inputs.
        kind: binary, msgpack or text: which mutations fit.
        expected: what `run` may raise.
        words: byte strings that mean something to the parser.
        quick: of the subset that CI runs.
    """

    name: str
    run: Callable[[bytes], Any]
    seeds: Callable[[], list[bytes]]
    kind: str = "binary"
    expected: tuple[type[BaseException], ...] = (StaddleError,)
    words: list[bytes] = []  # noqa: RUF012 - never changed


def golden(name: str) -> bytes:
    """A golden file."""
    with open(os.path.join(GOLDEN, name), "rb") as file:
        return file.read()


def load_file(name: str, path: str) -> Any:
    """A module by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_scratch: list[tempfile.TemporaryDirectory[str]] = []


def scratch() -> str:
    """A directory in memory where there is one, removed at the end."""
    if not _scratch:
        place = "/dev/shm" if os.path.isdir("/dev/shm") else None
        _scratch.append(tempfile.TemporaryDirectory(prefix="staddle-fuzz-", dir=place))
    return _scratch[0].name


def in_file(name: str, data: bytes) -> str:
    """Write a scratch file; its path."""
    path = os.path.join(scratch_dir(os.path.dirname(name)), os.path.basename(name))
    with open(path, "wb", 0) as file:
        file.write(data)
    return path


@functools.cache
def scratch_dir(name: str) -> str:
    """A directory in `scratch`, made once."""
    path = os.path.join(scratch(), name)
    os.makedirs(path, exist_ok=True)
    return path


def samples(kind: Any) -> list[Any]:
    """Plain values that are valid as `kind`: one, or one for each alternative of a union."""
    return _samples(msgspec.inspect.type_info(kind), 0)


def _samples(info: Any, depth: int) -> list[Any]:
    inspect = msgspec.inspect
    match info:
        case inspect.Metadata():
            return _samples(info.type, depth)
        case inspect.UnionType():
            return [value for each in info.types for value in _samples(each, depth)]
        case inspect.StructType():
            return [_struct(info, depth, least) for least in (False, True)]
        case inspect.ListType() | inspect.VarTupleType() | inspect.CollectionType():
            return [_samples(info.item_type, depth + 1)[:2] if depth < 6 else []]
        case inspect.TupleType():
            return [[_samples(each, depth + 1)[0] for each in info.item_types]]
        case inspect.DictType():
            return [{_samples(info.key_type, depth)[0]: _samples(info.value_type, depth)[0]}]
        case inspect.IntType():
            return [max(info.ge or 1, 7 if info.le is None else min(7, info.le))]
        case inspect.StrType():
            return ["a" * (info.min_length or 2)]
        case inspect.BytesType():
            return [bytes(range(info.min_length or 16))]
        case inspect.LiteralType():
            return [info.values[0]]
        case inspect.EnumType():
            return [next(iter(info.cls)).value]
        case inspect.BoolType():
            return [True]
        case inspect.FloatType():
            return [0.5]
        case inspect.NoneType():
            return [None]
        case inspect.RawType():
            return [{}]
        case _:
            return [{"k": [1, b"x", "y", None]}]


def _struct(info: Any, depth: int, least: bool) -> Any:
    values: dict[str, Any] = {}
    fields = [field for field in info.fields if field.required or not least or info.array_like]
    for field in fields:
        values[field.encode_name] = _samples(field.type, depth + 1)[0]
    if info.array_like:
        return list(values.values()) if info.tag is None else [info.tag, *values.values()]
    return {info.tag_field: info.tag, **values} if info.tag is not None else values


def msgpack_samples(kind: Any) -> list[bytes]:
    """`samples`, encoded."""
    return [msgspec.msgpack.encode(value) for value in samples(kind)]


def all_targets() -> dict[str, Target]:
    """Name -> target, in a fixed order."""
    import targets_backup
    import targets_cli
    import targets_dedup
    import targets_home
    import targets_media
    import targets_user
    import targets_wire

    found = [
        *targets_wire.TARGETS,
        *targets_media.TARGETS,
        *targets_dedup.TARGETS,
        *targets_home.TARGETS,
        *targets_user.TARGETS,
        *targets_backup.TARGETS,
        *targets_cli.TARGETS,
    ]
    return {target.name: target for target in found}
