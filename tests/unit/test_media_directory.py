"""What is the directory medium's own: order of syncs, errors of the system, mounts, leftovers."""

import errno
import os
import sys

import blake3
import pytest

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import Label, MediumState
from staddle.media import directory, directory_volume
from staddle.media.options import DirectoryConfig

LABEL = Label(grid=b"g" * 16, medium="m1", volume=b"v" * 16, created_ns=1)
TEXT = (LABEL.grid.hex() + "\n" + LABEL.volume.hex()).encode()
NAME = "c0/7f/" + "0" * 48


def soon():
    return Deadline(20.0)


def digest_of(data):
    return blake3.blake3(data).digest()


def make(path, **options):
    return directory.DirectoryMedium("m1", DirectoryConfig(path=str(path), **options))


@pytest.fixture
def medium(tmp_path):
    medium = make(tmp_path / "v")
    medium.initialize(LABEL, TEXT, soon())
    return medium


@pytest.fixture
def volume(medium):
    return medium.open(LABEL, "write", 1, soon())


def put(volume, data=b"data", name=NAME, deadline=None):
    return volume.put(name, [data], digest_of(data), deadline or soon())


class Recorder:
    """Notes the order of the calls that make an object durable."""

    def __init__(self, monkeypatch, root):
        self.calls = []
        self.root = str(root)
        monkeypatch.setattr(
            directory_volume.FILES, "datasync", lambda fd: self.calls.append("datasync"), raising=True
        )
        publish = directory_volume.publish_no_replace
        sync = directory_volume.fsync_dir
        monkeypatch.setattr(
            directory_volume, "publish_no_replace", lambda a, b: self.note("publish", publish, a, b)
        )
        monkeypatch.setattr(
            directory_volume, "fsync_dir", lambda path: self.note("sync " + self.short(path), sync, path)
        )

    def short(self, path):
        return os.path.relpath(path, self.root)

    def note(self, what, call, *arguments):
        self.calls.append(what)
        return call(*arguments)


def test_every_name_up_to_the_root_is_durable_before_the_receipt(volume, tmp_path, monkeypatch):
    record = Recorder(monkeypatch, tmp_path / "v")
    put(volume)
    assert record.calls == ["datasync", "sync .", "sync c0", "publish", "sync " + os.path.join("c0", "7f")]
    record.calls.clear()
    put(volume, name="c0/7f/aa")
    assert record.calls == ["datasync", "publish", "sync " + os.path.join("c0", "7f")]


def test_a_directory_that_somebody_else_made_is_synced_too(volume, tmp_path, monkeypatch):
    os.makedirs(tmp_path / "v" / "c0" / "7f")
    record = Recorder(monkeypatch, tmp_path / "v")
    put(volume)
    assert "sync ." in record.calls
    assert "sync c0" in record.calls


def test_a_put_again_syncs_what_its_first_writer_may_not_have(volume, tmp_path, monkeypatch):
    put(volume)
    record = Recorder(monkeypatch, tmp_path / "v")
    monkeypatch.setattr(directory_volume, "datasync", lambda fd: record.calls.append("datasync"))
    put(volume)
    assert record.calls == ["datasync", "sync " + os.path.join("c0", "7f")]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, errors.MediumFull),
        (errno.EDQUOT, errors.MediumFull),
        (errno.EIO, errors.MediumFailed),
        (errno.ESTALE, errors.MediumFailed),
        (errno.EROFS, errors.MediumFailed),
        (errno.EACCES, errors.Denied),
        (errno.ENOENT, errors.MediumFailed),
    ],
)
def test_errors_of_the_system_send_the_work_elsewhere_and_leave_nothing(
    volume, tmp_path, monkeypatch, number, kind
):
    def fail(fd, data):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directory_volume.FILES, "write", fail, raising=True)
    with pytest.raises(kind) as caught:
        put(volume)
    assert type(caught.value) is kind
    assert caught.value.retry == "elsewhere"
    assert caught.value.outcome == "not_done"
    assert caught.value.hint
    assert os.listdir(tmp_path / "v" / "tmp") == []
    monkeypatch.undo()
    assert put(volume).size_bytes == 4


@pytest.mark.parametrize("where", ["publish_no_replace", "fsync_dir"])
def test_an_error_once_the_name_may_be_there_is_in_doubt_and_a_put_again_settles_it(
    volume, monkeypatch, where
):
    put(volume, name="c0/7f/aa")  # its directories are known from now on
    real = getattr(directory_volume, where)

    def fail(*arguments):
        real(*arguments)
        raise OSError(errno.EIO, "late")

    monkeypatch.setattr(directory_volume, where, fail)
    with pytest.raises(errors.MediumFailed) as caught:
        put(volume)
    assert caught.value.outcome == "in_doubt"
    monkeypatch.undo()
    assert put(volume).digest == digest_of(b"data")


def test_a_delete_is_durable_also_when_another_removed_the_object(volume, tmp_path, monkeypatch):
    put(volume)
    record = Recorder(monkeypatch, tmp_path / "v")
    volume.delete(NAME, soon())
    volume.delete(NAME, soon())
    assert record.calls == ["sync " + os.path.join("c0", "7f")] * 2


