"""Exclude patterns as restic's users know them, and the files that hold them."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staddle.cli import selecting
from staddle.client.exclude import Excludes, read_patterns
from staddle.client.scan import split
from staddle.errors import UsageError


def out(patterns, path, ignoring_case=()):
    """Is the path, or a directory above it, left out: a walk would not come to it."""
    excludes = Excludes(patterns, ignoring_case)
    raw = os.fsencode(path)
    ends = [at for at in range(1, len(raw)) if raw[at : at + 1] == b"/"] + [len(raw)]
    return any(excludes.match(*split(raw[:end])) for end in ends)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        # whole parts, at any depth
        ("foo", "/dir1/foo/dir2/file", True),
        ("foo", "/dir/foo", True),
        ("foo", "/dir/foobar", False),
        ("foo", "/barfoo", False),
        ("*.go", "/a/b/x.go", True),
        ("x/y", "/a/x/y/z", True),
        ("x/y", "/a/x/b/y", False),
        ("./x//y/", "/a/x/y", True),
        ("foo/../a", "/x/a", True),
        ("foo/../a", "/foo", False),
        ("*/x/../../a", "/a", True),
        ("/b/../../a/c/..", "/a", True),
        ("/b/../../a/c/..", "/b/a", False),
        ("../a", "/x/a", False),
        # anchored
        ("/bin", "/bin/bash", True),
        ("/bin", "/usr/bin/ls", False),
        ("/home/*/cache", "/home/me/cache/x", True),
        ("/home/*", "/home/me", True),
        ("/home/*", "/home", False),
        # within a part
        ("b*ash", "/bin/bash", True),
        ("b*ash", "/bin/ash", False),
        ("?at", "/cat", True),
        ("?at", "/at", False),
        ("?", "/ü", True),
        ("*", "/anything", True),
        ("a*b*c", "/axbyc", True),
        ("a*b*c", "/acb", False),
        ("a*bc*bd", "/abcbcbd", True),
        ("*a*", "/bab", True),
        # any number of parts, none included
        ("foo/**/bar", "/dir1/foo/dir2/bar/file", True),
        ("foo/**/bar", "/foo/bar/file", True),
        ("foo/**/bar", "/tmp/foo/bar", True),
        ("foo/**/bar", "/tmp/foo/barn", False),
        ("/foo/**/bar", "/foo/a/b/c/bar", True),
        ("/foo/**/bar", "/x/foo/bar", False),
        ("**/foo", "/foo", True),
        ("**/foo", "/a/b/foo", True),
        ("foo/**", "/foo/x", True),
        ("foo/**", "/foo", True),
        ("/a/**/b/**/c", "/a/1/b/2/3/c", True),
        ("/a/**/b/**/c", "/a/1/2/3/c", False),
        ("a**b", "/axb", True),
        ("a**b", "/a/b", False),
        # classes
        ("[a-c]at", "/bat", True),
        ("[^a-c]at", "/dat", True),
        ("[!a-c]at", "/bat", False),
        ("[^x]", "/ü", True),
        ("[ä-ü]", "/ö", True),
        (r"[\]a]", "/]", True),
        ("x[^a]y", "/x/y", False),
        # a meaning taken away
        (r"\*", "/*", True),
        (r"\*", "/x", False),
        (r"\!keep", "/!keep", True),
        (r"a\[b", "/a[b", True),
    ],
)
def test_patterns(pattern, path, expected):
    assert out([pattern], path) is expected


def test_a_pattern_with_an_exclamation_mark_takes_back_what_those_before_it_matched():
    patterns = ["/home/me/*", "!/home/me/Documents", "!/home/me/.emacs.d", "node_modules", "*~"]
    assert out(patterns, "/home/me/Music/x")
    assert not out(patterns, "/home/me/Documents/x")
    assert not out(patterns, "/home/me/.emacs.d")
    assert out(patterns, "/home/me/Documents/x~")
    assert out(patterns, "/home/me/Documents/node_modules/x")
    # The last one that fits decides.
    assert not out(["*.o", "!keep.o"], "/keep.o")
    assert out(["!keep.o", "*.o"], "/keep.o")
    assert out(["*.o", "!keep.o", "keep.*"], "/keep.o")
    # What lies in a directory that is left out can't be taken back.
    assert out(["/a", "!/a/b"], "/a/b")


def test_case_is_ignored_where_that_is_asked_for():
    assert out([], "/x/Thumbs.DB", ["thumbs.db"])
    assert out([], "/x/ÄRGER", ["ärger"])
    assert out([], "/X/Y", ["/x/[A-Z]"])
    assert not out(["thumbs.db"], "/x/Thumbs.DB")
    assert out(["a"], "/a", ["!A"])  # each list stands for itself


def test_names_that_are_no_text_are_matched_as_they_are():
    excludes = Excludes([b"\xff*", "?x", "/top/\udc80"])
    assert excludes.match(b"/a", b"\xffname")
    assert excludes.match(b"/a", b"\xfex")
    assert excludes.match(b"/top", b"\x80")
    assert not excludes.match(b"/a", b"\xfe")


def test_a_name_that_nearly_fits_costs_no_time():
    excludes = Excludes(["*a" * 20 + "b", "**/a/**/a/**/a/**/b"])
    assert not excludes.match(b"/" + b"a/" * 60, b"a" * 255)  # by backtracking it would take years


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "*", "?", "a*", "**"]), min_size=1, max_size=4),
    st.booleans(),
    st.lists(st.sampled_from(["a", "b", "ab", "ba"]), min_size=1, max_size=5),
)
def test_patterns_agree_with_a_plain_matcher(parts, anchored, path):
    def part_fits(pattern, name):
        return re.fullmatch(pattern.replace("*", ".*").replace("?", "."), name) is not None

    def fits(patterns, names):
        """Does the whole of `names` fit."""
        if not patterns:
            return not names
        if patterns[0] == "**":
            return any(fits(patterns[1:], names[n:]) for n in range(len(names) + 1))
        return bool(names) and part_fits(patterns[0], names[0]) and fits(patterns[1:], names[1:])

    starts = [0] if anchored else range(len(path))
    prefixes = [path[:end] for end in range(1, len(path) + 1)]
    expected = any(
        fits(parts, prefix[start:]) for prefix in prefixes for start in starts if start < len(prefix)
    )
    if all(part == "**" for part in parts):
        expected = True
    assert out([("/" if anchored else "") + "/".join(parts)], "/" + "/".join(path)) is expected


@pytest.mark.parametrize("pattern", ["", "/", "!", "./", "[ab", "a/[b/c]", "[b-a]"])
def test_a_pattern_that_makes_no_sense_is_refused(pattern):
    with pytest.raises(UsageError) as caught:
        Excludes([pattern])
    assert repr(pattern) in caught.value.message
    assert caught.value.hint


# --- files ----------------------------------------------------------------------------------------


def test_a_file_of_patterns_has_comments_spaces_and_variables(tmp_path):
    path = tmp_path / "patterns"
    path.write_bytes(b"# caches\n\n  foo bar.txt  \r\n$HOME/x\n${HOME}y\ncost$$\n*$\n\xff*\n")
    assert read_patterns(str(path), {"HOME": "/home/me"}) == [
        *("foo bar.txt", "/home/me/x", "/home/mey", "cost$", "*$", "\udcff*"),
    ]  # fmt: skip


def test_a_variable_that_is_not_set_is_refused_with_its_line(tmp_path):
    path = tmp_path / "patterns"
    path.write_text("ok\n$PLACE/*\n")
    with pytest.raises(UsageError, match=r"patterns:2: the variable \$PLACE is not set"):
        read_patterns(str(path), {})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_of_patterns_may_come_from_a_windows_editor(tmp_path, encoding):
    path = tmp_path / "patterns"
    path.write_bytes("ü*\r\n*.tmp\r\n".encode(encoding))
    assert read_patterns(str(path)) == ["ü*", "*.tmp"]


def test_a_file_of_patterns_that_cant_be_read_is_a_usage_error(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="cannot read the pattern file") as caught:
            read_patterns(str(path))
        assert caught.value.exit_code == 2
    (tmp_path / "odd").write_bytes(b"\xff\xfeabc")
    with pytest.raises(UsageError, match="is no text"):
        read_patterns(str(tmp_path / "odd"))


# --- the page that users read -----------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[3] / "docs" / "backup.md"


def examples():
    table = PAGE.read_text(encoding="utf-8").split(
        "| Pattern | leaves out | does not leave out |\n|---|---|---|\n"
    )[1]
    for line in table.split("\n\n")[0].splitlines():
        pattern, matches, others = (
            [*re.findall(r"`([^`]+)`", cell)] for cell in line.strip("|").split(" | ")
        )
        yield pattern[0], matches, others


@pytest.mark.parametrize(("pattern", "matches", "others"), list(examples()))
def test_the_examples_of_the_page_are_true(pattern, matches, others):
    assert matches
    assert others
    assert [path for path in matches if not out([pattern], path)] == []
    assert [path for path in others if out([pattern], path)] == []


def test_the_selection_of_the_page_does_what_it_says(tmp_path):
    text = PAGE.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    (tmp_path / "patterns").write_text(text)
    patterns = read_patterns(str(tmp_path / "patterns"), {"HOME": "/home/me"})
    assert out(patterns, "/home/me/Music/a")
    assert not out(patterns, "/home/me/Documents/a")
    assert out(patterns, "/home/me/Documents/a~")
    assert not out(patterns, "/home/you/a")


def test_the_page_names_every_option_of_what_is_read():
    page = PAGE.read_text(encoding="utf-8")
    assert [names for names, _ in selecting._OPTIONS if any(f"{name}" not in page for name in names)] == []
