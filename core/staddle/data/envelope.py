"""What every object on a medium shares: a plain-text head of 1024 bytes and a footer of 80.

Head: ASCII, readable with `head -c 1024`. The first line names product, kind and format version, `key: value`
lines follow, then a few sentences for whoever finds the medium; newlines fill up; the last line is a
checksum.

Footer: where the sealed part lies, the digest of all before it, a checksum of its own.

Neither is secret, so both are authenticated as additional data of the sealed part (the whole head, and
`Footer.bound`). First line, checksums and the footer's place never change in later versions: that is how
"newer" is told from "damaged".
"""

from __future__ import annotations

import re
import struct

import msgspec

from staddle.api.types import Kind
from staddle.data.crypto import SUITES, WRAPPED_KEY_BYTES, Aead, DomainKeys, checksum
from staddle.data.plain import ID_BYTES, check_version
from staddle.errors import Corrupt, Denied

HEAD_BYTES = 1024
FOOTER_BYTES = 80
WORDS = {
    Kind.CONTAINER: "container",
    Kind.MANIFEST: "manifest",
    Kind.SEAL: "seal",
    Kind.KEYRING: "keyring",
    Kind.JOURNAL: "journal",
}
"""The word for each kind in the first line of a head."""

_NOTE = """
This is part of a backup made by Staddle. Its name begins with the id above. Packed (zstd) and
sealed data follow from byte 1024; where they end and what they hold stands in the last 80 bytes.
Suite 1 is AES-256-GCM, 2 is ChaCha20-Poly1305. To read it you need the grid's recovery key
(SRK1-...). The format is described in docs/format.md; contrib/rescue/staddle_rescue.py is one
short Python program that restores files from media like this one without Staddle.
"""
_CHECK_BYTES = len("\ncheck: 0123456789abcdef\n")
_FOOTER = struct.Struct("<8sIIQQQ32s")
_MAGIC = b"STADFOOT"
_FIRST_LINE = re.compile(rb"STADDLE ([a-z]{1,16}) ([1-9][0-9]{0,8})\n")
_FIELD_LINE = re.compile(rb"([a-z-]{1,16}): ([0-9a-f]{1,160})\n")


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """The last 80 bytes. `sealed` is the directory of a container, the body of any other object.

    Attributes:
        version: the object's format version.
        chunks: how many chunks a container holds; 0 for other kinds.
        sealed_offset: first byte of the sealed part.
        sealed_bytes: its length, tag included.
        plain_bytes: raw length of all chunks of a container, of the unpacked body of other kinds.
        digest: unkeyed BLAKE3-256 of every byte before the footer.
    """

    version: int
    chunks: int
    sealed_offset: int
    sealed_bytes: int
    plain_bytes: int
    digest: bytes = bytes(32)

    def bound(self) -> bytes:
        """The fields that are authenticated with the sealed part: all but the digest, which covers it."""
        return _FOOTER.pack(*self._fields(), b"")[:-32]

    def encode(self) -> bytes:
        """80 bytes."""
        body = _FOOTER.pack(*self._fields(), self.digest)
        return body + checksum(body)

    def _fields(self) -> tuple[bytes, int, int, int, int, int]:
        return _MAGIC, self.version, self.chunks, self.sealed_offset, self.sealed_bytes, self.plain_bytes


def decode_footer(data: bytes, size_bytes: int, what: str, newest: int) -> Footer:
    """Read and check the last 80 bytes of an object of `size_bytes`.

    Raises: NewerFormat, Corrupt (naming `what`).
    """
    body = data[: _FOOTER.size]
    if len(data) != FOOTER_BYTES or checksum(body) != data[_FOOTER.size :]:
        raise Corrupt(f"{what}: the footer is damaged or cut off")
    magic, version, chunks, offset, length, plain, digest = _FOOTER.unpack(body)
    if magic != _MAGIC or version == 0:
        raise Corrupt(f"{what}: no Staddle footer")
    check_version(what, version, newest)
    footer = Footer(
        version=version,
        chunks=chunks,
        sealed_offset=offset,
        sealed_bytes=length,
        plain_bytes=plain,
        digest=digest,
    )
    if offset < HEAD_BYTES or offset + length + FOOTER_BYTES != size_bytes:
        raise Corrupt(f"{what}: the footer does not fit an object of {size_bytes} bytes")
    return footer


