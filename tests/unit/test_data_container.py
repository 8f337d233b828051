"""Containers and sealed objects: what goes in comes out, and no damaged byte goes unnoticed."""

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.api.types import Kind
from staddle.data import container as module
from staddle.data.container import ContainerBuilder, ContainerReader, read_directory
from staddle.data.crypto import SUITES, ChunkerSpec, DomainKeys, digest
from staddle.data.envelope import FOOTER_BYTES, HEAD_BYTES, Footer, encode_head
from staddle.data.sealed import open_object, seal_object
from staddle.errors import Corrupt, Denied, NewerFormat

KEYS = DomainKeys(
    domain="default",
    domain_id=b"d" * 16,
    fingerprint_key=b"f" * 32,
    wrapping_keys={1: b"1" * 32},
    current=1,
    chunker=ChunkerSpec(seed=5),
)
ID = b"i" * 16
CHUNKS = [b"a" * 900, bytes(range(256)) * 2, b"\x00", b"tail of the container"]


def pack(chunks, container_id=ID, capacity_bytes=1 << 20, **options):
    builder = ContainerBuilder(KEYS, container_id, b"k" * 32, b"n" * 12, capacity_bytes, **options)
    compressor = zstandard.ZstdCompressor(level=1)
    for ordinal, chunk in enumerate(chunks):
        assert builder.add(KEYS.fingerprint(chunk), chunk, compressor) == ordinal
    return builder.finish()


def blob_of(sealed):
    return b"".join(sealed.parts)


class Source:
    """A medium that counts its reads."""

    def __init__(self, data):
        self.data = data
        self.gets = []

    def __call__(self, offset, length):
        self.gets.append((offset, length))
        return self.data[offset : offset + length]


def reader(data, container_id=ID, keys=KEYS, source=None):
    return ContainerReader(keys, source or Source(data), len(data), container_id)


def read_all(data, **options):
    opened = reader(data, **options)
    opened.verify()
    return [raw for _, raw in opened.read(range(len(opened.directory)))]


@settings(max_examples=40)
@given(
    st.lists(st.binary(min_size=1, max_size=3000), max_size=12), st.sampled_from(list(SUITES)), st.randoms()
)
def test_round_trip_in_any_order(chunks, suite, random):
    sealed = pack(chunks, suite=suite)
    data = blob_of(sealed)
    assert sealed.digest == digest(sealed.parts)
    assert sealed.size_bytes == len(data)
    assert sealed.raw_lengths.tolist() == [len(chunk) for chunk in chunks]
    assert read_all(data) == chunks
    order = [random.randrange(len(chunks)) for _ in chunks]
    assert list(reader(data).read(np.array(order, np.uint32))) == list(reader(data).read(order))
    assert list(reader(data).read(order)) == [(ordinal, chunks[ordinal]) for ordinal in order]


def test_directory_says_what_was_packed():
    sealed = pack(CHUNKS)
    data = blob_of(sealed)
    found = read_directory(KEYS, Source(data), len(data), ID)
    assert len(found) == len(CHUNKS)
    assert np.array_equal(found.fingerprints, sealed.fingerprints)
    assert found.raw_lengths.tolist() == sealed.raw_lengths.tolist()
    assert found.stored_lengths.tolist() == sealed.stored_lengths.tolist()
    assert found.offsets[0] == HEAD_BYTES
    assert found.flags.tolist() == [1, 1, 0, 0], "what zstd cannot shorten is stored raw"


def test_head_is_text_for_people():
    text = blob_of(pack(CHUNKS))[:HEAD_BYTES].decode("ascii")
    assert text.startswith(f"STADDLE container 1\nid: {ID.hex()}\n")
    assert "recovery key" in text
    assert "docs/format.md" in text
    assert text.endswith("\n")


def test_the_plain_data_does_not_show():
    assert b"tail of the container" not in blob_of(pack(CHUNKS))


def test_small_container_is_opened_with_one_get_and_a_large_one_with_two():
    small, large = blob_of(pack(CHUNKS)), blob_of(pack([np.random.default_rng(1).bytes(400_000)]))
    for data, gets in [(small, 1), (large, 2)]:
        source = Source(data)
        reader(data, source=source)
        assert len(source.gets) == gets


