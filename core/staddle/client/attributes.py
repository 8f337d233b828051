"""What an entry's `extra` map holds (docs/format.md): taken from a file, and set on one that is restored.

A backup calls `capture` for every entry that it looks at anew. A restore calls, in this order: owner, mode,
`apply_extra`, times, `apply_flags`. A change of owner clears capabilities, a change of mode changes the mask
of an ACL, and nothing can be set any more on a file that is immutable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from staddle.client.scan import Warn, reason
from staddle.data.entries import EXTRA_BYTES_MAX
from staddle.data.plain import unmsgpack
from staddle.platform import fsattrs

_INCOMPLETE = "incomplete"
_INCOMPLETE_BYTES = _INCOMPLETE.encode()
I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1
_SECOND_NS = 1_000_000_000
_XATTR_OVERHEAD_BYTES = 16
_ROOM_BYTES = 2048  # for all keys of the map that are no extended attributes
_FROM_THE_SYSTEM = (b"security.selinux", b"security.ima", b"security.evm", b"security.SMACK")
"""Attributes that the system gives to every new file: what it gave is not removed."""


# --- from a file ------------------------------------------------------------------------------------


def clamp_ns(time_ns: int) -> int:
    """The nearest time that a column can hold."""
    return min(max(time_ns, I64_MIN), I64_MAX)


def capture(
    place: int | bytes, path: bytes, status: os.stat_result, warn: Warn, *, limit_bytes: int = EXTRA_BYTES_MAX
) -> tuple[dict[str, Any], bool]:
    """The `extra` map of a file, and whether the file still is what the scan saw.

    Args:
        place: its descriptor, else its path (nothing is followed): then without flags, which need one.
        path: for warnings.
        status: its lstat.
        warn: called for what can't be read.
        limit_bytes: of the packed map; the largest attributes are left out, with a warning.

    Returns:
        All that its row can't say, empty if that is nothing; and False if it is another one by
        now, or size or times have changed.

    Raises:
        OSError: its status can't be had.
    """
    extra: dict[str, Any] = {}

    def lacks(of: bytes, what: str) -> None:
        extra[_INCOMPLETE] = True
        warn(of, what)

    try:
        names = fsattrs.list_xattrs(place)
    except OSError as error:
        lacks(path, f"extended attributes not read: {reason(error)}")
        names = []
    if names:
        xattrs = _read_xattrs(place, names, path, lacks, limit_bytes - _ROOM_BYTES)
        if xattrs:
            extra["xattr"] = xattrs
    if isinstance(place, int):
        try:
            flags = fsattrs.get_flags(place)
        except OSError as error:
            lacks(path, f"file flags not read: {reason(error)}")
        else:
            if flags:
                extra["fs_flags"] = flags
    if sys.platform != "linux":
        _capture_stat(extra, status)
    # The last look: what has changed before it is seen.
    inode, size, mtime_ns, ctime_ns, birth_ns = fsattrs.look(place)
    if birth_ns is not None:
        extra["btime_ns"] = birth_ns if I64_MIN <= birth_ns <= I64_MAX else clamp_ns(birth_ns)
    if not I64_MIN <= mtime_ns <= I64_MAX:
        extra["times"] = {"mtime": list(divmod(mtime_ns, _SECOND_NS))}
    same = ctime_ns == status.st_ctime_ns and mtime_ns == status.st_mtime_ns and size == status.st_size
    return extra, same and inode == status.st_ino


def is_incomplete(packed: bytes) -> bool:
    """Lacks a packed map something of its file: the next backup looks again, though the file is unchanged."""
    # Few maps hold the word at all, and there are millions.
    return _INCOMPLETE_BYTES in packed and _INCOMPLETE in unmsgpack(packed, dict[str, Any])


def _capture_stat(extra: dict[str, Any], status: os.stat_result) -> None:
    if flags := fsattrs.stat_flags(status):
        extra["bsd_flags"] = flags
    if attributes := fsattrs.file_attributes(status):
        extra["attributes"] = attributes


def _read_xattrs(
    place: int | bytes, names: list[bytes], path: bytes, warn: Warn, limit_bytes: int
) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    for name in names:
        try:
            value = fsattrs.get_xattr(place, name)
        except OSError as error:
            warn(path, f"extended attribute {os.fsdecode(name)!r} not read: {reason(error)}")
            continue
        if value is not None:
            values[name] = value
    # The largest ones go first, so that as many as possible stay.
    by_size = sorted(values, key=lambda name: len(values[name]))
    while by_size and _packed_bytes(values) > limit_bytes:
        name = by_size.pop()
        size = len(values.pop(name))
        warn(
            path,
            f"extended attribute {os.fsdecode(name)!r} left out: {size} bytes, "
            f"while all of one entry's may take {limit_bytes >> 10} KiB together",
        )
    return values


def _packed_bytes(values: Mapping[bytes, bytes]) -> int:
    return sum(len(name) + len(value) + _XATTR_OVERHEAD_BYTES for name, value in values.items())


# --- onto a restored file -----------------------------------------------------------------------------


def apply_extra(
    path: bytes, fd: int | None, extra: Mapping[str, Any], *, privileged: bool, is_symlink: bool
) -> list[str]:
    """Set extended attributes, with ACLs and capabilities, and the time of birth where a system can.

    Call it for every restored entry, also with an empty map: attributes that a new file has inherited (a
    default ACL of the target) and that the original had not are removed. After chown and chmod, before times.
    What is no file or directory has no descriptor: it is reached by `path`, and a symlink is not followed.

    Args:
        path: where the entry is now; used if there is no descriptor.
        fd: of the open file or directory.
        extra: its `extra` map.
        privileged: whether the restore is run by root: only root removes what is no user's attribute.
        is_symlink: then `path` counts: what a descriptor of a symlink is good for differs.

    Returns:
        What could not be set, in words for people, each the same for all files that it is true of.
    """
    place: int | bytes = path if fd is None or is_symlink else fd
    wanted = _xattrs_of(extra)
    missing: list[str] = []
    try:
        present = fsattrs.list_xattrs(place)
    except OSError:
        present = []  # setting one tells why
    changes: dict[bytes, bytes | None] = {
        name: None for name in present if name not in wanted and _is_ours(name, privileged=privileged)
    }
    changes.update(wanted)
    # An ordinary user needs the right to write for attributes of users, and an ACL may take it.
    users = {name: value for name, value in changes.items() if name.startswith(b"user.")}
    if users:
        with _writable(place, privileged=privileged):
            for name, value in users.items():
                _set_xattr(missing, place, name, value)
    for name, value in changes.items():
        if name not in users:
            _set_xattr(missing, place, name, value)
    born_ns = extra.get("btime_ns")
    if isinstance(born_ns, int):
        try:
            fsattrs.set_birth(place, born_ns)
        except (OSError, OverflowError):
            missing.append("the time of birth was not set")
    return missing


def _xattrs_of(extra: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The attributes of a map that came from a medium: whatever is no name or no value is left out."""
    raw = extra.get("xattr")
    if not isinstance(raw, dict):
        return {}
    return {
        name: value for name, value in raw.items() if isinstance(name, bytes) and isinstance(value, bytes)
    }


