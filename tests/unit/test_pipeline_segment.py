"""A segment holds what its records held, and no failure leaves a thread, a buffer or a wrong byte behind."""

import random
import threading
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.api.types import Durability, Receipt
from staddle.data import manifest as manifests
from staddle.data.base import BaseRows, NeedContent
from staddle.data.crypto import ChunkerSpec, DomainKeys
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.known import KnownChunks
from staddle.data.pipeline import Pipeline, Settings, StreamPlan
from staddle.data.reader import ChunkReader, Copy
from staddle.data.records import NO_BASE, decode_record, encode_files, encode_part
from staddle.data.segment import SegmentBuilder
from staddle.errors import (
    Cancelled,
    Corrupt,
    DeadlineExceeded,
    MediumFailed,
    MediumFull,
    NotFound,
    ProtocolError,
    StaddleError,
    Unavailable,
)

KEYS = DomainKeys(
    domain="test",
    domain_id=bytes(16),
    fingerprint_key=bytes(range(32)),
    wrapping_keys={1: bytes(32)},
    current=1,
    chunker=ChunkerSpec(min_bytes=2048, average_bytes=8192, max_bytes=32768, seed=7),
)
SMALL = Settings(
    workers=2,
    segments_max=2,
    batch_bytes=1024 * 1024,
    batches_max=4,
    container_bytes=256 * 1024,
    containers_max=4,
    wait_s=20,
)


class Ids:
    """Seeded ids, none twice."""

    def __init__(self, seed=0):
        self.rng = random.Random(seed)
        self.lock = threading.Lock()

    def new_id(self):
        return self.random(16)

    def random(self, length):
        with self.lock:
            return self.rng.randbytes(length)


class Medium:
    """Objects in memory, with faults by name: an exception, or a function of (offset, length)."""

    def __init__(self):
        self.objects = {}
        self.gets = []
        self.fault = None

    def put(self, sealed):
        data = b"".join(bytes(part) for part in sealed.parts)
        assert len(data) == sealed.size_bytes
        self.objects[sealed.container_id] = data
        return [
            Receipt(
                name=sealed.container_id.hex(),
                size_bytes=len(data),
                digest=sealed.digest,
                volume=bytes(16),
                durability=Durability.MEMORY,
            )
        ]

    def get(self, name, offset, length, deadline):
        assert deadline.left_s() > 0
        self.gets.append((name, offset, length))
        if self.fault is not None:
            self.fault(name, offset, length)
        data = self.objects.get(bytes.fromhex(name))
        if data is None:
            raise NotFound(f"no object {name}")
        if offset + length > len(data):
            raise Corrupt("cut off")
        return data[offset : offset + length]


class Library:
    """A fingerprint library over the containers of committed segments."""

    def __init__(self):
        self.places = {}
        self.ids = [bytes(16)]
        self.asked = 0

    def publish(self, result):
        for stored in result.containers:
            self.ids.append(stored.container_id)
            for ordinal, (print_, length) in enumerate(
                zip(stored.fingerprints, stored.raw_lengths, strict=True)
            ):
                self.places.setdefault(print_.tobytes(), (len(self.ids) - 1, ordinal, int(length)))

    def lookup(self, prints):
        self.asked += len(prints)
        rows = [self.places.get(each.tobytes()) for each in prints]
        columns = np.array([row or (0, 0, 0) for row in rows], np.uint32).reshape(-1, 3)

        class Hits:
            found = np.array([row is not None for row in rows], np.bool_)
            container, ordinal, raw_length = columns.T
            containers = np.frombuffer(b"".join(self.ids), np.uint8).reshape(-1, 16)

        return Hits()


@pytest.fixture(scope="module")
def shared():
    before = set(threading.enumerate())
    pipeline = Pipeline(SMALL)
    yield pipeline
    assert pipeline.batches.in_use == pipeline.containers.in_use == 0
    pipeline.close()
    assert set(threading.enumerate()) <= before


