"""Targets that lie on media: containers, sealed objects, manifests, labels, keys, and the rescue reader."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import struct
from typing import Any

import msgspec
import zstandard
from blake3 import blake3
from targets import TESTS, Target, golden, in_file, load_file

from staddle.api.types import Kind, parse_object_name
from staddle.data import keyring, label, manifest, seal, sealed
from staddle.data.container import SEALED_PART_NONCE, ContainerReader
from staddle.data.crypto import NONCE_BYTES, Aead, RecoveryKey, aead, checksum, hkdf
from staddle.data.envelope import FOOTER_BYTES, HEAD_BYTES, Footer, decode_footer, decode_head, encode_head
from staddle.data.plain import unmsgpack
from staddle.errors import Corrupt, StaddleError

make = load_file("golden_make", os.path.join(TESTS, "golden", "make.py"))
rescue = load_file(
    "staddle_rescue", os.path.join(os.path.dirname(TESTS), "contrib", "rescue", "staddle_rescue.py")
)
OBJECT_KEY = bytes(range(151, 183))
CONTAINER_KEY = bytes(range(150, 182))
_CHECK = len("\ncheck: 0123456789abcdef\n")


def _reader(blob: bytes) -> ContainerReader:
    return ContainerReader(make.KEYS, lambda at, length: blob[at : at + length], len(blob), make.CONTAINER_ID)


def _container(blob: bytes) -> None:
    reader = _reader(blob)
    for _ in reader.read(range(min(len(reader.directory), 1000))):
        pass
    reader.verify()


def _with_checks(blob: bytes) -> bytes:
    """The checksums of head and footer made right again, wherever they can be."""
    if len(blob) < HEAD_BYTES + FOOTER_BYTES:
        return blob
    head, body, tail = blob[:HEAD_BYTES], blob[HEAD_BYTES:-FOOTER_BYTES], blob[-FOOTER_BYTES:-8]
    text = head[:-_CHECK]
    head = text + b"\ncheck: " + checksum(text).hex().encode() + b"\n"
    tail = tail[:-32] + blake3(head + body).digest()
    return head + body + tail + checksum(tail)


def _container_checked(blob: bytes) -> None:
    _container(_with_checks(blob))


def _container_inside(plain: bytes) -> None:
    """chunk count u16, then a directory of any bytes, sealed by who has the key."""
    original = golden("container-aes")
    head = original[:HEAD_BYTES]
    said, plain = int.from_bytes(plain[:2], "big"), plain[2:]
    start = decode_footer(original[-FOOTER_BYTES:], len(original), "golden", 1).sealed_offset
    footer = Footer(
        version=1, chunks=said, sealed_offset=start, sealed_bytes=len(plain) + 16, plain_bytes=said * 100
    )
    body = original[HEAD_BYTES:start]
    body += Aead(1, CONTAINER_KEY).encrypt(SEALED_PART_NONCE, plain, head + footer.bound())
    footer = msgspec.structs.replace(footer, digest=blake3(head + body).digest())
    _container(head + body + footer.encode())


def _directory_seeds() -> list[bytes]:
    original = golden("container-aes")
    footer = decode_footer(original[-FOOTER_BYTES:], len(original), "golden", 1)
    part = original[footer.sealed_offset : footer.sealed_offset + footer.sealed_bytes]
    plain = Aead(1, CONTAINER_KEY).decrypt(SEALED_PART_NONCE, part, original[:HEAD_BYTES] + footer.bound())
    return [footer.chunks.to_bytes(2, "big") + plain, bytes(2)]


def _container_chunk(packed: bytes) -> None:
    """raw length u32, then a chunk of any bytes, flagged as zstd, sealed by who has the key."""
    raw_length, body = int.from_bytes(packed[:4], "big"), packed[4:]
    try:
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    except zstandard.ZstdError:
        raw = b""
    print_ = make.KEYS.fingerprint(raw)
    head = golden("container-aes")[:HEAD_BYTES]
    cipher = Aead(1, CONTAINER_KEY)
    chunk = cipher.encrypt(bytes(NONCE_BYTES), body, print_ + make.CONTAINER_ID)
    row = [
        print_, struct.pack("<Q", HEAD_BYTES), struct.pack("<I", len(chunk)),
        struct.pack("<I", raw_length), b"\x01",
    ]  # fmt: skip
    start = HEAD_BYTES + len(chunk)
    footer = Footer(version=1, chunks=1, sealed_offset=start, sealed_bytes=49 + 16, plain_bytes=raw_length)
    directory = cipher.encrypt(SEALED_PART_NONCE, b"".join(row), head + footer.bound())
    footer = msgspec.structs.replace(footer, digest=blake3(head + chunk + directory).digest())
    _container(head + chunk + directory + footer.encode())


def _chunk_seeds() -> list[bytes]:
    compress = zstandard.ZstdCompressor(level=1).compress
    return [len(raw).to_bytes(4, "big") + compress(raw) for raw in (b"a", bytes(70_000), os.urandom(300))]


def _sealed(blob: bytes) -> str:
    """As what its head says; what else it is opened as, it is not."""
    kinds = {Kind.MANIFEST: make.MANIFEST_ID, Kind.SEAL: make.SEAL_ID, Kind.JOURNAL: make.JOURNAL_ID}
    words = blob[8:16]
    said = (
        Kind.SEAL
        if words.startswith(b"seal")
        else Kind.MANIFEST
        if words.startswith(b"man")
        else Kind.JOURNAL
    )
    for kind, own in kinds.items():
        if kind is not said:
            try:
                sealed.open_object(make.KEYS, kind, own, blob)
            except StaddleError:
                continue
            raise AssertionError(f"{said} passes for {kind}")
    sealed.open_object(make.KEYS, said, kinds[said], blob)
    return said.value


def _sealed_checked(blob: bytes) -> None:
    _sealed(_with_checks(blob))


def _plain(kind: Kind, own: bytes, name: str) -> bytes:
    return sealed.open_object(make.KEYS, kind, own, golden(name))


def _manifest(plain: bytes) -> None:
    found = manifest.decode(plain)
    for path in found.entries.paths():
        assert path.startswith(b"/")
        assert not {b".", b".."} & set(path.split(b"/"))
        assert b"\0" not in path
    for row in range(min(len(found.entries), 64)):
        found.entries.link(row)
        first, count = int(found.chunk_first[row]), int(found.chunk_count[row])
        assert first + count <= len(found.chunks)
    used = found.chunks.container[found.chunks.container != manifest.ZERO_REGION]
    assert not len(used) or int(used.max()) < len(found.chunks.containers)


def _extra(data: bytes) -> None:
    try:
        unmsgpack(data, dict[str, Any])
    except ValueError as error:
        raise Corrupt(str(error)) from None


def _keyring_inside(plain: bytes) -> None:
    nonce, suite = bytes(range(12)), 1
    head = encode_head(Kind.KEYRING, 1, {"grid": make.GRID.hex(), "suite": str(suite), "nonce": nonce.hex()})
    cipher = aead(suite, hkdf(make.RECOVERY_KEY.key, salt=make.GRID, info=b"staddle keyring 1"))
    made = sealed.seal_body(make.GRID, head, plain, cipher, nonce=nonce, version=1)
    keyring.decode(make.RECOVERY_KEY, b"".join(made.parts))


def _keyring_seeds() -> list[bytes]:
    return [msgspec.msgpack.encode(keyring.Keyring(grid=make.GRID, created_ns=5, domains=[make.KEYS]))]


def _label_checked(data: bytes) -> None:
    text = data.partition(b"check: ")[0]
    label.decode(text + b"check: " + hashlib.sha256(text).hexdigest().encode() + b"\n")


def _head(data: bytes) -> None:
    text = data[: HEAD_BYTES - _CHECK].ljust(HEAD_BYTES - _CHECK, b"\n")
    decode_head(text + b"\ncheck: " + checksum(text).hex().encode() + b"\n", Kind.CONTAINER, "object", 1)


def _recovery(data: bytes) -> None:
    RecoveryKey.parse(data.decode("utf-8", "surrogateescape"))


def _object_name(data: bytes) -> None:
    parse_object_name(data.decode("utf-8", "surrogateescape"))


# --- the rescue reader: any Exception is a warning there, but it must end and stay small ----------


def _rescue_object(data: bytes) -> None:
    names = {"container-aes": ("c0", make.CONTAINER_ID), "manifest": ("f0", make.MANIFEST_ID)}
    keys = {make.KEYS.domain_id.hex(): {"wrapping_keys": make.KEYS.wrapping_keys}}
    kind, own = names[
        "container-aes" if data[7:15] == b" contain" or data[8:17] == b"container" else "manifest"
    ]
    rescue.unseal(in_file(own.hex() + "0" * 16, data), kind, keys)


def _rescue_object_inside(plain: bytes) -> None:
    """A body of any bytes, sealed by who has the key."""
    made = sealed.seal_object(
        Kind.MANIFEST, make.MANIFEST_ID, plain, make.KEYS, key=OBJECT_KEY, wrap_nonce=bytes(NONCE_BYTES)
    )
    _rescue_object(b"".join(made.parts))
    sealed.open_object(make.KEYS, Kind.MANIFEST, make.MANIFEST_ID, b"".join(made.parts))


def _rescue_msgpack(data: bytes) -> None:
    rescue.unmsgpack(data)


def _rescue_manifest(data: bytes) -> None:
    """Rows are made into nothing. What is told of damaged ones is in words for people."""
    body = rescue.unmsgpack(data)[0]
    one = object.__new__(rescue.Rescue)
    one.to, one.links, one.dirs = b"/nonexistent", [], []
    one.entry = lambda path, meta, chunks, pieces: None
    rescue.warnings.clear()
    with contextlib.redirect_stderr(io.StringIO()):
        rescue.Rescue.manifest(one, body, b"")
    for warning in rescue.warnings:
        assert warning.endswith(": damaged, or not possible on this system"), warning


_TEXT = [
    b"grid: ",
    b"medium: ",
    b"STADDLE VOLUME 1\n",
    b"check: ",
    b"--- for machines ---\n",
    b"created-ns: ",
]
_FIELDS = [
    b"suite: ",
    b"id: ",
    b"domain: ",
    b"key-version: ",
    b"wrapped-key: ",
    b"STADDLE container 1\n",
    b"\xb2: ",
]
_OBJECTS = lambda: [golden(name) for name in ("manifest", "seal", "journal")]  # noqa: E731 - a table's entry
MANIFEST_SEEDS = functools.cache(lambda: [_plain(Kind.MANIFEST, make.MANIFEST_ID, "manifest")])
_ANY = (Exception, SystemExit)
_DAMAGE = (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)

TARGETS = [
    Target("container", _container, lambda: [golden("container-aes"), golden("container-chacha")]),
    Target("container-checked", _container_checked, lambda: [golden("container-aes")], words=_FIELDS),
    Target("container-inside", _container_inside, _directory_seeds),
    Target("container-chunk", _container_chunk, _chunk_seeds),
    Target("sealed", _sealed, _OBJECTS, words=_FIELDS),
    Target("sealed-checked", _sealed_checked, _OBJECTS, words=_FIELDS),
    Target("head", _head, lambda: [golden("container-aes")[: HEAD_BYTES - _CHECK]], "text", words=_FIELDS),
    Target("manifest", _manifest, MANIFEST_SEEDS, "msgpack"),
    Target(
        "extra", _extra, lambda: [msgspec.msgpack.encode({"xattr": {b"a": b"b"}, "rdev": [1, 3]})], "msgpack"
    ),
    Target("seal", seal.decode_seal, lambda: [_plain(Kind.SEAL, make.SEAL_ID, "seal")], "msgpack"),
    Target(
        "journal", seal.decode_journal, lambda: [_plain(Kind.JOURNAL, make.JOURNAL_ID, "journal")], "msgpack"
    ),
    Target("label", label.decode, lambda: [golden("label")], "text", words=_TEXT),
    Target("label-checked", _label_checked, lambda: [golden("label")], "text", words=_TEXT),
    Target("keyring", lambda data: keyring.decode(make.RECOVERY_KEY, data), lambda: [golden("keyring")]),
    Target("keyring-inside", _keyring_inside, _keyring_seeds, "msgpack"),
    Target(
        "recovery-key", _recovery, lambda: [golden("recovery-key")], "text", words=[b"SRK1-", b"SRK2-", b"O"]
    ),
    Target(
        "object-name",
        _object_name,
        lambda: [b"c0/00/" + b"0" * 48],
        "text",
        (StaddleError, ValueError),
    ),
    Target(
        "rescue-object", _rescue_object, lambda: [golden("container-aes"), golden("manifest")], expected=_ANY
    ),
    Target("rescue-object-inside", _rescue_object_inside, MANIFEST_SEEDS, "msgpack", _ANY),
    Target("rescue-msgpack", _rescue_msgpack, MANIFEST_SEEDS, "msgpack", _ANY),
    Target("rescue-manifest", _rescue_manifest, MANIFEST_SEEDS, "msgpack", _DAMAGE),
    Target(
        "rescue-key",
        lambda data: rescue.parse_recovery_key(data.decode("utf-8", "replace")),
        lambda: [golden("recovery-key")],
        "text",
        (SystemExit,),
        words=[b"SRK1-"],
    ),
]