def test_a_volume_that_vanishes_once_the_name_was_given_leaves_doubt(volume, tmp_path, monkeypatch):
    sync = directory_volume.fsync_dir

    def vanish(path):
        sync(path)
        if path.endswith("7f"):
            os.unlink(tmp_path / "v" / "staddle-volume.txt")

    monkeypatch.setattr(directory_volume, "fsync_dir", vanish)
    with pytest.raises(errors.MediumFailed) as caught:
        put(volume)
    assert (caught.value.code, caught.value.outcome) == ("LABEL_GONE", "in_doubt")


def test_bytes_taken_after_the_deadline_are_not_published(volume, tmp_path, monkeypatch):
    deadline = Deadline(20.0)
    monkeypatch.setattr(
        directory_volume.FILES, "datasync", lambda fd: setattr(deadline, "at_s", 0.0), raising=True
    )
    with pytest.raises(errors.DeadlineExceeded) as caught:
        put(volume, deadline=deadline)
    assert caught.value.outcome == "not_done"
    assert list(volume.list("", soon())) == []
    assert os.listdir(tmp_path / "v" / "tmp") == []


def test_a_volume_that_vanishes_in_mid_put_gets_no_directory_in_its_place(volume, tmp_path, monkeypatch):
    root, moved = tmp_path / "v", tmp_path / "moved"

    def vanish(fd):
        os.rename(root, moved)
        os.mkdir(root)

    monkeypatch.setattr(directory_volume.FILES, "datasync", vanish, raising=True)
    with pytest.raises(errors.MediumFailed) as caught:
        put(volume)
    assert caught.value.code == "LABEL_GONE"
    assert os.listdir(root) == []


def test_another_volume_mounted_in_its_place_is_not_written(volume, tmp_path):
    os.rename(tmp_path / "v", tmp_path / "gone")
    other = Label(grid=b"g" * 16, medium="m1", volume=b"w" * 16, created_ns=1)
    make(tmp_path / "v").initialize(other, TEXT.replace(b"76", b"77"), soon())
    with pytest.raises(errors.MediumFailed) as caught:
        put(volume)
    assert caught.value.code == "WRONG_LABEL"
    assert caught.value.outcome == "not_done"


def test_a_remounted_share_that_numbers_its_files_anew_is_the_same_volume(volume, tmp_path):
    put(volume)
    label = tmp_path / "v" / "staddle-volume.txt"
    copy = tmp_path / "v" / "copy"
    copy.write_bytes(label.read_bytes())
    os.replace(copy, label)
    assert put(volume, name="c0/01").size_bytes == 4


def test_mount_is_wanted(tmp_path, monkeypatch):
    mounted = {str(tmp_path / "mnt")}
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in mounted)
    medium = make(tmp_path / "mnt" / "backups", mount=True)
    (tmp_path / "mnt" / "backups").mkdir(parents=True)
    medium.initialize(LABEL, TEXT, soon())
    mounted.clear()
    for call in (
        lambda: medium.open(LABEL, "write", 1, soon()),
        lambda: medium.initialize(LABEL, TEXT, soon()),
        lambda: medium.probe(soon()),
    ):
        with pytest.raises(errors.MediumFailed) as caught:
            call()
        assert caught.value.code == "NOT_MOUNTED"
    assert medium.health(soon()).state == MediumState.OFFLINE


def test_a_mount_point_is_never_made(tmp_path):
    medium = make(tmp_path / "nowhere", mount=True)
    with pytest.raises(errors.StaddleError):
        medium.initialize(LABEL, TEXT, soon())
    assert not (tmp_path / "nowhere").exists()


def test_low_water(tmp_path, monkeypatch):
    make(tmp_path / "v").initialize(LABEL, TEXT, soon())
    free = 10 << 30

    def usage(path):
        return type("Usage", (), {"total": 100 << 30, "free": free})

    monkeypatch.setattr(directory_volume.shutil, "disk_usage", usage)
    for options, limit in (({}, 256 << 20), ({"reserve_bytes": 5000}, 5000)):
        volume = make(tmp_path / "v", **options).open(LABEL, "read", 1, soon())
        free = limit
        assert not volume.capacity().low
        free = limit - 1
        assert volume.capacity().low
    with pytest.raises(errors.Denied):
        put(volume)


def test_a_fresh_file_system_counts_as_empty_and_a_cut_off_labelling_is_finished(tmp_path):
    for entry in ("lost+found", ".snapshot", "tmp"):
        (tmp_path / entry).mkdir()
    (tmp_path / "tmp" / ("a" * 32 + ".part")).write_bytes(TEXT[:5])
    make(tmp_path).initialize(LABEL, TEXT, soon())
    assert make(tmp_path).read_label(soon()) == TEXT


def test_a_tmp_directory_of_somebody_else_is_not_ours(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "letter.odt").write_bytes(b"dear")
    with pytest.raises(errors.Conflict):
        make(tmp_path).initialize(LABEL, TEXT, soon())