@contextlib.contextmanager
def _writable(place: int | bytes, *, privileged: bool) -> Iterator[None]:
    """Give the owner the right to write to an open file for a moment, where only that is missing."""
    if sys.platform == "win32" or privileged or not isinstance(place, int):
        yield
        return
    mode = stat.S_IMODE(os.fstat(place).st_mode)
    if mode & stat.S_IWUSR:
        yield
        return
    with contextlib.suppress(OSError):  # not our file: setting an attribute tells why
        os.fchmod(place, mode | stat.S_IWUSR)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.fchmod(place, mode)


def _is_ours(name: bytes, *, privileged: bool) -> bool:
    """Whether an attribute is one that a restore removes where the original had none."""
    if name.startswith((b"user.", b"system.posix_acl_")):
        return True
    return privileged and not name.startswith(_FROM_THE_SYSTEM)


def _set_xattr(missing: list[str], place: int | bytes, name: bytes, value: bytes | None) -> None:
    """Set an attribute, or remove it if there is no value."""
    try:
        if value is None:
            fsattrs.remove_xattr(place, name)
        else:
            fsattrs.set_xattr(place, name, value)
    except OSError as error:
        why = _why(error, "the file system of the target has none of this kind")
        missing.append(
            f"extended attribute {os.fsdecode(name)!r} not {'removed' if value is None else 'set'}: {why}"
        )
    except ValueError:
        missing.append("an extended attribute with an impossible name was not set")


