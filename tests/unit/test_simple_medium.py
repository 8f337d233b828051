"""The medium over a store of keys: what it makes of five methods, and of stores that misbehave."""

import bisect
import threading

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle import StoreMedium, errors
from staddle.api.media import Deadline, Medium, Volume
from staddle.api.simple import LABEL_KEY
from staddle.api.types import Capacity, Durability, Label, MediumState, ObjectInfo

LABEL = Label(grid=b"g" * 16, medium="m", volume=b"v" * 16, created_ns=1)
OTHER = Label(grid=b"g" * 16, medium="m", volume=b"w" * 16, created_ns=1)


def soon():
    return Deadline(20.0)


def text_of(label):
    return (label.grid.hex() + label.volume.hex()).encode()


class Shelf(StoreMedium):
    """A dictionary, and a record of what was asked of it. `config` is the dictionary."""

    durability = Durability.MEMORY
    per_page = 2

    def __init__(self, name, config):
        super().__init__(name, config)
        self.calls, self.lock = [], threading.Lock()

    def prepare(self, deadline):
        self.calls.append("prepare")

    def create(self, key, body, deadline):
        self.calls.append(f"create {key}")
        with self.lock:
            return self.config.setdefault(key, body) is body

    def read(self, key, offset, length, deadline):
        value = self.config.get(key)
        return None if value is None else (len(value), value[offset : offset + length])

    def page(self, after, deadline):
        keys = sorted(self.config)
        at = bisect.bisect_right(keys, after)
        return [ObjectInfo(key, len(self.config[key])) for key in keys[at : at + self.per_page]]

    def remove(self, key, deadline):
        self.calls.append(f"remove {key}")
        self.config.pop(key, None)

    def capacity(self):
        return Capacity(100, 50, low=False)


def opened(shelf, mode="write"):
    if LABEL_KEY not in shelf.config:
        shelf.initialize(LABEL, text_of(LABEL), soon())
    volume = shelf.open(LABEL, mode, 1, soon())
    shelf.calls.clear()
    return volume


def put(volume, name, data, deadline=None):
    return volume.put(
        name, [data[:1], memoryview(data)[1:]], blake3.blake3(data).digest(), deadline or soon()
    )


@pytest.fixture
def shelf():
    return Shelf("m", {})


@pytest.fixture
def volume(shelf):
    return opened(shelf)


def changes_and_reads(volume):
    return [
        lambda: put(volume, "c0", b"new"),
        lambda: volume.get("c1", 0, 1, soon()),
        lambda: volume.stat("c1", soon()),
        lambda: list(volume.list("", soon())),
        lambda: volume.delete("c1", soon()),
    ]


# -- the shape


def test_it_is_a_medium_with_a_volume(shelf, volume):
    assert isinstance(shelf, Medium)
    assert isinstance(volume, Volume)
    assert volume.capacity() == shelf.capacity()


def test_a_store_without_one_of_the_methods_is_refused_when_it_is_made():
    lame = type("Lame", (Shelf,), {"remove": StoreMedium.remove})
    with pytest.raises(TypeError, match="remove"):
        lame("m", {})


# -- the label


def test_the_label_is_a_key_that_no_list_shows(shelf, volume):
    put(volume, "c0", b"x")
    assert shelf.config == {LABEL_KEY: text_of(LABEL), "c0": b"x"}
    assert list(volume.list("", soon())) == [ObjectInfo("c0", 1)]
    assert list(volume.list("", soon(), "staddle")) == []


@pytest.mark.parametrize("name", [LABEL_KEY, "C0", ""])
def test_a_key_that_is_no_objects_name_is_out_of_reach(shelf, volume, name):
    for call in (
        lambda: put(volume, name, b"x"),
        lambda: volume.get(name, 0, 1, soon()),
        lambda: volume.stat(name, soon()),
        lambda: volume.delete(name, soon()),
    ):
        with pytest.raises(errors.UsageError) as caught:
            call()
        assert caught.value.code == "BAD_NAME"
    assert shelf.calls == []


@pytest.mark.parametrize("key", ["thesis.txt", "c0", "~"])
def test_what_is_not_empty_is_not_labelled(shelf, key):
    shelf.config[key] = b"years of work"
    with pytest.raises(errors.Conflict, match=key):
        shelf.initialize(LABEL, text_of(LABEL), soon())
    assert shelf.config == {key: b"years of work"}


def test_the_place_is_prepared_for_a_label_and_never_again(shelf):
    shelf.initialize(LABEL, text_of(LABEL), soon())
    assert shelf.calls == ["prepare", f"create {LABEL_KEY}"]
    volume = opened(shelf)
    put(volume, "c0", b"x")
    shelf.config.clear()
    for call in changes_and_reads(volume):
        with pytest.raises(errors.MediumFailed):
            call()
    assert "prepare" not in shelf.calls


