"""Golden files: one of each format, with fixed keys; run this file to write those that are missing.

A golden file is written once, when its version is born, and never again: the tests prove that today's readers
understand it. Packed bytes may differ between zstd libraries; what they unpack to may not.
"""

from __future__ import annotations

import os

import numpy as np
import zstandard

from staddle.api.types import Kind, Label
from staddle.data import keyring, label, records, seal
from staddle.data.container import ContainerBuilder
from staddle.data.crypto import AES_256_GCM, CHACHA20_POLY1305, ChunkerSpec, DomainKeys, RecoveryKey
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.manifest import ZERO_REGION, Manifest, ManifestBuilder, ManifestHead
from staddle.data.sealed import seal_object

VERSION = 1
GRID = bytes(range(16))
CREATED_NS = 1_790_000_000_123_456_789
RECOVERY_KEY = RecoveryKey(bytes(range(100, 132)))
KEYS = DomainKeys(
    domain="default",
    domain_id=bytes(range(16, 32)),
    fingerprint_key=bytes(range(32, 64)),
    wrapping_keys={1: bytes(range(64, 96)), 2: bytes(range(65, 97))},
    current=2,
    chunker=ChunkerSpec(seed=4711),
    grid=GRID,
)
CONTAINER_ID = bytes(range(200, 216))
MANIFEST_ID = bytes(range(201, 217))
SEAL_ID = bytes(range(202, 218))
JOURNAL_ID = bytes(range(203, 219))
CHUNKS = [b"staddle " * 500, bytes((7 * i * i + i // 3) % 256 for i in range(3000)), b"x"]
LABEL = Label(
    grid=GRID, medium="nas-1", volume=bytes(range(220, 236)), created_ns=CREATED_NS, manager_epoch=3
)
SEAL = seal.Seal(
    grid=GRID,
    domain=KEYS.domain_id,
    backup=7,
    job=9,
    client="host",
    name="home",
    pool="main",
    roots=[b"/home/\xff"],
    started_ns=CREATED_NS - 5,
    finished_ns=CREATED_NS,
    state="warnings",
    files=5,
    dirs=1,
    bytes_read=7001,
    bytes_stored=3100,
    warnings=1,
    manager_epoch=2,
    streams=[
        seal.StreamEnd(stream=0, segments=1, last_manifest_id=MANIFEST_ID, last_manifest_digest=bytes(32)),
        seal.StreamEnd(stream=1, segments=0),
    ],
)
JOURNAL = seal.Journal(
    grid=GRID,
    sequence=1,
    kind="prune",
    epoch=3,
    lsn=1234,
    at_ns=CREATED_NS,
    backups=[1, 2, 3],
    reason="keep 4",
)


def entries() -> EntryRows:
    """One row of nearly every kind."""
    rows = EntryRows()
    home = b"/home/\xff"
    rows.add(b"/home", b"\xff", EntryType.DIRECTORY, mode=0o750, uid=1000, gid=1000, mtime_ns=-1, nlink=2)
    rows.add(
        home,
        b"notes \xc3\xa4.txt",
        EntryType.FILE,
        mode=0o104755,
        uid=1000,
        gid=100,
        size=7000,
        mtime_ns=CREATED_NS,
        ctime_ns=CREATED_NS + 1,
        inode=1 << 63,
        device=64769,
        extra={"xattr": {b"user.mark": b"\x00\x01"}, "btime_ns": 1},
    )
    rows.add(
        home,
        b"hole",
        EntryType.FILE,
        size=(1 << 41) + 1,
        flags=EntryFlag.SPARSE | EntryFlag.PART | EntryFlag.LAST,
    )
    rows.add(home, b"link", EntryType.SYMLINK, mode=0o777, link=b"../\xfe", size=4)
    rows.add(home, b"twin", EntryType.HARDLINK, link=home + b"/notes \xc3\xa4.txt", inode=1 << 63, nlink=2)
    rows.add(home, b"null", EntryType.CHAR, mode=0o666, extra={"rdev": [1, 3]})
    rows.users, rows.groups = {1000: "anna"}, {100: "users", 1000: "anna"}
    return rows


def container(suite: int) -> bytes:
    """A container of CHUNKS."""
    builder = ContainerBuilder(
        KEYS, CONTAINER_ID, bytes(range(150, 182)), bytes(range(12)), capacity_bytes=1 << 20, suite=suite
    )
    compressor = zstandard.ZstdCompressor(level=1)
    for chunk in CHUNKS:
        builder.add(KEYS.fingerprint(chunk), chunk, compressor)
    return b"".join(builder.finish().parts)


def manifest() -> Manifest:
    """A manifest whose entries refer to that container."""
    head = ManifestHead(
        grid=GRID,
        domain=KEYS.domain_id,
        client="host",
        name="home",
        job=9,
        backup=7,
        stream=0,
        epoch=2,
        ordinal=0,
        first=0,
        created_ns=CREATED_NS,
    )
    builder = ManifestBuilder(head)
    at = builder.container_index(CONTAINER_ID)
    prints = np.frombuffer(
        b"".join([*map(KEYS.fingerprint, CHUNKS[:2]), bytes(32), KEYS.fingerprint(CHUNKS[2])]), np.uint8
    ).reshape(-1, 32)
    builder.add_chunks(
        prints,
        np.array([at, at, ZERO_REGION, at]),
        np.array([0, 1, 0, 2]),
        np.array([len(CHUNKS[0]), len(CHUNKS[1]), 1 << 41, 1]),
    )
    batch = entries().build()
    builder.add_entries(batch, np.array([0, 0, 2, 0, 0, 0]), np.array([0, 2, 2, 0, 0, 0]))
    return builder.manifest(next=6)


def build() -> dict[str, bytes]:
    """File name -> content."""
    from staddle.data.manifest import encode

    def sealed(kind: Kind, object_id: bytes, plain: bytes) -> bytes:
        key, nonce = bytes(range(151, 183)), bytes(range(1, 13))
        return b"".join(seal_object(kind, object_id, plain, KEYS, key=key, wrap_nonce=nonce).parts)

    part = EntryRows()
    part.add(b"/home", b"big", EntryType.FILE, size=1 << 30)
    return {
        "container-aes": container(AES_256_GCM),
        "container-chacha": container(CHACHA20_POLY1305),
        "manifest": sealed(Kind.MANIFEST, MANIFEST_ID, encode(manifest())),
        "seal": sealed(Kind.SEAL, SEAL_ID, seal.encode_seal(SEAL)),
        "journal": sealed(Kind.JOURNAL, JOURNAL_ID, seal.encode_journal(JOURNAL)),
        "keyring": keyring.encode(RECOVERY_KEY, GRID, [KEYS], bytes(range(12)), CREATED_NS),
        "label": label.encode(LABEL),
        "recovery-key": RECOVERY_KEY.text().encode(),
        "record-files": records.encode_files(entries().build(), [0, 7000, 0, 0, 0, 0]),
        "record-part": records.encode_part(part.build(), 1 << 20, zero_bytes=1 << 16, last=True),
    }


def main() -> None:
    """Write what is not there yet."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"v{VERSION}")
    os.makedirs(folder, exist_ok=True)
    for name, data in build().items():
        path = os.path.join(folder, name)
        if os.path.exists(path):
            print(f"kept {path}")
            continue
        with open(path, "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
