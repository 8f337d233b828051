"""Makes this process a peer of another release.

`older`: what it sends lacks every field that version 1 did not have; of what it receives it ignores them.
`newer`: what it sends has further fields everywhere, and in front of each request it tries an operation that
nobody knows.
"""

import json
import os
import types
import typing

import msgspec

V1 = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "v1", "messages.json")
SURPRISE = {"of": ["a", "newer", {"release": 2}]}


def members(kind):
    """The Structs of a type or union."""
    if typing.get_origin(kind) is typing.Annotated:
        return members(typing.get_args(kind)[0])
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return [each for part in typing.get_args(kind) for each in members(part)]
    return [kind] if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else []


class Older:
    """Knows the fields of version 1, no others."""

    def __init__(self):
        with open(V1, encoding="utf-8") as file:
            self.shapes = json.load(file)["shapes"]

    def map(self, struct, value):
        """A message's fields, as it knows them."""
        shape = self.shapes.get(struct.__name__)
        if shape is None:
            return value
        known = {name for name, *_ in shape["fields"]} | {"type"}
        return {name: each for name, each in value.items() if name in known}

    def array(self, struct, value):
        """The same for one whose fields have no names."""
        shape = self.shapes.get(struct.__name__)
        return value if shape is None else value[: len(shape["fields"]) + (shape["tag"] is not None)]


class Newer:
    """Has more to say than anybody understands."""

    def map(self, struct, value):
        return {**value, "x_of_the_future": SURPRISE}

    def array(self, struct, value):
        return [*value, SURPRISE]


def changed(kind, value, peer):
    """A decoded message of a type, with each Struct in it as the peer would have it."""
    structs = members(kind)
    if isinstance(value, dict) and structs:
        tags = {each.__struct_config__.tag: each for each in structs}
        struct = tags.get(value.get("type"), structs[0])
        hints = typing.get_type_hints(struct, include_extras=True)
        inner = {name: changed(hints.get(name), each, peer) for name, each in value.items()}
        return peer.map(struct, inner)
    if isinstance(value, list) and structs and structs[0].__struct_config__.array_like:
        return peer.array(structs[0], value)
    if typing.get_origin(kind) is typing.Annotated:
        return changed(typing.get_args(kind)[0], value, peer)
    arguments = [each for each in typing.get_args(kind) if each is not types.NoneType]
    if isinstance(value, list) and arguments:
        return [changed(arguments[0], each, peer) for each in value]
    if isinstance(value, dict) and len(arguments) == 2:
        return {name: changed(arguments[1], each, peer) for name, each in value.items()}
    return value


def fields(kind):
    """The names of its fields; none where only a payload of raw bytes is answered."""
    return kind.__struct_fields__


def repacked(kind, data, peer):
    """The same for msgpack."""
    return msgspec.msgpack.encode(changed(kind, msgspec.msgpack.decode(data), peer))


def operations():
    """Name -> Operation, of all that this process has imported by the time it is asked."""
    import importlib
    import pkgutil

    import staddle.wire.ops as package
    from staddle.wire.ops.base import Operation

    modules = [
        importlib.import_module(f"{package.__name__}.{each.name}")
        for each in pkgutil.iter_modules(package.__path__)
    ]
    return {
        each.name: each for module in modules for each in vars(module).values() if isinstance(each, Operation)
    }


def install(which):
    """Change how this process sends, and for an older peer how it receives."""
    peer = {"older": Older, "newer": Newer}[which]()
    known = operations()
    _change_calls(which, peer, known)
    _change_answers(which, peer, known)
    _change_channels(peer)


def _change_calls(which, peer, known):
    from staddle.errors import StaddleError
    from staddle.wire import calls

    request = calls.Caller.request

    async def changed_request(self, op, args, payload, **more):
        found = known.get(op)
        if found is None:
            return await request(self, op, args, payload, **more)
        if which == "newer" and more["channel"] is None:
            try:
                await request(self, "future." + op, {"x": 1}, None, **more)
            except StaddleError as error:
                if error.code not in {"UNKNOWN_OP", "DENIED"}:
                    raise
            else:
                raise AssertionError("an operation that nobody knows was answered")
        packed = msgspec.msgpack.encode({} if args is None else args)
        reply = await request(self, op, msgspec.Raw(repacked(found.request, packed, peer)), payload, **more)
        if which == "newer":
            return reply
        if len(reply.payload) and not reply.args and fields(found.reply):
            return calls.Reply(reply.args, repacked(found.reply, reply.payload, peer))
        args = reply.args
        return calls.Reply(
            changed(found.reply, args, peer) if isinstance(args, dict) else args, reply.payload
        )

    calls.Caller.request = changed_request


def _change_answers(which, peer, known):
    from staddle.wire import messages, serving

    call = serving.Server._call

    async def changed_call(self, admitted, payload, caller):
        found = known.get(admitted.head.op)
        if found is None:
            return await call(self, admitted, payload, caller)
        if which == "older":
            args = msgspec.Raw(repacked(found.request, bytes(admitted.head.args), peer))
            head = msgspec.structs.replace(admitted.head, args=args)
            admitted = admitted._replace(head=head)
        meta, answer = await call(self, admitted, payload, caller)
        head = messages.unpack(meta, messages.ReplyMeta)
        if bytes(head.args) == b"\x80" and len(answer) and fields(found.reply):
            answer = repacked(found.reply, bytes(answer), peer)
            return messages.pack(messages.ReplyMeta(len(answer), head.args)), answer
        args = msgspec.Raw(repacked(found.reply, bytes(head.args), peer))
        return messages.pack(messages.ReplyMeta(head.size_bytes, args)), answer

    serving.Server._call = changed_call


def _change_channels(peer):
    from staddle.engine.messages import AgentToClient, Flush
    from staddle.wire import channel

    send = channel.Channel._send_now

    async def changed_send(self, seq, meta, payload, cost):
        value = msgspec.msgpack.decode(meta) if meta else None
        if isinstance(value, dict) and "type" in value:  # a record of data has none
            meta = msgspec.msgpack.encode(changed(AgentToClient | Flush, value, peer))
            cost = channel.cost_bytes(meta, payload)
        return await send(self, seq, meta, payload, cost)

    channel.Channel._send_now = changed_send
