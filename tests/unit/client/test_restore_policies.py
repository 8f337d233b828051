"""What a restore does with what is there already: policies, dry run, deletion, resuming."""

import os
import random
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client.policy import Action, Overwrite, decide, same_file
from staddle.data.entries import EntryRows, EntryType
from staddle.errors import NotFound, UsageError

from .kit import FakeGrid, Stored, below, picture, restored, store
from .restorekit import leftovers, stored_rows, target_at, unfinished, whole_tree

POLICIES = [each.value for each in Overwrite]


def actions(outcome, root):
    prefix = os.fsencode(root)
    return {os.fsdecode(item.path[len(prefix) :]) or "/": item.action.value for item in outcome.items}


# --- which files are replaced -----------------------------------------------------------------------

times = st.integers(-(2**62), 2**62)


class Status:
    def __init__(self, mode, size, mtime_ns):
        self.st_mode, self.st_size, self.st_mtime_ns = mode, size, mtime_ns


@given(
    st.sampled_from(list(Overwrite)),
    st.tuples(st.integers(0, 9), times),
    st.integers(0, 9),
    times,
    st.booleans(),
)
def test_the_decision(overwrite, entry, old_size, old_mtime_ns, is_file):
    size, mtime_ns = entry
    there = Status(stat.S_IFREG if is_file else stat.S_IFLNK, old_size, old_mtime_ns)
    same = same_file(there, size, mtime_ns)
    assert same == (is_file and (size, mtime_ns) == (old_size, old_mtime_ns))
    action = decide(overwrite, there, mtime_ns, same=same)
    assert decide(overwrite, None, mtime_ns, same=False) is Action.NEW
    expected = {
        Overwrite.ALWAYS: Action.REPLACE,
        Overwrite.NEVER: Action.KEEP,
        Overwrite.IF_CHANGED: Action.SAME if same else Action.REPLACE,
        Overwrite.IF_NEWER: Action.SAME
        if same
        else Action.REPLACE
        if mtime_ns > old_mtime_ns
        else Action.KEEP,
    }
    assert action is expected[overwrite]


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_on_a_target_that_has_other_files(small, tmp_path, policy):
    stored, _ = store(small)
    restored(stored, tmp_path / "to")
    place = below(tmp_path / "to", small)
    for name, at_ns in (("a", 10**18), ("dir/b", 2 * 10**18)):
        with open(os.path.join(place, name), "wb") as file:
            file.write(b"changed")
        os.utime(os.path.join(place, name), ns=(at_ns, at_ns))
    os.unlink(os.path.join(place, "link"))
    os.symlink("elsewhere", os.path.join(place, "link"))
    os.utime(os.path.join(place, "dir"), ns=(7, 7))
    (tmp_path / "to/mine").write_bytes(b"mine")
    outcome = restored(stored, tmp_path / "to", overwrite=Overwrite(policy))
    assert outcome.warnings == []
    assert (tmp_path / "to/mine").read_bytes() == b"mine"
    assert not leftovers(tmp_path)
    got = actions(outcome, small)
    if policy in {"always", "if-changed"}:
        assert picture(place) == picture(small)
        kept = "replace" if policy == "always" else "same"
        assert got == {"/a": "replace", "/dir/b": "replace", "/link": "replace", "/pipe": kept} | {
            "/dir/hard": "replace"
        }
    elif policy == "never":
        assert set(got.values()) == {"keep"}
        assert outcome.summary.kept == 5
        assert os.stat(os.path.join(place, "dir")).st_mtime_ns == 7
        with open(os.path.join(place, "a"), "rb") as file:
            assert file.read() == b"changed"
    else:
        # The one that is older than the backup's is replaced; the newer ones are left.
        assert got["/a"] == "replace"
        assert got["/dir/b"] == got["/link"] == "keep"
        with open(os.path.join(place, "dir/b"), "rb") as file:
            assert file.read() == b"changed"


def test_a_hard_link_to_a_file_that_was_left_alone_gets_the_content_of_the_backup(small, tmp_path):
    stored, _ = store(small)
    place = below(tmp_path / "to", small)
    os.makedirs(place)
    with open(os.path.join(place, "a"), "wb") as file:
        file.write(b"somebody's own")
    outcome = restored(stored, tmp_path / "to", overwrite=Overwrite.NEVER)
    assert outcome.warnings == []
    with open(os.path.join(place, "a"), "rb") as file:
        assert file.read() == b"somebody's own"
    with open(os.path.join(place, "dir/hard"), "rb") as file:
        assert file.read() == b"content of a"


