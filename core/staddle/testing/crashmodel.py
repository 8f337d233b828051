"""What a power cut may leave of a recorded run of file operations.

The model is that of ALICE (Pillai et al., "All File Systems Are Not Created Equal: On the Complexity of
Crafting Crash-Consistent Applications", OSDI 2014), at its weakest: only what was synced is sure.

- A file's bytes and length are sure after a sync of that file. Of each write since then any 512-byte sector
  may have arrived, whatever came before or after it; the last write may be cut at any byte; where a write
  made the file longer, what did not arrive may be nothing, zeros, or blocks of other files.
- A name is sure after a sync of its directory. Each change of a name since then (create, rename, link,
  unlink) may have happened or not, independently of all others and of the file's bytes. A rename within one
  directory is atomic; one between two directories is a new name and a removed one.
"""

from __future__ import annotations

import itertools
import operator
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from blake3 import blake3

SECTOR_BYTES = 512
ROOT = 0
_CUTS_OF_LAST = 12
_SHORT_BYTES = 48

OpKind = Literal[
    "create", "mkdir", "write", "truncate", "sync", "sync_dir", "rename", "link", "remove", "mark"
]


@dataclass(frozen=True, slots=True)
class Op:
    """One recorded operation.

    Attributes:
        kind: what it did; `remove` is also a directory's.
        path: relative to the recorded directory (itself: ""), as it was then.
        node: number of the file or directory; numbers are never used again.
        offset: where a write began, or the length to which a file was cut.
        data: what was written.
        target: the new path of a rename or link.
        mark: what the workload said.
    """

    kind: OpKind
    path: str = ""
    node: int = ROOT
    offset: int = 0
    data: bytes = b""
    target: str = ""
    mark: object = None

    def __str__(self) -> str:
        more = f" -> {self.target}" if self.target else ""
        size = f" {len(self.data)} bytes at {self.offset}" if self.kind == "write" else ""
        return f"{self.kind} {self.path or '.'}{more}{size}"