def head(ordinal=0, first=0):
    return manifests.ManifestHead(
        grid=bytes(16),
        domain=bytes(16),
        client="c",
        name="n",
        job=1,
        backup=1,
        stream=0,
        epoch=1,
        ordinal=ordinal,
        first=first,
    )


def plan_of(medium, library=None, usable=set, **options):
    library = library or Library()
    options.setdefault("store", medium.put)
    options.setdefault("known", KnownChunks(library.lookup, usable))
    return StreamPlan(keys=KEYS, ids=options.pop("ids", Ids()), **options)


def file_record(files, base=None):
    """A FILES record of {path: content}; `base` maps a path to (manifest, row)."""
    base, rows = base or {}, EntryRows()
    for path, data in files.items():
        directory, name = path.rsplit(b"/", 1)
        flags = EntryFlag.UNCHANGED if path in base else 0
        rows.add(directory or b"/", name, EntryType.FILE, size=len(data), flags=flags)
    sent = [b"" if path in base else data for path, data in files.items()]
    places = [base.get(path, (NO_BASE, 0)) for path in files]
    meta = encode_files(rows.build(), list(map(len, sent)), [m for m, _ in places], [r for _, r in places])
    payload = b"".join(sent)
    return decode_record(meta, len(payload)), payload


def part_records(path, data, splits, *, holes=False, last=True, start=0):
    """PART records of a file; with `holes`, pieces of zeros come as a length."""
    directory, name = path.rsplit(b"/", 1)
    rows = EntryRows()
    rows.add(directory or b"/", name, EntryType.FILE, size=start + len(data))
    batch, at, out = rows.build(), 0, []
    cuts = [*splits, 1 << 20]
    while at < len(data) or not out:
        size = cuts.pop(0) if len(cuts) > 1 else cuts[0]
        piece = data[at : at + min(size, 1 << 20)]
        end = last and at + len(piece) >= len(data)
        zeros = len(piece) if holes and piece and not any(piece) else 0
        payload = b"" if zeros else piece
        out.append(
            (decode_record(encode_part(batch, start + at, zero_bytes=zeros, last=end), len(payload)), payload)
        )
        at += len(piece)
    return out


def build(shared, plan, records, *, ordinal=0, first=0):
    with SegmentBuilder(shared, plan, head(ordinal, first)) as segment:
        for record, payload in records:
            segment.add(record, memoryview(payload))
        result = segment.finish(first + len(records))
    assert set(result.refers) >= {each.container_id for each in result.containers}
    return result


def locate_in(*media):
    def locate(container_id):
        return [
            Copy(medium, container_id.hex(), len(medium.objects[container_id]))
            for medium in media
            if container_id in medium.objects
        ]

    return locate


def never(container_id, volume, error):
    raise AssertionError(f"{error} on {container_id.hex()}")


def contents(results, *media, bad_copy=never):
    """path -> content, restored from manifests and media alone."""
    out = {}
    with ChunkReader(KEYS, locate_in(*media), bad_copy, batch_raw_bytes=300_000) as reader:
        for result in results:
            manifest = manifests.decode(result.manifest)
            chunks = manifest.chunks
            raw = dict(reader.read(chunks, np.arange(len(chunks))))
            parts = {
                row: bytes(int(chunks.lengths[row])) if data is None else data for row, data in raw.items()
            }
            for row, path in enumerate(manifest.entries.paths()):
                first, count = int(manifest.chunk_first[row]), int(manifest.chunk_count[row])
                data = b"".join(parts[chunk] for chunk in range(first, first + count))
                offset = int(manifest.entries.columns["offset"][row])
                assert offset == len(out.get(path, b""))
                out[path] = out.get(path, b"") + data
    return out


def blob(seed, pieces):
    rng = random.Random(seed)
    return b"".join(rng.randbytes(n) if i % 2 == 0 else bytes(n) for i, n in enumerate(pieces))