def test_what_is_there_and_whole_is_not_fetched_again_but_its_metadata_are_set(tree, tmp_path):
    stored, tally = store(tree, records_per_segment=2)
    restored(stored, tmp_path / "to")
    place = below(tmp_path / "to", tree)
    os.chmod(os.path.join(place, "tool"), 0o600)
    grid = FakeGrid(stored)
    outcome = restored(stored, tmp_path / "to", grid=grid)
    assert [op for _, op in grid.asked if op == "read.chunks"] == []
    assert outcome.summary.bytes_restored == 0
    assert outcome.summary.bytes_unchanged == tally.bytes_read
    assert picture(place) == picture(tree)
    os.chmod(os.path.join(place, "deep"), 0o755)


def test_what_a_killed_restore_left_goes_even_where_nothing_else_is_to_do(tree, tmp_path):
    stored, _ = store(tree)
    restored(stored, tmp_path / "to")
    place = below(tmp_path / "to", tree)
    for directory in ("", "deep"):
        with open(unfinished(os.path.join(place, directory)), "wb") as file:
            file.write(b"half")
    assert len(leftovers(tmp_path / "to")) == 2
    restored(stored, tmp_path / "to", dry_run=True)
    assert len(leftovers(tmp_path / "to")) == 2, "a dry run changes nothing"
    restored(stored, tmp_path / "to")
    assert not leftovers(tmp_path / "to")


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_restore_that_was_broken_off_goes_on_where_it_was(tree, tmp_path, share):
    stored, tally = store(tree, records_per_segment=3)
    calls = 0

    async def breaks(op, args):
        nonlocal calls
        calls += op == "read.chunks"
        if calls > share * total:
            raise KeyError("the end")

    counted = FakeGrid(stored)
    restored(stored, tmp_path / "whole", grid=counted)
    total = sum(op == "read.chunks" for _, op in counted.asked)
    outcome = restored(stored, tmp_path / "to", names=["a1"], faults={"a1": breaks})
    assert outcome.lost
    assert not leftovers(tmp_path / "to")
    again = restored(stored, tmp_path / "to")
    assert again.lost == again.warnings == []
    place = below(tmp_path / "to", tree)
    assert picture(place) == picture(tree)
    assert again.summary.unchanged > 0
    assert again.summary.bytes_restored + again.summary.bytes_unchanged == tally.bytes_read
    for each in (place, below(tmp_path / "whole", tree)):
        os.chmod(os.path.join(each, "deep"), 0o755)


# --- dry run, deletion --------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("policy", POLICIES)
def test_a_dry_run_says_what_the_restore_then_does_and_changes_nothing(small, tmp_path, policy, turn, seed):
    stored, _ = store(small)
    rng = random.Random(seed + turn)
    restored(stored, tmp_path / "to")
    place = below(tmp_path / "to", small)
    for name in ("a", "dir/b", "dir/hard", "link", "pipe"):
        if rng.random() < 0.4:
            os.unlink(os.path.join(place, name))
    os.makedirs(os.path.join(place, "extra/deep"))
    for name in ("extra/f", "extra/deep/g"):
        with open(os.path.join(place, name), "wb"):
            pass
    before = whole_tree(tmp_path / "to")
    options = {"overwrite": Overwrite(policy), "delete": True}
    would = restored(stored, tmp_path / "to", dry_run=True, **options)
    assert whole_tree(tmp_path / "to") == before
    did = restored(stored, tmp_path / "to", **options)
    assert sorted(would.items) == sorted(did.items)
    facts = [
        (each.summary.files, each.summary.dirs, each.summary.deleted, each.summary.kept, each.warnings)
        for each in (would, did)
    ]
    assert facts[0] == facts[1]
    assert not os.path.exists(os.path.join(place, "extra"))


def test_a_dry_run_to_a_directory_that_is_missing_does_not_make_it(small, tmp_path):
    stored, tally = store(small)
    outcome = restored(stored, tmp_path / "not/there", dry_run=True)
    assert not os.path.exists(tmp_path / "not")
    assert set(actions(outcome, small).values()) == {"new"}
    assert (outcome.summary.files, outcome.summary.bytes_restored) == (tally.files, tally.bytes_read)


