"""What the parts of one restore share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from staddle.client.metadata import Meta, Metadata
from staddle.client.owners import Owners
from staddle.client.policy import Action, Item, Overwrite
from staddle.client.scan import Warn
from staddle.client.tables import PathMarks
from staddle.client.target import Target, check_hopeless
from staddle.client.told import Told
from staddle.client.units import Tally
from staddle.errors import StaddleError


class Aliases(Protocol):
    """Contents that are restored under another path, since their own is not restored."""

    def get(self, path: bytes) -> bytes | None:
        """The path that it is restored under; None for its own."""


@dataclass
class Work:
    """What the parts of one restore share.

    Attributes:
        target: the names.
        metadata: sets what is set on them.
        owners: whose they become.
        overwrite: what happens to what is there.
        dry_run: nothing is changed.
        in_place: the root is that of the system.
        tally: counts.
        told: collects what could not be set.
        warn: called for an entry that is not restored as it was.
        lose: called for a file whose content can't be had.
        on_item: called for each thing done.
        restored: what is there as it is in the backup.
        lost: what has a content that can't be had.
        renewed: in a dry run, what would be made anew: links to what is there now are then none.
        counts: of actions.
    """

    target: Target
    metadata: Metadata
    owners: Owners
    overwrite: Overwrite
    dry_run: bool
    in_place: bool
    tally: Tally
    told: Told
    warn: Warn
    lose: Warn
    on_item: Callable[[Item], None] | None
    restored: PathMarks = field(default_factory=PathMarks)
    lost: PathMarks = field(default_factory=PathMarks)
    renewed: PathMarks = field(default_factory=PathMarks)
    counts: Counter[Action] = field(default_factory=Counter)

    def did(self, action: Action, path: bytes, size_bytes: int = 0, *, whole: bool = True) -> None:
        """One thing is done, or would be. Args: whole: hard links may lead to it."""
        self.counts[action] += 1
        if self.on_item is not None:
            self.on_item(Item(action, path, size_bytes))
        if whole and action is not Action.KEEP:
            self.restored.add(path)
            if self.dry_run and action is not Action.SAME:
                self.renewed.add(path)

    def set_again(self, fd: int, path: bytes, meta: Meta) -> None:
        """All but the flags of an open file or directory, which may have it already.

        On what is immutable nothing can be set: that is told only if something would have to be.
        """
        if self.metadata.is_set(fd, path, meta):
            return
        if locked := self.target.locked(path, fd):
            self.warn(path, f"owner, mode, times and attributes are not set: {locked}")
        else:
            self.metadata.set_open(fd, self.target.places, path, path, meta)

    def lost_content(self, path: bytes, why: str) -> None:
        """The content of a file can't be had."""
        self.lost.add(path)
        self.lose(path, why)

    def failed(self, path: bytes, error: OSError | StaddleError) -> None:
        """An entry is not restored. Raises StaddleError where no further one could be."""
        if isinstance(error, OSError):
            check_hopeless(error, self.target.root)
            self.warn(path, f"not restored: {self.target.why(path, error)}")
        else:
            self.warn(path, f"not restored: {error.message}")