# --- what goes in comes out ---------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_restored_contents_equal_what_was_sent(shared, data):
    seed = data.draw(st.integers(0, 1 << 20), "seed")
    medium, library, sent = Medium(), Library(), {}
    plan = plan_of(medium, library, usable=set)
    records = []
    for number in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            sizes = data.draw(
                st.lists(st.sampled_from([0, 1, 2047, 2048, 2049, 5000, 70_000]), min_size=1, max_size=6)
            )
            copies = data.draw(st.booleans())
            files = {
                b"/f/%d-%d" % (number, i): blob(seed if copies else (seed, number, i).__hash__(), [size])
                for i, size in enumerate(sizes)
            }
            records.append(file_record(files))
            sent.update(files)
        else:
            content = blob(seed + number % 2, data.draw(st.lists(st.integers(0, 900_000), max_size=4)))
            splits = data.draw(st.lists(st.integers(1, 600_000), max_size=5))
            records += part_records(b"/big/%d" % number, content, splits, holes=data.draw(st.booleans()))
            sent[b"/big/%d" % number] = content
    boundary = data.draw(st.integers(0, len(records)))
    results = [build(shared, plan, part) for part in (records[:boundary], records[boundary:]) if part]
    assert contents(results, medium) == sent
    assert sum(result.files for result in results) == len(sent)
    assert sum(result.bytes_read + result.bytes_hole for result in results) == sum(map(len, sent.values()))


def test_a_file_over_two_segments_has_two_rows_and_only_the_last_one_counts(shared):
    medium, content = Medium(), blob(3, [400_000])
    plan = plan_of(medium)
    records = part_records(b"/d/big", content, [150_000, 150_000])
    one, two = build(shared, plan, records[:1]), build(shared, plan, records[1:], ordinal=1, first=1)
    flags = [int(manifests.decode(each.manifest).entries.columns["flags"][0]) for each in (one, two)]
    assert flags == [EntryFlag.PART, EntryFlag.PART | EntryFlag.LAST]
    assert (one.files, two.files) == (0, 1)
    assert contents([one, two], medium) == {b"/d/big": content}


def test_the_same_records_give_the_same_chunks_again(shared):
    records = part_records(b"/x", blob(8, [500_000]), [33_333] * 9)
    builds = [
        manifests.decode(build(shared, plan_of(Medium(), ids=Ids(i)), records).manifest) for i in (1, 2)
    ]
    assert builds[0].chunks.fingerprints.tobytes() == builds[1].chunks.fingerprints.tobytes()
    assert builds[0].chunks.containers != builds[1].chunks.containers


def test_zero_regions_store_nothing(shared):
    medium = Medium()
    result = build(shared, plan_of(medium), part_records(b"/z", bytes(50 << 16), [12345]))
    assert (result.containers, result.refers, result.chunks) == ([], [], 1)
    assert contents([result], medium) == {b"/z": bytes(50 << 16)}


def test_duplicates_within_a_segment_and_of_the_segment_before_are_stored_once(shared):
    medium, content = Medium(), blob(4, [200_000])
    plan = plan_of(medium)
    one = build(shared, plan, part_records(b"/a", content, []) + part_records(b"/b", content, [7777]))
    two = build(shared, plan, part_records(b"/c", content, []), ordinal=1)
    assert one.bytes_stored < 1.2 * len(content)
    assert (two.containers, two.bytes_stored) == ([], 0)
    assert set(two.refers) == {each.container_id for each in one.containers}  # for COMMIT to check
    assert contents([one, two], medium) == {b"/a": content, b"/b": content, b"/c": content}


def test_uncommitted_chunks_are_invisible_to_another_epoch(shared):
    content = blob(4, [100_000])
    medium, library = Medium(), Library()
    build(shared, plan_of(medium, library), part_records(b"/a", content, []))
    again = build(shared, plan_of(medium, library, ids=Ids(9)), part_records(b"/a", content, []))
    assert again.bytes_stored > len(content)


# --- hits and unchanged files -------------------------------------------------------------------


