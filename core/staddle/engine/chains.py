"""The manifests of a stream, walked from its last one back to its first, over those that can't be read.

A manifest names its predecessor by id and digest, and a seal the last one. Where one can't be read, the name
of the one before it is lost with it. That one is found by its place: of several with one ordinal at most one
was committed, the one of the highest epoch, since a later assignment starts behind what was committed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from staddle.engine.found import FoundManifest
from staddle.engine.ops import SegmentImport

Place = tuple[int, int]
"""(backup, stream)"""


class Chain(msgspec.Struct, kw_only=True):
    """One stream of a backup, both lists by ordinal.

    Attributes:
        found: manifests that were read.
        lost: segments whose manifest is known by name, and whole nowhere.
    """

    found: list[FoundManifest] = []
    lost: list[SegmentImport] = []


class Chains:
    """Looks for manifests by name and by place."""

    def __init__(self, manifests: Iterable[FoundManifest]) -> None:
        self._by_id: dict[bytes, FoundManifest] = {}
        self._by_place: dict[Place, list[FoundManifest]] = defaultdict(list)
        for item in manifests:
            self._by_id[item.id] = item
            self._by_place[item.backup, item.stream].append(item)

    def streams(self, backup: int) -> list[int]:
        """Streams of a backup of which anything was found."""
        return sorted(stream for number, stream in self._by_place if number == backup)

    def newest(self, place: Place) -> FoundManifest:
        """Of the last assignment the last manifest. Whether it was committed can't be told from it."""
        return max(self._by_place[place], key=lambda item: (item.epoch, item.ordinal))

    def back(self, place: Place, manifest: bytes, digest: bytes, ordinal: int) -> Chain:
        """From the manifest with this name, which is number `ordinal` of its stream, to number 0."""
        found: list[FoundManifest] = []
        lost: dict[int, tuple[bytes, bytes]] = {}
        while ordinal >= 0:
            item = self._named(place, manifest, digest, ordinal)
            if item is None and manifest:
                lost[ordinal] = manifest, digest
            elif item is None:
                ordinal = self._at_or_below(place, ordinal)  # whoever wrote it may have made up its number
                item = self._placed(place, ordinal, found[-1] if found else None)
            manifest, digest = (item.previous_manifest, item.previous_digest) if item else (b"", b"")
            if item is not None:
                found.append(item)
            ordinal -= 1
        found.reverse()
        rows = [_lost_row(place[1], at, *lost[at], found) for at in sorted(lost)]
        return Chain(found=found, lost=rows)

    def _named(self, place: Place, manifest: bytes, digest: bytes, ordinal: int) -> FoundManifest | None:
        item = self._by_id.get(manifest)
        if item is None or (item.backup, item.stream, item.ordinal, item.digest) != (*place, ordinal, digest):
            return None
        return item

    def _at_or_below(self, place: Place, ordinal: int) -> int:
        """Number of the last manifest there that was read, up to `ordinal`; -1 if there is none."""
        there = (item.ordinal for item in self._by_place.get(place, ()) if item.ordinal <= ordinal)
        return max(there, default=-1)

    def _placed(self, place: Place, ordinal: int, after: FoundManifest | None) -> FoundManifest | None:
        """The one that was committed there, if it was read at all, seen from the next one that was."""
        there = [
            item
            for item in self._by_place.get(place, ())
            if item.ordinal == ordinal
            and (after is None or (item.epoch <= after.epoch and item.next <= after.first))
        ]
        return max(there, key=lambda item: item.epoch, default=None)


def _lost_row(
    stream: int, ordinal: int, manifest: bytes, digest: bytes, found: list[FoundManifest]
) -> SegmentImport:
    """Its records are those between its neighbours; none where these are not known either."""
    following = next((item.first for item in found if item.ordinal == ordinal + 1), None)
    before = max((item.next for item in found if item.ordinal < ordinal), default=0)
    adjacent = ordinal == 0 or any(item.ordinal == ordinal - 1 for item in found)
    first = before if adjacent or following is None else following
    return SegmentImport(
        stream=stream,
        ordinal=ordinal,
        first=first,
        next=first if following is None else following,
        manifest=manifest,
        digest=digest,
        refs=b"",
    )
