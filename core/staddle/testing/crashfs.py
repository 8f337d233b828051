"""Crash at every write: record what a program does to a directory, then see all that a power cut may leave.

    with record(directory) as tape:
        store = open_store(directory)
        store.put("a", b"1")
        tape.mark("a")                       # acknowledged: from here on it has to be there
    for state in crash_states(tape, seed=1):
        state.write(other_directory)
        check(other_directory, state.marks)  # it opens, has what was acknowledged, invents nothing

What counts as sure, and what may be lost, torn or reordered, is in `crashmodel`. A check that can't fail
proves nothing: `Tape.without` and `Tape.delayed` make a tape of a program that forgets a sync or does it too
late, and the check has to notice.

Recording replaces functions of `os` and `open` in this process, for all threads, while it lasts. It sees
what Python code does; a C library's own files (a database) need another way. POSIX systems only: Windows has
no call that makes a name durable.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from staddle.errors import UsageError
from staddle.testing.crashmodel import ROOT, CrashState, Disk, Op, base_disk, states_now
from staddle.testing.crashrecorder import Recorder

__all__ = ["CrashState", "Op", "Tape", "crash_states", "no_syncs", "record"]

_F_FULLFSYNC = 51  # macOS: what `fsync` should be


class Tape:
    """A recording: what lay there before, and every operation since, in order.

    Attributes:
        base: operations that make what was there; all of it is sure.
        ops: what was recorded.
    """

    def __init__(self, base: list[Op], ops: list[Op]) -> None:
        self.base = base
        self.ops = ops

    def mark(self, mark: object) -> None:
        """Note what the program has just acknowledged."""
        self.ops.append(Op("mark", mark=mark))

    def without(self, unwanted: Callable[[Op], bool]) -> Tape:
        """The tape of a program that leaves some operations out. Raises UsageError if it has none of them."""
        kept = [op for op in self.ops if not unwanted(op)]
        if len(kept) == len(self.ops):
            raise UsageError("the tape has no such operation")
        return Tape(self.base, kept)

    def delayed(self, late: Callable[[Op], bool], after: Callable[[Op], bool]) -> Tape:
        """The tape of a program that does some operations only after the next one of another kind.

        Raises: UsageError if it has no such pair.
        """
        ops: list[Op] = []
        held: list[Op] = []
        moved = 0
        for op in self.ops:
            if late(op):
                held.append(op)
                continue
            ops.append(op)
            if after(op) and held:
                ops.extend(held)
                moved += len(held)
                held = []
        if not moved:
            raise UsageError("the tape has no such pair of operations")
        return Tape(self.base, [*ops, *held])

    def killed(self, cut: int, later: Tape) -> Tape:
        """The tape of a program that was killed after `cut` operations and started again, under power.

        Nothing was lost when it was killed, yet what was not sure then is sure only if the new process
        sees to it.

        Args:
            cut: operations of this tape that were done.
            later: recorded on the first state of that cut (`everything_after`).
        """
        disk = self._disk_after(cut)
        nodes = disk.everything().nodes
        known = {op.node: nodes[op.path] for op in later.base if op.kind in {"create", "mkdir"}}
        known[ROOT] = ROOT
        beyond = 1 + max([*disk.data, *disk.names])
        ops = [replace(op, node=known.get(op.node, beyond + op.node)) for op in later.ops]
        return Tape(self.base, [*self.ops[:cut], *ops])

    def everything_after(self, cut: int) -> CrashState:
        """What other processes see after `cut` operations."""
        return self._disk_after(cut).everything()

    def _disk_after(self, cut: int) -> Disk:
        disk = base_disk(self.base)
        for op in self.ops[:cut]:
            disk.apply(op)
        return disk


def crash_states(
    tape: Tape, *, seed: int, exhaustive_units: int = 5, samples: int = 4, first: int = 0
) -> Iterator[CrashState]:
    """Each different state that a cut after any operation may leave.

    Args:
        tape: the recording.
        seed: of the random choices.
        exhaustive_units: up to so many operations under way, every subset of them is tried, and every sector
            of the last write; 0 for none.
        samples: random states more for each cut.
        first: cuts after fewer operations are left out.
    """
    disk = base_disk(tape.base)
    rng = random.Random(seed)
    seen: set[bytes] = set()
    for number, op in enumerate([None, *tape.ops]):
        if op is not None:
            disk.apply(op)
        if number < first:
            continue
        at = f"cut {number} after {op or 'nothing'}"
        for state in states_now(disk, rng, at, exhaustive_units=exhaustive_units, samples=samples):
            digest = state.digest()
            if digest not in seen:
                seen.add(digest)
                yield state


@contextmanager
def record(directory: str) -> Iterator[Tape]:
    """Record what this process does below an existing directory.

    Raises:
        UsageError: on Windows; or the program did something there that the recorder did not see.
    """
    if sys.platform == "win32":
        raise UsageError("file operations can be recorded on POSIX systems only")
    recorder = Recorder(os.path.realpath(directory))
    tape = Tape(recorder.base, recorder.ops)
    with ExitStack() as stack:
        for module, name, function in recorder.functions():
            if hasattr(module, name):
                stack.enter_context(mock.patch.object(module, name, function))
        stack.enter_context(no_syncs(recorder.sync))
        yield tape
    recorder.compare()


@contextmanager
def no_syncs(instead: Callable[[int], None] = lambda _fd: None) -> Iterator[None]:
    """Make syncing cost nothing, while only the program's answers are looked at.

    Args:
        instead: called with the descriptor.
    """
    with ExitStack() as stack:
        for name in ("fsync", "fdatasync"):
            if hasattr(os, name):
                stack.enter_context(mock.patch.object(os, name, instead))
        if sys.platform == "darwin":
            import fcntl

            real = fcntl.fcntl

            def control(fd: int, command: int, *arguments: Any) -> Any:
                return instead(fd) if command == _F_FULLFSYNC else real(fd, command, *arguments)

            stack.enter_context(mock.patch.object(fcntl, "fcntl", control))
        yield
