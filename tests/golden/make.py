"""Golden files: one of each format, with fixed keys; run this file to write those that are missing.

A golden file is written once, when its version is born, and never again: the tests prove that today's readers
understand it. Packed bytes may differ between zstd libraries; what they unpack to may not.
"""

from __future__ import annotations

import os
import tempfile
import zlib

import msgspec
import numpy as np
import zstandard

from staddle.api.catalog import Record
from staddle.api.types import Kind, Label
from staddle.data import keyring, label, records, seal
from staddle.data.container import ContainerBuilder
from staddle.data.crypto import AES_256_GCM, CHACHA20_POLY1305, ChunkerSpec, DomainKeys, RecoveryKey
from staddle.data.entries import EntryFlag, EntryRows, EntryType
from staddle.data.manifest import ZERO_REGION, Manifest, ManifestBuilder, ManifestHead
from staddle.data.sealed import seal_object
from staddle.engine import ops
from staddle.engine.messages import CopyOf, StoredObject

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


def log_and_snapshot() -> dict[str, bytes]:
    """An op-log file of a grid with a long life, and the snapshot of the state after it."""
    from staddle.catalog.logformat import HEADER_BYTES, LogHeader, encode_frame, encode_header, encode_records
    from staddle.catalog.snapshots import Snapshot, write_snapshot
    from staddle.engine.state import GridState
    from staddle.platform.durable import FILES

    records, state = history(), GridState()
    header = LogHeader(grid=GRID, epoch=1, first_lsn=1, salt=bytes(range(32)))
    log = encode_header(header)
    assert len(log) == HEADER_BYTES
    for at in range(0, len(records), 3):
        for record in records[at : at + 3]:
            state.apply(record)
        log += encode_frame(encode_records(records[at : at + 3]), header.salt, len(log))
    with tempfile.TemporaryDirectory() as place:
        write_snapshot(place, GRID, Snapshot(1, len(records), state.dump()), FILES)
        with open(os.path.join(place, os.listdir(place)[0]), "rb") as file:
            snapshot = file.read()
    return {"oplog": log + bytes(512), "oplog-snapshot": snapshot}


def history() -> list[Record]:
    """A job from its beginning to its seal, and what administrators do."""
    medium = ops.MediumSet(
        name="m1", plugin="directory", volume=LABEL.volume, failure_domain="m1", agents=["a1"]
    )
    pool = ops.PoolSet(
        name="main",
        media=["m1"],
        domain="default",
        copies=1,
        min_copies=1,
        policy="priority",
        agents=[],
        wait_busy_s=60,
        wait_offline_s=600,
        segment_bytes=64 << 20,
    )
    first = [ops.GridCreated(grid=GRID), ops.EpochBegun(epoch=1, at_ns=CREATED_NS), medium]
    agent = ops.AgentSet(name="a1", urls=["tcp://127.0.0.1:7421"])
    client = ops.ClientSet(name="host", joined_ns=CREATED_NS)
    return [
        Record(1, lsn, ops.op_name(type(op)), ops.to_args(op))
        for lsn, op in enumerate([*first, agent, pool, client, *job_ops()], 1)
    ]


def job_ops() -> list[ops.Op]:
    """A job with one stream of one segment."""
    job = ops.JobBegun(
        job=1,
        kind="backup",
        client="host",
        name="home",
        roots=[b"/home/\xff"],
        pool="main",
        domain="default",
        streams=1,
        backup=1,
        base_backup=0,
        request=bytes(16),
        session=bytes(range(16)),
        at_ns=CREATED_NS,
    )
    assigned = ops.StreamAssigned(
        job=1,
        stream=0,
        epoch=1 << 32,
        agent="a1",
        media=["m1"],
        cause="start",
        from_agent="",
        from_media=[],
        next_seq=0,
        bad=[],
        detail="",
        failover=False,
        at_ns=CREATED_NS,
    )
    committed = ops.SegmentCommitted(
        job=1,
        backup=1,
        stream=0,
        epoch=1 << 32,
        ordinal=0,
        first=0,
        next=6,
        manifest=stored(MANIFEST_ID, "4d"),
        containers=[stored(CONTAINER_ID, "c0")],
        refs=CONTAINER_ID,
        revived=[],
        domain="default",
        want=1,
        files=5,
        dirs=1,
        bytes_read=7001,
        bytes_stored=3100,
        at_ns=CREATED_NS + 1,
    )
    ended = ops.StreamEnded(job=1, stream=0, epoch=(1 << 32) + 1, total=6, at_ns=CREATED_NS + 2)
    return [job, assigned, committed, ended]


def stored(object_id: bytes, kind: str) -> StoredObject:
    """An object with one copy."""
    name = f"{kind}/{object_id.hex()[-2:]}/{object_id.hex()}-{bytes(8).hex()}"
    copies = [CopyOf("m1", name)]
    return StoredObject(
        id=object_id, size_bytes=2129, digest=bytes(range(32)), copies=copies, raw_bytes=7001, chunks=3
    )


def small_files() -> dict[str, bytes]:
    """What daemons and clients keep beside the log."""
    from staddle.cluster.single import _Stored
    from staddle.config import initial_text
    from staddle.daemon.runfiles import RunFile
    from staddle.dedup.ownermap import OwnerMap
    from staddle.wire.tickets import TicketSigner

    run = RunFile(part="agent-a1", pid=11, pids=[11, 12], urls=["unix:///home/run/a1.sock", "tcp://h:7421"])
    configuration = initial_text(
        grid_id=GRID.hex(),
        grid_name="golden",
        manager_url="tcp://127.0.0.1:7420",
        agent_urls=["tcp://127.0.0.1:7421", "tcp://127.0.0.1:7422"],
    )
    client = f'name = "laptop"\ngrid = "{GRID.hex()}"\nmanagers = ["tcp://127.0.0.1:7420"]\n'
    lease = _Stored(version=1, epoch=7, holder="4711", ttl_s=10.0)
    return {
        "client.toml": client.encode(),
        "domains.keys": msgspec.msgpack.encode([KEYS]),
        "lease-epoch": msgspec.json.encode(lease),
        "manager-epoch": b"1234\n",
        "manager-epoch-checked": b"1234 %08x\n" % zlib.crc32(b"1234"),
        "owner-map": OwnerMap.everyone().to_bytes(),
        "run-file": msgspec.json.encode(run),
        "staddle.toml": configuration.encode(),
        "ticket": TicketSigner(bytes(range(32))).sign(b"what the manager has said"),
        "used-tokens": msgspec.json.encode({bytes(range(16)).hex(): CREATED_NS}),
    }


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
        **log_and_snapshot(),
        **small_files(),
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