def test_hits_refer_only_to_usable_containers_and_each_is_asked_for_once(shared):
    medium, library, content = Medium(), Library(), blob(5, [900_000])
    old = build(shared, plan_of(medium, library), part_records(b"/a", content, []))
    library.publish(old)
    assert len(old.containers) > 2
    bad, asked = old.containers[0].container_id, []

    def usable(ids):
        asked.extend(ids)
        return set(ids) - {bad}

    plan = plan_of(medium, library, usable, ids=Ids(1))
    new = build(shared, plan, part_records(b"/a", content, []))
    assert bad not in new.refers
    assert 0 < new.bytes_stored < old.bytes_stored / 2
    assert {each.container_id for each in old.containers[1:]} < set(new.refers)
    del medium.objects[bad]
    assert contents([new], medium) == {b"/a": content}
    build(shared, plan, part_records(b"/a2", content, []), ordinal=1)
    assert sorted(asked) == sorted(set(asked))


def test_a_container_that_commit_refused_is_stored_anew(shared):
    medium, library, content = Medium(), Library(), blob(6, [100_000])
    library.publish(build(shared, plan_of(medium, library), part_records(b"/a", content, [])))
    plan = plan_of(medium, library, set, ids=Ids(1))
    refused = build(shared, plan, part_records(b"/a", content, []))
    assert refused.bytes_stored == 0
    plan.known.refuse(refused.refers)
    again = build(shared, plan, part_records(b"/a", content, []))
    assert not set(again.refers) & set(refused.refers)


def test_a_hit_of_another_length_is_no_hit(shared):
    medium, library, content = Medium(), Library(), blob(6, [60_000])
    library.publish(build(shared, plan_of(medium, library), part_records(b"/a", content, [])))
    library.places = {key: (c, o, length + 1) for key, (c, o, length) in library.places.items()}
    assert build(shared, plan_of(medium, library, ids=Ids(1)), part_records(b"/a", content, [])).bytes_stored


def base_backup(shared, medium, library):
    """Two segments: small files and the front of a big one; its end."""
    plan = plan_of(medium, library)
    files = {b"/d/%d" % i: blob(i, [i * 900]) for i in range(20)}
    big = part_records(b"/d/big", blob(77, [300_000, 140_000, 100_000]), [250_000])
    results = [build(shared, plan, [file_record(files), big[0]]), build(shared, plan, big[1:], ordinal=1)]
    return files, results, [manifests.decode(result.manifest) for result in results]


def test_unchanged_rows_take_their_chunks_from_the_base(shared):
    medium, library = Medium(), Library()
    files, results, base = base_backup(shared, medium, library)
    where = {path: (0, row) for row, path in enumerate(base[0].entries.paths())}
    where.pop(b"/d/big")
    loads = []
    plan = plan_of(medium, base=BaseRows(lambda index: loads.append(index) or base[index]), ids=Ids(5))
    files[b"/d/new"] = b"new content"
    record = file_record(files, where)
    rows = EntryRows()
    for manifest, row, flag in ((base[0], 20, EntryFlag.PART), (base[1], 0, EntryFlag.PART | EntryFlag.LAST)):
        offset, size = (int(manifest.entries.columns[name][row]) for name in ("offset", "size"))
        rows.add(b"/d", b"big", EntryType.FILE, size=size, offset=offset, flags=flag | EntryFlag.UNCHANGED)
    parts = decode_record(encode_files(rows.build(), [0, 0], [0, 1], [20, 0]), 0), b""
    new = build(shared, plan, [record, parts])
    assert new.bytes_stored < 5000
    assert (new.files, new.bytes_read) == (22, len(b"new content"))
    assert loads == [0, 1]
    assert contents([new], medium) == contents(results, medium) | {b"/d/new": b"new content"}
    assert set(new.refers) == {c.container_id for r in (*results, new) for c in r.containers}


