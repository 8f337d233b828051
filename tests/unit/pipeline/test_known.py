"""Hits and unchanged files refer to usable containers only, and never to wrong data."""

import msgspec
import pytest

from staddle.data import manifest as manifests
from staddle.data.base import BaseRows, NeedContent
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.known import KnownChunks
from staddle.data.records import decode_record, encode_files
from staddle.data.segment import SegmentBuilder
from staddle.dedup.library import Library as FingerprintLibrary
from staddle.dedup.ownermap import OwnerMap
from staddle.errors import (
    NotFound,
)

from .kit import (
    Ids,
    Library,
    Medium,
    blob,
    build,
    contents,
    file_record,
    head,
    part_records,
    plan_of,
)


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


def test_the_real_library_answers_what_segments_ask(shared, tmp_path):
    medium, content = Medium(), blob(21, [700_000])
    with FingerprintLibrary.open(str(tmp_path), "agent", OwnerMap.everyone()) as library:
        old = build(
            shared, plan_of(medium, known=KnownChunks(library.lookup, set)), part_records(b"/a", content, [])
        )
        for lsn, stored in enumerate(old.containers, 1):
            library.publish(lsn, stored.container_id, stored.fingerprints, stored.raw_lengths)
        plan = plan_of(medium, known=KnownChunks(library.lookup, set), ids=Ids(1))
        new = build(shared, plan, part_records(b"/b", content, []))
    assert (new.bytes_stored, new.chunks_hit) == (0, new.chunks)
    assert contents([new], medium) == {b"/b": content}