@dataclass(frozen=True, slots=True)
class CrashState:
    """One directory that a power cut may leave.

    Attributes:
        files: relative path -> bytes.
        directories: relative paths, parents first.
        nodes: relative path -> number: two names of one number are hard links.
        marks: what the workload had said before the cut.
        where: the cut and what was left out, for messages.
    """

    files: dict[str, bytes]
    directories: tuple[str, ...]
    nodes: dict[str, int]
    marks: tuple[object, ...]
    where: str

    def write(self, directory: str) -> None:
        """Make this state in a new or empty directory. Raises OSError."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for path in self.directories:
            os.mkdir(os.path.join(directory, path), 0o700)
        made: dict[int, str] = {}
        for path, data in self.files.items():
            full = os.path.join(directory, path)
            node = self.nodes[path]
            if node in made:
                os.link(made[node], full)
                continue
            with open(full, "wb") as file:
                file.write(data)
            os.chmod(full, 0o600)
            made[node] = full

    def digest(self) -> bytes:
        """Equal for equal directories with equally many marks."""
        hasher = blake3(len(self.marks).to_bytes(8, "big"))
        for path in self.directories:
            hasher.update(b"d" + path.encode() + b"\0")
        for path in sorted(self.files):
            data = self.files[path]
            hasher.update(b"f" + path.encode() + b"\0" + len(data).to_bytes(8, "big") + data)
        digest: bytes = hasher.digest()
        return digest


Change = tuple[str, int | None]


@dataclass(slots=True)
class _Unit:
    """What may have reached the disk or not: a piece of a file, or a change of names in one directory."""

    node: int
    op: Op
    changes: tuple[Change, ...] = ()

    @property
    def is_write(self) -> bool:
        return self.op.kind == "write"


@dataclass(slots=True)
class Disk:
    """What is sure, and what is under way, after some operations."""

    data: dict[int, bytearray] = field(default_factory=dict)
    names: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    pending: list[_Unit] = field(default_factory=list)
    marks: list[object] = field(default_factory=list)
    directory_of: dict[str, int] = field(default_factory=lambda: {"": ROOT})

    def apply(self, op: Op) -> None:
        """Take in the next operation."""
        if op.kind == "mark":
            self.marks.append(op.mark)
        elif op.kind in {"sync", "sync_dir"}:
            self.settle(op.node)
        elif op.kind in {"write", "truncate"}:
            self.pending.append(_Unit(op.node, op))
        else:
            self._rename(op)

    def _rename(self, op: Op) -> None:
        if op.kind == "create":
            self.data[op.node] = bytearray()
        elif op.kind == "mkdir":
            self.names[op.node] = {}
            self.directory_of[op.path] = op.node
        elif op.kind == "rename" and op.path in self.directory_of:
            moved = {p: n for p, n in self.directory_of.items() if (p + "/").startswith(op.path + "/")}
            for path, node in moved.items():
                del self.directory_of[path]
                self.directory_of[op.target + path[len(op.path) :]] = node
        parent, name = self._place(op.path)
        if op.kind in {"create", "mkdir"}:
            self._add(parent, op, (name, op.node))
        elif op.kind == "remove":
            self._add(parent, op, (name, None))
        else:
            new_parent, new_name = self._place(op.target)
            if op.kind == "link":
                self._add(new_parent, op, (new_name, op.node))
            elif parent == new_parent:
                self._add(parent, op, (name, None), (new_name, op.node))
            else:
                self._add(new_parent, op, (new_name, op.node))
                self._add(parent, op, (name, None))

    def _place(self, path: str) -> tuple[int, str]:
        parent, _, name = path.rpartition("/")
        return self.directory_of[parent], name

    def _add(self, directory: int, op: Op, *changes: Change) -> None:
        self.pending.append(_Unit(directory, op, changes))

    def settle(self, node: int) -> None:
        """All that is under way on one file or directory is sure now."""
        kept = []
        for unit in self.pending:
            if unit.node == node:
                _do(self.data, self.names, unit, unit.op.data)
            else:
                kept.append(unit)
        self.pending = kept

    def everything(self) -> CrashState:
        """The directory as processes see it now."""
        return self.state([_whole] * len(self.pending), "everything")

    def state(self, effects: Iterable[_Effect], where: str) -> CrashState:
        """The directory after a cut now, with these effects of the pending units."""
        data = {node: bytearray(content) for node, content in self.data.items()}
        names = {node: dict(entries) for node, entries in self.names.items()}
        for unit, effect in zip(self.pending, effects, strict=True):
            if effect is not None:
                effect(data, names, unit)
        files: dict[str, bytes] = {}
        nodes: dict[str, int] = {}
        directories: list[str] = []
        todo = [("", ROOT)]
        while todo:
            prefix, number = todo.pop()
            for name, node in sorted(names[number].items()):
                path = prefix + name
                nodes[path] = node
                if node in names:
                    directories.append(path)
                    todo.append((path + "/", node))
                else:
                    files[path] = bytes(data[node])
        return CrashState(files, tuple(sorted(directories)), nodes, tuple(self.marks), where)


Files = dict[int, bytearray]
Names = dict[int, dict[str, int]]
_Effect = Callable[[Files, Names, _Unit], None] | None


def _do(data: Files, names: Names, unit: _Unit, content: bytes) -> None:
    if unit.changes:
        entries = names[unit.node]
        for name, node in unit.changes:
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node
    elif unit.op.kind == "truncate":
        kept = data[unit.node]
        kept.extend(bytes(max(0, unit.op.offset - len(kept))))
        del kept[unit.op.offset :]
    else:
        _put(data[unit.node], unit.op.offset, content)


def _put(kept: bytearray, offset: int, content: bytes) -> None:
    kept.extend(bytes(max(0, offset + len(content) - len(kept))))
    kept[offset : offset + len(content)] = content


def _whole(data: Files, names: Names, unit: _Unit) -> None:
    _do(data, names, unit, unit.op.data)


def _cut(length: int) -> _Effect:
    def effect(data: Files, names: Names, unit: _Unit) -> None:
        _do(data, names, unit, unit.op.data[:length])

    return effect


def _sectors(arrived: Callable[[int], bool], filler: Callable[[int], bytes]) -> _Effect:
    """Some sectors of a write arrive; beyond the file's old end `filler` stands where none did."""

    def effect(data: Files, _names: Names, unit: _Unit) -> None:
        kept, op = data[unit.node], unit.op
        old_end, end = len(kept), op.offset + len(op.data)
        if end > old_end:
            kept.extend(filler(end - old_end))
        for start, stop in sectors_of(op):
            if arrived(start):
                kept[start:stop] = op.data[start - op.offset : stop - op.offset]

    return effect


