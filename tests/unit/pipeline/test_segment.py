"""What goes into a segment comes out of its manifest and containers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from staddle.data import manifest as manifests
from staddle.data.entries import EntryFlag

from .kit import (
    Ids,
    Library,
    Medium,
    blob,
    build,
    contents,
    file_record,
    part_records,
    plan_of,
)


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
