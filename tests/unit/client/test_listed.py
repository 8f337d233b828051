"""Backing up what a list names: which of it, in which order, and with bounded memory."""

import os
import tracemalloc

import pytest

from staddle.client import sorting
from staddle.client.exclude import ITEM_MAX, Excludes, items_of, lines_of
from staddle.client.inputs import Trees
from staddle.client.scan import NO_RULES, Rules, Scan
from staddle.client.units import Tally
from staddle.errors import NotFound, UsageError

from .scankit import moved

MIB = 1 << 20
NOTHING = Excludes([])


class Warned:
    def __init__(self):
        self.said = []
        self.tally = Tally(lambda path, why: self.said.append((path, why)))


def trees(paths, listed, rules=NO_RULES, warned=None):
    return Trees([os.fsencode(path) for path in paths], listed, NOTHING, rules, (warned or Warned()).tally)


def found(source, warned):
    return [each.path for each in Scan(source._paths, NOTHING, warned.tally.warn, source._rules)]


def named(*paths):
    return iter([os.fsencode(path) for path in paths])


@pytest.fixture
def tree(tmp_path):
    for name in ("d/b", "d/a", "d-e/x", "d/sub/f"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_each_listed_path_comes_once_with_what_leads_to_it(tree):
    warned = Warned()
    source = trees([], named(tree / "d/sub", tree / "d/a", tree / "d-e/x", tree / "d/a", tree / "d/sub/f"))
    paths = found(source, warned)
    assert source.roots == [os.fsencode(tree)]
    assert sorted(paths) == sorted(
        os.fsencode(tree / name) for name in ("", "d", "d/a", "d/sub", "d/sub/f", "d-e", "d-e/x")
    )
    assert not warned.said


def test_a_listed_path_that_is_gone_is_a_warning_whenever_it_goes(tree):
    warned = Warned()
    source = trees([], named(tree / "d/a", tree / "gone", tree / "d/b"), warned=warned)
    assert warned.said == [(os.fsencode(tree / "gone"), "not backed up: no such file or directory")]
    source.check()
    (tree / "d/a").unlink()
    source.check()
    paths = found(source, warned)
    assert os.fsencode(tree / "d/b") in paths
    assert warned.said[1:] == [(os.fsencode(tree / "d/a"), "not read: no such file or directory")]


def test_a_named_path_that_is_gone_is_a_mistake_beside_a_list_too(tree):
    source = trees([tree / "d-e"], named(tree / "d/a"))
    (tree / "d-e/x").unlink()
    (tree / "d-e").rmdir()
    with pytest.raises(NotFound, match="cannot back up"):
        source.check()


def test_a_path_in_a_directory_of_the_grids_own_is_a_mistake_below_another_path_too(tree):
    status = os.stat(tree / "d")
    rules = Rules(own=frozenset({(status.st_dev, status.st_ino)}))
    trees([tree], [], rules).check()
    trees([tree], named(tree / "d/sub/f"), rules).check()
    with pytest.raises(UsageError, match="grid's own"):
        trees([tree, tree / "d/sub"], [], rules).check()


def test_a_list_of_which_nothing_is_there_is_a_mistake(tree):
    with pytest.raises(NotFound, match="none of the listed files"):
        trees([], named(tree / "gone", tree / "too"))


def test_what_is_listed_tells_inputs_apart_and_its_order_does_not(tree):
    one = trees([], named(tree / "d/a", tree / "d/b"))
    assert one.key == trees([], named(tree / "d/b", tree / "d/a", tree / "d/a")).key
    assert one.key != trees([], named(tree / "d/a")).key
    assert one.key != trees([], named(tree / "d/a", tree / "d/b", tree / "gone")).key


def test_what_was_listed_is_found_on_another_file_system_and_what_was_not_is_not(tree, monkeypatch):
    moved(monkeypatch, tree / "d", tree / "d/sub", tree / "d/sub/f", tree / "d-e", tree / "d-e/x")
    warned = Warned()
    source = trees([tree], named(tree / "d/a", tree / "d/sub"), Rules(one_file_system=True))
    names = ("", "d", "d/a", "d/sub", "d/sub/f", "d-e")
    assert found(source, warned) == [os.fsencode(tree / name) for name in names]
    assert not warned.said


def test_a_long_list_takes_bounded_memory(tmp_path, monkeypatch):
    for name, value in (("RUN_BYTES", MIB), ("KEPT_BYTES", MIB)):
        monkeypatch.setattr(sorting, name, value)
    top = os.fsencode(tmp_path / "a-directory-with-a-long-name" / ("x" * 100))
    os.makedirs(top)
    (tmp_path / "a-directory-with-a-long-name" / ("x" * 100) / "f").write_bytes(b"")
    warned = []
    tally = Tally(lambda path, why: warned.append(None))
    tracemalloc.start()
    try:
        # 12 MB of paths, of which only one is there.
        listed = (b"%s/%s" % (top, b"f" if n == 77 else b"%07d" % n) for n in range(50_000))
        source = Trees([], listed, NOTHING, NO_RULES, tally)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(warned) == tally.warnings == 49_999
    assert source.roots == [top + b"/f"]
    assert peak_bytes < 6 * MIB, f"{peak_bytes / MIB:.1f} MiB"


# --- reading lists ----------------------------------------------------------------------------------


def test_lines_are_cut_where_they_end_whatever_the_blocks_are(tmp_path):
    path = tmp_path / "list"
    lines = [f"/päth/{'ü' * (number % 50)}/{number}" for number in range(20_000)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [line for _, line in lines_of(str(path), "list", 1 << 30)] == lines
    assert [number for number, _ in lines_of(str(path), "list", 1 << 30)] == list(range(1, 20_001))
    path.write_text("\n".join(lines) + "\n", encoding="utf-16")
    assert [line for _, line in lines_of(str(path), "list", 1 << 30)] == lines
    path.write_bytes(b"\xef\xbb\xbf# no path\n\n  /a \r\n/b\xff")
    assert list(lines_of(str(path), "list")) == [(3, "/a"), (4, "/b\udcff")]


def test_items_are_cut_at_nul_whatever_the_blocks_are(tmp_path):
    path = tmp_path / "list"
    items = [b"/x\n/%d" % number + b"\xff" * (number % 40) for number in range(20_000)]
    path.write_bytes(b"\0\0" + b"\0".join(items) + b"\0")
    assert list(items_of(str(path), "list", 1 << 30)) == items


@pytest.mark.parametrize("read", [lines_of, items_of])
def test_an_endless_entry_and_an_endless_list_are_refused(tmp_path, read):
    path = tmp_path / "list"
    path.write_bytes(b"x" * (ITEM_MAX + (1 << 17)))
    with pytest.raises(UsageError, match="entry of more than 1024 KiB"):
        list(read(str(path), "list", 8 * MIB))
    path.write_bytes(b"x\n\0" * (3 * MIB))
    with pytest.raises(UsageError, match="longer than 8 MiB"):
        list(read(str(path), "list", 8 * MIB))


def test_a_list_from_a_standard_input_that_is_closed_is_a_mistake(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    for read in (lambda: list(lines_of("-", "list")), lambda: list(items_of("-", "list", MIB))):
        with pytest.raises(UsageError, match="standard input is closed"):
            read()


def test_half_a_character_is_an_error_in_utf_16(tmp_path):
    path = tmp_path / "list"
    path.write_bytes("/a".encode("utf-16") + b"x")
    with pytest.raises(UsageError, match="is no text"):
        list(lines_of(str(path), "list"))
