"""Every byte of every small object on media, and every other way to spoil it: refused, and named."""

import itertools
import random

import pytest
from damagekit import cuts, flips, golden, other_shapes, refused

from staddle.api.types import Kind
from staddle.data import keyring, label
from staddle.data.container import ContainerReader
from staddle.data.crypto import DomainKeys
from staddle.data.sealed import open_object
from staddle.errors import StaddleError

MAKE = golden()
BUILT = MAKE.build()
IDS = {
    "container-aes": MAKE.CONTAINER_ID,
    "container-chacha": MAKE.CONTAINER_ID,
    "manifest": MAKE.MANIFEST_ID,
    "seal": MAKE.SEAL_ID,
    "journal": MAKE.JOURNAL_ID,
}
KINDS = {"container-aes": Kind.CONTAINER, "container-chacha": Kind.CONTAINER} | {
    name: Kind[name.upper()] for name in ("manifest", "seal", "journal")
}


def getter(data):
    return lambda at, length: data[at : at + length]


def read_whole(kind, object_id, keys=MAKE.KEYS):
    """Reads an object as agents do, every byte of it; gives what it means."""

    def read(data):
        if kind is Kind.CONTAINER:
            reader = ContainerReader(keys, getter(data), len(data), object_id)
            reader.verify()
            return [raw for _, raw in reader.read(range(len(reader.directory)))]
        return open_object(keys, kind, object_id, data)

    return read


READERS = {name: read_whole(KINDS[name], IDS[name]) for name in IDS} | {
    "keyring": lambda data: keyring.decode(MAKE.RECOVERY_KEY, data),
    "label": label.decode,
}
NAMED = {
    "keyring": "keyring",
    "label": "label",
} | {name: f"{KINDS[name].name.lower()} {IDS[name].hex()}" for name in IDS}


@pytest.mark.parametrize("name", sorted(READERS))
def test_whatever_is_wrong_with_an_object_is_refused_and_the_object_is_named(name, seed):
    rng = random.Random(seed)
    data, read = BUILT[name], READERS[name]
    read(data)
    tried = 0
    for what, spoilt in itertools.chain(flips(data, rng), cuts(data, rng), other_shapes(data, rng)):
        error = refused(read, spoilt)
        if error is None:
            # A device may fill up behind a label with blanks, so what is cut or added there says nothing.
            assert name == "label", f"{name}: {what} was not noticed"
            assert label.decode(spoilt) == MAKE.LABEL, what
            assert spoilt.rstrip(b"\0\n ") == data.rstrip(b"\n"), what
            continue
        assert error.code in {"CORRUPT", "NEWER_FORMAT"}, f"{name}: {what}: {error.code}: {error}"
        assert NAMED[name] in error.message, f"{name}: {what}: {error.message}"
        tried += 1
    print(f"{name}: {len(data)} bytes, {tried} ways")


def test_a_flip_in_a_container_never_comes_out_as_data(seed):
    """Also to readers of single chunks, who do not look at every byte."""
    rng = random.Random(seed)
    data = BUILT["container-aes"]
    right = 0
    for what, spoilt in itertools.chain(flips(data, rng), other_shapes(data, rng)):
        try:
            reader = ContainerReader(MAKE.KEYS, getter(spoilt), len(spoilt), MAKE.CONTAINER_ID)
        except StaddleError:
            continue
        for ordinal, chunk in enumerate(MAKE.CHUNKS):
            try:
                got = list(reader.read([ordinal]))
            except StaddleError as error:
                named = f"chunk {ordinal}" in error.message
            else:
                named, right = got == [(ordinal, chunk)], right + 1
            assert named, what
    assert right, "one bad byte must not cost the whole container"


PAIRS = [(a, b) for a, b in itertools.permutations(sorted(IDS), 2) if IDS[a] != IDS[b]]


@pytest.mark.parametrize(("there", "wanted"), PAIRS)
def test_an_object_in_the_place_of_another_is_refused(there, wanted):
    error = refused(READERS[wanted], BUILT[there])
    assert error is not None
    assert error.code == "CORRUPT"
    assert NAMED[wanted] in error.message


@pytest.mark.parametrize("name", sorted(IDS))
def test_the_same_object_under_another_id_is_refused_and_says_whose_it_is(name):
    other = bytes(range(100, 116))
    error = refused(read_whole(KINDS[name], other), BUILT[name])
    assert error is not None
    assert error.code == "CORRUPT"
    assert other.hex() in error.message
    assert IDS[name].hex() in error.message


def keys_with(**changes):
    fields = {name: getattr(MAKE.KEYS, name) for name in DomainKeys.__struct_fields__}
    return DomainKeys(**(fields | changes))


@pytest.mark.parametrize("name", sorted(IDS))
@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(keys_with(domain_id=bytes(16)), id="another domain"),
        pytest.param(keys_with(wrapping_keys={2: bytes(32)}), id="other keys, the same names"),
        pytest.param(keys_with(wrapping_keys={1: bytes(32)}, current=1), id="no such version of the key"),
    ],
)
def test_an_object_of_another_grid_or_domain_gives_no_byte(name, keys):
    error = refused(read_whole(KINDS[name], IDS[name], keys), BUILT[name])
    assert error is not None
    assert error.code in {"CORRUPT", "DENIED"}
    assert NAMED[name] in error.message or "key" in error.message


def test_chunks_that_change_places_within_a_container_are_refused():
    """Each is bound to its place and its fingerprint: two of one length can't be exchanged."""
    chunks = [bytes([number]) * 64 + random.Random(number).randbytes(4000) for number in (1, 2)]
    import zstandard

    from staddle.data.container import ContainerBuilder

    builder = ContainerBuilder(
        MAKE.KEYS, MAKE.CONTAINER_ID, bytes(range(150, 182)), bytes(range(12)), capacity_bytes=1 << 20
    )
    for chunk in chunks:
        builder.add(MAKE.KEYS.fingerprint(chunk), chunk, zstandard.ZstdCompressor(level=1))
    data = b"".join(bytes(part) for part in builder.finish().parts)
    directory = ContainerReader(MAKE.KEYS, getter(data), len(data), MAKE.CONTAINER_ID).directory
    (a, b), (m, n) = directory.offsets.tolist(), directory.stored_lengths.tolist()
    length = min(m, n)
    swapped = bytearray(data)
    swapped[a : a + length], swapped[b : b + length] = data[b : b + length], data[a : a + length]
    reader = ContainerReader(MAKE.KEYS, getter(bytes(swapped)), len(data), MAKE.CONTAINER_ID)
    for ordinal in (0, 1):
        with pytest.raises(StaddleError) as caught:
            list(reader.read([ordinal]))
        assert caught.value.code == "CORRUPT"
