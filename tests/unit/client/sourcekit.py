"""What a source makes of a tree, read back; and the base that a backup of it would be."""

import os

import numpy as np

from staddle.client.base import BaseIndex
from staddle.client.exclude import Excludes
from staddle.client.scan import scan
from staddle.client.source import Source
from staddle.client.units import Tally, Units
from staddle.client.walkorder import WalkOrder
from staddle.data.entries import EntryFlag, EntryType
from staddle.data.manifest import ManifestBuilder, ManifestHead
from staddle.data.records import META_BYTES_MAX, NO_BASE, PAYLOAD_BYTES_MAX, FilesRecord, decode_record

MIB = 1 << 20
LATE_NS = 1 << 62  # a base that began after any change


class Read:
    """What a source made of a tree."""

    def __init__(self, root, base=None, hook=None, source=None, *, inside=(), exclude=(), read_at_ns=LATE_NS):
        self.warnings = []
        self.tally = Tally(lambda path, why: self.warnings.append((path, why)))
        self.source = source or Source(base or BaseIndex(0), self.tally, lambda: read_at_ns)
        found = scan(WalkOrder(map(os.fsencode, [root, *inside])), Excludes(exclude), self.tally.warn)
        # All is found before anything is read, so that a test can change the tree between.
        self.founds = list(found)
        if hook:
            hook()
        self.records = list(self.source.records(Units(iter(self.founds))))
        self.rows, self.contents, self.extras, self.holes = [], {}, {}, []
        for record in self.records:
            assert len(record.meta) <= META_BYTES_MAX
            assert len(record.payload) <= PAYLOAD_BYTES_MAX
            self._take(decode_record(record.meta, len(record.payload)), bytes(record.payload))

    def _take(self, record, payload):
        paths, columns = record.batch.paths(), record.batch.columns
        if not isinstance(record, FilesRecord):
            assert record.offset == len(self.contents.get(paths[0], b""))
            self.contents[paths[0]] = self.contents.get(paths[0], b"") + payload + bytes(record.zero_bytes)
            if record.zero_bytes:
                self.holes.append((record.offset, record.zero_bytes))
            if record.last:
                self.extras[paths[0]] = record.batch.extra(0)
                self.rows.append((paths[0], EntryType.FILE, int(columns["flags"][0]), b""))
                assert int(columns["size"][0]) == len(self.contents[paths[0]])
            return
        at = 0
        for row, path in enumerate(paths):
            kind, length = EntryType(int(columns["type"][row])), int(record.content_lengths[row])
            self.rows.append((path, kind, int(columns["flags"][row]), record.batch.link(row)))
            if extra := record.batch.extra(row):
                self.extras[path] = extra
            if kind is EntryType.FILE and record.base_manifests[row] == NO_BASE:
                self.contents[path] = payload[at : at + length]
                assert int(columns["size"][row]) == length
            at += length

    def of(self, path):
        return next(row for row in self.rows if row[0] == os.fsencode(path))


def base_of(read, started_ns=LATE_NS, split_parts=False):
    """The base index of a backup with all of a read's records in one manifest, parts in one each if asked."""
    index = BaseIndex(started_ns)
    batches, builder, pending = [], None, None

    def head(ordinal):
        return ManifestHead(
            grid=bytes(16), domain=bytes(16), client="c", name="n", job=1, backup=1, stream=0, epoch=1,
            ordinal=ordinal, first=0,
        )  # fmt: skip

    builder = ManifestBuilder(head(0))
    for record in read.records:
        decoded = decode_record(record.meta, len(record.payload))
        first = builder.chunk_rows
        container = builder.container_index(bytes([len(batches)]) * 16)
        is_part = not isinstance(decoded, FilesRecord)
        lengths = [len(record.payload) + decoded.zero_bytes] if is_part else decoded.content_lengths.tolist()
        rows = len(lengths)
        builder.add_chunks(np.zeros((rows, 32), np.uint8), [container] * rows, [0] * rows, lengths)
        if not is_part:
            builder.add_entries(decoded.batch, range(first, first + rows), [1] * rows)
            continue
        columns = decoded.batch.columns
        pending = decoded
        bits = EntryFlag.PART | (EntryFlag.LAST if decoded.last else 0)
        columns["flags"] = columns["flags"] | np.uint16(bits)
        columns["offset"] = np.array([decoded.offset], "<u8")
        builder.add_entries(pending.batch, [first], [1])
        if split_parts and not decoded.last:
            batches.append(builder.manifest(0))
            builder = ManifestBuilder(head(len(batches)))
    batches.append(builder.manifest(0))
    for manifest in batches:
        index.add(manifest)
    return index, batches