def test_unchanged_rows_are_refused_as_a_whole_when_a_container_is_unusable(shared):
    medium, library = Medium(), Library()
    files, _, base = base_backup(shared, medium, library)
    where = {path: (0, row) for row, path in enumerate(base[0].entries.paths()) if path in files}
    lost = base[0].chunks.containers[0]
    plan = plan_of(medium, usable=lambda ids: set(ids) - {lost}, base=BaseRows(base.__getitem__), ids=Ids(5))
    with SegmentBuilder(shared, plan, head()) as segment:
        with pytest.raises(NeedContent) as caught:
            segment.add(*file_record(files, where))
        assert caught.value.containers == [lost]
        assert 0 < len(caught.value.rows) <= 19  # the empty file needs nothing
        paths = list(files)
        for row in caught.value.rows:
            del where[paths[row]]
        segment.add(*file_record(files, where))
        new = segment.finish(1)
    assert lost not in new.refers
    del medium.objects[lost]
    assert contents([new], medium) == files


@pytest.mark.parametrize(
    ("base", "place"),
    [(None, (0, 0)), ("size", (0, 5)), ("row", (0, 999)), ("gone", (7, 0))],
)
def test_a_base_that_does_not_fit_costs_a_read_and_never_wrong_data(shared, base, place):
    medium, library = Medium(), Library()
    _, _, decoded = base_backup(shared, medium, library)

    def load(index):
        if index:
            raise NotFound("that manifest was pruned")
        return decoded[index]

    plan = plan_of(medium, base=BaseRows(load) if base else None, ids=Ids(5))
    files = {b"/d/5": b"x" * 123}
    with SegmentBuilder(shared, plan, head()) as segment:
        with pytest.raises(NeedContent) as caught:
            segment.add(*file_record(files, {b"/d/5": place}))
        assert caught.value.rows == [0]
        segment.add(*file_record(files))
        assert contents([segment.finish(1)], medium) == files


def test_a_base_row_whose_chunks_do_not_make_its_size_is_not_used(shared):
    medium, library = Medium(), Library()
    files, _, decoded = base_backup(shared, medium, library)
    count = decoded[0].chunk_count.copy()
    count[5] = 0
    broken = msgspec.structs.replace(decoded[0], chunk_count=count)
    plan = plan_of(medium, base=BaseRows(lambda _: broken), ids=Ids(5))
    with SegmentBuilder(shared, plan, head()) as segment, pytest.raises(NeedContent):
        segment.add(*file_record({b"/d/5": files[b"/d/5"]}, {b"/d/5": (0, 5)}))


# --- failures -----------------------------------------------------------------------------------


def feed(segment, total):
    """Random files of 100 kB."""
    rng = random.Random(1)
    for number in range(total // 100_000):
        segment.add(*file_record({b"/%d" % number: rng.randbytes(100_000)}))


def stream_until_error(shared, plan, total=20_000_000):
    """Feed one segment until it fails."""
    with SegmentBuilder(shared, plan, head()) as segment:
        feed(segment, total)
        segment.finish(1)
    raise AssertionError("the segment came to its end")


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (MediumFull("no room"), MediumFull),
        (MediumFailed("I/O error"), MediumFailed),
        (OSError(5, "x"), StaddleError),
    ],
)
def test_a_store_that_fails_in_the_middle_ends_the_segment_and_frees_everything(shared, error, seen):
    medium, count = Medium(), []

    def store(sealed):
        count.append(sealed)
        if len(count) == 3:
            raise error
        return medium.put(sealed)

    plan = plan_of(medium, store=store)
    with pytest.raises(seen) as caught:
        stream_until_error(shared, plan)
    assert caught.value.retry == "elsewhere"
    assert shared.batches.in_use == shared.containers.in_use == 0
    assert len(plan.known.own) == 0  # what a failed segment stored is not referred to
    assert contents([build(shared, plan_of(medium), [file_record({b"/a": b"1"})])], medium) == {b"/a": b"1"}


def test_a_lookup_that_fails_ends_the_segment(shared):
    def lookup(prints):
        raise Unavailable("the library is closed")

    with pytest.raises(Unavailable):
        stream_until_error(shared, plan_of(Medium(), known=KnownChunks(lookup, set)))
    assert shared.batches.in_use == shared.containers.in_use == 0


