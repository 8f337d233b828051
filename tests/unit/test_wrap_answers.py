"""Whatever a driver says or raises: an answer of the contract comes, or an error that names the medium."""

import concurrent.futures
import itertools
import threading

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import (
    Capability,
    Capacity,
    Durability,
    Health,
    Label,
    MediumState,
    ObjectInfo,
    Receipt,
    Surety,
)
from staddle.config_model import MediumSettings
from staddle.wrap import answers, wrap

LABEL = Label(grid=b"g" * 16, medium="liar", volume=b"v" * 16, created_ns=1)
NAME = "c0/aa"
DATA = b"data"
DIGEST = blake3.blake3(DATA).digest()
RECEIPT = Receipt(
    name=NAME, size_bytes=4, digest=DIGEST, volume=LABEL.volume, durability=Durability.POWER_LOSS
)
TRUE = {
    "probe": [Capability("X", Surety.PROBED)],
    "read_label": b"text",
    "health": Health(MediumState.UP),
    "put": RECEIPT,
    "get": DATA,
    "stat": ObjectInfo(NAME, 4),
    "list": [ObjectInfo(NAME, 4)],
    "capacity": Capacity(10, 5, False),
    "initialize": None,
    "delete": None,
    "close": None,
}
DEADLINE_S = 20.0


class Driver:
    """Medium and volume in one; answers as it is told, and raises what is an exception."""

    def __init__(self, **said):
        self.said = TRUE | {"label": LABEL} | said

    @property
    def label(self):
        return self.said["label"]

    def open(self, *_):
        return self.said.get("open", self)

    def __getattr__(self, op):
        def answer(*_, **__):
            said = self.said[op]
            if isinstance(said, BaseException):
                raise said
            return said() if callable(said) else said

        return answer


def asked(driver, op):
    """One call through everything that the core puts round a driver."""
    medium = wrap(driver, MediumSettings(name="liar", plugin="x"), sleep=lambda _: None)
    deadline = Deadline(DEADLINE_S)
    if op == "close":
        return medium.close()
    try:
        if op == "initialize":
            return medium.initialize(LABEL, b"text", deadline)
        if op in ("probe", "read_label", "health"):
            return getattr(medium, op)(deadline)
        volume = medium.open(LABEL, "write", 1, deadline)
        return {
            "open": lambda: volume.label,
            "put": lambda: volume.put(NAME, [DATA], DIGEST, deadline),
            "get": lambda: volume.get(NAME, 0, 4, deadline),
            "stat": lambda: volume.stat(NAME, deadline),
            "list": lambda: list(volume.list("", deadline, "c0/")),
            "delete": lambda: volume.delete(NAME, deadline),
            "capacity": volume.capacity,
        }[op]()
    finally:
        medium.close()


OPS = ("probe", "initialize", "read_label", "health", "put", "get", "stat", "list", "delete", "capacity")


@pytest.mark.parametrize("op", OPS)
def test_an_honest_answer_passes(op):
    assert asked(Driver(), op) == TRUE[op]


# --- answers --------------------------------------------------------------------------------------

HUGE = 1 << 100_000
ANYTHING = (None, 5, "data", 1.5, object(), [1, 2], {}, HUGE, NAME, b"x" * 100_000, Driver())
LIES = {
    "get": (*ANYTHING[:-2], Driver(), [1, 2, 3, 4], "data"),
    "stat": (
        *ANYTHING,
        ObjectInfo("c0/bb", 4),
        ObjectInfo(NAME, -1),
        ObjectInfo(NAME, 1 << 63),
        ObjectInfo(NAME, HUGE),
        ObjectInfo(NAME, "4"),
        ObjectInfo(NAME, True),
        ObjectInfo(None, 4),
        ObjectInfo(b"c0/aa", 4),
        ObjectInfo(NAME * 1_000_000, 4),
    ),
    "put": (
        *ANYTHING,
        *(
            Receipt(**{**{field: getattr(RECEIPT, field) for field in RECEIPT.__struct_fields__}, **changed})
            for changed in (
                {"name": "c0/bb"},
                {"size_bytes": 5},
                {"digest": bytes(32)},
                {"volume": bytes(16)},
                {"durability": "power_loss"},
                {"name": None},
            )
        ),
    ),
    "capacity": (*ANYTHING, Capacity(-1, 5, False), Capacity(HUGE, 5, False), Capacity(10, "5", False)),
    "health": (*ANYTHING, Health("up"), Health(MediumState.UP, b"x"), Health(None)),
    "probe": (*ANYTHING[:5], [1, 2], itertools.repeat(TRUE["probe"][0]), [Capability(1, Surety.PROBED)]),
    "read_label": (*ANYTHING[:-2], b"x" * 100_000),
    "open": (None, 5, "volume", Driver(label=None), Driver(label="x")),
    "list": (
        None,
        5,
        [None],
        [5],
        ["c0/aa"],
        [ObjectInfo(None, 4)],
        [ObjectInfo("c0/../../etc/passwd", -4)],
        [ObjectInfo("/etc/passwd", 4)],
        [ObjectInfo("c0/" + "a" * 1_000_000, 4)],
        [ObjectInfo("c0/bb", 4), ObjectInfo(NAME, 4)],
        [ObjectInfo(NAME, 4), ObjectInfo(NAME, 4)],
        [ObjectInfo(NAME, 1 << 62), ObjectInfo("c0/bb", HUGE)],
        lambda: itertools.repeat(ObjectInfo(NAME, 4)),
    ),
}