def test_neighbours_share_a_get_and_no_get_is_beyond_its_bound(monkeypatch):
    chunks = [np.random.default_rng(n).bytes(20_000) for n in range(30)]
    data = blob_of(pack(chunks))
    source = Source(data)
    opened = reader(data, source=source)
    source.gets.clear()
    assert [raw for _, raw in opened.read(range(30))] == chunks
    assert len(source.gets) == 1
    monkeypatch.setattr(module, "_GET_BYTES", 100_000)
    source.gets.clear()
    assert [raw for _, raw in opened.read(range(30))] == chunks
    opened.verify()
    assert all(length <= 100_000 for _, length in source.gets)


@given(st.integers(2000, 20_000), st.lists(st.integers(1, 3000), min_size=1, max_size=40))
def test_what_fits_never_exceeds_the_capacity(capacity_bytes, lengths):
    builder = ContainerBuilder(KEYS, ID, b"k" * 32, b"n" * 12, capacity_bytes)
    compressor = zstandard.ZstdCompressor(level=1)
    rng = np.random.default_rng(3)
    for length in lengths:
        raw = rng.bytes(length)
        if builder.fits(length):
            builder.add(KEYS.fingerprint(raw), raw, compressor)
        else:
            with pytest.raises(ValueError, match="does not fit"):
                builder.add(KEYS.fingerprint(raw), raw, compressor)
    sealed = builder.finish()
    assert sealed.size_bytes <= capacity_bytes
    assert read_all(blob_of(sealed))[:1] or not builder.count


def test_a_pooled_buffer_with_old_bytes_makes_no_difference():
    dirty = bytearray(b"\xee" * (1 << 20))
    assert blob_of(pack(CHUNKS, buffer=dirty)) == blob_of(pack(CHUNKS))
    with pytest.raises(ValueError, match="smaller"):
        pack(CHUNKS, buffer=bytearray(10))


def test_every_damaged_byte_of_a_container_is_noticed():
    data = blob_of(pack(CHUNKS))
    for at in range(len(data)):
        with pytest.raises(Corrupt, match=ID.hex()):
            read_all(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])


def test_every_truncation_of_a_container_is_noticed():
    data = blob_of(pack(CHUNKS))
    for size in range(len(data)):
        with pytest.raises(Corrupt, match=ID.hex()):
            reader(data[:size])


def test_damage_names_chunk_and_place_and_spares_the_other_chunks():
    data = bytearray(blob_of(pack(CHUNKS)))
    place = int(reader(bytes(data)).directory.offsets[1])
    data[place + 3] ^= 1
    opened = reader(bytes(data))
    assert [raw for _, raw in opened.read([0, 2, 3])] == [CHUNKS[0], CHUNKS[2], CHUNKS[3]]
    with pytest.raises(Corrupt, match=f"chunk 1 at byte {place}"):
        list(opened.read([1]))


def test_chunks_swapped_within_a_container_are_noticed():
    chunks = [np.random.default_rng(n).bytes(100) for n in range(2)]
    data = blob_of(pack(chunks))
    first, second = HEAD_BYTES, HEAD_BYTES + 116
    swapped = data[:first] + data[second : second + 116] + data[first:second] + data[second + 116 :]
    with pytest.raises(Corrupt):
        list(reader(swapped).read([0]))


def test_another_container_in_its_place_is_noticed():
    data = blob_of(pack(CHUNKS, container_id=b"j" * 16))
    with pytest.raises(Corrupt, match=(b"j" * 16).hex()):
        reader(data)


def test_a_medium_that_returns_too_little_is_noticed():
    data = blob_of(pack(CHUNKS))
    with pytest.raises(Corrupt, match="of"):
        ContainerReader(KEYS, lambda offset, length: data[offset : offset + length - 1], len(data), ID)


def test_another_domain_or_key_version_is_denied():
    data = blob_of(pack(CHUNKS))
    with pytest.raises(Denied, match="belongs to domain"):
        reader(data, keys=msgspec.structs.replace(KEYS, domain_id=b"e" * 16))
    with pytest.raises(Denied, match="wrapping key 1"):
        reader(data, keys=msgspec.structs.replace(KEYS, wrapping_keys={2: b"2" * 32}, current=2))


