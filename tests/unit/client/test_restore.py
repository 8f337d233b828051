"""What a restore brings back, and which parts of a backup."""

import os
import random
from pathlib import Path

import pytest

from staddle.errors import NotFound

from .kit import (
    below,
    picture,
    restored,
    store,
)


@pytest.mark.parametrize(("streams", "per_segment"), [(1, 1000), (1, 2), (3, 1)])
def test_a_restored_tree_is_what_was_backed_up(tree, tmp_path, streams, per_segment):
    stored, tally = store(tree, streams, records_per_segment=per_segment)
    outcome = restored(stored, tmp_path / "to")
    assert outcome.warnings == outcome.lost == []
    assert picture(below(tmp_path / "to", tree)) == picture(tree)
    assert (outcome.summary.files, outcome.summary.dirs) == (tally.files, tally.dirs)
    assert outcome.summary.bytes_restored == tally.bytes_read
    sparse = os.stat(below(tmp_path / "to", tree / "sparse"))
    assert sparse.st_blocks * 512 < sparse.st_size / 2, "zero regions must be holes"


def test_restoring_twice_to_one_place_replaces_what_is_there(tree, tmp_path):
    stored, _ = store(tree)
    restored(stored, tmp_path / "to")
    place = below(tmp_path / "to", tree)
    os.unlink(os.path.join(place, "empty"))
    os.symlink("/etc/passwd", os.path.join(place, "empty"))
    with open(os.path.join(place, "tool"), "wb") as file:
        file.write(b"changed, and longer")
    outcome = restored(stored, tmp_path / "to")
    assert outcome.warnings == []
    assert picture(place) == picture(tree)
    os.chmod(os.path.join(place, "deep"), 0o755)


def test_only_the_wanted_subtrees_are_restored_with_the_directories_above_them(tree, tmp_path):
    stored, _ = store(tree, 2, records_per_segment=1)
    outcome = restored(stored, tmp_path / "to", paths=[tree / "deep/er", tree / "sparse"])
    assert outcome.warnings == []
    got, whole = picture(below(tmp_path / "to", tree)), picture(tree)
    wanted = {
        path: facts
        for path, facts in whole.items()
        if path in {b".", b"deep", b"sparse"} or path.startswith(b"deep/er")
    }
    assert got == wanted
    os.chmod(below(tmp_path / "to", tree / "deep"), 0o755)


def test_a_hard_link_is_restored_without_the_path_that_has_its_content(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    (root / "a").write_bytes(b"content")
    os.link(root / "a", root / "b")
    os.link(root / "a", root / "c")
    stored, _ = store(root)
    outcome = restored(stored, tmp_path / "to", paths=[root / "b", root / "c"])
    assert outcome.warnings == []
    place = below(tmp_path / "to", root)
    assert sorted(os.listdir(place)) == ["b", "c"]
    assert (tmp_path / place / "b").read_bytes() == b"content"
    assert os.path.samefile(os.path.join(place, "b"), os.path.join(place, "c"))


def test_a_path_that_is_not_in_the_backup_is_an_error_after_the_rest_was_restored(tree, tmp_path):
    stored, _ = store(tree)
    with pytest.raises(NotFound, match="nowhere") as caught:
        restored(stored, tmp_path / "to", paths=[tree / "nowhere", tree / "empty"])
    assert caught.value.exit_code == 4
    assert os.path.exists(below(tmp_path / "to", tree / "empty"))


def test_an_incomplete_backup_warns_and_a_file_cut_off_in_it_keeps_what_there_is(tmp_path, seed):
    root = tmp_path / "source"
    root.mkdir()
    content = random.Random(seed).randbytes(4 << 20)
    (root / "big").write_bytes(content)
    stored, _ = store(root, records_per_segment=2)
    stored.manifests = stored.manifests[:2]
    stored.state = "incomplete"
    outcome = restored(stored, tmp_path / "to")
    kept = Path(below(tmp_path / "to", root / "big")).read_bytes()
    assert 0 < len(kept) < len(content)
    assert content.startswith(kept)
    assert [path for path, _ in outcome.warnings] == [b"", os.fsencode(root / "big")]
    assert "incomplete" in outcome.warnings[0][1]
    assert str(len(kept)) in outcome.warnings[1][1]