def test_slow_media_bound_the_memory_and_hold_the_sender_back(shared):
    medium, most = Medium(), []

    def store(sealed):
        most.append(shared.batches.in_use + shared.containers.in_use)
        time.sleep(0.03)
        return medium.put(sealed)

    rng, sent = random.Random(2), {}
    with SegmentBuilder(shared, plan_of(medium, store=store), head()) as segment:
        for number in range(160):
            sent[b"/%d" % number] = rng.randbytes(100_000)
            segment.add(*file_record({b"/%d" % number: sent[b"/%d" % number]}))
            done = sum(map(len, medium.objects.values()))
            ahead = segment.bytes_read - done
            assert ahead <= ((SMALL.batches_max + 1) * SMALL.batch_bytes) + (
                SMALL.containers_max * SMALL.container_bytes
            )
        result = segment.finish(1)
    assert max(most) <= SMALL.batches_max + SMALL.containers_max
    assert contents([result], medium) == sent


def test_a_stream_with_a_stuck_medium_leaves_threads_and_buffers_to_the_others():
    settings = {field: getattr(SMALL, field) for field in SMALL.__struct_fields__}
    settings.update(container_bytes=1 << 20, containers_max=6, batches_max=8)
    pipeline, release, medium = Pipeline(Settings(**settings)), threading.Event(), Medium()

    def store(sealed):
        release.wait(30)
        return medium.put(sealed)

    stuck = SegmentBuilder(pipeline, plan_of(medium, store=store), head())
    thread = threading.Thread(target=lambda: feed(stuck, 15_000_000))
    thread.start()
    try:
        before = -1
        while before != stuck.bytes_read:  # until it is held back
            before = stuck.bytes_read
            time.sleep(0.2)
        assert before < 15_000_000
        content, start = random.Random(3).randbytes(4_000_000), time.monotonic()
        other = build(pipeline, plan_of(medium, ids=Ids(4)), part_records(b"/b", content, []))
        assert time.monotonic() - start < 10
        assert other.bytes_stored > len(content)
    finally:
        release.set()
        thread.join(20)
        stuck.abort()
        pipeline.close()


def test_a_hanging_store_is_a_deadline_and_cancel_wakes_who_waits(shared):
    release = threading.Event()
    medium = Medium()

    def store(sealed):
        release.wait(20)
        return medium.put(sealed)

    pipeline = Pipeline(
        Settings(**{**{f: getattr(SMALL, f) for f in SMALL.__struct_fields__}, "wait_s": 0.3})
    )
    try:
        plan = plan_of(medium, store=store)
        with pytest.raises(DeadlineExceeded):
            stream_until_error(pipeline, plan)
    finally:
        release.set()
        pipeline.close()
    assert pipeline.batches.in_use == pipeline.containers.in_use == 0
    assert len(plan.known.own) == 0  # the store that ended late made nothing known

    release.clear()
    segment = SegmentBuilder(shared, plan_of(Medium(), store=store), head())
    threading.Timer(0.2, segment.cancel).start()
    with pytest.raises(Cancelled):
        feed(segment, 30_000_000)
    release.set()
    segment.abort()
    segment.abort()
    assert shared.batches.in_use == shared.containers.in_use == 0


def test_too_many_segments_are_refused_and_records_must_fit_together(shared):
    plan = plan_of(Medium())
    with SegmentBuilder(shared, plan, head()) as one, SegmentBuilder(shared, plan, head()):
        with pytest.raises(Unavailable):
            SegmentBuilder(shared, plan, head())
        first, second = part_records(b"/a", bytes(10) + b"x" * 10, [10])[:2]
        one.add(*first)
        with pytest.raises(ProtocolError):
            one.add(*file_record({b"/b": b"1"}))
        with pytest.raises(ProtocolError):
            one.add(*first)
        one.add(*second)
    SegmentBuilder(shared, plan, head()).abort()


# --- reading ------------------------------------------------------------------------------------


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
    assert {(each, type(error)) for each, volume, error in reported if volume is medium} >= {
        (gone, MediumFailed),
        *((container_id, Corrupt) for container_id in list(medium.objects)[:2]),
    }
    assert all(volume is medium for _, volume, _ in reported)
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
