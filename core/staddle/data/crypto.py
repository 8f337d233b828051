"""Keys, ciphers and fingerprints: the only module that touches cryptographic primitives.

The way to the data, for one who holds the recovery key (docs/format.md):

    recovery key --HKDF-SHA256--> keyring key --AEAD--> domain keys --AES-256-GCM--> object key --AEAD--> data

Nothing on that way needs BLAKE3, so that a rescue reader can do with zstd and AES alone; BLAKE3 makes the
fingerprints and the digests.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import re
from collections.abc import Iterable

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from staddle.api.types import Buffer
from staddle.data.plain import ID_BYTES
from staddle.errors import Corrupt, Denied, NewerFormat, UsageError

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
WRAPPED_KEY_BYTES = NONCE_BYTES + KEY_BYTES + TAG_BYTES
"""Length of a wrapped 32-byte key: nonce, sealed key, tag."""

AES_256_GCM = 1
CHACHA20_POLY1305 = 2
SUITES = {AES_256_GCM: "AES-256-GCM", CHACHA20_POLY1305: "ChaCha20-Poly1305"}
"""Suite numbers as written in heads: 256-bit keys, 12-byte nonces, 16-byte tags (RFC 5116, RFC 8439)."""

_AES_MACHINES = {"x86_64", "amd64", "arm64"}


class Aead:
    """One key under one suite. Safe for use by several threads."""

    __slots__ = ("_cipher", "suite")

    def __init__(self, suite: int, key: bytes) -> None:
        """Args: suite: a key of SUITES. key: 32 bytes."""
        if suite not in SUITES:
            raise NewerFormat(
                f"cipher suite {suite} is not known here", hint="use a newer release of Staddle"
            )
        if len(key) != KEY_BYTES:
            raise ValueError("a key has 32 bytes")
        self.suite = suite
        self._cipher: AESGCM | ChaCha20Poly1305 = (
            AESGCM(key) if suite == AES_256_GCM else ChaCha20Poly1305(key)
        )

    def __repr__(self) -> str:
        return f"Aead({SUITES[self.suite]})"

    def encrypt_into(self, nonce: bytes, data: Buffer, aad: bytes, out: memoryview) -> int:
        """Seal `data` into `out`, which is exactly TAG_BYTES longer; returns the bytes written."""
        return self._cipher.encrypt_into(nonce, data, aad, out)

    def encrypt(self, nonce: bytes, data: Buffer, aad: bytes) -> bytes:
        """Sealed bytes, TAG_BYTES longer than `data`."""
        return self._cipher.encrypt(nonce, data, aad)

    def decrypt(self, nonce: bytes, data: Buffer, aad: bytes) -> bytes:
        """The plain bytes. Raises Corrupt if a bit of key, nonce, data or aad differs."""
        try:
            return self._cipher.decrypt(nonce, data, aad)
        except InvalidTag:
            raise Corrupt("authentication failed: damaged, or sealed with another key") from None


def aead(suite: int, key: bytes) -> Aead:
    """A sealer for `key` (32 bytes) under `suite`. Raises NewerFormat for an unknown suite."""
    return Aead(suite, key)


@functools.cache
def best_suite() -> int:
    """AES-256-GCM where the processor has AES instructions, else ChaCha20-Poly1305.

    A wrong guess costs speed only: every object names the suite it was sealed with.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            for line in cpuinfo:
                if line.startswith(("flags", "Features")):
                    return AES_256_GCM if "aes" in line.split() else CHACHA20_POLY1305
    except OSError:
        pass  # not Linux: every x86-64 and Apple processor that runs Python 3.11 has them
    return AES_256_GCM if platform.machine().lower() in _AES_MACHINES else CHACHA20_POLY1305


def derive(key: bytes, context: str) -> bytes:
    """A 32-byte sub-key (BLAKE3 derive_key mode). `context` is a fixed string that names the use."""
    return blake3(key, derive_key_context=context).digest()


def digest(parts: Iterable[Buffer]) -> bytes:
    """Unkeyed BLAKE3-256 of the concatenation: what receipts and footers carry."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """A 32-byte sub-key by HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key)


def checksum(data: Buffer) -> bytes:
    """First 8 bytes of SHA-256: finds damage in plain-text parts, proves nothing against malice."""
    return hashlib.sha256(data).digest()[:8]


class ChunkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a domain cuts its files. Immutable for the life of the domain: other cuts find no duplicates."""

    id: str = "fastcdc-v1"
    min_bytes: int = 32768
    average_bytes: int = 131072
    max_bytes: int = 524288
    seed: int


class DomainKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one dedup domain, as an agent holds them.

    Attributes:
        domain: its name, for people.
        domain_id: 16 bytes, written in the head of every object.
        fingerprint_key: 32 bytes, fixed for the life of the domain.
        wrapping_keys: version -> 32 bytes. Old versions stay, to read old objects.
        current: the version that wraps new objects.
        chunker: see ChunkerSpec.
        grid: 16 bytes, written in the head of every object; zeros where no grid is known (tests).
    """

    domain: str
    domain_id: bytes
    fingerprint_key: bytes
    wrapping_keys: dict[int, bytes]
    current: int
    chunker: ChunkerSpec
    grid: bytes = bytes(ID_BYTES)

    def __post_init__(self) -> None:
        keys = [self.fingerprint_key, *self.wrapping_keys.values()]
        if (
            any(len(key) != KEY_BYTES for key in keys)
            or len(self.domain_id) != ID_BYTES
            or len(self.grid) != ID_BYTES
        ):
            raise ValueError("a domain has a 16-byte id, a 16-byte grid id and keys of 32 bytes")
        if self.current not in self.wrapping_keys or any(
            not 0 < version < 1 << 32 for version in self.wrapping_keys
        ):
            raise ValueError("the current wrapping key must be there, and versions are 1 to 2^32 - 1")

    def __repr__(self) -> str:
        return f"DomainKeys({self.domain!r}, {self.domain_id.hex()}, wrapping key {self.current})"

    def wrap(self, key: bytes, aad: bytes, nonce: bytes) -> bytes:
        """Seal a 32-byte key under the current wrapping key: nonce + sealed key + tag, 60 bytes.

        Args:
            key: the object's key.
            aad: what it is for: kind and id of the object.
            nonce: 12 fresh random bytes. AES-256-GCM with random nonces allows 2^32 uses of one wrapping
                key (NIST SP 800-38D, 8.3): 128 PiB of containers, then rotate.
        """
        return nonce + AESGCM(self.wrapping_keys[self.current]).encrypt(nonce, key, aad)

    def unwrap(self, version: int, blob: bytes, aad: bytes) -> bytes:
        """Inverse of `wrap`. Raises Denied (that version is not held here) or Corrupt."""
        wrapping_key = self.wrapping_keys.get(version)
        if wrapping_key is None:
            raise Denied(
                f"wrapping key {version} of domain {self.domain} is not held here",
                hint="export the grid's keys again, or use a newer recovery set",
            )
        if len(blob) != WRAPPED_KEY_BYTES:
            raise Corrupt(f"wrapped key has {len(blob)} bytes, not {WRAPPED_KEY_BYTES}")
        return Aead(AES_256_GCM, wrapping_key).decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], aad)

    def fingerprint(self, data: Buffer) -> bytes:
        """Keyed BLAKE3-256 of a chunk: its identity within the domain, meaningless outside."""
        return blake3(data, key=self.fingerprint_key).digest()


class RecoveryKey:
    """The one secret that, with the media, brings everything back. Printed once, kept on paper.

    Text form: `SRK1-` and eight groups of seven characters in Crockford's base 32 (no I, L, O, U): the 32
    bytes of the key, then 3 bytes of SHA-256 over them, so that a typing error is found (all but 1 in 16
    million).
    """

    __slots__ = ("key",)
    _ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    _TEXT_CHARS = 56

    def __init__(self, key: bytes) -> None:
        """Args: key: 32 random bytes."""
        if len(key) != KEY_BYTES:
            raise ValueError("a recovery key has 32 bytes")
        self.key = key

    def __repr__(self) -> str:
        return "RecoveryKey(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecoveryKey) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def text(self) -> str:
        """`SRK1-XXXXXXX-…`: what is printed. A secret: never logged."""
        number = int.from_bytes(self.key + self._check(self.key), "big")
        digits = [self._ALPHABET[number >> shift & 31] for shift in range(5 * (self._TEXT_CHARS - 1), -1, -5)]
        groups = ["".join(digits[i : i + 7]) for i in range(0, self._TEXT_CHARS, 7)]
        return "-".join(["SRK1", *groups])

    @classmethod
    def parse(cls, text: str) -> RecoveryKey:
        """Read the text form; case, blanks and hyphens do not matter, O counts as 0, I and L as 1.

        Raises: UsageError (no recovery key at all), Denied (a typing error), NewerFormat.
        """
        letters = re.sub(r"[\s-]", "", text).upper()
        hint = "it begins with SRK1 and has eight groups of seven letters and digits"
        if re.match(r"SRK[2-9]", letters):
            raise NewerFormat(f"recovery key of format {letters[3]}", hint="use a newer release of Staddle")
        if not letters.startswith("SRK1"):
            raise UsageError("this is not a recovery key", hint=hint)
        body = letters[4:].translate(str.maketrans("OIL", "011"))
        if len(body) != cls._TEXT_CHARS:
            raise UsageError(
                f"the recovery key has {len(body)} characters instead of 56 after SRK1", hint=hint
            )
        if wrong := sorted(set(body) - set(cls._ALPHABET)):
            raise UsageError(
                f"the recovery key holds {''.join(wrong)!r}, which never occurs in one", hint=hint
            )
        number = 0
        for letter in body:
            number = number << 5 | cls._ALPHABET.index(letter)
        raw = number.to_bytes(KEY_BYTES + 3, "big")
        if cls._check(raw[:KEY_BYTES]) != raw[KEY_BYTES:]:
            raise Denied(
                "the recovery key has a typing error", hint="compare it letter by letter with the print"
            )
        return cls(raw[:KEY_BYTES])

    @staticmethod
    def _check(key: bytes) -> bytes:
        return hashlib.sha256(b"staddle recovery key 1" + key).digest()[:3]