def test_old_leftovers_are_swept_and_those_of_living_writers_kept(medium, tmp_path):
    area = tmp_path / "v" / "tmp"
    for name, age_s in (("old.part", 3 * 86_400), ("new.part", 60)):
        (area / name).write_bytes(b"x")
        past_s = os.stat(area / name).st_mtime - age_s
        os.utime(area / name, (past_s, past_s))
    medium.open(LABEL, "read", 1, soon())
    assert len(os.listdir(area)) == 2
    medium.open(LABEL, "write", 1, soon())
    assert os.listdir(area) == ["new.part"]


def test_list_holds_few_names_of_a_large_directory_at_once(volume, monkeypatch):
    monkeypatch.setattr(directory_volume, "LIST_BATCH", 3)
    names = [*sorted(f"c0/{number:02x}" for number in range(11)), "c0/0f/01", "f0", "e0/11/22"]
    for name in names:
        put(volume, name.encode(), name=name)
    assert [info.name for info in volume.list("", soon())] == sorted(names)
    assert [info.name for info in volume.list("c0/03", soon(), "c0/")] == [
        n for n in sorted(names) if "c0/03" < n < "d"
    ]


def test_a_listing_of_a_volume_that_vanishes_does_not_end_quietly(volume, tmp_path, monkeypatch):
    for number in range(4):
        put(volume, name=f"c{number}/00")
    listing = volume.list("", soon())
    next(listing)
    os.rename(tmp_path / "v", tmp_path / "gone")
    with pytest.raises(errors.MediumFailed):
        list(listing)


def test_foreign_files_are_not_listed(volume, tmp_path):
    put(volume, name="c0/aa")
    for name in ("README", ".nfs0001", "c0/x.part", "c0/AB"):
        (tmp_path / "v" / name).write_bytes(b"?")
    if sys.platform != "win32":
        os.symlink("c0", tmp_path / "v" / "c1")
    assert [info.name for info in volume.list("", soon())] == ["c0/aa"]


def test_a_damaged_length_is_corrupt(volume, tmp_path):
    put(volume, b"0123456789")
    os.truncate(tmp_path / "v" / NAME, 4)
    with pytest.raises(errors.Corrupt):
        volume.get(NAME, 0, 10, soon())
    with pytest.raises(errors.Conflict):
        put(volume, b"0123456789")


def test_probe_sees_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(directory, "publish_no_replace", refuse)
    findings = {finding.name: finding for finding in make(tmp_path).probe(soon())}
    assert not findings["CONDITIONAL_PUT"].holds
    assert os.listdir(tmp_path) == []


def test_probe_sees_a_file_system_that_replaces(tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "publish_no_replace", os.replace)
    findings = {finding.name: finding for finding in make(tmp_path).probe(soon())}
    assert not findings["CONDITIONAL_PUT"].holds
    assert os.listdir(tmp_path) == []


def test_a_label_is_written_again_in_the_place_of_the_one_that_was_seen_only(medium, volume, tmp_path):
    put(volume)
    label = tmp_path / "v" / "staddle-volume.txt"
    for found in (b"damaged", b""):
        label.unlink()
        if found:
            label.write_bytes(found)
        with pytest.raises(errors.Conflict):
            medium.relabel(LABEL, TEXT, b"what was seen before", soon())
        assert (label.read_bytes() if found else not label.exists()) == (found or True)
        with pytest.raises(errors.MediumFailed):
            medium.open(LABEL, "read", 1, soon())
        medium.relabel(LABEL, TEXT, found, soon())
        assert label.read_bytes() == TEXT
        medium.relabel(LABEL, TEXT, found, soon())  # again, after an answer that was lost
        assert os.listdir(tmp_path / "v" / "tmp") == []
    assert put(volume, name="c0/01").size_bytes == 4, "an open volume goes on"


def test_a_place_is_opened_for_reading_whatever_its_label_is(medium, volume, tmp_path):
    put(volume)
    label = tmp_path / "v" / "staddle-volume.txt"
    for spoil in (lambda: label.write_bytes(b"damaged"), label.unlink):
        spoil()
        unlabelled = medium.open_unlabelled(LABEL, soon())
        assert unlabelled.get(NAME, 0, 4, soon()) == b"data"
        with pytest.raises(errors.Denied):
            put(unlabelled, name="c0/01")
    os.rename(tmp_path / "v", tmp_path / "gone")
    with pytest.raises(errors.MediumFailed):
        medium.open_unlabelled(LABEL, soon())


def test_no_label_is_written_below_an_empty_mount_point(tmp_path, monkeypatch):
    (tmp_path / "v").mkdir()
    monkeypatch.setattr(directory.os.path, "ismount", lambda path: False)
    with pytest.raises(errors.MediumFailed) as caught:
        make(tmp_path / "v", mount=True).relabel(LABEL, TEXT, b"", soon())
    assert caught.value.code == "NOT_MOUNTED"
    assert os.listdir(tmp_path / "v") == []
