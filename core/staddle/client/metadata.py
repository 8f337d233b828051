"""What is set on a restored entry once its content is there, in the order in which none undoes another.

Owner, mode, extended attributes with ACLs and capabilities, times, and file flags last of all: a change of
owner clears set-id bits and capabilities, and nothing can be set any more on what is immutable.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from staddle.client.attributes import apply_extra, apply_flags
from staddle.client.owners import LEAVE
from staddle.client.places import Places
from staddle.client.scan import reason
from staddle.client.told import ONLY_ROOT, Told
from staddle.data.plain import unmsgpack
from staddle.platform import fsattrs

_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_REFUSED: Final = frozenset({errno.EPERM, errno.EACCES})
_BY_DESCRIPTOR: Final = sys.platform == "linux"
"""Everything that is set on an open file has a call that takes its descriptor."""
_REMOVED: Final = (b"user.", b"trusted.", b"system.posix_acl_", b"security.capability")
"""Extended attributes that a restored file has not if the original had none of the name."""
_NO_EXTRA: Final[Mapping[str, Any]] = {}


class Meta(NamedTuple):
    """What is set on an entry.

    Attributes:
        mode: permission, set-id and sticky bits.
        uid: on this system; LEAVE: as it comes.
        gid: likewise.
        mtime_ns: since 1970, may be negative.
        extra: further metadata as a packed map (docs/format.md), empty for none.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    extra: bytes = b""


