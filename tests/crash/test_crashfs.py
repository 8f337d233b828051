"""The crash kit itself: what it records, what it calls possible after a power cut, what it refuses."""

import os
import shutil

import pytest

from staddle.errors import UsageError
from staddle.testing.crashfs import Tape, crash_states, record
from staddle.testing.crashmodel import Op, sectors_of


def images(tape, **more):
    """All directories that cuts may leave, as sorted tuples."""
    options = {"seed": 1, "samples": 20, **more}
    return {tuple(sorted(state.files.items())) for state in crash_states(tape, **options)}


def last_images(tape):
    return images(tape, first=len(tape.ops))


def write(path, data, *, sync=True):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(fd, data)
    if sync:
        os.fsync(fd)
    os.close(fd)


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def test_what_was_synced_with_its_name_is_all_that_is_sure(tmp_path):
    with record(str(tmp_path)) as tape:
        write(tmp_path / "a", b"sure")
        sync_dir(tmp_path)
        write(tmp_path / "b", b"not sure", sync=False)
    found = last_images(tape)
    assert all(dict(image)["a"] == b"sure" for image in found)
    assert (("a", b"sure"),) in found
    assert {dict(image).get("b") for image in found} >= {None, b"", b"n", b"not sure", bytes(8)}


def test_a_name_without_its_bytes_and_bytes_without_their_name(tmp_path):
    with record(str(tmp_path)) as tape:
        write(tmp_path / "a", b"x" * 100, sync=False)
        sync_dir(tmp_path)
    assert (("a", b""),) in last_images(tape)
    with record(str(tmp_path)) as tape:
        write(tmp_path / "b", b"y")
    assert (("a", b"x" * 100),) in last_images(tape)


def test_a_rename_is_atomic_and_may_come_before_the_bytes(tmp_path):
    write(tmp_path / "a", b"old")
    with record(str(tmp_path)) as tape:
        write(tmp_path / "a.tmp", b"new", sync=False)
        os.replace(tmp_path / "a.tmp", tmp_path / "a")
    found = images(tape)
    assert (("a", b"old"),) in found
    assert (("a", b""),) in found
    assert (("a", b"new"),) in found
    assert all("a" in dict(image) for image in found)
    late = images(tape.delayed(lambda op: op.kind == "write", lambda op: op.kind == "rename"))
    assert (("a", b""),) in late


def test_changes_of_names_are_lost_and_kept_independently(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, name.encode())
    with record(str(tmp_path)) as tape:
        os.unlink(tmp_path / "a")
        os.unlink(tmp_path / "b")
        os.mkdir(tmp_path / "d")
        write(tmp_path / "d" / "c", b"c")
        sync_dir(tmp_path / "d")
    found = {tuple(dict(image)) for image in last_images(tape)}
    assert found == {(), ("a",), ("b",), ("a", "b"), ("d/c",), ("a", "d/c"), ("b", "d/c"), ("a", "b", "d/c")}


def test_overwritten_sectors_are_old_or_new_and_appended_ones_anything(tmp_path):
    write(tmp_path / "a", b"o" * 1024)
    with record(str(tmp_path)) as tape:
        fd = os.open(tmp_path / "a", os.O_WRONLY)
        os.pwrite(fd, b"n" * 1024, 512)
        os.close(fd)
    for image in images(tape, samples=60):
        data = dict(image)["a"]
        assert data[:512] == b"o" * 512
        middle = data[512:1024].rstrip(b"o")
        assert middle.strip(b"n") == b""
    tails = {dict(image)["a"][1024:] for image in images(tape, samples=60)}
    assert {b"", b"n" * 512, bytes(512)} < tails
    assert any(set(tail) - set(b"n\0") for tail in tails), "blocks of other files may appear"


def test_hard_links_stay_one_file(tmp_path):
    with record(str(tmp_path)) as tape:
        write(tmp_path / "a", b"x")
        os.link(tmp_path / "a", tmp_path / "b")
        sync_dir(tmp_path)
    (state,) = crash_states(tape, seed=1, first=len(tape.ops))
    state.write(str(tmp_path / "image"))
    assert (tmp_path / "image" / "a").stat().st_ino == (tmp_path / "image" / "b").stat().st_ino


