"""What a backup finds: the order of the walk, roots, exclude patterns, what can't be read."""

import contextlib
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client.exclude import Excludes
from staddle.client.scan import absolute, join, reduce_roots, scan, split
from staddle.errors import NotFound, UsageError

NOTHING = Excludes([])


def found(roots, excludes=NOTHING):
    warnings = []
    paths = [each.path for each in scan(roots, excludes, lambda path, why: warnings.append((path, why)))]
    return paths, warnings


def test_the_walk_gives_a_directory_then_its_entries_by_name_as_bytes(tmp_path):
    root = os.fsencode(tmp_path)
    for name in (b"b", b"a", b"B", b"a.txt", b"\xff", b"z\xc3\xa4"):
        os.mkdir(root + b"/" + name)
    open(root + b"/a/inside", "wb").close()
    open(root + b"/a.txt/x", "wb").close()
    paths, warnings = found([root])
    assert [path[len(root) :] for path in paths] == [
        *(b"", b"/B", b"/a", b"/a/inside", b"/a.txt", b"/a.txt/x", b"/b", b"/z\xc3\xa4", b"/\xff"),
    ]  # fmt: skip
    assert warnings == []


def test_the_same_tree_gives_the_same_order(tmp_path):
    for number in range(50):
        (tmp_path / f"{number * 7919 % 50}").write_bytes(b"")
    assert found([os.fsencode(tmp_path)]) == found([os.fsencode(tmp_path)])


def test_a_deep_tree_is_walked_without_recursion(tmp_path):
    here = os.fsencode(tmp_path)
    old = os.getcwd()
    try:
        os.chdir(here)
        for _ in range(1500):
            os.mkdir(b"d")
            os.chdir(b"d")
        paths, warnings = found([here])
    finally:
        for _ in range(1500):  # what would remove the directory afterwards works by recursion
            os.chdir(b"..")
            os.rmdir(b"d")
        os.chdir(old)
    # Deeper than a path may be long the system refuses: a warning, not an end.
    assert len(paths) > 1000
    assert len(warnings) <= 1


def test_symlinks_are_not_followed(tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    paths, _ = found([os.fsencode(tmp_path)])
    assert len(paths) == 4
    root_link, _ = found([os.fsencode(tmp_path / "loop")])
    assert root_link == [os.fsencode(tmp_path / "loop")]


def test_a_directory_that_vanishes_in_the_walk_is_a_warning(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    warnings, paths = [], []
    for each in scan([os.fsencode(tmp_path)], NOTHING, lambda path, why: warnings.append((path, why))):
        paths.append(each.path)
        if each.name == b"a":
            (tmp_path / "a").rmdir()
    assert paths[-1].endswith(b"/b")
    assert [path for path, _ in warnings] == [os.fsencode(tmp_path / "a")]


def test_a_root_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(NotFound, match="nowhere"):
        found([os.fsencode(tmp_path / "nowhere")])


def test_a_file_may_be_a_root(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    [each] = scan([os.fsencode(tmp_path / "f")], NOTHING, lambda path, why: None)
    assert stat.S_ISREG(each.status.st_mode)
    assert each.path == os.fsencode(tmp_path / "f")


def test_roots_inside_others_are_dropped():
    assert reduce_roots([b"/a/b", b"/a", b"/ab", b"/a", b"/c/d"]) == [b"/a", b"/ab", b"/c/d"]
    assert reduce_roots([b"/", b"/x"]) == [b"/"]


def test_a_relative_root_becomes_absolute_and_keeps_its_symlinks(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert absolute("link/../link/x") == os.fsencode(tmp_path / "link/x")


@given(st.lists(st.binary(min_size=1, max_size=5).filter(lambda b: b"/" not in b), max_size=4))
def test_split_and_join_are_inverse(parts):
    path = b"/" + b"/".join(parts)
    assert join(*split(path)) == path


@pytest.mark.parametrize(
    ("pattern", "path", "out"),
    [
        ("*.o", b"/src/x.o", True),
        ("*.o", b"/src/x.c", False),
        ("*.o", b"/src/x.o/y", False),
        ("cache", b"/home/me/cache", True),
        ("cache", b"/home/me/mycache", False),
        ("/home/*/cache", b"/home/me/cache", True),
        ("/home/*/cache", b"/home/me/you/cache", False),
        ("/home/**/cache", b"/home/me/you/cache", True),
        ("me/cache", b"/home/me/cache", True),
        ("me/cache", b"/home/some/cache", False),
        ("cache/", b"/home/cache", True),
        ("?at", b"/cat", True),
        ("[bc]at", b"/cat", True),
        ("[!bc]at", b"/cat", False),
        ("[a-c]at", b"/bat", True),
        ("[a-c]at", b"/-at", False),
        ("[[]at", b"/[at", True),
        ("[]-]at", b"/]at", True),
        (r"\*", b"/*", True),
        (r"\*", b"/x", False),
        (b"\xff*", b"/\xffname", True),
    ],
)
def test_exclude_patterns(pattern, path, out):
    assert Excludes([pattern]).match(*split(path)) is out


def test_an_excluded_directory_is_not_entered(tmp_path):
    (tmp_path / "skip/deep").mkdir(parents=True)
    (tmp_path / "keep").mkdir()
    paths, _ = found([os.fsencode(tmp_path)], Excludes(["skip"]))
    assert [os.path.basename(path) for path in paths[1:]] == [b"keep"]


@pytest.mark.parametrize("pattern", ["", "/", "[ab"])
def test_a_pattern_that_makes_no_sense_is_refused(pattern):
    with pytest.raises(UsageError):
        Excludes([pattern])


@given(st.text(alphabet=r"ab*?[]!^-\/.", min_size=1, max_size=12), st.text(alphabet="ab-]/.", max_size=12))
def test_any_pattern_is_read_or_refused(pattern, name):
    with contextlib.suppress(UsageError):
        assert Excludes([pattern]).match(b"/top", name.encode()) in {True, False}