def _why(error: OSError, if_absent: str) -> str:
    if fsattrs.absent(error):
        return if_absent
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return "only root may" if error.errno == errno.EPERM and not root else reason(error)


def apply_flags(path: bytes, fd: int | None, extra: Mapping[str, Any]) -> list[str]:
    """Set a time that fits no column, then file flags. The very last call: an immutable file takes no other.

    Args:
        path: where the entry is now.
        fd: of the open file or directory; without one only a time is set.
        extra: its `extra` map.

    Returns:
        What could not be set, as `apply_extra` does.
    """
    missing: list[str] = []
    times = extra.get("times")
    if isinstance(times, dict):
        _set_far_time(path, fd, times, missing)
    flags = extra.get("fs_flags")
    if isinstance(flags, int) and flags and fd is not None:
        missing += _set_flags(fd, flags)
    if sys.platform != "linux":
        missing += _set_stat_flags(path, extra)
    return missing


def _set_far_time(path: bytes, fd: int | None, times: Mapping[str, Any], missing: list[str]) -> None:
    match times.get("mtime"):
        case [int(seconds), int(rest)]:
            at = seconds * _SECOND_NS + rest
        case _:
            return
    try:
        if fd is not None and os.utime in os.supports_fd:
            os.utime(fd, ns=(at, at))
        elif os.utime in os.supports_follow_symlinks:
            os.utime(path, ns=(at, at), follow_symlinks=False)
    except (OSError, OverflowError):
        missing.append("a time of modification out of this system's range was not set")


def _set_flags(fd: int, flags: int) -> list[str]:
    """All at once, else one after the other: one that may not be set must not keep the others away."""
    try:
        fsattrs.set_flags(fd, flags)
    except OSError:
        pass
    else:
        return []
    missing = []
    for flag, name in fsattrs.SETTABLE.items():
        if not flags & flag:
            continue
        try:
            fsattrs.set_flags(fd, fsattrs.get_flags(fd) | flag)
        except OSError as error:
            why = _why(error, "the file system of the target has no such flag")
            missing.append(f"file flag '{name}' not set: {why}")
    return missing


def _set_stat_flags(path: bytes, extra: Mapping[str, Any]) -> list[str]:
    missing = []
    for key, setter in (("bsd_flags", fsattrs.set_stat_flags), ("attributes", fsattrs.set_file_attributes)):
        value = extra.get(key)
        if not isinstance(value, int) or not value:
            continue
        try:
            setter(path, value)
        except (OSError, OverflowError):
            missing.append("file flags not set")
    return missing


def rdev_of(extra: Mapping[str, Any]) -> tuple[int, int]:
    """Major and minor number of a device node; (0, 0) if the map does not say. Takes the old form, too."""
    match extra.get("rdev"):
        case [int(major), int(minor)]:
            return major, minor
        case int(both) if sys.platform != "win32":
            return os.major(both), os.minor(both)
    return 0, 0
