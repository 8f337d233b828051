"""The root of a directory volume: its label, and the proof that it is there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from staddle.api.media import check_label
from staddle.api.types import Label
from staddle.errors import MediumFailed
from staddle.media.oserrors import translate
from staddle.platform.durable import forget_cached
from staddle.platform.plainfile import open_plain
from staddle.platform.shortage import is_shortage

LABEL_NAME = "staddle-volume.txt"
LABEL_BYTES_MAX = 64 * 1024


class Root:
    """The root of a volume, and the proof that it is still the one that was opened.

    What a label's file is on its file system is remembered (device, inode, times), so that the check is one
    stat. If that changed, its text decides: a remounted share may number its files anew. Times are needed:
    on two new disks, one put in for the other, labels have the same device and inode.
    """

    def __init__(self, path: str, label: Label) -> None:
        """Args: path: the directory. label: the volume that it holds."""
        self.path = path
        self.label = label
        self._label_path = os.path.join(path, LABEL_NAME)
        self._identity: tuple[int, ...] | None = None

    def check(self) -> None:
        """Make sure that the labelled volume is there. Raises MediumFailed."""
        try:
            seen = os.lstat(self._label_path)
            if _identity(seen) == self._identity:
                return
            with open_plain(self._label_path) as file:
                text = file.read(LABEL_BYTES_MAX)
                seen = os.fstat(file.fileno())
        except OSError as error:
            if is_shortage(error):
                raise translate(error, f"look at the label of {self.path}") from error
            raise MediumFailed(
                f"{self.path} has lost its label: {error.strerror}",
                code="LABEL_GONE",
                hint="is it mounted, and at the configured path?",
            ) from error
        check_label(text, self.label, self.path)
        self._identity = _identity(seen)

    def answers(self) -> bool:
        """Whether the label comes from the device itself: what memory still holds proves nothing."""
        try:
            with open_plain(self._label_path) as file:
                forget_cached(file.fileno())
                check_label(file.read(LABEL_BYTES_MAX), self.label, self.path)
        except (OSError, MediumFailed):
            return False
        return True

    def at(self, name: str) -> str:
        """The path of an object."""
        return os.path.join(self.path, *name.split("/"))

    def directories(self, name: str) -> Sequence[str]:
        """The paths of the directories between the root and an object, from the top."""
        parts = name.split("/")
        return [os.path.join(self.path, *parts[:count]) for count in range(1, len(parts))]

    def reach(self, name: str) -> str:
        """The path of an object, on which no symlink stands: others may write here, and one leads anywhere.

        Raises: OSError: one of its directories is missing (FileNotFoundError), or is none.
        """
        for directory in self.directories(name):
            if not is_own_directory(directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
        return self.at(name)


class UnlabelledRoot(Root):
    """The root of a volume whose label is damaged or lost: what is read there proves what it is."""

    def check(self) -> None:
        """Make sure that there is a directory. Raises MediumFailed."""
        if not os.path.isdir(self.path):
            raise MediumFailed(f"{self.path} is not there", hint="is it mounted?")

    def answers(self) -> bool:
        """Whether the directory can be read: there is no label to ask for."""
        try:
            os.listdir(self.path)
        except OSError:
            return False
        return True


def _identity(seen: os.stat_result) -> tuple[int, ...]:
    return stat.S_IFMT(seen.st_mode), seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns


def is_own_directory(path: str) -> bool:
    """Is it a directory itself, not a symlink to one. Raises OSError."""
    return stat.S_ISDIR(os.lstat(path).st_mode)