def sectors_of(op: Op) -> list[tuple[int, int]]:
    """The pieces of a write, cut where the file's 512-byte sectors begin, as offsets in the file."""
    end = op.offset + len(op.data)
    first = op.offset - op.offset % SECTOR_BYTES
    return [(max(at, op.offset), min(at + SECTOR_BYTES, end)) for at in range(first, end, SECTOR_BYTES)]


def _torn(unit: _Unit, rng: random.Random, *, every: bool) -> Iterator[tuple[str, _Effect]]:
    """Ways in which one write may be cut: at sectors, at any byte, with holes, as zeros, as other bytes."""
    op = unit.op
    sectors = sectors_of(op)
    cuts = {start - op.offset for start, _ in sectors[1:]}
    cuts |= set(range(1, len(op.data))) if len(op.data) <= _SHORT_BYTES else set()
    cuts |= {rng.randrange(1, len(op.data)) for _ in range(4) if len(op.data) > 1}
    chosen = sorted(cuts) if every else rng.sample(sorted(cuts), min(len(cuts), _CUTS_OF_LAST))
    for length in chosen:
        yield f"cut after {length} bytes", _cut(length)
    yield "length only", _sectors(lambda _at: False, bytes)
    yield "other bytes", _sectors(lambda _at: False, rng.randbytes)
    holes = [start for start, _ in sectors] if len(sectors) > 1 else []
    for hole in holes if every else rng.sample(holes, min(len(holes), 4)):
        yield f"sector at {hole} missing", _sectors(partial(operator.ne, hole), bytes)


def _random_effect(unit: _Unit, rng: random.Random) -> _Effect:
    if rng.random() < 0.3:
        return None
    if not unit.is_write or rng.random() < 0.5:
        return _whole
    ways = [effect for _, effect in _torn(unit, rng, every=False)]
    some = {start for start, _ in sectors_of(unit.op) if rng.random() < 0.5}
    fillers: list[Callable[[int], bytes]] = [bytes, rng.randbytes]
    ways.append(_sectors(some.__contains__, rng.choice(fillers)))
    return rng.choice(ways)


def states_now(
    disk: Disk, rng: random.Random, at: str, *, exhaustive_units: int, samples: int
) -> Iterator[CrashState]:
    """The states that a cut after the last operation may leave (may repeat)."""
    units = disk.pending
    everything: list[_Effect] = [_whole] * len(units)
    yield disk.state(everything, f"{at}, all arrived")
    if not units:
        return
    yield disk.state([None] * len(units), f"{at}, only what is sure")
    yield disk.state([_whole if unit.changes else None for unit in units], f"{at}, names first")
    yield disk.state([None if unit.changes else _whole for unit in units], f"{at}, bytes first")
    for index, unit in enumerate(units):
        others = list(everything)
        others[index] = None
        yield disk.state(others, f"{at}, without {unit.op}")
        alone: list[_Effect] = [None] * len(units)
        alone[index] = _whole
        yield disk.state(alone, f"{at}, only {unit.op}")
    if units[-1].is_write:
        for how, effect in _torn(units[-1], rng, every=exhaustive_units > 0):
            yield disk.state([*everything[:-1], effect], f"{at}, {how}")
    if 2 < len(units) <= exhaustive_units:
        for choice in itertools.product((None, _whole), repeat=len(units)):
            yield disk.state(choice, f"{at}, subset {[int(each is not None) for each in choice]}")
    for number in range(samples):
        yield disk.state([_random_effect(unit, rng) for unit in units], f"{at}, sample {number}")


def base_disk(ops: Iterable[Op]) -> Disk:
    """A disk on which these operations are sure: what lay there before the recording."""
    disk = Disk()
    for op in ops:
        disk.apply(op)
    for node in [*disk.data, *disk.names]:
        disk.settle(node)
    return disk
