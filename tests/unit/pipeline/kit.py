"""A medium and a library in memory, and the ways to send records and to get contents back."""

import random
import threading

import numpy as np

from staddle.api.types import Durability, Label, Receipt
from staddle.data import manifest as manifests
from staddle.data.crypto import ChunkerSpec, DomainKeys
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.known import KnownChunks
from staddle.data.pipeline import Settings, StreamPlan
from staddle.data.reader import ChunkReader, Copy
from staddle.data.records import NO_BASE, decode_record, encode_files, encode_part
from staddle.data.segment import SegmentBuilder
from staddle.errors import (
    Corrupt,
    NotFound,
)

KEYS = DomainKeys(
    domain="test",
    domain_id=bytes(16),
    fingerprint_key=bytes(range(32)),
    wrapping_keys={1: bytes(32)},
    current=1,
    chunker=ChunkerSpec(min_bytes=2048, average_bytes=8192, max_bytes=32768, seed=7),
)
SMALL = Settings(
    workers=2,
    segments_max=2,
    batch_bytes=1024 * 1024,
    batches_max=4,
    container_bytes=256 * 1024,
    containers_max=4,
    wait_s=20,
)


class Ids:
    """Seeded ids, none twice."""

    def __init__(self, seed=0):
        self.rng = random.Random(seed)
        self.lock = threading.Lock()

    def new_id(self):
        return self.random(16)

    def random(self, length):
        with self.lock:
            return self.rng.randbytes(length)


class Medium:
    """Objects in memory, with faults by name: an exception, or a function of (offset, length)."""

    def __init__(self):
        self.objects = {}
        self.gets = []
        self.fault = None
        self.label = Label(grid=bytes(16), medium=f"medium-{id(self)}", volume=bytes(16), created_ns=0)

    def put(self, sealed):
        data = b"".join(bytes(part) for part in sealed.parts)
        assert len(data) == sealed.size_bytes
        self.objects[sealed.container_id] = data
        return [
            Receipt(
                name=sealed.container_id.hex(),
                size_bytes=len(data),
                digest=sealed.digest,
                volume=bytes(16),
                durability=Durability.MEMORY,
            )
        ]

    def get(self, name, offset, length, deadline):
        assert deadline.left_s() > 0
        self.gets.append((name, offset, length))
        if self.fault is not None:
            self.fault(name, offset, length)
        data = self.objects.get(bytes.fromhex(name))
        if data is None:
            raise NotFound(f"no object {name}")
        if offset + length > len(data):
            raise Corrupt("cut off")
        return data[offset : offset + length]


class Library:
    """A fingerprint library over the containers of committed segments."""

    def __init__(self):
        self.places = {}
        self.ids = [bytes(16)]
        self.asked = 0

    def publish(self, result):
        for stored in result.containers:
            self.ids.append(stored.container_id)
            for ordinal, (print_, length) in enumerate(
                zip(stored.fingerprints, stored.raw_lengths, strict=True)
            ):
                self.places.setdefault(print_.tobytes(), (len(self.ids) - 1, ordinal, int(length)))

    def lookup(self, prints):
        self.asked += len(prints)
        rows = [self.places.get(each.tobytes()) for each in prints]
        columns = np.array([row or (0, 0, 0) for row in rows], np.uint32).reshape(-1, 3)

        class Hits:
            found = np.array([row is not None for row in rows], np.bool_)
            container, ordinal, raw_length = columns.T
            containers = np.frombuffer(b"".join(self.ids), np.uint8).reshape(-1, 16)

        return Hits()


def head(ordinal=0, first=0):
    return manifests.ManifestHead(
        grid=bytes(16),
        domain=bytes(16),
        client="c",
        name="n",
        job=1,
        backup=1,
        stream=0,
        epoch=1,
        ordinal=ordinal,
        first=first,
    )


def plan_of(medium, library=None, usable=set, **options):
    library = library or Library()
    options.setdefault("store", medium.put)
    options.setdefault("known", KnownChunks(library.lookup, usable))
    return StreamPlan(keys=KEYS, ids=options.pop("ids", Ids()), **options)


def file_record(files, base=None):
    """A FILES record of {path: content}; `base` maps a path to (manifest, row)."""
    base, rows = base or {}, EntryRows()
    for path, data in files.items():
        directory, name = path.rsplit(b"/", 1)
        flags = EntryFlag.UNCHANGED if path in base else 0
        rows.add(directory or b"/", name, EntryType.FILE, size=len(data), flags=flags)
    sent = [b"" if path in base else data for path, data in files.items()]
    places = [base.get(path, (NO_BASE, 0)) for path in files]
    meta = encode_files(rows.build(), list(map(len, sent)), [m for m, _ in places], [r for _, r in places])
    payload = b"".join(sent)
    return decode_record(meta, len(payload)), payload


def part_records(path, data, splits, *, holes=False, last=True, start=0):
    """PART records of a file; with `holes`, pieces of zeros come as a length."""
    directory, name = path.rsplit(b"/", 1)
    rows = EntryRows()
    rows.add(directory or b"/", name, EntryType.FILE, size=start + len(data))
    batch, at, out = rows.build(), 0, []
    cuts = [*splits, 1 << 20]
    while at < len(data) or not out:
        size = cuts.pop(0) if len(cuts) > 1 else cuts[0]
        piece = data[at : at + min(size, 1 << 20)]
        end = last and at + len(piece) >= len(data)
        zeros = len(piece) if holes and piece and not any(piece) else 0
        payload = b"" if zeros else piece
        out.append(
            (decode_record(encode_part(batch, start + at, zero_bytes=zeros, last=end), len(payload)), payload)
        )
        at += len(piece)
    return out


def build(shared, plan, records, *, ordinal=0, first=0):
    with SegmentBuilder(shared, plan, head(ordinal, first)) as segment:
        for record, payload in records:
            segment.add(record, memoryview(payload))
        result = segment.finish(first + len(records))
    assert set(result.refers) >= {each.container_id for each in result.containers}
    return result


def locate_in(*media):
    def locate(container_id):
        return [
            Copy(medium, container_id.hex(), len(medium.objects[container_id]))
            for medium in media
            if container_id in medium.objects
        ]

    return locate


def never(container_id, volume, error):
    raise AssertionError(f"{error} on {container_id.hex()}")


def contents(results, *media, bad_copy=never):
    """path -> content, restored from manifests and media alone."""
    out = {}
    with ChunkReader(KEYS, locate_in(*media), bad_copy, batch_raw_bytes=300_000) as reader:
        for result in results:
            manifest = manifests.decode(result.manifest)
            chunks = manifest.chunks
            raw = dict(reader.read(chunks, np.arange(len(chunks))))
            parts = {
                row: bytes(int(chunks.lengths[row])) if data is None else data for row, data in raw.items()
            }
            for row, path in enumerate(manifest.entries.paths()):
                first, count = int(manifest.chunk_first[row]), int(manifest.chunk_count[row])
                data = b"".join(parts[chunk] for chunk in range(first, first + count))
                offset = int(manifest.entries.columns["offset"][row])
                assert offset == len(out.get(path, b""))
                out[path] = out.get(path, b"") + data
    return out


def blob(seed, pieces):
    rng = random.Random(seed)
    return b"".join(rng.randbytes(n) if i % 2 == 0 else bytes(n) for i, n in enumerate(pieces))
