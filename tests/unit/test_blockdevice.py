"""What a block device is used for: mounts, swap, drivers on top of it; as Linux says it in /proc and /sys."""

import os
import stat
import sys
import types

import pytest

from staddle.client.image import ImageSource
from staddle.client.units import Tally
from staddle.platform import blockdevice

if sys.platform == "linux":
    MOUNTS = (
        "22 27 8:1 / /a\\040b rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
        "23 27 8:2 / /ro ro - ext4 /dev/sda2 ro\n"
        "24 27 8:2 /x /bind rw shared:3 master:2 - ext4 /dev/sda2 ro\n"
        "25 27 0:41 /@ /data rw - btrfs /dev/sdc rw,subvol=/@\n"
        "26 27 0:21 / /proc rw - proc proc rw\n"
    )
    SWAPS = (
        "Filename\tType\tSize\tUsed\tPriority\n"
        "/dev/sdd\tpartition\t100\t0\t-2\n"
        "/swap\\040file\tfile\t1\t0\t-3\n"
    )
    NUMBERS = {
        "sda": (8, 0),
        "sda1": (8, 1),
        "sda2": (8, 2),
        "sdb": (8, 16),
        "sdc": (8, 32),
        "sdd": (8, 48),
        "sde": (8, 64),
        "sde1": (8, 65),
        "sdf": (8, 80),
    }

    @pytest.fixture(autouse=True)
    def system(tmp_path, monkeypatch):
        (tmp_path / "mountinfo").write_text(MOUNTS)
        (tmp_path / "swaps").write_text(SWAPS)
        monkeypatch.setattr(blockdevice, "_MOUNTS", str(tmp_path / "mountinfo"))
        monkeypatch.setattr(blockdevice, "_SWAPS", str(tmp_path / "swaps"))
        monkeypatch.setattr(blockdevice, "_DEVICES", str(tmp_path / "block"))
        for name, (major, minor) in NUMBERS.items():
            (tmp_path / "block" / f"{major}:{minor}" / "holders").mkdir(parents=True)
            if name[-1].isdigit():
                disk = NUMBERS[name[:-1]]
                inside = tmp_path / "block" / f"{disk[0]}:{disk[1]}" / name
                inside.mkdir()
                (inside / "partition").write_text(name[-1] + "\n")
                (inside / "dev").write_text(f"{major}:{minor}\n")
        (tmp_path / "block/8:65/holders/dm-0/dm").mkdir(parents=True)
        (tmp_path / "block/8:65/holders/dm-0/dm/name").write_text("vg-root\n")
        (tmp_path / "block/8:80/holders/md0").mkdir()
        real = os.stat

        def fake(path, *args, **options):
            name = os.path.basename(os.fsdecode(path))
            if os.fsdecode(path).startswith("/dev/") and name in NUMBERS:
                return types.SimpleNamespace(st_mode=stat.S_IFBLK, st_rdev=os.makedev(*NUMBERS[name]))
            return real(path, *args, **options)

        monkeypatch.setattr(os, "stat", fake)

    @pytest.mark.parametrize(
        ("device", "written", "use"),
        [
            ("sda1", True, "it is mounted at /a b"),
            ("sda", True, "its partition sda1 is mounted at /a b"),
            ("sda2", False, "it is mounted at /ro"),
            ("sda2", True, ""),
            ("sdb", False, ""),
            ("sdc", True, "it is mounted at /data"),
            ("sdd", True, "it is swap space"),
            ("sde", True, "its partition sde1 is part of dm-0 (vg-root)"),
            ("sdf", False, "it is part of md0"),
        ],
    )
    def test_every_use_of_a_device_is_told(device, written, use):
        assert blockdevice.in_use(b"/dev/" + device.encode(), written=written) == use

    @pytest.mark.parametrize("end", ["\x0b", "\x0c", "\r", "\x1c", "\x85", "\u2028"])
    def test_a_name_that_holds_another_end_of_line_hides_no_mount(tmp_path, end):
        line = f"21 27 0:50 / /mnt/x{end}y rw - fuse.own own rw\n"
        (tmp_path / "mountinfo").write_bytes((line + MOUNTS).encode())
        assert blockdevice.in_use(b"/dev/sda1", written=True) == "it is mounted at /a b"

    def test_what_is_no_device_or_a_system_that_tells_nothing_has_no_use(tmp_path, monkeypatch):
        assert blockdevice.in_use(os.fsencode(tmp_path)) == ""
        for name in ("_MOUNTS", "_SWAPS", "_DEVICES"):
            monkeypatch.setattr(blockdevice, name, str(tmp_path / "nothing"))
        assert blockdevice.in_use(b"/dev/sda1") == ""
        with pytest.raises(FileNotFoundError):
            blockdevice.in_use(b"/dev/no-such-device")

    def test_imaging_a_device_that_is_written_warns_and_reads_on(tmp_path, monkeypatch):
        (tmp_path / "disk").write_bytes(b"x" * 5000)
        told = []
        monkeypatch.setattr(blockdevice, "in_use", lambda path, *, written: f"it is used{written}")
        real = os.fstat

        def device(fd):
            found = real(fd)
            names = [name for name in dir(found) if name.startswith("st_")]
            fields = {name: getattr(found, name) for name in names}
            return types.SimpleNamespace(**fields | {"st_mode": stat.S_IFBLK | 0o600})

        monkeypatch.setattr(os, "fstat", device)
        tally = Tally(lambda path, message: told.append((path, message)))
        records = list(ImageSource([os.fsencode(tmp_path / "disk")], tally).records())
        assert b"".join(bytes(each.payload) for each in records) == b"x" * 5000
        [(path, message)] = told
        assert path == os.fsencode(tmp_path / "disk")
        assert message.startswith("it is usedTrue: ")
        assert tally.warnings == 1
