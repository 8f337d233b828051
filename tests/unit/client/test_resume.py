"""Taking over the job of a killed client: who may, and what is left to be done."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, strategies

from staddle.api.transport import Credentials
from staddle.client.base import BaseIndex
from staddle.client.connection import ClientSettings
from staddle.client.exclude import Excludes
from staddle.client.resume import Claim, Taken
from staddle.client.scan import Found, scan, split
from staddle.client.source import Source
from staddle.client.units import Tally, Units
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.manifest import Chunks, Manifest, ManifestHead
from staddle.data.records import PartRecord, decode_record
from staddle.platform import fsattrs

from .sourcekit import Read, base_of


def settings(where, **other):
    credentials = Credentials(ca_file="", cert_file="", key_file="")
    values = {"name": "c", "host": "c", "role": "client", "grid": b"g" * 16, "manager_urls": []}
    return ClientSettings(**values, credentials=credentials, state_dir=str(where), **other)


# --- the claim ----------------------------------------------------------------------------------


def die(claim):
    """What the system does for a killed process: its lock is free, its file stays."""
    claim._lock.release()


def test_a_process_that_ended_leaves_nothing_to_go_on_with(tmp_path):
    first = Claim(settings(tmp_path), ["work"])
    assert not first.earlier
    first.close()
    first.close()
    assert os.listdir(tmp_path / "backups") == []
    second = Claim(settings(tmp_path), ["work"])
    assert not second.earlier
    assert second.request != first.request
    second.close()


def test_the_job_of_a_killed_process_is_claimed_by_the_same_command_only(tmp_path):
    first = Claim(settings(tmp_path), ["work", "options"])
    die(first)
    other = Claim(settings(tmp_path), ["work", "other options"])
    assert (other.earlier, other.request == first.request) == (False, False)
    same = Claim(settings(tmp_path), ["work", "options"])
    assert (same.earlier, same.request) == (True, first.request)
    other.close()
    same.close()


def test_a_set_names_the_same_job_in_every_process():
    code = "from staddle.client.resume import _packed as p; print(p([frozenset([b'a', b'b', b'c', b'd'])]))"
    packed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(packed) == 1


def test_a_pattern_that_is_no_text_names_a_job_as_well(tmp_path):
    first = Claim(settings(tmp_path), ["work", {"exclude": ["*\udcff"]}])
    die(first)
    same = Claim(settings(tmp_path), ["work", {"exclude": ["*\udcff"]}])
    assert same.earlier
    assert same.request == first.request
    same.close()


def test_a_running_process_keeps_its_job_for_itself(tmp_path):
    first = Claim(settings(tmp_path), ["work"])
    beside = Claim(settings(tmp_path), ["work"])
    assert not beside.earlier
    assert beside.request != first.request
    beside.close()
    die(first)
    after = Claim(settings(tmp_path), ["work"])
    assert after.request == first.request, "the one beside it has not taken its file away"
    after.close()


def test_a_job_that_cannot_be_gone_on_with_is_forgotten(tmp_path):
    first = Claim(settings(tmp_path), ["work"])
    die(first)
    second = Claim(settings(tmp_path), ["work"])
    second.anew()
    assert not second.earlier
    die(second)
    third = Claim(settings(tmp_path), ["work"])
    assert third.request == second.request != first.request
    third.close()


def test_without_a_place_to_write_a_backup_goes_on(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for where in ("", tmp_path / "file"):
        claim = Claim(settings(where), ["work"])
        assert not claim.earlier
        claim.close()


@pytest.mark.parametrize("found", [b"", b"short", b"x" * 17])
def test_a_torn_file_is_no_job(tmp_path, found):
    first = Claim(settings(tmp_path), ["work"])
    with open(first._path, "wb") as file:
        file.write(found)
    die(first)
    second = Claim(settings(tmp_path), ["work"])
    assert not second.earlier
    second.close()


# --- what is left -------------------------------------------------------------------------------


def manifest(rows, stream=0, ordinal=0):
    """Args: rows: (path, type, length, offset, flags)."""
    entries, lengths, first, count = EntryRows(), [], [], []
    for path, kind, length, offset, flags in rows:
        directory, name = split(path)
        entries.add(directory, name, kind, size=length, offset=offset, flags=int(flags), inode=7, device=3)
        first.append(len(lengths))
        count.append(1 if length else 0)
        lengths += [length] if length else []
    chunks = Chunks(
        containers=[b"c" * 16],
        container=np.zeros(len(lengths), np.uint32),
        ordinals=np.arange(len(lengths), dtype=np.uint32),
        lengths=np.array(lengths, np.uint32),
        fingerprints=np.zeros((len(lengths), 32), np.uint8),
    )
    head = ManifestHead(
        grid=b"g" * 16,
        domain=b"d" * 16,
        client="c",
        name="n",
        job=1,
        backup=1,
        stream=stream,
        epoch=1,
        ordinal=ordinal,
        first=0,
        next=1,
        previous_id=None,
        previous_digest=None,
        created_ns=1,
        version=1,
    )
    return Manifest(
        head=head,
        entries=entries.build(),
        chunk_first=np.array(first, np.uint32),
        chunk_count=np.array(count, np.uint32),
        chunks=chunks,
    )


class Names:
    """A source that notes what it is told."""

    def __init__(self):
        self.first, self.rests = [], []

    def names_first(self, found):
        self.first.append(found.path)

    def rest(self, found, start, *, changed):
        self.rests.append((found.path, start, changed))
        return iter(())

    def records(self, units):
        return iter(units)


def taken(*manifests):
    warned = []
    tally = Tally(lambda path, message: warned.append((path, message)))
    found = Taken(tally)
    for each in manifests:
        found.add(each)
    found.build()
    return found, tally, warned


def scanned(*paths):
    status = os.stat(os.curdir)
    return [Found(*split(path), status) for path in paths]


def test_what_is_committed_whole_is_not_read_again():
    found, tally, warned = taken(
        manifest([(b"/d", EntryType.DIRECTORY, 0, 0, 0), (b"/d/a", EntryType.FILE, 10, 0, 0)]),
        manifest([(b"/d/b", EntryType.FILE, 5, 0, EntryFlag.CHANGED)], ordinal=1),
    )
    left = [each.path for each in found.left(iter(scanned(b"/d", b"/d/a", b"/d/b", b"/d/c")), Names())]
    assert left == [b"/d/c"]
    assert (tally.files, tally.dirs, tally.bytes_read, tally.warnings) == (2, 1, 15, 1)
    assert [path for path, _ in warned] == [b"/d/b"]


def test_a_file_that_was_cut_goes_on_first_on_its_own_stream(tmp_path):
    path = os.fsencode(tmp_path / "big")
    (tmp_path / "big").write_bytes(b"x" * 30)
    part = EntryFlag.PART
    found, tally, _ = taken(
        manifest([(path, EntryType.FILE, 10, 0, part)], stream=1),
        manifest([(path, EntryType.FILE, 10, 10, part)], stream=1, ordinal=1),
    )
    source = Names()
    assert list(found.left(iter(scanned(path)), source)) == [], "the scan does not bring it once more"
    assert list(found.records(0, source, ["others"])) == ["others"]
    # Another inode has its name now: what is there of it is closed as damaged.
    records = list(found.records(1, source, []))
    assert source.rests == []
    (end,) = [decode_record(record.meta, len(record.payload)) for record in records]
    assert isinstance(end, PartRecord)
    assert (end.offset, end.last) == (20, True)
    assert end.batch.columns["flags"][0] & EntryFlag.ERROR
    assert (tally.files, tally.bytes_read, tally.warnings) == (1, 20, 1)


def test_a_file_whose_end_was_committed_later_is_whole():
    part, last = EntryFlag.PART, EntryFlag.PART | EntryFlag.LAST
    found, tally, _ = taken(
        manifest([(b"/big", EntryType.FILE, 10, 0, part)]),
        manifest([(b"/big", EntryType.FILE, 10, 10, last)], ordinal=1),
    )
    source = Names()
    assert list(found.left(iter(scanned(b"/big")), source)) == []
    assert list(found.records(0, source, [])) == source.rests == []
    assert (tally.files, tally.bytes_read) == (1, 20)


@given(strategies.sets(strategies.binary(min_size=1, max_size=20), max_size=40), strategies.data())
def test_every_path_is_either_held_or_left(names, data):
    paths = sorted(b"/" + name.replace(b"/", b"_").replace(b"\0", b"_") for name in names)
    paths = sorted(set(paths))
    held = data.draw(strategies.sets(strategies.sampled_from(paths))) if paths else set()
    found, _, _ = taken(manifest([(path, EntryType.FIFO, 0, 0, 0) for path in sorted(held)]))
    left = [each.path for each in found.left(iter(scanned(*paths)), Names())]
    assert left == [path for path in paths if path not in held]


# --- other names of what is held ------------------------------------------------------------------


def resumed(before, root):
    """Kinds, link targets and warnings of what a process reads after one that has sent `before`."""
    warned = []
    tally = Tally(lambda path, message: warned.append((path, message)))
    found, source = Taken(tally), Source(BaseIndex(0), tally)
    for each in base_of(before)[1]:
        found.add(each)
    found.build()
    rows = {}
    now = scan([os.fsencode(root)], Excludes([]), tally.warn)
    for record in source.records(Units(found.left(now, source))):
        batch = decode_record(record.meta, len(record.payload)).batch
        for row, path in enumerate(batch.paths()):
            rows[os.path.basename(path)] = EntryType(int(batch.columns["type"][row])), batch.link(row)
    return rows, warned


@pytest.mark.parametrize("size", [10, 2 << 20])
def test_another_name_of_what_is_held_is_a_link_to_it(tmp_path, size):
    (tmp_path / "a").write_bytes(b"x" * size)
    os.link(tmp_path / "a", tmp_path / "z")
    rows, warned = resumed(Read(tmp_path, exclude=["z"]), tmp_path)
    assert rows == {b"z": (EntryType.HARDLINK, os.fsencode(tmp_path / "a"))}
    assert warned == []


@pytest.mark.parametrize("how", ["replaced", "written to"])
def test_another_name_of_what_has_changed_since_it_was_sent_has_its_own_content(tmp_path, how):
    (tmp_path / "a").write_bytes(b"before")
    os.link(tmp_path / "a", tmp_path / "z")
    before = Read(tmp_path, exclude=["z"])
    if how == "replaced":
        (tmp_path / "new").write_bytes(b"after!")
        (tmp_path / "new").rename(tmp_path / "a")
    else:
        (tmp_path / "a").write_bytes(b"after!")
    (tmp_path / "z").unlink()
    os.link(tmp_path / "a", tmp_path / "z")
    rows, warned = resumed(before, tmp_path)
    assert rows == {b"z": (EntryType.FILE, b"")}
    assert [path for path, _ in warned] == [os.fsencode(tmp_path / "a")]


def test_no_link_leads_to_a_link(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    os.link(tmp_path / "a", tmp_path / "z")
    before = Read(tmp_path, exclude=["z"])
    assert before.of(tmp_path / "b")[1] is EntryType.HARDLINK
    (tmp_path / "a").unlink()
    rows, warned = resumed(before, tmp_path)
    assert rows == {b"z": (EntryType.FILE, b"")}
    assert warned == []


def test_what_the_job_holds_without_all_its_attributes_is_a_warning_again(tmp_path, monkeypatch):
    def refused(place, name):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    os.setxattr(tmp_path / "b", b"user.name", b"value")
    with monkeypatch.context() as patch:
        patch.setattr(fsattrs, "get_xattr", refused)
        before = Read(tmp_path)
    assert {os.fsencode(tmp_path / "b")} == {path for path, _ in before.warnings}
    rows, warned = resumed(before, tmp_path)
    assert rows == {}
    assert [path for path, _ in warned] == [os.fsencode(tmp_path / "b")]
