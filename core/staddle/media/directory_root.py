"""The root of a directory volume: its label, and the proof that it is there."""

from __future__ import annotations

import os

from staddle.api.media import check_label
from staddle.api.types import Label
from staddle.errors import MediumFailed
from staddle.media.oserrors import translate
from staddle.platform.durable import forget_cached
from staddle.platform.shortage import is_shortage

LABEL_NAME = "staddle-volume.txt"
LABEL_BYTES_MAX = 64 * 1024


class Root:
    """The root of a volume, and the proof that it is still the one that was opened.

    What a label's file is on its file system (device and inode) is remembered, so that the check is one
    stat. If that changed, its text decides: a remounted share may number its files anew.
    """

    def __init__(self, path: str, label: Label) -> None:
        """Args: path: the directory. label: the volume that it holds."""
        self.path = path
        self.label = label
        self._label_path = os.path.join(path, LABEL_NAME)
        self._identity: tuple[int, int] | None = None

    def check(self) -> None:
        """Make sure that the labelled volume is there. Raises MediumFailed."""
        try:
            seen = os.stat(self._label_path)
            if (seen.st_dev, seen.st_ino) == self._identity:
                return
            with open(self._label_path, "rb") as file:
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
        self._identity = (seen.st_dev, seen.st_ino)

    def answers(self) -> bool:
        """Whether the label comes from the device itself: what memory still holds proves nothing."""
        try:
            with open(self._label_path, "rb", buffering=0) as file:
                forget_cached(file.fileno())
                check_label(file.read(LABEL_BYTES_MAX), self.label, self.path)
        except (OSError, MediumFailed):
            return False
        return True

    def at(self, name: str) -> str:
        """The path of an object."""
        return os.path.join(self.path, *name.split("/"))


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