def test_files_of_open_are_recorded_in_every_mode(tmp_path):
    write(tmp_path / "old", b"0123456789")
    with record(str(tmp_path)) as tape:
        with open(tmp_path / "text", "w", encoding="utf-8") as file:
            file.write("häh\n")
        with open(tmp_path / "old", "ab") as file:
            file.write(b"x")
        with open(tmp_path / "old", "r+b") as file:
            file.seek(2)
            file.write(b"YY")
            file.truncate(9)
        (tmp_path / "path").write_bytes(b"by pathlib")
        with open(tmp_path / "old", "rb") as file:
            assert file.read() == b"01YY45678"
        os.makedirs(tmp_path / "d" / "e")
        os.rename(tmp_path / "path", tmp_path / "d" / "e" / "path")
        os.rename(tmp_path / "d", tmp_path / "f")
        with open(tmp_path / "f" / "e" / "path", "wb", buffering=0) as file:
            file.write(b"again")
        os.truncate(tmp_path / "f" / "e" / "path", 2)
    whole = tape.everything_after(len(tape.ops))
    assert whole.files == {"text": "häh\n".encode(), "old": b"01YY45678", "f/e/path": b"ag"}
    assert whole.directories == ("f", "f/e")


def test_what_it_does_not_see_or_know_is_refused(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    write(tmp_path / "outside", b"x")
    with record(str(inner)), pytest.raises(UsageError, match="symlink"):
        os.symlink("a", str(inner / "b"))
    with record(str(inner)), pytest.raises(UsageError, match="out of"):
        os.rename(tmp_path / "outside", inner / "a")
    assert os.listdir(inner) == []
    opened, closed = os.open, os.close
    with pytest.raises(UsageError, match="was not recorded"), record(str(inner)):
        closed(opened(inner / "a", os.O_CREAT | os.O_WRONLY))


def test_removing_a_tree_through_descriptors_is_recorded(tmp_path):
    """`shutil.rmtree` names files relative to open directories."""
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("d/a", "d/e/b"):
        write(tmp_path / name, b"a long content")
    with record(str(tmp_path)) as tape:
        shutil.rmtree(tmp_path / "d")
        (tmp_path / "d").mkdir()
        write(tmp_path / "d" / "a", b"short")
    assert sorted(op.path for op in tape.ops if op.kind == "remove") == ["d", "d/a", "d/e", "d/e/b"]
    assert tape.everything_after(len(tape.ops)).files == {"d/a": b"short"}


def test_the_functions_are_put_back(tmp_path):
    before = os.open, os.write, os.fsync, open, os.replace
    with pytest.raises(ZeroDivisionError), record(str(tmp_path)):
        raise ZeroDivisionError
    assert (os.open, os.write, os.fsync, open, os.replace) == before


def test_a_mutant_without_the_operation_is_no_mutant(tmp_path):
    tape = Tape([], [Op("mark", mark=1)])
    with pytest.raises(UsageError):
        tape.without(lambda op: op.kind == "sync")
    with pytest.raises(UsageError):
        tape.delayed(lambda op: op.kind == "sync", lambda op: op.kind == "rename")


def test_a_kill_keeps_everything_and_makes_nothing_sure(tmp_path):
    with record(str(tmp_path)) as tape:
        write(tmp_path / "a", b"first", sync=False)
        os.mkdir(tmp_path / "d")
    image = tmp_path / "killed"
    tape.everything_after(2).write(str(image))
    with record(str(image)) as later:
        write(image / "b", b"second")
        sync_dir(image)
        later.mark("b")
    both = tape.killed(2, later)
    assert last_images(both) >= {(("a", b""), ("b", b"second")), (("a", b"first"), ("b", b"second"))}
    assert all(dict(each)["b"] == b"second" for each in last_images(both))


def test_the_same_seed_gives_the_same_states(tmp_path):
    with record(str(tmp_path)) as tape:
        write(tmp_path / "a", bytes(3000), sync=False)
        write(tmp_path / "b", b"x" * 5000, sync=False)
    first, second = ([state.digest() for state in crash_states(tape, seed=5)] for _ in range(2))
    assert first == second
    assert len(first) == len(set(first)) > 40


def test_sectors_begin_where_the_files_do():
    assert sectors_of(Op("write", offset=500, data=bytes(600))) == [(500, 512), (512, 1024), (1024, 1100)]
