"""Restore reads any good copy, switches in the middle, and never gives wrong bytes."""

import numpy as np
import pytest

from staddle.data import manifest as manifests
from staddle.data.reader import ChunkReader
from staddle.errors import (
    Corrupt,
    MediumFailed,
)

from .kit import (
    KEYS,
    Medium,
    blob,
    build,
    contents,
    locate_in,
    never,
    part_records,
    plan_of,
)


def test_restore_goes_on_with_another_copy_in_the_middle_of_a_container(shared):
    medium, content = Medium(), blob(11, [700_000])
    result = build(shared, plan_of(medium), part_records(b"/a", content, []))
    good, reported = Medium(), []
    good.objects = dict(medium.objects)
    for container_id in list(medium.objects)[:2]:
        data = bytearray(medium.objects[container_id])
        data[len(data) // 2] ^= 1
        medium.objects[container_id] = bytes(data)
    gone = list(medium.objects)[2]
    medium.fault = lambda name, offset, length: (
        (_ for _ in ()).throw(MediumFailed("I/O error")) if name == gone.hex() else None
    )
    restored = contents([result], medium, good, bad_copy=lambda *bad: reported.append(bad))
    assert restored == {b"/a": content}
    assert {(each, type(error)) for each, copy, error in reported if copy.volume is medium} >= {
        (gone, MediumFailed),
        *((container_id, Corrupt) for container_id in list(medium.objects)[:2]),
    }
    assert all(copy.volume is medium for _, copy, _ in reported)
    first = next(iter(good.objects))
    again = [offset for name, offset, length in good.gets if name == first.hex() and offset > 1024]
    assert min(again) > len(good.objects[first]) // 3  # what the damaged copy gave is not read again


def test_restore_without_a_good_copy_says_elsewhere_and_never_gives_wrong_bytes(shared):
    medium = Medium()
    result = build(shared, plan_of(medium), part_records(b"/a", blob(12, [50_000]), []))
    chunks = manifests.decode(result.manifest).chunks
    (container_id,) = medium.objects
    whole = medium.objects[container_id]
    for damaged in (whole[:-1], whole[:2000] + b"\0" + whole[2001:], b""):
        medium.objects[container_id] = damaged
        with pytest.raises(Corrupt) as caught:
            contents([result], medium, bad_copy=lambda *_: None)
        assert caught.value.retry == "elsewhere"
    medium.objects.clear()
    with (
        ChunkReader(KEYS, locate_in(medium), never) as reader,
        pytest.raises(MediumFailed, match="no copy is known"),
    ):
        list(reader.read(chunks, np.arange(len(chunks))))


def test_stale_ordinals_are_found_by_fingerprint_and_repeated_rows_are_read_once(shared):
    medium, content = Medium(), blob(13, [150_000])
    result = build(shared, plan_of(medium), part_records(b"/a", content, []))
    chunks = manifests.decode(result.manifest).chunks
    stale = manifests.Chunks(
        fingerprints=chunks.fingerprints,
        container=chunks.container,
        containers=chunks.containers,
        ordinals=np.zeros_like(chunks.ordinals),
        lengths=chunks.lengths,
    )
    rows = np.concatenate([np.arange(len(chunks)), np.arange(len(chunks))[::-1]])
    with ChunkReader(KEYS, locate_in(medium), never) as reader:
        got = list(reader.read(stale, rows))
    assert [row for row, _ in got] == rows.tolist()
    data = [raw for _, raw in got]
    assert b"".join(data[: len(chunks)]) == content
    assert data[len(chunks) :] == data[: len(chunks)][::-1]
    assert len(medium.gets) <= 3  # tail, head, one stretch of chunks


def test_each_container_is_opened_once_for_all_batches(shared):
    medium, content = Medium(), blob(14, [240_000])
    result = build(shared, plan_of(medium), part_records(b"/a", content, []))
    (container_id,) = medium.objects
    chunks = manifests.decode(result.manifest).chunks
    with ChunkReader(KEYS, locate_in(medium), never, batch_raw_bytes=40_000, threads=1) as reader:
        assert b"".join(raw for _, raw in reader.read(chunks, np.arange(len(chunks)))) == content
    tails = [get for get in medium.gets if get[1] + get[2] == len(medium.objects[container_id])]
    assert len(tails) == 1
    assert len(medium.gets) > 4


@pytest.mark.parametrize(("most", "kept"), [(0, 0), (5000, 1), (12_300, 3), (1 << 20, 8)])
def test_directories_of_containers_are_kept_up_to_their_bytes(shared, monkeypatch, most, kept):
    monkeypatch.setattr("staddle.data.reader._cost", lambda reader: 4096)
    medium, content = Medium(), blob(15, [2_000_000])
    result = build(shared, plan_of(medium), part_records(b"/a", content, []))
    chunks = manifests.decode(result.manifest).chunks
    assert len(medium.objects) == 8
    with ChunkReader(
        KEYS, locate_in(medium), never, batch_raw_bytes=100_000, directories_bytes_max=most
    ) as reader:
        for _ in range(2):
            assert b"".join(raw for _, raw in reader.read(chunks, np.arange(len(chunks)))) == content
            assert reader._idle_bytes == 4096 * len(reader._idle)
            assert len(reader._idle) == kept