class Metadata:
    """Sets it; what can't be set is told by its kind at the end, and never stops a restore."""

    def __init__(self, told: Told, *, privileged: bool) -> None:
        """Args: privileged: may this process give files away."""
        self.privileged = privileged
        self._told = told
        self._groups = _own_groups()
        self._decoded: tuple[bytes, Mapping[str, Any]] = (b"", _NO_EXTRA)

    def further(self, path: bytes, meta: Meta) -> Mapping[str, Any]:
        """The map of an entry; empty if it can't be read, which is told."""
        if not meta.extra:
            return _NO_EXTRA
        if self._decoded[0] != meta.extra:
            try:
                decoded = unmsgpack(meta.extra, dict[str, Any])
            except ValueError:
                self._told.missing(path, "further metadata can't be read")
                decoded = {}
            self._decoded = meta.extra, decoded
        return self._decoded[1]

    # --- of an open file or directory ---------------------------------------------------------------

    def set_open(self, fd: int, places: Places, place: bytes, path: bytes, meta: Meta) -> None:
        """All but the flags of an open file or directory.

        By its descriptor, so that nothing that has taken the name since can be hit.

        Args:
            fd: of it.
            places: the names.
            place: its name there, used where there is no call by descriptor.
            path: in the backup.
            meta: what is set.
        """
        missing = self._told.missing
        if sys.platform != "win32":
            mode = self._give_open(fd, path, meta)
            try:
                os.fchmod(fd, mode)
            except OSError as error:
                missing(path, f"mode not set: {self._why(error)}")
        extra = self.further(path, meta)
        where = place if _BY_DESCRIPTOR else places.reach(place)
        for what in apply_extra(where, fd, extra, privileged=self.privileged, is_symlink=False):
            missing(path, what)
        try:
            os.utime(fd if os.utime in os.supports_fd else where, ns=(_atime(extra, meta), meta.mtime_ns))
        except (OSError, OverflowError) as error:
            missing(path, f"time not set: {self._why(error)}")
        if sys.platform == "win32":
            os.chmod(where, stat.S_IMODE(meta.mode))

    def is_set(self, fd: int, path: bytes, meta: Meta) -> bool:
        """Has an open file or directory all of it but the flags already: then nothing needs to be set.

        False where this can't be told.
        """
        status = os.fstat(fd)
        if sys.platform == "win32" or status.st_mtime_ns != meta.mtime_ns:
            return False
        if meta.uid not in {LEAVE, status.st_uid} or meta.gid not in {LEAVE, status.st_gid}:
            return False
        if stat.S_IMODE(status.st_mode) != stat.S_IMODE(meta.mode):
            return False
        wanted = self.further(path, meta).get("xattr") or {}
        try:
            present = fsattrs.list_xattrs(fd)
            return not any(name not in wanted and name.startswith(_REMOVED) for name in present) and all(
                fsattrs.get_xattr(fd, name) == value for name, value in wanted.items()
            )
        except (OSError, TypeError, ValueError, AttributeError):
            return False  # of a map that came from a medium anything may be expected

    def set_flags(self, fd: int, places: Places, path: bytes, meta: Meta) -> None:
        """The flags: nothing can be changed after that, not even the name."""
        extra = self.further(path, meta)
        if extra:
            where = path if _BY_DESCRIPTOR else places.reach(path)
            for what in apply_flags(where, fd, extra):
                self._told.missing(path, what)

    def _why(self, error: OSError | OverflowError) -> str:
        if isinstance(error, OverflowError):
            return "out of this system's range"
        return ONLY_ROOT if error.errno in _REFUSED and not self.privileged else reason(error)

    def has_flags(self, path: bytes, meta: Meta) -> bool:
        """Are there flags to be set, which would keep hard links from being made."""
        extra = self.further(path, meta)
        return "fs_flags" in extra or "bsd_flags" in extra

    def _give_open(self, fd: int, path: bytes, meta: Meta) -> int:
        """Set the owner; returns the mode to be set, without what would lend rights of another owner."""
        if sys.platform == "win32":
            return meta.mode
        uid, gid = self._allowed(meta)
        try:
            if (uid, gid) != (LEAVE, LEAVE):
                os.fchown(fd, uid, gid)
        except (OSError, OverflowError) as error:
            self._told.missing(path, f"owner not set: {self._why(error)}")
        if not self.privileged or meta.mode & _SET_ID:
            return self._mode(os.fstat(fd), path, meta)
        return stat.S_IMODE(meta.mode)

    def _allowed(self, meta: Meta) -> tuple[int, int]:
        """Owner and group as far as this user may set them: an ordinary one, to groups that it is in."""
        if self.privileged:
            return meta.uid, meta.gid
        return LEAVE, meta.gid if meta.gid in self._groups else LEAVE

    def _mode(self, status: os.stat_result, path: bytes, meta: Meta) -> int:
        """The mode, with set-id bits only where owner and group are the right ones by now."""
        mode = stat.S_IMODE(meta.mode)
        if meta.uid not in {LEAVE, status.st_uid}:
            mode &= ~stat.S_ISUID
            if not self.privileged:
                self._told.missing(path, f"owner not set: {ONLY_ROOT}")
        if meta.gid not in {LEAVE, status.st_gid}:
            mode &= ~stat.S_ISGID
            if not self.privileged:
                self._told.missing(path, f"group not set: {ONLY_ROOT}")
        return mode

    # --- of what can't be opened --------------------------------------------------------------------

    def set_named(self, places: Places, place: bytes, path: bytes, meta: Meta, *, symlink: bool) -> None:
        """All of an entry that is reached by its name: a symlink's own, never of what it leads to.

        Args:
            places: the names.
            place: its name there.
            path: in the backup.
            meta: what is set.
            symlink: then it has no mode.
        """
        missing = self._told.missing
        extra = self.further(path, meta)
        if sys.platform != "win32":
            self._give_named(places, place, path, meta, symlink=symlink)
        for what in apply_extra(
            places.reach(place), None, extra, privileged=self.privileged, is_symlink=symlink
        ):
            missing(path, what)
        if symlink and sys.platform == "win32":
            return
        try:
            places.change_time(place, _atime(extra, meta), meta.mtime_ns)
        except (OSError, OverflowError) as error:
            missing(path, f"time not set: {self._why(error)}")
        for what in apply_flags(places.reach(place), None, extra) if extra else ():
            missing(path, what)

    def _give_named(self, places: Places, place: bytes, path: bytes, meta: Meta, *, symlink: bool) -> None:
        if sys.platform == "win32":
            return
        uid, gid = self._allowed(meta)
        try:
            if (uid, gid) != (LEAVE, LEAVE):
                places.change_owner(place, uid, gid)
        except (OSError, OverflowError) as error:
            self._told.missing(path, f"owner not set: {self._why(error)}")
        status = places.status(place)
        if status is None:
            return
        mode = self._mode(status, path, meta)
        try:
            if not symlink:
                places.change_mode(place, mode)
        except OSError as error:
            self._told.missing(path, f"mode not set: {self._why(error)}")


def _atime(extra: Mapping[str, Any], meta: Meta) -> int:
    atime_ns = extra.get("atime_ns")
    return atime_ns if isinstance(atime_ns, int) else meta.mtime_ns


def _own_groups() -> frozenset[int]:
    if sys.platform == "win32":
        return frozenset()
    return frozenset({os.getegid(), *os.getgroups()})
