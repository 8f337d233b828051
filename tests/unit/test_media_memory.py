"""What is the memory medium's own: shared stores, room, fencing by epoch."""

import blake3
import pytest

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import Label
from staddle.media.memory import MemoryMedium, Store
from staddle.media.options import MemoryConfig

LABEL = Label(grid=b"g" * 16, medium="m", volume=b"v" * 16, created_ns=1)
TEXT = (LABEL.grid.hex() + LABEL.volume.hex()).encode()


def soon():
    return Deadline(20.0)


def opened(store, **options):
    medium = MemoryMedium("m", MemoryConfig(store=store, **options))
    medium.initialize(LABEL, TEXT, soon())
    return medium.open(LABEL, "write", 1, soon())


def put(volume, name, data):
    return volume.put(name, [data], blake3.blake3(data).digest(), soon())


@pytest.fixture
def store(request):
    yield request.node.nodeid
    Store.forget(request.node.nodeid)


def test_stores_are_shared_by_name(store):
    put(opened(store), "c0", b"x")
    assert opened(store).get("c0", 0, 1, soon()) == b"x"
    Store.forget(store)
    with pytest.raises(errors.NotFound):
        opened(store).stat("c0", soon())


def test_full_low_and_free_again(store):
    volume = opened(store, capacity_bytes=10, reserve_bytes=4)
    put(volume, "c0", b"123456")
    assert not volume.capacity().low
    put(volume, "c1", b"1")
    assert volume.capacity().low
    with pytest.raises(errors.MediumFull):
        put(volume, "c2", b"1234")
    put(volume, "c1", b"1")
    volume.delete("c0", soon())
    assert volume.capacity().free_bytes == 9
    put(volume, "c2", b"1234")


def test_a_reader_shuts_out_nobody(store):
    volume = opened(store)
    MemoryMedium("m", MemoryConfig(store=store)).open(LABEL, "read", 9, soon())
    put(volume, "c0", b"x")


def test_what_was_given_may_change_afterwards(store):
    volume, data = opened(store), bytearray(b"abc")
    put(volume, "c0", data)
    data[:] = b"xyz"
    assert volume.get("c0", 0, 3, soon()) == b"abc"
