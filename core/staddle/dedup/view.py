"""What a look-up works on: one immutable picture of the library, shared by all threads that read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from staddle.dedup.rows import (
    PARTITIONS,
    BoolArray,
    IndexArray,
    Table,
    U8Array,
    U32Array,
    container_of,
    keys_of,
    ordinal_of,
    partition_of,
    raw_length_of,
)


@dataclass(frozen=True, slots=True)
class Hits:
    """Answer to a batch of n fingerprints; every array but `containers` has shape (n,).

    Attributes:
        found: the chunk is stored. By 16 bytes of the fingerprint: who must be sure compares all 32 with
            the container's directory.
        unknown: this library cannot say (partition elsewhere, arriving or damaged). Never with `found`.
            Neither found nor unknown: not stored.
        container: row of `containers`; 0 where not found.
        ordinal: ordinal in that container; 0 where not found.
        raw_length: bytes of the chunk; 0 where not found.
        containers: container ids, shape (m, 16), m >= 1.
    """

    found: BoolArray
    unknown: BoolArray
    container: U32Array
    ordinal: U32Array
    raw_length: U32Array
    containers: U8Array


@dataclass(frozen=True, slots=True)
class View:
    """The picture: tables oldest first, the container table, and what each partition's answer is worth.

    Attributes:
        tables: the run and the layers of the delta.
        ids: container ids, shape (m, 16).
        dead: by container, whether its rows no longer count.
        served: by partition, whether look-ups are answered at all.
        partial: by partition, whether a miss means unknown (it is arriving, or lost rows).
    """

    tables: tuple[Table, ...]
    ids: U8Array
    dead: BoolArray
    served: BoolArray
    partial: BoolArray

    def lookup(self, fingerprints: U8Array) -> tuple[Hits, IndexArray]:
        """Look up fingerprints of shape (n, 32): the answer, and the partitions found damaged on the way."""
        hi, lo = keys_of(fingerprints)
        partition = partition_of(hi)
        found = np.zeros(len(hi), np.bool_)
        container, ordinal, raw_length = (np.zeros(len(hi), np.uint32) for _ in range(3))
        damaged = np.zeros(PARTITIONS, np.bool_)
        todo = np.flatnonzero(self.served[partition])
        for table in self.tables:
            if not len(todo):
                break
            hit, rows, bad = table.probe(hi[todo], lo[todo], self.dead)
            damaged[partition[todo[bad]]] = True
            at = todo[hit]
            found[at] = True
            container[at] = container_of(rows)
            ordinal[at] = ordinal_of(rows)
            raw_length[at] = raw_length_of(rows)
            todo = todo[~found[todo]]
        unknown = ~found & (self.partial | damaged | ~self.served)[partition]
        return Hits(found, unknown, container, ordinal, raw_length, self.ids), np.flatnonzero(damaged)
