"""The library against a model: a plain list of what was published."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from staddle.dedup.library import Library
from staddle.dedup.ownermap import OwnerMap

EVERYONE = OwnerMap.everyone()


def container(number):
    return number.to_bytes(16, "big")


def lengths(count):
    return np.arange(count, dtype=np.uint32) + 1000


UNIVERSE = tuple(
    bytes([p]) * 7 + bytes([h]) + bytes(7) + bytes([low]) + bytes([p ^ 1]) * 16
    for p in (0, 7, 255)
    for h in (0, 1)
    for low in (0, 1, 2)
)


class Model(RuleBasedStateMachine):
    """The library against a list of published rows; keys collide in their first half on purpose."""

    @initialize()
    def start(self):
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.lsn = 0
        self.number = 0
        self.published = []  # (fingerprint, container, ordinal, length) in order
        self.reopen_library()

    def reopen_library(self):
        self.library = Library.open(self.directory.name, "a", EVERYONE, merge_floor_rows=12)

    @rule(chosen=st.lists(st.integers(0, 17), max_size=8), again=st.booleans())
    def publish(self, chosen, again):
        self.lsn += 1
        if not (again and self.published):
            self.number += 1
        fps = np.frombuffer(b"".join(UNIVERSE[i] for i in chosen), np.uint8).reshape(-1, 32)
        self.library.publish(self.lsn, container(max(self.number, 1)), fps, lengths(len(chosen)))
        for ordinal, i in enumerate(chosen):
            self.published.append((UNIVERSE[i], container(max(self.number, 1)), ordinal, 1000 + ordinal))

    @rule(which=st.lists(st.integers(1, 20), max_size=3), logged=st.booleans())
    def remove(self, which, logged):
        gone = {container(i) for i in which}
        self.lsn += logged
        self.library.remove_containers(gone, lsn=self.lsn if logged else 0)
        self.published = [row for row in self.published if row[1] not in gone]

    @rule()
    def merge(self):
        self.library.merge()

    @rule()
    def reopen(self):
        self.library.close()
        self.reopen_library()

    @invariant()
    def agrees(self):
        if not hasattr(self, "library"):
            return
        expected = {}
        for fingerprint, *place in self.published:
            expected.setdefault(fingerprint, tuple(place))
        fps = np.frombuffer(b"".join(UNIVERSE), np.uint8).reshape(-1, 32)
        hits = self.library.lookup(fps)
        got = {
            UNIVERSE[i]: (
                hits.containers[hits.container[i]].tobytes(),
                int(hits.ordinal[i]),
                int(hits.raw_length[i]),
            )
            for i in np.flatnonzero(hits.found)
        }
        assert got == expected
        assert not hits.unknown.any()
        assert self.library.applied_lsn == self.lsn

    def teardown(self):
        if hasattr(self, "library"):
            self.library.close()
            self.directory.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
