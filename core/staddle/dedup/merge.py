"""The delta (what came since the last merge, sorted, in memory) and the round that merges it into a run."""

from __future__ import annotations

from staddle.dedup.rows import (
    PARTITIONS,
    BoolArray,
    Table,
    U64Array,
    container_of,
    merge_sorted,
    prefix_bits_for,
    sound,
    without_repeats,
)
from staddle.dedup.runs import RunRef, RunWriter
from staddle.platform.durable import Files

_TIER = 4


class Delta:
    """Published rows in a few immutable sorted layers, oldest first.

    A layer is merged into the one before it as soon as that is at most four times as long: so there are
    few layers to search, and each row is copied a few times only.
    """

    def __init__(self) -> None:
        self.layers: tuple[Table, ...] = ()

    def __len__(self) -> int:
        return sum(len(layer) for layer in self.layers)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.memory_bytes for layer in self.layers)

    def add(self, rows: U64Array) -> None:
        """Add sorted rows, newer than all there are."""
        if not len(rows):
            return
        kept = list(self.layers)
        while kept and len(kept[-1]) <= _TIER * len(rows):
            rows = merge_sorted(kept.pop().rows, rows)
        self.layers = (*kept, Table.of(rows))


class MergeRound:
    """Merges a frozen delta with the present run into the next one, a partition at a time.

    Damaged rows of the present run are left out, and their partitions named in `damaged`.
    """

    def __init__(
        self,
        base: Table | None,
        layers: tuple[Table, ...],
        dead: BoolArray,
        served: BoolArray,
        *,
        directory: str,
        generation: int,
        files: Files,
    ) -> None:
        """Begin a round.

        Args:
            base: the present run.
            layers: the frozen delta, oldest first.
            dead: by container index, whose rows are dropped.
            served: by partition, whose rows are kept at all.
            directory: where the run is written.
            generation: number of the new run.
            files: the file system.
        """
        self._sources = layers if base is None else (base, *layers)
        self._base = base
        self._dead = dead
        self._any_dead = bool(dead.any())
        self._served = served
        self.done = 0
        self.damaged: set[int] = set()
        bits = prefix_bits_for(sum(len(table) for table in self._sources))
        self._writer = RunWriter(directory, generation, bits, files)

    def step(self) -> None:
        """Merge the next partition. Memory: about three times its rows."""
        partition = self.done
        self._writer.add(partition, self._merged(partition))
        self.done += 1

    def finish(self) -> RunRef:
        """Complete the file; durable on return."""
        assert self.done == PARTITIONS, "every partition is merged first"
        return self._writer.finish()

    def abort(self) -> None:
        """Give up and remove what was written."""
        self._writer.abort()

    def _merged(self, partition: int) -> U64Array:
        rows = self._sources[0].partition(partition)[:0]
        if not self._served[partition]:
            return rows
        for table in self._sources:
            section = table.partition(partition)
            if table is self._base:
                whole = sound(section)
                whole &= container_of(section) < len(self._dead)
                if not whole.all():
                    self.damaged.add(partition)
                    section = section[whole]
            rows = merge_sorted(rows, section)
        if self._any_dead:
            rows = rows[~self._dead[container_of(rows)]]
        return without_repeats(rows)