@pytest.mark.parametrize(("winner", "refused"), [(LABEL, False), (OTHER, True)])
def test_of_two_that_label_at_once_one_wins_and_the_other_is_told(shelf, winner, refused):
    shelf.page = lambda after, deadline: shelf.config.update({LABEL_KEY: text_of(winner)}) or []
    try:
        shelf.initialize(LABEL, text_of(LABEL), soon())
    except errors.Conflict:
        assert refused
    else:
        assert not refused
    assert shelf.config == {LABEL_KEY: text_of(winner)}


def test_a_label_that_has_gone_is_a_failed_medium_and_nothing_is_changed(shelf, volume):
    put(volume, "c1", b"x")
    del shelf.config[LABEL_KEY]
    shelf.calls.clear()
    for call in changes_and_reads(volume)[:1] + changes_and_reads(volume)[3:]:
        with pytest.raises(errors.MediumFailed) as caught:
            call()
        assert (caught.value.code, caught.value.outcome) == ("LABEL_GONE", "not_done")
    with pytest.raises(errors.MediumFailed):
        volume.stat("c2", soon())
    assert shelf.calls == []
    assert shelf.health(soon()).state == MediumState.OFFLINE
    with pytest.raises(errors.NotFound):
        shelf.read_label(soon())


def test_another_volume_is_neither_opened_nor_changed(shelf, volume):
    shelf.config[LABEL_KEY] = text_of(OTHER)
    for call in (*changes_and_reads(volume), lambda: shelf.open(LABEL, "read", 1, soon())):
        with pytest.raises(errors.MediumFailed) as caught:
            call()
        assert caught.value.code == "WRONG_LABEL"
    assert shelf.calls == []
    assert shelf.health(soon()).state == MediumState.OFFLINE
    shelf.open(OTHER, "read", 1, soon())
    assert shelf.health(soon()).state == MediumState.UP


@pytest.mark.parametrize("index", [0, 4])
def test_a_volume_exchanged_in_mid_change_leaves_it_in_doubt(shelf, volume, index):
    def exchanged(key, *_):
        shelf.config[LABEL_KEY] = text_of(OTHER)
        return True

    shelf.create = shelf.remove = exchanged
    with pytest.raises(errors.MediumFailed) as caught:
        changes_and_reads(volume)[index]()
    assert (caught.value.code, caught.value.outcome) == ("WRONG_LABEL", "in_doubt")


def test_health_without_a_volume_open(shelf):
    assert shelf.health(soon()).state == MediumState.OFFLINE
    shelf.initialize(LABEL, text_of(LABEL), soon())
    assert shelf.health(soon()).state == MediumState.UP


# -- put


def test_a_wrong_digest_is_found_before_anything_is_written(shelf, volume):
    with pytest.raises(errors.Corrupt):
        volume.put("c0", [b"x"], blake3.blake3(b"y").digest(), soon())
    assert shelf.calls == []


def test_an_existing_name_with_the_same_bytes_gives_the_same_receipt(volume):
    assert put(volume, "c0", b"abc") == put(volume, "c0", b"abc")
    for others in (b"abd", b"ab", b"abcd", b""):
        with pytest.raises(errors.Conflict):
            put(volume, "c0", others)
    assert volume.get("c0", 0, 3, soon()) == b"abc"


def test_a_name_that_exists_and_then_does_not_is_in_doubt(shelf, volume):
    shelf.create = lambda *_: False
    with pytest.raises(errors.InDoubt) as caught:
        put(volume, "c0", b"abc")
    assert caught.value.outcome == "in_doubt"


def test_a_volume_that_was_opened_for_reading_is_not_changed(shelf):
    volume = opened(shelf, "read")
    for call in (lambda: put(volume, "c0", b"x"), lambda: volume.delete("c0", soon())):
        with pytest.raises(errors.Denied) as caught:
            call()
        assert caught.value.code == "READ_ONLY"
    assert shelf.calls == []


# -- deadlines


def test_a_passed_deadline_does_nothing(shelf, volume):
    put(volume, "c0", b"x")
    shelf.calls.clear()
    for call in (
        lambda late: put(volume, "c1", b"x", late),
        lambda late: volume.get("c0", 0, 1, late),
        lambda late: volume.stat("c0", late),
        lambda late: list(volume.list("", late)),
        lambda late: volume.delete("c0", late),
        shelf.read_label,
    ):
        with pytest.raises(errors.DeadlineExceeded) as caught:
            call(Deadline(0.0))
        assert caught.value.outcome == "not_done"
    assert shelf.calls == []


def test_a_store_that_overlooks_the_deadline_is_not_asked_to_write_after_it(shelf, volume):
    deadline, read = soon(), shelf.read

    def slow(*arguments):
        deadline.at_s = 0.0
        return read(*arguments)

    shelf.read = slow
    with pytest.raises(errors.DeadlineExceeded) as caught:
        put(volume, "c0", b"x", deadline)
    assert caught.value.outcome == "not_done"
    assert shelf.calls == []


