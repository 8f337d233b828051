"""Every message and op of a release: its fields, and a sample of it in bytes.

`write` is run once for each wire version and each op-log version, with the code of the release that brought
it; the tests prove that today's code understands what it wrote. New messages are added to the file with the
first release that has them; what stands there is never changed.
"""

import enum
import importlib
import json
import pkgutil
import sys
import types
import typing

import msgspec


def operations():
    """Operation name -> Operation."""
    package = importlib.import_module("staddle.wire.ops")
    base = importlib.import_module("staddle.wire.ops.base")
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        found |= {each.name: each for each in vars(module).values() if isinstance(each, base.Operation)}
    return dict(sorted(found.items()))


def channel_messages():
    """What travels on a stream's channel, and what stands signed in a ticket."""
    messages = importlib.import_module("staddle.engine.messages")
    reading = importlib.import_module("staddle.wire.ops.reading")
    names = ("Opened", "Durable", "Refused", "PathFailed", "Nack", "Progress", "Flush", "Ticket")
    return {**{name: getattr(messages, name) for name in names}, "ReadTicket": reading.ReadTicket}


def log_ops():
    """Name in the op-log -> type."""
    return dict(sorted(importlib.import_module("staddle.engine.ops").TYPES.items()))


def members(kind):
    """The Structs that a type consists of, directly or in unions."""
    if typing.get_origin(kind) is typing.Annotated:
        return members(typing.get_args(kind)[0])
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return [each for part in typing.get_args(kind) for each in members(part)]
    return [kind] if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else []


def inner(kind, seen=None):
    """All Structs in a type, at any depth, by name."""
    seen = {} if seen is None else seen
    for struct in members(kind):
        if struct.__name__ in seen:
            continue
        seen[struct.__name__] = struct
        for field in typing.get_type_hints(struct, include_extras=True).values():
            _inner_of_hint(field, seen)
    return seen


def _inner_of_hint(hint, seen):
    inner(hint, seen)
    for part in typing.get_args(hint):
        if not isinstance(part, msgspec.Meta):
            _inner_of_hint(part, seen)


def described(struct):
    """A Struct's shape as other releases see it."""
    return {
        "array": struct.__struct_config__.array_like,
        "tag": struct.__struct_config__.tag,
        "fields": [
            [field.encode_name, field.required, [each.__name__ for each in members(field.type)]]
            for field in msgspec.structs.fields(struct)
        ],
    }


def sample(kind, name="", depth=0):
    """A plausible value of a type: every field filled."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return sample(arguments[0], name, depth)
    if origin in {typing.Union, types.UnionType}:
        return sample(next(each for each in arguments if each is not types.NoneType), name, depth)
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        parts = arguments[:1] if arguments[-1] is ... else arguments
        return tuple(sample(each, name, depth) for each in parts)
    if origin in {list, typing.get_origin(typing.Sequence[int])}:
        return [sample(arguments[0], name, depth)]
    if origin in {dict, typing.get_origin(typing.Mapping[int, int])}:
        return {sample(arguments[0], "key", depth): sample(arguments[1], name, depth)}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        return kind(**{each: sample(hints[each], each, depth + 1) for each in kind.__struct_fields__})
    return _plain(kind, name)


def _plain(kind, name):
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    if kind is bytes:
        return bytes(range(32)) if "digest" in name else bytes(range(16))
    words = {"state": "up", "part": "control"}
    plain = {bool: True, int: 7, float: 1.5, str: words.get(name, "word"), typing.Any: "anything"}
    return plain[kind]


def release():
    """Everything of this release: JSON values only."""
    shapes, roots, samples = {}, {}, {}
    kinds = {f"request {name}": each.request for name, each in operations().items()}
    kinds |= {f"reply {name}": each.reply for name, each in operations().items()}
    kinds |= {f"message {name}": each for name, each in channel_messages().items()}
    kinds |= {f"op {name}": each for name, each in log_ops().items()}
    for name, kind in kinds.items():
        roots[name] = [each.__name__ for each in members(kind)]
        shapes |= {each: described(struct) for each, struct in inner(kind).items()}
        for struct in members(kind):
            samples[f"{name} {struct.__name__}"] = msgspec.msgpack.encode(sample(struct)).hex()
    roles = {name: sorted(each.roles) for name, each in operations().items()}
    return {"roles": roles, "roots": roots, "shapes": dict(sorted(shapes.items())), "samples": samples}


def write(path):
    """Write the file of this release."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(release(), file, indent=0, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    write(sys.argv[1])
