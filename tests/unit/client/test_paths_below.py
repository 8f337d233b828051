"""Paths of a backup that lie below another one: found whatever is left out above them, and each once."""

import os
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.client.exclude import Excludes
from staddle.client.scan import CACHE_TAG, Rules, Tag, scan
from staddle.client.walkorder import Ahead, WalkOrder
from staddle.platform import fsattrs

from .scankit import found, moved, names_of, tree
from .test_restore_as_user import as_nobody

NAME = st.lists(st.sampled_from([b"\1", b"\2", b"\3", b"!", b"a", b"\xff"]), min_size=1, max_size=3).map(
    b"".join
)


@given(st.sets(st.lists(NAME, max_size=3).map(tuple)))
def test_paths_come_as_a_walk_comes_to_them(paths):
    given_paths = [b"/" + b"/".join(parts) for parts in paths]
    assert list(WalkOrder(given_paths)) == [b"/" + b"/".join(parts) for parts in sorted(paths)]


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (b"/", b"a"),
        (b"/a", b"b"),
        (b"/a/b", b"c"),
        (b"/a/b/c", b""),
        (b"/a/", b"b"),
        (b"/aa", b""),
        (b"/a/bb", b""),
    ],
)
def test_what_leads_to_the_next_path_is_known_in_every_directory(directory, name):
    ahead = Ahead([b"/a/b/c", b"/z"])
    assert ahead.name_in(directory) == name
    assert list(ahead.skip(directory)) == ([b"/a/b/c"] if name else []) + (
        [b"/z"] if directory == b"/" else []
    )
    assert not ahead.name_in(directory)


RULES = {
    "another file system": (Rules(one_file_system=True), []),
    "a pattern": (Rules(), ["b"]),
    "a pattern above": (Rules(), ["b", "c"]),
    "a cache": (Rules(tags=(CACHE_TAG,)), []),
    "a mark": (Rules(tags=(Tag(b"CACHEDIR.TAG"),)), []),
    "nodump": (Rules(nodump=True), []),
}


@pytest.fixture(params=RULES)
def passage(request, tmp_path, monkeypatch):
    """A tree in which a rule leaves out what `b` holds; rules, patterns, and what stays all the same."""
    tree(tmp_path, "a", "b/1", "b/c/1", "b/c/d/x", "b/c/d/y/z", "b/c/d/b/z", "b/c/e/x", "b/c0/x", "b/z", "c0")
    tree(tmp_path, "b/CACHEDIR.TAG", data=CACHE_TAG.header)
    rules, patterns = RULES[request.param]
    beside = {"b/CACHEDIR.TAG"} if rules.tags else set()
    if rules.one_file_system:
        moved(monkeypatch, tmp_path / "b", *(tmp_path / "b").rglob("*"))
    if rules.nodump:
        if sys.platform != "linux":
            pytest.skip("chattr is Linux's")
        fd = os.open(tmp_path / "b", os.O_RDONLY)
        try:
            fsattrs.set_flags(fd, fsattrs.NODUMP)
        finally:
            os.close(fd)
    return rules, Excludes(patterns), beside


def test_a_path_below_a_directory_that_is_left_out_is_found_with_the_way_to_it(tmp_path, passage):
    rules, excludes, beside = passage
    left_out = names_of(tmp_path, rules, excludes) - {"b"}
    assert left_out == {"a", "c0", *beside}
    names = names_of(tmp_path, rules, excludes, asked=["b/c/d", "b/c/d/y", "b/z", "b/c/1"])
    below = {"b/c/d/b", "b/c/d/b/z"} if not excludes.match(b"/b/c/d", b"b") else set()
    assert names == {
        *("a", "c0", "b", "b/c", "b/c/1", "b/c/d", "b/c/d/x", "b/c/d/y", "b/c/d/y/z", "b/z", *beside, *below)
    }


def test_at_a_path_below_another_the_rules_begin_anew(tmp_path):
    tree(tmp_path, "b/c/.mark", "b/c/x", "b/d/b/x", "b/d/o", "b/d/big", "n.o")
    (tmp_path / "b/d/big").write_bytes(bytes(100))
    rules = Rules(tags=(Tag(b".mark"),), larger_than_bytes=50)
    assert names_of(tmp_path, rules, Excludes(["b", "*o"]), asked=["b/c", "b/d"]) == {
        *("b", "b/c", "b/c/.mark", "b/d"),
    }  # fmt: skip
    assert names_of(tmp_path, rules, Excludes(["b", "*o"]), asked=["b/d/big", "b/d/o", "n.o"]) == {
        *("b", "b/d", "b/d/big", "b/d/o", "n.o"),
    }  # fmt: skip