def test_delete_removes_what_the_backup_has_not_below_the_restored_directories_only(small, tmp_path):
    stored, _ = store(small)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"kept")
    restored(stored, tmp_path / "to")
    place = below(tmp_path / "to", small)
    os.symlink(outside, os.path.join(place, "extra-link"))
    os.makedirs(os.path.join(place, "dir/extra/a/b"))
    for name in ("extra", "dir/extra/a/b/c", "keep.log"):
        if not os.path.isdir(os.path.join(place, name)):
            with open(os.path.join(place, name), "wb"):
                pass
    beside = os.path.join(os.path.dirname(place), "beside")
    with open(beside, "wb"):
        pass
    partial = restored(stored, tmp_path / "to", paths=[small / "dir"], delete=True)
    assert partial.warnings == []
    assert not os.path.exists(os.path.join(place, "dir/extra"))
    assert os.path.exists(os.path.join(place, "extra"))
    outcome = restored(stored, tmp_path / "to", delete=True, exclude=["*.log"])
    assert outcome.warnings == []
    assert outcome.summary.deleted == 2
    assert (outside / "f").read_bytes() == b"kept"
    assert os.path.exists(beside)
    assert sorted(os.listdir(place)) == ["a", "dir", "keep.log", "link", "pipe"]


def test_delete_leaves_what_another_restore_is_writing_and_nothing_else_of_a_like_name(small, tmp_path):
    stored, _ = store(small)
    place = os.fsencode(below(tmp_path / "to", small))
    os.makedirs(place)
    with target_at(tmp_path / "to") as (living, _):
        fresh = living.create_file(os.fsencode(small) + b"/being written")
        for name in (b".staddle-00000000deadbeef", b"extra"):
            with open(os.path.join(place, name), "wb"):
                pass
        outcome = restored(stored, tmp_path / "to", delete=True)
        assert outcome.summary.deleted == 2
        assert os.path.basename(fresh.place) in os.listdir(place)
        living.discard(fresh)


@pytest.mark.parametrize("state", ["incomplete", "warnings"])
def test_nothing_is_deleted_where_the_backup_may_lack_what_was_there(small, tmp_path, state):
    stored, _ = store(small)
    stored.state = state
    place = below(tmp_path / "to", small)
    os.makedirs(place)
    with open(os.path.join(place, "extra"), "wb"):
        pass
    outcome = restored(stored, tmp_path / "to", delete=True)
    assert os.path.exists(os.path.join(place, "extra"))
    assert any("nothing is deleted" in why for _, why in outcome.warnings)


@pytest.mark.parametrize("marker", ["staddle-volume.txt", "staddle.toml"])
def test_a_grid_and_its_volumes_are_not_deleted(small, tmp_path, marker):
    stored, _ = store(small)
    place = below(tmp_path / "to", small)
    volume = os.path.join(place, "x/volume")
    os.makedirs(os.path.join(volume, "c0"))
    os.makedirs(os.path.join(place, "home/inner"))
    with open(os.path.join(volume, marker), "wb"):
        pass
    outcome = restored(
        stored, tmp_path / "to", delete=True, protected=[os.fsencode(os.path.join(place, "home/inner"))]
    )
    assert os.path.isdir(os.path.join(volume, "c0"))
    assert os.path.isdir(os.path.join(place, "home/inner"))
    assert len(outcome.warnings) >= 2
    assert all("not deleted" in why for _, why in outcome.warnings)


def test_a_target_inside_the_grid_is_refused(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "way").symlink_to("home")
    for target in ("home/x", "home", "way/x"):
        with pytest.raises(UsageError, match="inside a grid"):
            restored(Stored(), tmp_path / target, protected=[os.fsencode(tmp_path / "home")])


# --- in place -----------------------------------------------------------------------------------------


def test_in_place_restores_to_the_original_paths_and_leaves_the_way_there_alone(small, tmp_path):
    stored, _ = store(small)
    stored.roots = [os.fsencode(small)]
    wanted = picture(small)
    os.unlink(small / "a")
    (small / "dir/b").write_bytes(b"damaged")
    os.utime(tmp_path, ns=(9, 9))
    outcome = restored(stored, "/", in_place=True)
    assert outcome.warnings == []
    assert picture(small) == wanted
    assert tmp_path.stat().st_mtime_ns == 9