@pytest.mark.parametrize(
    ("op", "lie"),
    [
        pytest.param(op, lie, id=f"{op}-{number}")
        for op, many in LIES.items()
        for number, lie in enumerate(many)
    ],
)
def test_a_senseless_answer_is_the_failure_of_its_medium(op, lie):
    with pytest.raises(errors.StaddleError, match="liar") as caught:
        asked(Driver(**{op: lie}), op)
    assert caught.value.code in {"DRIVER_ERROR", "WRONG_LABEL", "CORRUPT"}
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize(
    "other", [Label(grid=LABEL.grid, medium="liar", volume=b"w" * 16, created_ns=1), object()]
)
def test_an_open_of_another_volume_is_refused_and_the_label_asked_for_stays(other):
    driver = Driver(label=other)
    with pytest.raises(errors.MediumFailed, match="another volume"):
        asked(driver, "open")
    driver = Driver()
    medium = wrap(driver, MediumSettings(name="liar", plugin="x"))
    volume = medium.open(LABEL, "write", 1, Deadline(DEADLINE_S))
    driver.said["label"] = other
    assert volume.label == LABEL
    medium.close()


def test_a_receipt_that_makes_no_sense_leaves_the_put_in_doubt():
    with pytest.raises(errors.MediumFailed) as caught:
        asked(Driver(put=None), "put")
    assert caught.value.outcome == "in_doubt"


def test_other_kinds_of_buffers_are_bytes_too():
    for data in (bytearray(DATA), memoryview(DATA), memoryview(bytearray(DATA)).cast("H")):
        assert asked(Driver(get=data), "get") == DATA


# --- errors ---------------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


class HalfMade(errors.StaddleError):
    def __init__(self):
        pass  # without any field


class Loud(errors.StaddleError):
    def __str__(self):
        raise SystemExit(9)


def spoilt(**fields):
    error = errors.StaddleError("said")
    for name, value in fields.items():
        setattr(error, name, value)
    return error


RAISED = (
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    MemoryError(),
    RecursionError("deep"),
    StopIteration(5),
    StopAsyncIteration(),
    concurrent.futures.CancelledError(),
    BaseException("base"),
    ExceptionGroup("many", [ValueError("one")]),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    Unspeakable(),
    Unspeakable("x" * 1_000_000),
    ValueError("x" * 1_000_000),
    HalfMade(),
    Loud("x"),
    spoilt(code=""),
    spoilt(code="x" * 1_000_000),
    spoilt(code=None),
    spoilt(retry="for ever"),
    spoilt(scope=["medium"]),
    spoilt(outcome=7),
    spoilt(message=b"bytes"),
    spoilt(exit_code="1"),
    spoilt(exit_code=1 << 70),
)


@pytest.mark.parametrize("op", [*OPS, "close"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_driver_raises_is_the_failure_of_its_medium(op, error):
    with pytest.raises(errors.MediumFailed, match="liar") as caught:
        asked(Driver(**{op: error}), op)
    found = caught.value
    assert (found.code, found.outcome, found.retry) == ("DRIVER_ERROR", "in_doubt", "elsewhere")
    assert len(str(found)) < 10_000


def test_a_listing_may_raise_in_its_midst():
    def listing():
        yield ObjectInfo(NAME, 4)
        raise SystemExit(3)

    with pytest.raises(errors.MediumFailed, match="SystemExit"):
        asked(Driver(list=listing), "list")


def test_what_a_driver_may_say_it_says_with_its_own_words():
    error = errors.MediumFull("it is full", hint="buy another")
    with pytest.raises(errors.MediumFull, match="it is full; buy another") as caught:
        asked(Driver(put=error), "put")
    assert caught.value is error


@pytest.mark.parametrize("scope", ["agent", "cluster"])
def test_a_driver_speaks_for_nothing_beyond_the_way_to_its_medium(scope):
    with pytest.raises(errors.Fenced) as caught:
        asked(Driver(put=errors.Fenced("it is another's", scope=scope)), "put")
    assert (caught.value.scope, caught.value.code) == ("path", "FENCED")


def test_a_long_message_is_cut():
    with pytest.raises(errors.Corrupt) as caught:
        asked(Driver(get=errors.Corrupt("c" * 1_000_000, hint="h" * 1_000_000)), "get")
    assert len(str(caught.value)) < 3 * answers.TEXT_CHARS_MAX


words = st.one_of(st.none(), st.integers(), st.binary(), st.text(), st.sampled_from(errors.SCOPES))


@given(st.dictionaries(st.sampled_from(["code", "retry", "scope", "outcome", "message", "hint"]), words))
def test_any_fields_give_an_error_that_can_be_relied_on(fields):
    found = answers.sound_error("liar", "put", spoilt(**fields))
    assert found.retry in errors.RETRIES
    assert found.scope in {"op", "object", "volume", "path", "medium"}
    assert found.outcome in errors.OUTCOMES
    assert str(found)
    assert found.code


def test_after_all_that_no_thread_is_left():
    before = threading.active_count()
    for error in RAISED:
        with pytest.raises(errors.StaddleError):
            asked(Driver(get=error), "get")
    for thread in threading.enumerate():
        if thread.name.startswith("medium-liar"):
            thread.join(10.0)
    assert threading.active_count() <= before
