"""What a backup finds: the order of the walk, roots, exclude patterns, what can't be read."""

import contextlib
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client.exclude import Excludes
from staddle.client.scan import (
    CACHE_TAG,
    Rules,
    Scan,
    Tag,
    absolute,
    join,
    parents,
    scan,
    split,
)
from staddle.client.walkorder import reduce_roots
from staddle.data.entries import PATH_BYTES_MAX
from staddle.errors import NotFound, UsageError
from staddle.platform import fsattrs

from .scankit import NOTHING, found, moved, names_of, tree


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
    given_paths = sorted([b"/a/b", b"/a", b"/ab", b"/a", b"/c/d"])
    assert list(reduce_roots(given_paths)) == [b"/a", b"/ab", b"/c/d"]
    assert list(reduce_roots([b"/", b"/x"])) == [b"/"]


@given(st.lists(st.lists(st.sampled_from([b"a", b"b", b"a!", b"a-b", b"a0"]), max_size=4)))
def test_no_root_lies_inside_another_and_none_is_missing(paths):
    given_paths = {b"/" + b"/".join(parts) for parts in paths}
    outer = {path for path in given_paths if not any(above in given_paths for above in parents(path))}
    assert list(reduce_roots(sorted(given_paths))) == sorted(outer)


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


# --- what is left out beside patterns ---------------------------------------------------------------


def test_files_longer_than_asked_for_are_left_out(tmp_path):
    tree(tmp_path, "nine", data=b"9" * 9)
    tree(tmp_path, "d/ten", data=b"0" * 10)
    os.symlink("x" * 50, tmp_path / "link")
    assert names_of(tmp_path, Rules(larger_than_bytes=9)) == {"nine", "d", "link"}
    assert names_of(tmp_path, Rules(larger_than_bytes=0)) == {"d", "link"}


def test_of_a_marked_directory_only_the_mark_is_kept(tmp_path):
    tree(tmp_path, "a/.nobackup", "a/data", "a/sub/data", "b/data", "b/sub/.nobackup", "b/sub/x")
    assert names_of(tmp_path, Rules(tags=(Tag(b".nobackup"),))) == {
        *("a", "a/.nobackup", "b", "b/data", "b/sub", "b/sub/.nobackup"),
    }  # fmt: skip
    tree(tmp_path, ".nobackup")
    assert names_of(tmp_path, Rules(tags=(Tag(b".nobackup"),))) == {".nobackup"}


def test_a_cache_directory_needs_a_plain_file_with_the_signature(tmp_path):
    signature = b"Signature: 8a477f597d28d172789f06886806bc55"
    tree(tmp_path, "good/CACHEDIR.TAG", data=signature + b"\n# by me")
    tree(tmp_path, "bad/CACHEDIR.TAG", data=signature[:-1] + b"6")
    tree(tmp_path, "short/CACHEDIR.TAG", data=signature[:-1])
    tree(tmp_path, "good/x", "bad/x", "short/x", "link/x", "dir/x", "dir/CACHEDIR.TAG/")
    os.symlink("../good/CACHEDIR.TAG", tmp_path / "link/CACHEDIR.TAG")
    names = names_of(tmp_path, Rules(tags=(CACHE_TAG,)))
    assert {name for name in names if name.endswith("x")} == {"bad/x", "short/x", "link/x", "dir/x"}
    assert "good/CACHEDIR.TAG" in names


def test_the_contents_of_the_grids_own_directories_are_left_out_and_named(tmp_path):
    tree(tmp_path, "home/media/object", "home/staddle.toml", "work/x")
    status = os.stat(tmp_path / "home/media")
    walk = Scan(
        [os.fsencode(tmp_path)], NOTHING, print, Rules(own=frozenset({(status.st_dev, status.st_ino)}))
    )
    names = {each.name for each in walk}
    assert b"staddle.toml" in names
    assert b"media" in names
    assert b"object" not in names
    assert walk.left_out == [os.fsencode(tmp_path / "home/media")]


def test_other_file_systems_are_not_entered_but_where_they_are_mounted_is_kept(tmp_path, monkeypatch):
    tree(tmp_path, "mnt/inside", "own/inside", "own/asked/inside")
    moved(monkeypatch, *(tmp_path / each for each in ("mnt", "own/asked", "own/asked/inside")))
    assert names_of(tmp_path, Rules(one_file_system=True)) == {"mnt", "own", "own/inside", "own/asked"}
    names = names_of(tmp_path, Rules(one_file_system=True), asked=["own/asked"])
    assert names == {"mnt", "own", "own/inside", "own/asked", "own/asked/inside"}
    assert "mnt/inside" in names_of(tmp_path, Rules())


