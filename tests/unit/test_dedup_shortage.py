"""What the host is short of, and blocks that can't be read: nothing whole is given up or stuck."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import numpy as np
import pytest

from staddle.dedup import log, manifest, merge, runs
from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap
from staddle.dedup.publication import Publication
from staddle.platform.durable import Files

EVERYONE = OwnerMap.everyone()
COUNT = 500
ALL = tuple(range(256))


def fingerprints(seed):
    return np.random.default_rng(seed).integers(0, 256, (COUNT, 32), dtype=np.uint8)


def container(number):
    return number.to_bytes(16, "big")


def publication(number, lsn):
    return Publication(lsn, container(number), fingerprints(number), np.arange(COUNT) + number)


def found(library, *numbers):
    return [bool(library.lookup(fingerprints(number)).found.all()) for number in numbers]


def make(directory):
    """Containers 1 and 2 in a run, 3 and 4 in the log."""
    with Library.open(str(directory), "a", EVERYONE) as library:
        library.publish_many([publication(1, 1), publication(2, 2)])
        library.merge()
        library.publish_many([publication(3, 3)])
        library.publish_many([publication(4, 4)])


def file_of(directory, prefix):
    (path,) = (p for p in directory.iterdir() if p.name.startswith(prefix))
    return path


def refusing(number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return refuse


def bad_block(patch, module, at):
    """Let the bytes from `at` on of whatever `module` opens be unreadable."""

    class Bad(io.FileIO):
        def readinto(self, buffer):
            room = at - self.tell()
            if room <= 0:
                raise OSError(errno.EIO, "Input/output error")
            return super().readinto(memoryview(buffer)[:room])

        def readall(self):
            raise OSError(errno.EIO, "Input/output error")

    def opened(path, _mode, buffering=-1):
        raw = Bad(path)
        return raw if buffering == 0 else io.BufferedReader(raw)

    patch.setattr(module, "open", opened, raising=False)


# --- closing --------------------------------------------------------------------------------------


def test_a_library_that_can_not_sweep_gives_its_lock_back(tmp_path, monkeypatch):
    make(tmp_path)
    library = Library.open(str(tmp_path), "a", EVERYONE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refusing(errno.EMFILE))
        with pytest.raises(OSError, match="Too many open files"):
            library.reopen()
    library.reopen()
    assert found(library, 1, 4) == [True, True]
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refusing(errno.EIO))
        library.close()
    with Library.open(str(tmp_path), "a", EVERYONE) as again:
        assert found(again, 1, 4) == [True, True]


def test_a_close_that_fails_is_made_once_and_keeps_no_lock(tmp_path):
    class Closing(Files):
        fails = False

        def close(self, fd):
            super().close(fd)
            if self.fails:
                raise OSError(errno.EIO, "Input/output error")

    files = Closing()
    library = Library.open(str(tmp_path), "a", EVERYONE, merge_floor_rows=COUNT * 2, files=files)
    for number in range(1, 4):
        library.publish_many([publication(number, number)])
    assert [p for p in tmp_path.iterdir() if p.name.startswith("run.")], "a round is under way"
    files.fails = True
    library.close()  # all that counts was synced before
    with Library.open(str(tmp_path), "a", EVERYONE) as again:
        assert found(again, 1, 2, 3) == [True] * 3


# --- the run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_a_run_that_can_not_be_mapped_for_a_shortage_is_not_given_up(tmp_path, monkeypatch, number):
    make(tmp_path)
    before = file_of(tmp_path, "run.").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(runs.mmap, "mmap", refusing(number))
        with pytest.raises(OSError, match=r".") as refused:
            Library.open(str(tmp_path), "a", EVERYONE)
    assert refused.value.errno == number
    assert file_of(tmp_path, "run.").read_bytes() == before
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert library.damaged() == ()
        assert found(library, 1, 2, 3, 4) == [True] * 4


def test_a_run_that_can_not_be_read_is_lost(tmp_path, monkeypatch):
    make(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(runs.mmap, "mmap", refusing(errno.EIO))
        library = Library.open(str(tmp_path), "a", EVERYONE)
    with library:
        assert library.damaged() == ALL
        assert found(library, 1, 3) == [False, True]


def test_a_new_run_that_can_not_be_mapped_for_a_shortage_is_merged_again(tmp_path, monkeypatch):
    make(tmp_path)
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        with monkeypatch.context() as patch:
            patch.setattr(runs.mmap, "mmap", refusing(errno.EMFILE))
            with pytest.raises(OSError, match="Too many open files"):
                library.merge()
        assert found(library, 1, 2, 3, 4) == [True] * 4
        library.publish_many([publication(5, 5)])
        library.merge()
        assert library.damaged() == ()
        assert library.stats().entries == 5 * COUNT
    with Library.open(str(tmp_path), "a", EVERYONE, verify=True) as library:
        assert library.damaged() == ()
        assert found(library, 1, 2, 3, 4, 5) == [True] * 5


# --- blocks that can't be read ----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file head", "record head", "payload", "second record"])
def test_a_log_is_good_up_to_a_block_that_can_not_be_read(tmp_path, monkeypatch, where):
    make(tmp_path)
    size = file_of(tmp_path, "log.").stat().st_size
    at = {"file head": 0, "record head": 70, "payload": 150, "second record": size - 40}[where]
    applied = 3 if where == "second record" else 2
    with monkeypatch.context() as patch:
        bad_block(patch, log, at)
        library = Library.open(str(tmp_path), "a", EVERYONE)
    with library:
        assert library.applied_lsn == applied
        assert library.stats().torn_bytes > 0
        assert library.damaged() == (), "what is missing comes again from the manager's log"
        assert found(library, 1, 2, 3, 4) == [True, True, applied == 3, False]
        library.publish_many([publication(number, number) for number in (3, 4)])
        assert found(library, 1, 2, 3, 4) == [True] * 4
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert library.stats().torn_bytes == 0, "the block is gone from the log"
        assert library.applied_lsn == 4
        assert found(library, 1, 2, 3, 4) == [True] * 4


def test_a_log_that_can_not_be_read_for_a_shortage_is_not_cut(tmp_path, monkeypatch):
    make(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(log, "open", refusing(errno.EMFILE), raising=False)
        with pytest.raises(OSError, match="Too many open files"):
            Library.open(str(tmp_path), "a", EVERYONE)
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert library.applied_lsn == 4


def test_a_manifest_that_can_not_be_read_is_a_damaged_one(tmp_path, monkeypatch):
    make(tmp_path)
    with monkeypatch.context() as patch:
        bad_block(patch, manifest, 0)
        library = Library.open(str(tmp_path), "a", EVERYONE)
    with library:
        assert library.applied_lsn == 0
        assert library.damaged() == ALL


def die_with_it_open(directory):
    code = (
        "import os, sys\n"
        "from staddle.dedup.library import Library\n"
        "from staddle.dedup.ownermap import OwnerMap\n"
        "library = Library.open(sys.argv[1], 'a', OwnerMap.everyone())\n"
        "assert library.damaged() == ()\n"
        "os._exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(directory)], check=False, timeout=60)
    assert done.returncode == 7


def test_a_process_that_dies_twice_over_an_unreadable_run_does_not_die_a_third_time(tmp_path, monkeypatch):
    """A look-up on such a page of a mapped file ends the process: no error that it could take."""
    make(tmp_path)
    end = file_of(tmp_path, "run.").stat().st_size
    with monkeypatch.context() as patch:
        bad_block(patch, runs, end // 2)
        with Library.open(str(tmp_path), "a", EVERYONE) as library:
            assert library.damaged() == (), "not looked for after a proper end"
        die_with_it_open(tmp_path)
        with Library.open(str(tmp_path), "a", EVERYONE) as library:
            assert library.damaged() == (), "one death may have any cause"
        die_with_it_open(tmp_path)
        die_with_it_open(tmp_path)
        with monkeypatch.context() as inner:
            inner.setattr(runs.mmap, "mmap", refusing(errno.EMFILE))
            inner.setattr(runs, "_read_through", lambda _file: None)
            with pytest.raises(OSError, match="Too many open files"):
                Library.open(str(tmp_path), "a", EVERYONE)
        with Library.open(str(tmp_path), "a", EVERYONE) as library:
            assert library.damaged() == ALL
        library = Library.open(str(tmp_path), "a", EVERYONE)  # closed properly, and not mended yet
    with library:
        assert library.damaged() == ALL, "an opening that failed in between does not make it forget"
        library.rebuild(ALL, [publication(number, 0) for number in (1, 2, 3, 4)])
        assert library.damaged() == ()
        assert found(library, 1, 2, 3, 4) == [True] * 4


def test_after_two_deaths_a_run_that_can_be_read_is_kept(tmp_path):
    make(tmp_path)
    for _ in range(3):
        die_with_it_open(tmp_path)
    with Library.open(str(tmp_path), "a", EVERYONE) as library:
        assert library.damaged() == ()
        assert found(library, 1, 2, 3, 4) == [True] * 4


# --- memory ---------------------------------------------------------------------------------------


def fails_once(function, at):
    """Raises MemoryError in call number `at`, then lets all pass; and whether it has."""
    calls = []

    def call(*args):
        calls.append(None)
        if len(calls) == at:
            raise MemoryError
        return function(*args)

    return call, lambda: len(calls) >= at


@pytest.mark.parametrize("what", ["merged", "written", "finished", "opened"])
def test_a_merge_that_runs_out_of_memory_is_done_again(tmp_path, monkeypatch, what):
    make(tmp_path)
    name, target, at = {
        "merged": ("without_repeats", merge, 100),
        "written": ("_write", runs.RunWriter, 100),
        "finished": ("_digest", runs, 1),
        "opened": ("Table", runs, 1),
    }[what]
    with Library.open(str(tmp_path), "a", EVERYONE, merge_floor_rows=COUNT) as library:
        with monkeypatch.context() as patch:
            call, has_failed = fails_once(getattr(target, name), at)
            patch.setattr(target, name, call)
            library.publish_many([publication(5, 5)])
            while not has_failed():
                library.publish_many([publication(6, library.applied_lsn + 1)])
            assert library.stats().merge_error, "kept, and not raised: what was published is durable"
        with monkeypatch.context() as patch:
            call, _ = fails_once(merge.without_repeats, 50)
            patch.setattr(merge, "without_repeats", call)
            with pytest.raises(MemoryError):
                library.merge()
        library.merge()
        assert not library.stats().merge_error
        assert library.stats().delta_entries == 0
        assert found(library, 1, 2, 3, 4, 5, 6) == [True] * 6
    with Library.open(str(tmp_path), "a", EVERYONE, verify=True) as library:
        assert library.damaged() == ()
        assert found(library, 1, 2, 3, 4, 5, 6) == [True] * 6