def test_one_file_system_is_that_of_the_path_itself(tmp_path, monkeypatch):
    tree(tmp_path, "m/home/alice/x", "m/home/alice/mnt/x", "m/home/bob/x", "m/x")
    moved(monkeypatch, tmp_path / "m", tmp_path / "m/x", tmp_path / "m/home", tmp_path / "m/home/alice")
    names = names_of(tmp_path, Rules(one_file_system=True), asked=["m/home/alice", "m/home/bob"])
    assert names == {
        *("m", "m/home", "m/home/alice", "m/home/alice/mnt", "m/home/alice/x"),
        *("m/home/bob", "m/home/bob/x"),
    }


def test_a_path_below_the_grids_own_directory_stays_left_out_without_a_word(tmp_path):
    tree(tmp_path, "home/media/object", "home/z")
    status = os.stat(tmp_path / "home/media")
    rules = Rules(own=frozenset({(status.st_dev, status.st_ino)}))
    assert names_of(tmp_path, rules, asked=["home/media/object"]) == {"home", "home/media", "home/z"}


def test_a_path_over_a_symlink_below_another_is_told(tmp_path):
    tree(tmp_path, "real/alice/x", "z")
    os.symlink("real", tmp_path / "link")
    top = os.fsencode(tmp_path)
    paths, warnings = found(WalkOrder([top, top + b"/link/alice"]))
    assert [path[len(top) :] for path in paths] == [
        *(b"", b"/link", b"/real", b"/real/alice", b"/real/alice/x", b"/z"),
    ]  # fmt: skip
    [(path, why)] = warnings
    assert path == top + b"/link/alice"
    assert why.startswith("not backed up: a symbolic link leads to it")


def test_a_path_that_goes_in_mid_walk_is_told_and_the_walk_goes_on(tmp_path):
    tree(tmp_path, "a/x", "b/c/d/x", "b/c/e/x", "z")
    warnings, names = [], []
    top = os.fsencode(tmp_path)
    paths = WalkOrder([top, top + b"/b/c/d", top + b"/b/c/e"])
    for each in scan(paths, Excludes(["b"]), lambda path, why: warnings.append((path, why))):
        names.append(each.name)
        if each.name == b"a":
            (tmp_path / "b/c").rename(tmp_path / "b/away")
    assert names[1:] == [b"a", b"x", b"b", b"z"]
    assert [path[len(top) :] for path, _ in warnings] == [b"/b/c", b"/b/c/d", b"/b/c/e"]


def test_a_path_in_other_letters_comes_once(tmp_path, monkeypatch):
    """On a file system that takes `B` and `b` for one."""
    tree(tmp_path, "b/c", "d")
    original, letters = os.stat, {b"B": b"b"}
    monkeypatch.setattr(os, "stat", lambda path, **more: original(letters.get(path, path), **more))
    top = os.fsencode(tmp_path)
    paths, warnings = found(WalkOrder([top, top + b"/B/c"]))
    assert [path[len(top) :] for path in paths] == [b"", b"/b", b"/b/c", b"/d"]
    assert [path for path, _ in warnings] == [top + b"/B", top + b"/B/c"]


@pytest.mark.root
def test_a_directory_that_cant_be_listed_is_gone_through(tmp_path):
    """By a user who may only pass through it."""
    tree(tmp_path, "locked/alice/x", "locked/bob/x")
    top = os.fsencode(tmp_path)
    (tmp_path / "locked").chmod(0o711)
    for above in (tmp_path, *tmp_path.parents):
        if stat.S_IMODE(above.stat().st_mode) & 0o055 != 0o055:
            above.chmod(0o755)
    with as_nobody():
        paths, warnings = found(WalkOrder([top, top + b"/locked/alice"]))
    assert [path[len(top) :] for path in paths] == [b"", b"/locked", b"/locked/alice", b"/locked/alice/x"]
    assert [path for path, _ in warnings] == [top + b"/locked"]
