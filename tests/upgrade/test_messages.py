"""What version 1 of the wire said, and what its release had in its log, is understood by today's code.

`v1/messages.json` (shapes and samples of all messages, by samples.py) and `v1/session.jsonl` (what members of
a grid of the first release said to each other in two backups, restores, verify, ls, find and a join) were
written by that release. They are never changed; a later wire version gets files of its own.
"""

import importlib.util
import json
import os

import msgspec
import pytest
from blake3 import blake3

from staddle import typed
from staddle.data.records import decode_record
from staddle.engine import ops
from staddle.engine.messages import AgentToClient, Flush, Ticket
from staddle.errors import NewerFormat, StaddleError
from staddle.wire.calls import Reply
from staddle.wire.frames import WIRE_VERSIONS
from staddle.wire.join import CaAnswer, SignAnswer, SignRequest
from staddle.wire.messages import Hello, unpack, unpack_hello
from staddle.wire.ops.data import FLUSH_SEQ
from staddle.wire.ops.reading import ReadTicket
from staddle.wire.tickets import SIGNATURE_BYTES

HERE = os.path.dirname(os.path.abspath(__file__))


def load(name):
    spec = importlib.util.spec_from_file_location(f"upgrade_{name}", os.path.join(HERE, f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


samples = load("samples")
with open(os.path.join(HERE, "v1", "messages.json"), encoding="utf-8") as _file:
    V1 = json.load(_file)
with open(os.path.join(HERE, "v1", "session.jsonl"), encoding="utf-8") as _file:
    SESSION = [json.loads(line) for line in _file]
OPERATIONS = samples.operations()
TODAY = samples.release()
JOIN = {"join.ca": (dict, CaAnswer), "join.sign": (SignRequest, SignAnswer)}


def roots_today():
    kinds = {f"request {name}": each.request for name, each in OPERATIONS.items()}
    kinds |= {f"reply {name}": each.reply for name, each in OPERATIONS.items()}
    kinds |= {f"message {name}": each for name, each in samples.channel_messages().items()}
    return kinds | {f"op {name}": each for name, each in samples.log_ops().items()}


ROOTS = roots_today()


def raw(value):
    """Recorded bytes, or as many zeros where they were too many to keep."""
    return bytes.fromhex(value) if isinstance(value, str) else bytes(value["bytes"])


# --- what version 1 has is still there -------------------------------------------------------------


def test_no_operation_message_or_op_of_version_1_is_gone():
    assert set(V1["roles"]) <= set(OPERATIONS)
    assert set(V1["roots"]) <= set(ROOTS)


@pytest.mark.parametrize("name", sorted(V1["roles"]))
def test_who_might_call_an_operation_still_may(name):
    assert set(V1["roles"][name]) <= OPERATIONS[name].roles


@pytest.mark.parametrize("name", sorted(V1["shapes"]))
def test_a_message_only_gains_fields_that_may_be_missing(name):
    """An older sender leaves new fields out; an older reader needs what it always needed."""
    old, new = V1["shapes"][name], TODAY["shapes"][name]
    assert (new["array"], new["tag"]) == (old["array"], old["tag"])
    fields = {field: required for field, required, _ in new["fields"]}
    for field, required, _ in old["fields"]:
        assert field in fields, f"{name}.{field} is gone: an older reader needs it, or its sender means it"
        assert required or not fields[field], f"{name}.{field} is required now: an older sender may omit it"
    added = [field for field in fields if field not in [each for each, *_ in old["fields"]]]
    for field in added:
        assert not fields[field], f"{name}.{field} is new and has no default: an older sender never sends it"
    if old["array"]:
        assert list(fields)[: len(old["fields"])] == [field for field, *_ in old["fields"]]


@pytest.mark.parametrize("name", sorted(V1["roots"]))
def test_an_answer_has_no_kind_that_an_older_reader_can_not_know(name):
    if not name.startswith("request "):  # a request of a new kind goes to a newer peer, or is refused
        assert {each.__name__ for each in samples.members(ROOTS[name])} <= set(V1["roots"][name])


@pytest.mark.parametrize("name", sorted(V1["shapes"]))
def test_a_field_has_no_kind_that_an_older_reader_can_not_know(name):
    kinds = {field: set(members) for field, _, members in TODAY["shapes"][name]["fields"]}
    for field, _, members in V1["shapes"][name]["fields"]:
        assert kinds[field] <= set(members), f"{name}.{field}"


@pytest.mark.parametrize("name", sorted(V1["samples"]))
def test_every_sample_of_version_1_is_read_with_all_that_it_says(name):
    data = bytes.fromhex(V1["samples"][name])
    root = name.rpartition(" ")[0]
    value = typed.unpack(data, ROOTS[root])
    said, kept = msgspec.msgpack.decode(data), msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    assert as_said(kept, said) == said


def as_said(kept, said):
    """Without what today's types have added."""
    if isinstance(said, dict):
        return {field: as_said(kept[field], each) for field, each in said.items()}
    if isinstance(said, list):
        return [as_said(one, each) for one, each in zip(kept, said, strict=False)]
    return kept


def test_every_op_in_an_old_log_is_applied_as_what_it_was():
    for name, kind in ops.TYPES.items():
        sample = V1["samples"].get(f"op {name} {kind.__name__}")
        if sample is not None:
            assert isinstance(ops.from_args(name, msgspec.msgpack.decode(bytes.fromhex(sample))), kind)


# --- the recorded session ---------------------------------------------------------------------------


def test_the_session_has_what_a_backup_and_a_restore_need():
    said = {row["op"] for row in SESSION if row["kind"] == "call"}
    assert said >= {
        *("agent.hello", "agent.report", "job.create", "stream.assign", "stream.open", "segment.commit"),
        *(
            "stream.close",
            "job.finish",
            "object.put",
            "backup.open",
            "read.manifest",
            "read.chunks",
            "join.sign",
        ),
    }


@pytest.mark.parametrize("number", [n for n, row in enumerate(SESSION) if row["kind"] == "call"])
def test_every_call_of_the_session_is_understood(number):
    row = SESSION[number]
    assert "error" not in row
    args, payload, answer = raw(row["args"]), raw(row["payload"]), raw(row["answer"])
    if row["op"] in JOIN:
        request, reply = JOIN[row["op"]]
        unpack(args, request)
        unpack(raw(row["reply"]), reply)
        return
    operation = OPERATIONS[row["op"]]
    assert row["role"] in operation.roles
    assert len(payload) <= operation.payload_bytes_max
    request = unpack(args, operation.request)
    if operation.check is not None:
        operation.check(request)
    if operation.reply.__struct_fields__:
        typed_reply = operation.decode(Reply(unpack(raw(row["reply"]), dict), answer))
        assert isinstance(typed_reply, operation.reply)
    for signed in (getattr(request, "signed", b""), getattr(request, "ticket", b"")):
        if isinstance(signed, bytes) and signed:
            read_signed(signed)


def read_signed(signed):
    """A ticket of that release, for either purpose."""
    blob = signed[:-SIGNATURE_BYTES]
    kinds = [kind for kind in (Ticket, ReadTicket) if _is(blob, kind)]
    assert kinds, "a signed ticket that today's code can't read"


def _is(blob, kind):
    try:
        typed.unpack(blob, kind)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize("number", [n for n, row in enumerate(SESSION) if row["kind"] == "data"])
def test_everything_on_the_channels_of_the_session_is_understood(number):
    row = SESSION[number]
    meta = raw(row["meta"])
    if row["from"] == "agent":
        assert typed.unpack(meta, AgentToClient) is not None
    elif row["seq"] == FLUSH_SEQ:
        assert typed.unpack(meta, Flush).upto >= 0
    else:
        size = len(raw(row["payload"]))
        assert decode_record(meta, size) is not None
        if isinstance(row["payload"], str):
            assert blake3(raw(row["payload"])).digest()


def test_every_greeting_of_the_session_has_a_version_in_common_with_us():
    greetings = [unpack_hello(raw(row["meta"])) for row in SESSION if row["kind"] == "hello"]
    assert {hello.role for hello in greetings} >= {"manager", "agent", "admin", "client"}
    assert all(set(hello.versions) & set(WIRE_VERSIONS) for hello in greetings)


def test_a_message_that_today_alone_can_not_read_is_noticed():
    """The checks above can fail: a required field that version 1 does not send."""

    class Commit(msgspec.Struct, kw_only=True):
        job: int
        invented: int

    row = next(row for row in SESSION if row.get("op") == "segment.commit")
    with pytest.raises(StaddleError):
        unpack(raw(row["args"]), Commit)


def test_a_hello_of_the_future_is_read_and_one_of_another_major_refused():
    from staddle.api.transport import Peer
    from staddle.wire.greeting import accept_greeting

    own = Hello(name="manager", role="manager", grid=bytes(16), release="0.1.0")
    said = {"name": "a1", "role": "agent", "grid": bytes(16), "release": "9.9", "features": ["telepathy"]}
    peer = Peer("a1", "agent", "here")
    for versions in ([1, 2], [1], [7, 2, 1]):
        future = msgspec.msgpack.encode({**said, "versions": versions, "mood": {"calm": 1}})
        assert accept_greeting(own, unpack_hello(future), peer, "agent", None) == peer
    newer = unpack_hello(msgspec.msgpack.encode({**said, "versions": [2, 3]}))
    with pytest.raises(NewerFormat) as caught:
        accept_greeting(own, newer, peer, "agent", None)
    assert "[2, 3]" in caught.value.message
    assert "[1]" in caught.value.message
    assert "9.9 there" in caught.value.hint