@pytest.mark.skipif(sys.platform != "linux", reason="chattr is Linux's")
def test_what_has_the_nodump_flag_is_left_out(tmp_path):
    tree(tmp_path, "keep", "drop", "dir/inside", "other/inside")
    for name in ("drop", "dir"):
        fd = os.open(tmp_path / name, os.O_RDONLY)
        try:
            fsattrs.set_flags(fd, fsattrs.NODUMP)
            assert fsattrs.get_flags(fd) & fsattrs.NODUMP, "this file system has no such flag"
        finally:
            os.close(fd)
    assert names_of(tmp_path, Rules(nodump=True)) == {"keep", "other", "other/inside"}
    assert names_of(tmp_path, Rules()) >= {"drop", "dir/inside"}


def test_the_directories_above_listed_roots_are_entries_once_each(tmp_path):
    tree(tmp_path, "a/b/one", "a/b/two", "a/c/three", "a/no", "z")
    top = os.fsencode(tmp_path)
    roots = [top + each for each in (b"/a/b/one", b"/a/b/two", b"/a/c")]
    paths = [each.path[len(top) :] for each in scan(roots, NOTHING, print, Rules(leading=top))]
    assert paths == [b"", b"/a", b"/a/b", b"/a/b/one", b"/a/b/two", b"/a/c", b"/a/c/three"]


# --- hostile and enormous trees ---------------------------------------------------------------------


def test_a_tree_deeper_than_a_path_may_be_is_walked_whole(tmp_path):
    top = os.fsencode(tmp_path)
    fd, name = os.open(top, os.O_RDONLY), b"n" * 100
    for _ in range(120):
        for each in (b"before", b"zz-after"):
            os.close(os.open(each, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    try:
        before = len(os.listdir("/dev/fd"))
        paths, warnings = found([top])
        assert len(os.listdir("/dev/fd")) == before, "descriptors were left open"
    finally:
        subprocess.run(["rm", "-rf", tmp_path], check=True)
    assert not warnings
    assert len(paths) == 1 + 3 * 120
    assert max(map(len, paths)) > 12_000
    assert paths == sorted(paths, key=lambda path: path.replace(b"/", b"\0"))


def test_a_path_longer_than_a_backup_keeps_is_a_warning(tmp_path):
    top = os.fsencode(tmp_path)
    fd, name = os.open(top, os.O_RDONLY), b"n" * 250
    for _ in range(265):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    try:
        paths, warnings = found([top])
    finally:
        subprocess.run(["rm", "-rf", tmp_path], check=True)
    assert max(map(len, paths)) <= PATH_BYTES_MAX
    assert [why for _, why in warnings] == [f"not backed up: its path is longer than {PATH_BYTES_MAX} bytes"]


def test_a_directory_swapped_for_a_symlink_in_mid_walk_leads_nowhere(tmp_path):
    tree(tmp_path, "top/a/inside", "top/b/inside", "secret/passwd")
    seen, warnings = [], []
    for each in scan([os.fsencode(tmp_path / "top")], NOTHING, lambda path, why: warnings.append(path)):
        seen.append(each.name)
        if each.name == b"b":
            (tmp_path / "top/b").rename(tmp_path / "away")
            os.symlink("../secret", tmp_path / "top/b")
    assert b"passwd" not in seen
    assert warnings == [os.fsencode(tmp_path / "top/b")]


def test_a_directory_above_that_is_swapped_on_the_way_back_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("staddle.client.scan._OPEN_LEVELS_MAX", 1)
    tree(tmp_path, "top/a/b/c/deep", "top/a/z", "secret/z", "secret/zz")
    seen, warnings = [], []
    for each in scan([os.fsencode(tmp_path / "top")], NOTHING, lambda *args: warnings.append(args)):
        seen.append(each.name)
        if each.name == b"deep":
            (tmp_path / "top/a").rename(tmp_path / "away")
            os.symlink("../secret", tmp_path / "top/a")
    assert seen[-1] == b"deep"
    assert [path for path, _ in warnings] == [os.fsencode(tmp_path / "top/a")]


def test_walking_with_few_descriptors_gives_the_same(tmp_path, monkeypatch):
    tree(tmp_path, *(f"{a}/{b}/{c}/{d}" for a in "xy" for b in "pq" for c in "mn" for d in "12"))
    whole = found([os.fsencode(tmp_path)])
    monkeypatch.setattr("staddle.client.scan._OPEN_LEVELS_MAX", 1)
    assert found([os.fsencode(tmp_path)]) == whole
