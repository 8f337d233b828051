"""Media with a backup, as agents would have written them, for tests of the rescue reader."""

import os
import stat

import numpy as np
import zstandard

from staddle.api.types import Kind, object_name
from staddle.data import keyring, seal
from staddle.data.container import ContainerBuilder
from staddle.data.crypto import CHACHA20_POLY1305, ChunkerSpec, DomainKeys, RecoveryKey
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.manifest import ZERO_REGION, ManifestBuilder, ManifestHead
from staddle.data.sealed import seal_object

NOW_NS = 1_790_000_000_123_456_789
RECOVERY = RecoveryKey(b"r" * 32)


class Grid:
    """Writes a backup of given entries onto directories, as an agent would."""

    def __init__(self, media, random):
        self.media, self.random = media, random
        self.keys = DomainKeys(
            domain="default",
            domain_id=random.randbytes(16),
            fingerprint_key=random.randbytes(32),
            wrapping_keys={1: random.randbytes(32), 2: random.randbytes(32)},
            current=2,
            chunker=ChunkerSpec(seed=1),
            grid=random.randbytes(16),
        )
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.put(
            Kind.KEYRING, [keyring.encode(RECOVERY, self.keys.grid, [self.keys], random.randbytes(12), 5)]
        )

    def put(self, kind, parts, object_id=None, media=None):
        object_id = object_id or self.random.randbytes(16)
        for medium in media or self.media:
            path = os.path.join(medium, object_name(kind, object_id, self.random.randbytes(8)))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(b"".join(parts))
        return object_id

    def container(self, chunks, **options):
        object_id = self.random.randbytes(16)
        builder = ContainerBuilder(
            self.keys, object_id, self.random.randbytes(32), self.random.randbytes(12), 4 << 20, **options
        )
        for chunk in chunks:
            builder.add(self.keys.fingerprint(chunk), chunk, self.compressor)
        return object_id, builder.finish().parts

    def sealed(self, kind, plain, media=None):
        object_id = self.random.randbytes(16)
        key, nonce = self.random.randbytes(32), self.random.randbytes(12)
        made = seal_object(kind, object_id, plain, self.keys, key=key, wrap_nonce=nonce)
        self.put(kind, made.parts, object_id, media)
        return object_id, made.digest

    def manifest_plain(self, rows, contents, *, previous=(None, None), ordinal=0, container=None, media=None):
        """`contents`: per row a list of chunks; an int is a zero region."""
        head = ManifestHead(
            grid=self.keys.grid,
            domain=self.keys.domain_id,
            client="host",
            name="home",
            job=1,
            backup=1,
            stream=0,
            epoch=1,
            ordinal=ordinal,
            first=ordinal,
            previous_id=previous[0],
            previous_digest=previous[1],
        )
        chunks = [chunk for row in contents for chunk in row if isinstance(chunk, bytes)]
        container_id, parts = self.container(chunks, suite=CHACHA20_POLY1305 if ordinal % 2 else None)
        if container is None:
            self.put(Kind.CONTAINER, parts, container_id, media)
        builder, first, at = ManifestBuilder(head), [], 0
        index = builder.container_index(container or container_id)
        for row in contents:
            first.append(builder.chunk_rows)
            for chunk in row:
                zero = isinstance(chunk, int)
                print_ = bytes(32) if zero else self.keys.fingerprint(chunk)
                builder.add_chunks(
                    np.frombuffer(print_, np.uint8).reshape(1, 32),
                    np.array([ZERO_REGION if zero else index]),
                    np.array([0 if zero else at]),
                    np.array([chunk if zero else len(chunk)]),
                )
                at += 0 if zero else 1
        builder.add_entries(rows.build(), np.array(first), np.array([len(row) for row in contents]))
        return builder.build(next=ordinal + 1)

    def manifest(self, rows, contents, *, media=None, **more):
        """Likewise, sealed and stored."""
        return self.sealed(Kind.MANIFEST, self.manifest_plain(rows, contents, media=media, **more), media)

    def seal(self, last, segments, backup=1, streams=None):
        body = seal.Seal(
            grid=self.keys.grid,
            domain=self.keys.domain_id,
            backup=backup,
            job=1,
            client="host",
            name="home",
            pool="main",
            roots=[b"/src"],
            started_ns=NOW_NS,
            finished_ns=NOW_NS,
            state="complete",
            files=5,
            dirs=2,
            bytes_read=1,
            bytes_stored=1,
            warnings=0,
            manager_epoch=1,
            streams=[
                seal.StreamEnd(
                    stream=0, segments=segments, last_manifest_id=last[0], last_manifest_digest=last[1]
                )
            ],
        )
        return self.sealed(Kind.SEAL, seal.encode_seal(body))