def test_a_selection_does_not_touch_directories_that_are_there_above_it(small, tmp_path):
    stored, _ = store(small)
    stored.roots = [os.fsencode(small)]
    os.unlink(small / "dir/b")
    os.chmod(small, 0o711)
    outcome = restored(stored, "/", in_place=True, paths=[small / "dir/b"])
    assert outcome.warnings == []
    assert (small / "dir/b").read_bytes() == b"content of b"
    assert stat.S_IMODE(small.stat().st_mode) == 0o711


def test_in_place_follows_a_symlink_above_a_root_only_if_nobody_else_can_have_put_it(small, tmp_path):
    stored, _ = store(small)
    moved = tmp_path / "moved"
    tmp_path.chmod(0o755)
    os.rename(small, moved)
    os.symlink(moved, small)
    # The backup's root lies below the symlink, as /home/u does where /home is one.
    stored.roots = [os.fsencode(small / "dir")]
    outcome = restored(stored, "/", in_place=True, paths=[small / "dir"], overwrite=Overwrite.ALWAYS)
    assert outcome.warnings == []
    assert outcome.summary.files == 2
    os.chmod(tmp_path, 0o777)
    outcome = restored(stored, "/", in_place=True, paths=[small / "dir"], overwrite=Overwrite.ALWAYS)
    os.chmod(tmp_path, 0o755)
    assert outcome.summary.files == 0
    assert any("symlink" in why for _, why in outcome.warnings)
    stored.roots = []
    outcome = restored(stored, "/", in_place=True, paths=[small / "dir"], overwrite=Overwrite.ALWAYS)
    assert outcome.summary.files == 0


@pytest.mark.parametrize("kind", [EntryType.IMAGE, EntryType.STREAM])
def test_an_image_or_stream_is_not_restored_in_place(tmp_path, kind):
    place = tmp_path / "disk"
    place.write_bytes(b"device")
    rows = EntryRows()
    rows.add(os.fsencode(tmp_path), b"disk", kind, size=0)
    outcome = restored(stored_rows(rows), "/", in_place=True, overwrite=Overwrite.ALWAYS)
    assert place.read_bytes() == b"device"
    assert [path for path, _ in outcome.warnings] == [os.fsencode(place)]


# --- which entries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"dry_run": True}, {"exclude": ["a", "dir", "link", "pipe"]}], ids=str)
def test_a_pattern_that_takes_nothing_is_an_error(small, tmp_path, more):
    stored, _ = store(small)
    patterns = ["a*", "pipe"] if "exclude" in more else ["nowhere", "no*"]
    with pytest.raises(NotFound, match="nothing that --include") as told:
        restored(stored, tmp_path / "to", include=patterns, **more)
    assert all(repr(pattern) in told.value.message for pattern in patterns)
    if "exclude" not in more:
        restored(stored, tmp_path / "to", include=["nowhere", "pipe"], **more)  # one of them is enough


def test_patterns_choose_what_is_restored(small, tmp_path):
    stored, _ = store(small)
    restored(stored, tmp_path / "ex", exclude=["dir", "pip?"])
    assert sorted(os.listdir(below(tmp_path / "ex", small))) == ["a", "link"]
    outcome = restored(stored, tmp_path / "in", include=["b", "pipe"])
    assert outcome.warnings == []
    place = below(tmp_path / "in", small)
    assert sorted(os.listdir(place)) == ["dir", "pipe"]
    assert os.listdir(os.path.join(place, "dir")) == ["b"]
    assert os.stat(os.path.join(place, "dir")).st_mtime_ns == (small / "dir").stat().st_mtime_ns
    outcome = restored(stored, tmp_path / "both", include=["dir"], exclude=["b"])
    assert outcome.warnings == []
    place = below(tmp_path / "both", small)
    assert sorted(os.listdir(place)) == ["dir"]
    assert os.listdir(os.path.join(place, "dir")) == ["hard"]
    with open(os.path.join(place, "dir/hard"), "rb") as file:
        assert file.read() == b"content of a"
