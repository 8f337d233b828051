"""What could not be set is told once for each kind, not once for each of a million files."""

from __future__ import annotations

import os

from staddle.client.scan import Warn

KINDS_MAX = 200
"""So many kinds are told apart; what comes after them is counted as one."""
ONLY_ROOT = "only root may"
"""How the reason ends if nobody but root could have done it: an ordinary user did not expect it."""


class Told:
    """Counts what is missing of restored entries, by its kind; `tell` says it.

    What an ordinary user could not expect is a note; everything else is a warning.
    """

    def __init__(self, warn: Warn, *, privileged: bool) -> None:
        self._warn = warn
        self._privileged = privileged
        self._kinds: dict[str, tuple[int, bytes]] = {}

    def missing(self, path: bytes, what: str) -> None:
        """Something could not be set. Args: what: in words that are the same for all files of the kind."""
        if what not in self._kinds and len(self._kinds) >= KINDS_MAX:
            what = "other metadata not set"
        count, first = self._kinds.get(what, (0, path))
        self._kinds[what] = count + 1, first

    def tell(self) -> list[str]:
        """Warn of each kind; returns the notes. Begins anew."""
        notes = []
        for what, (count, first) in self._kinds.items():
            if not self._privileged and what.endswith(ONLY_ROOT):
                notes.append(f"{what}: {_entries(count, first)}")
            elif count == 1:
                self._warn(first, what)
            else:
                self._warn(b"", f"{what}: {_entries(count, first)}")
        self._kinds = {}
        return notes


def _entries(count: int, first: bytes) -> str:
    shown = first.decode(errors="replace") if os.name == "nt" else os.fsdecode(first)
    shown = shown.encode(errors="replace").decode()
    return shown if count == 1 else f"{count} entries, the first is {shown}"