def standard_backup(grid):
    """Two segments: a small tree, and a sparse file that lies in both of them."""
    rnd = grid.random
    big = [rnd.randbytes(70_000), rnd.randbytes(50_000)]
    first, uid = EntryRows(), os.getuid() if hasattr(os, "getuid") else 0
    common = {"uid": uid, "gid": os.getgid() if hasattr(os, "getgid") else 0}
    first.add(b"/", b"src", EntryType.DIRECTORY, mode=0o755, mtime_ns=NOW_NS - 3, **common)
    first.add(b"/src", b"sub", EntryType.DIRECTORY, mode=0o500, mtime_ns=NOW_NS - 2, **common)
    first.add(b"/src/sub", b"text", EntryType.FILE, mode=0o640, size=6000, mtime_ns=NOW_NS - 1, **common)
    first.add(b"/src/sub", b"empty", EntryType.FILE, mode=0o4755, mtime_ns=-1_500_000_000, **common)
    first.add(b"/src", b"odd \xff\n", EntryType.SYMLINK, link=b"../\xfe", mtime_ns=NOW_NS, **common)
    first.add(b"/src", b"twin", EntryType.HARDLINK, link=b"/src/sub/text", nlink=2, **common)
    first.add(b"/src", b"big", EntryType.FILE, flags=EntryFlag.PART, size=9, **common)
    one = grid.manifest(first, [[], [], [b"staddle " * 750], [], [], [], [big[0], 1 << 20]])
    second = EntryRows()
    offset = len(big[0]) + (1 << 20)
    flags = EntryFlag.PART | EntryFlag.LAST | EntryFlag.SPARSE
    size = offset + len(big[1]) + 4096
    second.add(
        b"/src",
        b"big",
        EntryType.FILE,
        mode=0o600,
        flags=flags,
        size=size,
        offset=offset,
        mtime_ns=5,
        **common,
    )
    two = grid.manifest(second, [[big[1], 4096]], previous=one, ordinal=1)
    grid.seal(two, 2)
    return big[0] + bytes(1 << 20) + big[1] + bytes(4096)


def assert_whole(to, big):
    src = os.fsencode(to) + b"/src"
    text, twin = os.stat(src + b"/sub/text"), os.stat(src + b"/twin")
    with open(src + b"/sub/text", "rb") as file:
        assert file.read() == b"staddle " * 750
    assert stat.S_IMODE(text.st_mode) == 0o640
    assert text.st_mtime_ns == NOW_NS - 1
    assert (text.st_ino, text.st_nlink) == (twin.st_ino, 2)
    empty = os.stat(src + b"/sub/empty")
    assert (empty.st_size, stat.S_IMODE(empty.st_mode), empty.st_mtime_ns) == (0, 0o4755, -1_500_000_000)
    assert os.readlink(src + b"/odd \xff\n") == b"../\xfe"
    assert os.lstat(src + b"/odd \xff\n").st_mtime_ns == NOW_NS
    with open(src + b"/big", "rb") as file:
        assert file.read() == big
    assert (stat.S_IMODE(os.stat(src + b"/big").st_mode), os.stat(src + b"/big").st_mtime_ns) == (0o600, 5)
    assert (stat.S_IMODE(os.stat(src + b"/sub").st_mode), os.stat(src + b"/sub").st_mtime_ns) == (
        0o500,
        NOW_NS - 2,
    )
    assert os.stat(src).st_mtime_ns == NOW_NS - 3
