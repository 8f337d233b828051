"""Frames and messages: round trips in any fragmentation, and every limit."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle import errors
from staddle.errors import ProtocolError, StaddleError
from staddle.wire import frames
from staddle.wire.assembly import CALL_PAYLOAD_BYTES_MAX, Assembler, Budget
from staddle.wire.frames import Flag, FrameReader, FrameType, encode_head
from staddle.wire.messages import Hello, pack, pack_error, unpack, unpack_error, unpack_hello
from staddle.wire.slots import SlotPool


def feed(reader, data, sizes=None):
    """Push bytes through the reader as a transport would, in pieces of at most the given sizes."""
    position, step = 0, 0
    while position < len(data):
        slot = reader.get_buffer()
        assert isinstance(slot, memoryview)
        assert len(slot) > 0
        piece = len(slot) if sizes is None else sizes[step % len(sizes)]
        piece = min(piece, len(slot), len(data) - position)
        slot[:piece] = data[position : position + piece]
        reader.buffer_updated(piece)
        position, step = position + piece, step + 1


def make_reader(got, place=None):
    def refuse(header):
        raise ProtocolError("not announced")

    reader = FrameReader(got.append, place or refuse)
    reader.body_bytes_max = frames.BODY_BYTES_MAX
    return reader


messages = st.lists(
    st.tuples(
        st.integers(1, 0xFFFF),
        st.integers(0, 2**64 - 1),
        st.one_of(st.none(), st.binary(max_size=300)),
        st.one_of(
            st.binary(max_size=300), st.integers(60_000, 200_000).map(lambda n: random.Random(n).randbytes(n))
        ),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(messages, st.lists(st.integers(1, 100_000), min_size=1, max_size=5))
def test_frames_survive_any_fragmentation(sent, sizes):
    stream = b"".join(
        encode_head(FrameType.DATA, channel=channel, seq=seq, meta=meta, payload_bytes=len(payload)) + payload
        for channel, seq, meta, payload in sent
    )
    got = []
    sizes = sizes if len(stream) < 5000 else [max(size, 997) for size in sizes]
    reader = make_reader(got)
    feed(reader, stream, sizes)
    assert [(f.channel, f.seq, f.meta, bytes(f.payload)) for f in got] == sent
    assert not reader.mid_frame
    assert reader.frames == len(sent)


def test_a_full_payload_is_received_once_it_is_whole_and_its_slot_is_used_again():
    got = []
    reader = make_reader(got)
    payload = random.Random(1).randbytes(frames.PAYLOAD_BYTES_MAX)
    addresses = set()
    for seq in range(20):
        feed(
            reader,
            encode_head(FrameType.DATA, channel=1, seq=seq, payload_bytes=len(payload)) + payload,
            [200_000],
        )
        frame = got.pop()
        assert frame.payload == payload
        addresses.add(id(frame.payload.obj))
        del frame
    assert len(addresses) == 1


def test_a_slot_that_is_looked_at_is_never_lent_again():
    pool = SlotPool(1000, keep=2)
    views = [pool.take(900) for _ in range(5)]
    for number, view in enumerate(views):
        view[:] = bytes([number]) * 900
    assert [view[0] for view in views] == [0, 1, 2, 3, 4]
    part = views[0][5:10]
    kept = views[0].obj
    views.clear()
    taken = [pool.take(900) for _ in range(3)]
    assert all(view.obj is not kept for view in taken)
    assert bytes(part) == bytes(5)
    assert len(pool.take(10).obj) == 10
    assert len(pool._slots) == 2
    pool.trim()
    assert len(pool._slots) == 2, "used since the last trim"
    pool.trim()
    assert len(pool._slots) == 0


@pytest.mark.parametrize(
    "head",
    [
        frames.HEADER.pack(0, 0, 0, 0, 0),
        frames.HEADER.pack(0, 12, 0, 0, 0),
        frames.HEADER.pack(0, 255, 0, 0, 0),
        frames.HEADER.pack(frames.BODY_BYTES_MAX + 1, FrameType.DATA, 0, 1, 0),
        frames.HEADER.pack(2**32 - 1, FrameType.REQUEST, 0, 0, 0),
        frames.HEADER.pack(1, FrameType.PING, 0, 0, 0),
        frames.HEADER.pack(1, FrameType.CREDIT, 0, 1, 0),
        frames.HEADER.pack(frames.HELLO_BYTES_MAX + 1, FrameType.HELLO, 1, 0, 0),
        frames.HEADER.pack(0, FrameType.DATA, 4, 1, 0),
        frames.HEADER.pack(0, FrameType.DATA, Flag.MORE, 1, 0),
        frames.HEADER.pack(0, FrameType.PING, 0, 1, 0),
        frames.HEADER.pack(2, FrameType.DATA, Flag.META, 1, 0) + b"ab",
        frames.HEADER.pack(6, FrameType.DATA, Flag.META, 1, 0) + b"\0\0\0\3ab",
        frames.HEADER.pack(4, FrameType.DATA, Flag.META, 1, 0) + b"\xff\xff\xff\xff",
        frames.HEADER.pack(5, FrameType.REPLY, 0, 0, 9) + b"later",
    ],
)
def test_what_breaks_a_limit_or_rule_is_refused(head):
    with pytest.raises(ProtocolError):
        feed(make_reader([]), head)


def test_a_payload_beyond_the_limit_is_refused_even_if_the_body_would_fit():
    body = frames.PAYLOAD_BYTES_MAX + 1
    with pytest.raises(ProtocolError):
        feed(make_reader([]), frames.HEADER.pack(body, FrameType.DATA, 0, 1, 0) + bytes(body))


def test_a_long_frame_before_the_greeting_is_refused():
    reader = FrameReader(lambda frame: None, lambda header: memoryview(b""))
    with pytest.raises(ProtocolError):
        feed(reader, frames.HEADER.pack(frames.HELLO_BYTES_MAX + 1, FrameType.DATA, 0, 1, 0))


def test_the_sender_refuses_what_the_receiver_would():
    with pytest.raises(ValueError, match="too large"):
        encode_head(FrameType.DATA, payload_bytes=frames.PAYLOAD_BYTES_MAX + 1)
    with pytest.raises(ValueError, match="too large"):
        encode_head(FrameType.DATA, meta=bytes(frames.META_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="payload"):
        pack({"bulk": bytes(frames.META_BYTES_MAX)})


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=200))
def test_random_bytes_are_frames_or_a_protocol_error(data):
    got = []
    try:
        feed(make_reader(got), data)
    except ProtocolError:
        return
    assert len(got) <= len(data) // frames.HEADER_BYTES


@given(st.binary(max_size=100))
def test_random_meta_is_a_message_or_a_protocol_error(data):
    for kind in (unpack_hello, unpack_error, lambda meta: unpack(meta, dict)):
        with contextlib.suppress(ProtocolError):
            kind(data)


def test_deeply_nested_msgpack_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        unpack(b"\x91" * 200_000, dict)


CORE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StaddleError)]


@pytest.mark.parametrize("kind", CORE)
def test_every_core_error_arrives_as_the_same_class_with_all_fields(kind):
    sent = kind("what", hint="do", retry="operator", scope="medium", outcome="in_doubt", exit_code=42)
    got = unpack_error(pack_error(sent))
    assert type(got) is kind
    assert vars(got) == vars(sent)


def test_an_unknown_error_code_arrives_as_the_base_class_and_unknown_words_are_careful():
    body = msgspec.msgpack.encode(
        {
            "code": "NOVEL",
            "message": "m",
            "retry": "tomorrow",
            "scope": "moon",
            "outcome": "?",
            "exit_code": 0,
            "new": 1,
        }
    )
    got = unpack_error(body)
    assert type(got) is StaddleError
    assert (got.code, got.retry, got.scope, got.outcome, got.exit_code) == (
        "NOVEL",
        "never",
        "op",
        "in_doubt",
        1,
    )


def test_a_plugins_error_subclass_arrives_by_its_fields():
    class Strange(StaddleError):
        default_code = "MEDIUM_FULL"
        default_retry = "elsewhere"

        def __init__(self, number):
            super().__init__(f"number {number}")

    got = unpack_error(pack_error(Strange(7)))
    assert (type(got), got.message, got.retry) == (errors.MediumFull, "number 7", "elsewhere")


def test_an_error_with_a_finer_code_keeps_its_class():
    class Mine(errors.Unavailable):
        pass

    got = unpack_error(pack_error(Mine("wait", code="BUSY")))
    assert (type(got), got.code) == (errors.Unavailable, "BUSY")


def test_a_greeting_round_trips_and_its_fields_are_bounded():
    hello = Hello(name="a1", role="agent", grid=bytes(16), features=("x",), release="0.1.0")
    assert unpack_hello(pack(hello)) == hello
    for bad in (
        Hello(name="n" * 65, role="agent"),
        Hello(name="n", role="agent", grid=b"short"),
        Hello(name="n", role="agent", versions=()),
        Hello(name="n", role="agent", versions=tuple(range(17))),
        Hello(name="n", role="agent", features=("f",) * 17),
    ):
        with pytest.raises(ProtocolError):
            unpack_hello(pack(bad))


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=8))
def test_parts_add_up_to_the_payload(parts):
    assembler, got = Assembler(4), []
    reader = make_reader(got, assembler.place)
    payload = random.Random(len(parts)).randbytes(sum(parts))
    assembler.begin(FrameType.REPLY, 5, len(payload), wanted=True)
    position = 0
    for number, size in enumerate(parts):
        last = number == len(parts) - 1
        head = encode_head(FrameType.REPLY, flags=0 if last else Flag.MORE, seq=5, payload_bytes=size)
        feed(reader, head + payload[position : position + size], [37])
        position += size
        whole = assembler.finish_if_last(got.pop())
        assert (whole is not None) == last
    assert whole == payload


@pytest.mark.parametrize(
    "parts", [[(10, 0)], [(5, Flag.MORE), (6, 0)], [(9, 0)], [(10, Flag.MORE)], [(0, Flag.MORE)]]
)
def test_parts_that_do_not_add_up_are_refused(parts):
    assembler = Assembler(4)
    reader = make_reader([], assembler.place)
    assembler.begin(
        FrameType.REQUEST, 1, 10 if len(parts) > 1 or parts[0][0] != 10 or parts[0][1] else 11, wanted=True
    )
    stream = b"".join(
        encode_head(FrameType.REQUEST, flags=flags, seq=1, payload_bytes=size) + bytes(size)
        for size, flags in parts
    )
    with pytest.raises(ProtocolError):
        feed(reader, stream)


def test_split_payloads_are_bounded_in_number_and_bytes():
    assembler = Assembler(2)
    assembler.begin(FrameType.REPLY, 1, 10, wanted=False)
    assembler.begin(FrameType.REPLY, 2, 10, wanted=False)
    for seq, size in ((3, 10), (1, 10), (4, 0), (4, CALL_PAYLOAD_BYTES_MAX + 1)):
        with pytest.raises(ProtocolError):
            assembler.begin(FrameType.REPLY, seq, size, wanted=False)
    budget = Budget(100)
    budget.take(60)
    with pytest.raises(errors.Unavailable):
        budget.take(41)
    budget.give_back(60)
    budget.take(100)
    with pytest.raises(ProtocolError):
        budget.take(CALL_PAYLOAD_BYTES_MAX + 1)