def encode_head(kind: Kind, version: int, fields: dict[str, str]) -> bytes:
    """1024 bytes of text. Values are lower-case hex digits or decimal numbers."""
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items())
    text = f"STADDLE {WORDS[kind]} {version}\n{lines}{_NOTE}".encode("ascii")
    room = HEAD_BYTES - _CHECK_BYTES
    if len(text) > room:
        raise ValueError("the head's fields are too long")
    text = text.ljust(room, b"\n")
    return text + b"\ncheck: " + checksum(text).hex().encode() + b"\n"


def decode_head(data: bytes, kind: Kind, what: str, newest: int) -> dict[str, str]:
    """The fields of a head. Raises NewerFormat, Corrupt (naming `what`)."""
    text = data[: HEAD_BYTES - _CHECK_BYTES]
    if len(data) != HEAD_BYTES or data[len(text) :] != b"\ncheck: " + checksum(text).hex().encode() + b"\n":
        raise Corrupt(f"{what}: the head is damaged")
    first = _FIRST_LINE.match(text)
    if first is None:
        raise Corrupt(f"{what}: no Staddle object")
    if first[1].decode() != WORDS[kind]:
        raise Corrupt(f"{what}: a {first[1].decode()} lies in its place")
    check_version(what, int(first[2]), newest)
    fields, at = {}, first.end()
    while line := _FIELD_LINE.match(text, at):
        fields[line[1].decode()] = line[2].decode()
        at = line.end()
    return fields


def domain_head(
    kind: Kind,
    version: int,
    object_id: bytes,
    keys: DomainKeys,
    *,
    key: bytes,
    wrap_nonce: bytes,
    suite: int,
) -> bytes:
    """Head of an object whose own `key` is wrapped by its domain."""
    if len(object_id) != ID_BYTES or suite not in SUITES:
        raise ValueError("an object has a 16-byte id and a known suite")
    fields = {
        "id": object_id.hex(),
        "grid": keys.grid.hex(),
        "domain": keys.domain_id.hex(),
        "suite": str(suite),
        "key-version": str(keys.current),
        "wrapped-key": keys.wrap(key, wrap_aad(kind, object_id), wrap_nonce).hex(),
    }
    return encode_head(kind, version, fields)


def open_domain_head(
    data: bytes, kind: Kind, object_id: bytes, keys: DomainKeys, *, what: str, newest: int
) -> Aead:
    """Unwrap the object's key and give its sealer.

    Raises: Corrupt (damaged, or another object in its place), Denied (another domain's), NewerFormat.
    """
    fields = decode_head(data, kind, what, newest)
    try:
        found, domain = bytes.fromhex(fields["id"]), bytes.fromhex(fields["domain"])
        suite, version = int(fields["suite"]), int(fields["key-version"])
        wrapped = bytes.fromhex(fields["wrapped-key"])
    except (KeyError, ValueError):
        raise Corrupt(f"{what}: the head lacks a field") from None
    if found != object_id:
        raise Corrupt(f"{what}: object {found.hex()} lies in its place")
    if domain != keys.domain_id:
        raise Denied(
            f"{what} belongs to domain {domain.hex()}, not to {keys.domain}",
            hint="read it with the keys of that domain",
        )
    if len(wrapped) != WRAPPED_KEY_BYTES:
        raise Corrupt(f"{what}: the wrapped key has {len(wrapped)} bytes")
    try:
        return Aead(suite, keys.unwrap(version, wrapped, wrap_aad(kind, object_id)))
    except Corrupt as error:
        raise Corrupt(f"{what}: its key cannot be unwrapped: {error.message}") from None


def wrap_aad(kind: Kind, object_id: bytes) -> bytes:
    """What a wrapped key is bound to: the kind's two letters and the id, so it opens nothing else."""
    return kind.value.encode() + object_id