# -- reads


def test_a_range_beyond_the_end_and_a_store_that_reads_too_little_are_corrupt(shelf, volume):
    put(volume, "c0", b"0123456789")
    for offset, length in [(0, 11), (10, 1), (11, 0)]:
        with pytest.raises(errors.Corrupt):
            volume.get("c0", offset, length, soon())
    shelf.read = lambda *_: (10, b"012")
    with pytest.raises(errors.Corrupt):
        volume.get("c0", 0, 10, soon())


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (-5, 5)])
def test_a_negative_range_is_a_wrong_request(volume, offset, length):
    with pytest.raises(errors.UsageError) as caught:
        volume.get("c0", offset, length, soon())
    assert caught.value.code == "BAD_RANGE"


# -- lists

SEGMENT = st.text("0a9f", min_size=1, max_size=3)
NAME = st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)


@given(
    names=st.sets(NAME, max_size=12),
    foreign=st.sets(st.sampled_from(["!", "0//", "a.x", "G", "~", "9 ", "a/b/", "f" * 65]), max_size=4),
    after=st.just("") | NAME,
    prefix=st.sampled_from(["", "0", "a/", "9f", "f", "a/0", "af/"]) | NAME,
    per_page=st.integers(1, 5),
)
def test_a_list_is_complete_ordered_and_bounded(names, foreign, after, prefix, per_page):
    shelf = Shelf("m", {})
    shelf.per_page = per_page
    volume = opened(shelf)
    shelf.config.update({name: name.encode() for name in names | foreign})
    expected = sorted(name for name in names if name > after and name.startswith(prefix))
    assert [*volume.list(after, soon(), prefix)] == [ObjectInfo(name, len(name)) for name in expected]


def test_a_list_asks_for_no_more_than_the_prefix_needs(shelf, volume):
    shelf.config.update({f"{kind}/{number:02x}": b"" for kind in ("4e", "c0", "f0") for number in range(50)})
    asked, page = [], shelf.page
    shelf.page = lambda after, deadline: asked.append(after) or page(after, deadline)
    assert len([*volume.list("", soon(), "c0/")]) == 50
    assert len(asked) <= 50 / shelf.per_page + 1


@pytest.mark.parametrize("keys", [["c1", "c0"], ["c0", "c0"], [""], ["c0", LABEL_KEY, "c1"]])
def test_a_store_that_lists_out_of_order_fails_and_does_not_go_round_for_ever(shelf, volume, keys):
    shelf.page = lambda after, deadline: [ObjectInfo(key, 0) for key in keys]
    with pytest.raises(errors.MediumFailed, match="lists"):
        list(volume.list("", soon()))


def test_a_store_that_vanishes_in_mid_list_is_not_taken_for_a_smaller_one(shelf, volume):
    for name in ("c0", "c1", "c2", "c3"):
        put(volume, name, b"x")
    found = volume.list("", soon())
    assert next(found).name == "c0"
    shelf.config.clear()
    with pytest.raises(errors.MediumFailed):
        list(found)


def test_of_another_volume_nothing_is_listed(shelf, volume):
    put(volume, "c0", b"x")
    shelf.config[LABEL_KEY] = text_of(OTHER)
    with pytest.raises(errors.MediumFailed):
        next(volume.list("", soon()))


def test_a_list_ends_at_its_deadline(shelf, volume):
    deadline = soon()

    def page(after, _):
        if len(after) > 20:
            deadline.at_s = 0.0
        assert len(after) < 60
        return [ObjectInfo(after + "0", 0)]

    shelf.page = page
    with pytest.raises(errors.DeadlineExceeded, match="list"):
        list(volume.list("", deadline))


# -- probe


def test_probe_finds_a_store_as_it_should_be_and_leaves_nothing(shelf):
    findings = shelf.probe(soon())
    assert {finding.name: finding.holds for finding in findings} == {
        "CONDITIONAL_PUT": True,
        "RANDOM_READ": True,
    }
    assert shelf.config == {}


@pytest.mark.parametrize(
    "create",
    [
        lambda held, key, body: not held.update({key: body}),
        lambda held, key, body: bool(held.update({key: body})) or body == b"first",
        lambda held, key, body: bool(held.setdefault(key, body)),
    ],
    ids=["replaces", "replaces and denies it", "keeps and denies it"],
)
def test_probe_disproves_a_store_that_does_not_create_once(shelf, create):
    shelf.create = lambda key, body, deadline: create(shelf.config, key, body)
    assert not {finding.name: finding.holds for finding in shelf.probe(soon())}["CONDITIONAL_PUT"]
    assert shelf.config == {}


def test_probe_leaves_nothing_when_the_store_fails(shelf):
    shelf.read = lambda *_: 1 // 0
    with pytest.raises(ZeroDivisionError):
        shelf.probe(soon())
    assert shelf.config == {}
