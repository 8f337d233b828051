"""Everything that a file system holds goes through the real grid and comes back, judged by other programs.

Seen by rsync, getfattr, getfacl, lsattr and find, not by us. As an ordinary user what only root may make is
left out of the tree, and said.
"""

import os
import random
import re
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "torture"))

import torture
from staddle.demo.compare import differences
from staddle.demo.grid import RealGrid
from staddle.demo.run import rescue_script

pytestmark = pytest.mark.trees

HOLES_SLACK = 64  # of 512 bytes
_FILE_SYSTEMS_OWN = re.compile(rb"^[-A-Za-z]{20,24}(?= )", re.MULTILINE)


class Place:
    """A grid, trees, and what was restored of them."""

    def __init__(self, where):
        self.where = str(where)
        self.grid = RealGrid(os.path.join(self.where, "grid"))
        self.grid.init(2, lambda text: text)
        self._targets = 0

    def up(self):
        self.grid.up()
        end = time.monotonic() + 60
        while any(medium["state"] != "up" for medium in self.grid.json("status")["media"]):
            assert time.monotonic() < end, "the media did not come up"
            time.sleep(0.2)

    def path(self, name):
        return os.path.join(self.where, name)

    def backup(self, source, *words):
        running = self.grid.backup(source, "--name", os.path.basename(source), *words)
        code = running.wait(300)
        said = [line for line in running.lines if line["message_type"] == "warning"]
        assert code == 0, f"backup: exit {code}: {said[:5]} {''.join(running.errors)[-2000:]}"
        return running.summary

    def restore(self, source, *words):
        self._targets += 1
        target = self.path(f"restored-{self._targets}")
        done = self.grid.run("restore", *words, "--to", target, check=False)
        assert done.returncode == 0, (
            f"restore: exit {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
        return target + source

    def rescue(self, source):
        """Restore with the reader that needs no Staddle, and has none here."""
        key, target, media = self.path("recovery.key"), self.path("rescued"), self.path("grid/media")
        self.grid.run("key", "export", key)
        hidden = "import runpy, sys; sys.modules['staddle'] = None; sys.argv = sys.argv[1:]; "
        done = subprocess.run(
            [
                *(sys.executable, "-c", hidden + "runpy.run_path(sys.argv[0], run_name='__main__')"),
                *(rescue_script(), "--recovery-key", key),
                *(os.path.join(media, name) for name in sorted(os.listdir(media))),
                *("restore", "1", "--to", target),
            ],
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return target + source


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    try:
        with made.grid:
            made.up()
            yield made
    finally:
        torture.unlock(tmp_path)  # pytest removes no immutable files


# --- other programs' views ------------------------------------------------------------------------


def view(directory, *words):
    """What a program prints of a directory, run inside it."""
    done = subprocess.run(words, cwd=directory, capture_output=True, timeout=300, check=False)
    return done.stdout


def blocks_of(text):
    """Paragraphs in some order of their own: programs list directories as they find them."""
    return sorted(text.split(b"\n\n"))


def statuses(directory):
    """Kind, mode, owner, times in nanoseconds, links and sizes, as find tells them."""
    files = view(directory, "find", ".", "!", "-type", "d", "-printf", r"%p|%y|%m|%U|%G|%T@|%n|%s|%l\0")
    dirs = view(directory, "find", ".", "-type", "d", "-printf", r"%p|%y|%m|%U|%G|%T@\0")
    return sorted((files + dirs).split(b"\0"))


def flags(directory):
    """File flags as lsattr tells them, without those that say how the file system stores a file."""
    text = view(directory, "lsattr", "-R", "-a", ".")
    return sorted(
        _FILE_SYSTEMS_OWN.sub(lambda m: m[0].replace(b"e", b"-").replace(b"I", b"-"), text).split(b"\n")
    )


def allocated(directory):
    text = view(directory, "find", ".", "-type", "f", "-printf", r"%b|%p\0")
    rows = (each.split(b"|", 1) for each in text.split(b"\0") if each)
    return {path: int(blocks) for blocks, path in rows}


def check_same(source, restored, *, holes=True):
    """Nothing differs, whoever looks; with `holes`, also no file takes more room than it did."""
    told = subprocess.run(
        ["rsync", "-aHAXn", "--checksum", "--delete", "-i", source + "/", restored + "/"],
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b""), told
    assert statuses(source) == statuses(restored)
    for words in (
        ("getfattr", "-d", "-h", "-m", "-", "-R", "-P", "-e", "hex", "."),
        ("getfacl", "-R", "-P", "-p", "-n", "."),
    ):
        ours = blocks_of(view(source, *words))
        assert len(ours) > 3, f"{words[0]} saw nothing"
        assert ours == blocks_of(view(restored, *words))
    assert flags(source) == flags(restored)
    wrong = list(differences(os.fsencode(source), os.fsencode(restored)))
    assert [each for each in wrong if holes or "bytes on disk" not in each] == []
    if holes:
        ours, theirs = allocated(source), allocated(restored)
        more = {path: (ours[path], theirs[path]) for path in ours if theirs[path] > ours[path] + HOLES_SLACK}
        assert not more, f"blocks on disk: {more}"


# --- the tests ------------------------------------------------------------------------------------


def test_everything_that_a_file_system_holds_comes_back(place, seed):
    source = place.path("tree")
    left_out = torture.build(source, seed)
    print("left out of the tree:", left_out or "nothing")
    if torture.ROOT:
        assert "device nodes" not in left_out
    place.backup(source, "--streams", "2")
    check_same(source, place.restore(source, "latest", "--name", "tree"))

    # The media and the recovery key are enough. The small reader makes holes of long runs of zeros only.
    check_same(source, place.rescue(source), holes=False)

    # What is unchanged is not read again, and brings all of this from the first backup.
    again = place.backup(source)
    assert again["bytes_read"] == 0
    check_same(source, place.restore(source, "latest", "--name", "tree"))

    # A change of nothing but metadata is seen.
    change_metadata(source, random.Random(seed))
    place.backup(source)
    check_same(source, place.restore(source, "latest", "--name", "tree"))


def change_metadata(source, rng):
    names = [os.path.join(source, "crowd", f"{rng.randrange(1500):05}") for _ in range(8)]
    big, directory = os.path.join(source, "attributes", "big"), os.path.join(source, "crowd")
    for path in (*names[:4], big):
        os.chmod(path, 0o646)  # an ordinary user needs the right to write
        os.setxattr(path, b"user.late", b"%d" % rng.randrange(1000))
    for path in names[4:6]:
        os.chmod(path, 0o604)
    for path in names[6:]:
        torture.change_flags(path, add=torture.NODUMP)
    os.removexattr(big, b"user.text")
    os.chmod(directory, 0o755)
    os.setxattr(directory, b"user.of-a-directory", b"late")


def test_paths_beyond_the_system_s_limit_come_back(place, seed):
    source = place.path("deep")
    torture.build_deep(source, seed)
    place.backup(source)
    restored = place.restore(source, "latest")
    look = r"%P|%y|%m|%U|%G|%T@|%n|%l\0"
    ours = view(source, "find", ".", "-printf", look)
    assert max(len(each) for each in ours.split(b"|")) > torture.PATH_BYTES_MAX
    assert sorted(ours.split(b"\0")) == sorted(view(restored, "find", ".", "-printf", look).split(b"\0"))
    sums = ("find", ".", "-type", "f", "-execdir", "sha256sum", "{}", ";")
    assert view(source, *sums) == view(restored, *sums) != b""
    assert list(differences(os.fsencode(source), os.fsencode(restored))) == []


def test_files_larger_than_any_disk_come_back_as_sparse_as_they_were(place, seed):
    source = place.path("huge")
    left_out = torture.build_huge(source, seed)
    print("left out of the tree:", left_out or "nothing")
    summary = place.backup(source)
    assert summary["bytes_read"] < 64 << 20
    restored = place.restore(source, "latest")
    assert statuses(source) == statuses(restored)
    ours, theirs = allocated(source), allocated(restored)
    assert all(theirs[path] <= ours[path] + HOLES_SLACK for path in ours), (ours, theirs)
    assert list(differences(os.fsencode(source), os.fsencode(restored))) == []
    assert place.backup(source)["bytes_read"] == 0