def test_ordinals_beyond_the_directory_are_corrupt_references():
    with pytest.raises(Corrupt, match="has 4 chunks"):
        list(reader(blob_of(pack(CHUNKS))).read([0, 4]))


def test_a_newer_container_is_refused_as_newer():
    head = encode_head(Kind.CONTAINER, 2, {"id": ID.hex()})
    footer = Footer(version=2, chunks=0, sealed_offset=HEAD_BYTES, sealed_bytes=16, plain_bytes=0)
    with pytest.raises(NewerFormat, match="newer release"):
        reader(head + bytes(16) + footer.encode())


def forged(chunk_raw_length, body, flags, fingerprint):
    """A container by a holder of the keys that lies about its chunk."""
    builder = ContainerBuilder(KEYS, ID, b"k" * 32, b"n" * 12, 1 << 20)

    class Body:
        def compress(self, raw):
            return body if flags else raw + b"x"

    builder.add(fingerprint, bytes(len(body) + 1) if flags else body, Body())
    builder._raw[0] = chunk_raw_length
    return blob_of(builder.finish())


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    with pytest.raises(Corrupt, match="unpacks to 67108864 bytes instead of 1000"):
        list(reader(forged(1000, bomb, 1, b"p" * 32)).read([0]))
    with pytest.raises(Corrupt, match="contradicts itself"):
        reader(forged(64 << 20, bomb, 1, b"p" * 32))


def test_data_under_a_wrong_fingerprint_is_refused():
    with pytest.raises(Corrupt, match="not the data that its fingerprint names"):
        list(reader(forged(5, b"hello", 0, b"p" * 32)).read([0]))
    frame = zstandard.ZstdCompressor().compress(b"hello" * 50)
    two = frame + frame
    with pytest.raises(Corrupt):
        list(reader(forged(250, two, 1, KEYS.fingerprint(b"hello" * 50))).read([0]))


def seal(plain=b"what is sealed", kind=Kind.MANIFEST, object_id=ID, **options):
    return seal_object(kind, object_id, plain, KEYS, key=b"k" * 32, wrap_nonce=b"n" * 12, **options)


@given(st.binary(max_size=5000), st.sampled_from(list(SUITES)))
def test_sealed_object_round_trip(plain, suite):
    sealed = seal(plain, suite=suite)
    data = b"".join(sealed.parts)
    assert (sealed.size_bytes, sealed.digest) == (len(data), digest([data]))
    assert open_object(KEYS, Kind.MANIFEST, ID, data) == plain
    assert open_object(KEYS, Kind.MANIFEST, ID, memoryview(data)) == plain


def test_every_damaged_byte_and_truncation_of_a_sealed_object_is_noticed():
    data = blob_of(seal())
    for at in range(len(data)):
        with pytest.raises(Corrupt, match=ID.hex()):
            open_object(KEYS, Kind.MANIFEST, ID, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(Corrupt, match=ID.hex()):
            open_object(KEYS, Kind.MANIFEST, ID, data[:at])


def test_sealed_objects_of_another_id_or_kind_are_noticed():
    with pytest.raises(Corrupt, match="lies in its place"):
        open_object(KEYS, Kind.MANIFEST, b"j" * 16, blob_of(seal()))
    with pytest.raises(Corrupt, match="a manifest lies in its place"):
        open_object(KEYS, Kind.SEAL, ID, blob_of(seal()))


def test_a_head_rewritten_for_another_id_does_not_open_the_body():
    honest, other = blob_of(seal()), blob_of(seal(object_id=b"j" * 16))
    body = honest[HEAD_BYTES:-FOOTER_BYTES]
    footer = Footer(
        version=1,
        chunks=0,
        sealed_offset=HEAD_BYTES,
        sealed_bytes=len(body),
        plain_bytes=14,
        digest=digest([other[:HEAD_BYTES], body]),
    )
    with pytest.raises(Corrupt, match="authentication failed"):
        open_object(KEYS, Kind.MANIFEST, b"j" * 16, other[:HEAD_BYTES] + body + footer.encode())
