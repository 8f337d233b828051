"""Containers: sealed, immutable, self-describing objects of packed chunks (docs/format.md, "Container").

    head (1024, text) | sealed chunk 0 | sealed chunk 1 | … | sealed directory | footer (80)

Each container has its own random key, so the nonce of a chunk is its ordinal and can never repeat: data that
is packed anew takes a new container id and a new key. The same sealed bytes may be stored any number of
times.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
import zstandard
from blake3 import blake3
from numpy.typing import NDArray

from staddle.api.types import Buffer, Kind
from staddle.data.crypto import (
    NONCE_BYTES,
    TAG_BYTES,
    Aead,
    DomainKeys,
    best_suite,
)
from staddle.data.envelope import (
    FOOTER_BYTES,
    HEAD_BYTES,
    Footer,
    decode_footer,
    domain_head,
    open_domain_head,
)
from staddle.data.plain import FINGERPRINT_BYTES
from staddle.errors import Corrupt

VERSION = 1
CAPACITY_BYTES = 32 << 20
"""Default size of a full container."""
CHUNK_BYTES_MAX = 16 << 20
"""Longest raw chunk that a reader accepts; checked before memory is taken."""
CHUNKS_MAX = 1 << 21
"""Most chunks in one container."""
SEALED_PART_NONCE = b"\xff" * NONCE_BYTES
"""Nonce of the directory (and of the body of other kinds); chunks use their ordinal, big-endian."""

FLAG_ZSTD = 1
"""Directory flag: the chunk is one zstd frame (RFC 8878); without it the raw bytes are stored."""

_ROW_BYTES = FINGERPRINT_BYTES + 8 + 4 + 4 + 1
_GET_BYTES = 8 << 20
_TAIL_BYTES = 256 << 10
_GAP_BYTES = 128 << 10

Get = Callable[[int, int], bytes]
"""`get(offset, length)`: exactly that range of the object."""


class SealedContainer(msgspec.Struct, frozen=True, kw_only=True):
    """A finished container, ready for `Volume.put`. `parts` view the builder's buffer.

    Attributes:
        container_id: 16 bytes.
        parts: the bytes to store, in order.
        size_bytes: their sum.
        digest: unkeyed BLAKE3-256 of all of them.
        content_digest: the digest in the footer, of everything before it: what the log keeps, since it can be
            read back without reading the whole container.
        fingerprints: (n, 32) u8, by ordinal.
        raw_lengths: (n,) u32.
        stored_lengths: (n,) u32, tag included.
    """

    container_id: bytes
    parts: list[memoryview]
    size_bytes: int
    digest: bytes
    content_digest: bytes
    fingerprints: NDArray[np.uint8]
    raw_lengths: NDArray[np.uint32]
    stored_lengths: NDArray[np.uint32]


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """What a container holds, by ordinal: columns of equal length.

    `fingerprints` (n, 32) u8; `offsets` u64 from the object's first byte; `stored_lengths` u32 with the tag;
    `raw_lengths` u32; `flags` u8.
    """

    fingerprints: NDArray[np.uint8]
    offsets: NDArray[np.uint64]
    stored_lengths: NDArray[np.uint32]
    raw_lengths: NDArray[np.uint32]
    flags: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets)


class ContainerBuilder:
    """Packs chunks into one buffer. Used by one thread at a time."""

    def __init__(  # noqa: PLR0917 - each is told apart by its type, and the pipeline is the one caller
        self,
        keys: DomainKeys,
        container_id: bytes,
        key: bytes,
        wrap_nonce: bytes,
        capacity_bytes: int = CAPACITY_BYTES,
        buffer: bytearray | None = None,
        suite: int | None = None,
    ) -> None:
        """Begin a container.

        Args:
            keys: of the domain.
            container_id: 16 bytes, UUIDv7, never used before.
            key: 32 fresh random bytes, for this container alone.
            wrap_nonce: 12 fresh random bytes.
            capacity_bytes: never exceeded by the finished container.
            buffer: of at least `capacity_bytes`, from a pool; it is in use until the parts are stored.
            suite: of SUITES; by default the faster one here.
        """
        self.container_id = container_id
        self.raw_bytes = 0
        self.stored_bytes = 0
        self._capacity_bytes = capacity_bytes
        self._view = memoryview(bytearray(capacity_bytes) if buffer is None else buffer)
        if len(self._view) < capacity_bytes:
            raise ValueError("the buffer is smaller than the container")
        suite = suite or best_suite()
        self._aead = Aead(suite, key)
        self._head = domain_head(
            Kind.CONTAINER, VERSION, container_id, keys, key=key, wrap_nonce=wrap_nonce, suite=suite
        )
        self._view[:HEAD_BYTES] = self._head
        self._at = HEAD_BYTES
        self._fingerprints: list[bytes] = []
        self._offsets: list[int] = []
        self._stored: list[int] = []
        self._raw: list[int] = []
        self._flags = bytearray()

    @property
    def count(self) -> int:
        """Chunks added so far."""
        return len(self._raw)

    def fits(self, raw_length: int) -> bool:
        """Whether a chunk of that length surely fits, even if it cannot be compressed."""
        worst = raw_length + TAG_BYTES + (self.count + 1) * _ROW_BYTES + TAG_BYTES + FOOTER_BYTES
        return self._at + worst <= self._capacity_bytes and self.count < CHUNKS_MAX

    def add(self, fingerprint: bytes, raw: Buffer, compressor: zstandard.ZstdCompressor) -> int:
        """Compress and seal one chunk behind the others; returns its ordinal.

        `compressor` writes the content size into its frames (the library's default).
        """
        return self.add_packed(fingerprint, pack(raw, compressor), len(raw))

    def add_packed(self, fingerprint: bytes, body: Buffer, raw_length: int) -> int:
        """Seal one chunk that `pack` has compressed, in another thread perhaps; returns its ordinal.

        `body` shorter than `raw_length` is a zstd frame, else it is the raw bytes.
        """
        if not 0 < raw_length <= CHUNK_BYTES_MAX or len(fingerprint) != FINGERPRINT_BYTES:
            raise ValueError("a chunk has 1 byte to 16 MiB and a 32-byte fingerprint")
        if len(body) > raw_length or not self.fits(len(body)):
            raise ValueError("the chunk does not fit: ask fits() first")
        compressed = len(body) < raw_length
        ordinal, start = self.count, self._at
        end = start + len(body) + TAG_BYTES
        self._aead.encrypt_into(
            ordinal.to_bytes(NONCE_BYTES, "big"), body, fingerprint + self.container_id, self._view[start:end]
        )
        self._at = end
        self._fingerprints.append(fingerprint)
        self._offsets.append(start)
        self._stored.append(end - start)
        self._raw.append(raw_length)
        self._flags.append(FLAG_ZSTD if compressed else 0)
        self.raw_bytes += raw_length
        self.stored_bytes += end - start
        return ordinal

    def finish(self) -> SealedContainer:
        """Seal the directory, write the footer. The builder is used up."""
        fingerprints = b"".join(self._fingerprints)
        stored, raw = np.array(self._stored, "<u4"), np.array(self._raw, "<u4")
        plain = b"".join(
            (
                fingerprints,
                np.array(self._offsets, "<u8").tobytes(),
                stored.tobytes(),
                raw.tobytes(),
                self._flags,
            )
        )
        start, end = self._at, self._at + len(plain) + TAG_BYTES
        footer = Footer(
            version=VERSION,
            chunks=self.count,
            sealed_offset=start,
            sealed_bytes=end - start,
            plain_bytes=self.raw_bytes,
        )
        self._aead.encrypt_into(SEALED_PART_NONCE, plain, self._head + footer.bound(), self._view[start:end])
        hasher = blake3(self._view[:end])
        content_digest = hasher.digest()
        tail = msgspec.structs.replace(footer, digest=content_digest).encode()
        size_bytes = end + FOOTER_BYTES
        self._view[end:size_bytes] = tail
        return SealedContainer(
            container_id=self.container_id,
            parts=[self._view[:size_bytes]],
            size_bytes=size_bytes,
            digest=hasher.update(tail).digest(),
            content_digest=content_digest,
            fingerprints=np.frombuffer(fingerprints, np.uint8).reshape(-1, FINGERPRINT_BYTES),
            raw_lengths=raw,
            stored_lengths=stored,
        )


class ContainerReader:
    """Reads chunks of one container through `get`. Used by one thread at a time.

    Whatever it returns is authenticated, and has the length and the fingerprint that the directory says.
    Errors of `get` pass through; Corrupt, NewerFormat and Denied are its own.
    """

    def __init__(self, keys: DomainKeys, get: Get, size_bytes: int, container_id: bytes) -> None:
        """Read footer, head and directory: two gets, three if the directory is longer than 256 KiB.

        Args:
            keys: of the domain.
            get: reads a range.
            size_bytes: of the whole object.
            container_id: the one that is expected there.
        """
        self._keys = keys
        self._get = get
        self._size_bytes = size_bytes
        self._id = container_id
        self._what = f"container {container_id.hex()}"
        self._unzstd = zstandard.ZstdDecompressor()
        self._footer, self._aead, self._head, plain = self._open()
        self.directory = self._parse(plain)

    @property
    def content_digest(self) -> bytes:
        """What the footer says of everything before it; `verify` shows whether it is true."""
        return self._footer.digest

    def read(self, ordinals: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """(ordinal, raw bytes) in the order asked for; ascending neighbours share a get of at most 8 MiB."""
        offsets, stored = self.directory.offsets.tolist(), self.directory.stored_lengths.tolist()
        ordinals = [int(each) for each in ordinals]  # numbers of numpy come as well
        if any(not 0 <= ordinal < len(offsets) for ordinal in ordinals):
            raise Corrupt(
                f"{self._what} has {len(offsets)} chunks: {max(ordinals, default=0)} is not among them"
            )
        at = 0
        while at < len(ordinals):
            start = end = offsets[ordinals[at]]
            first = at
            while at < len(ordinals):
                begin = offsets[ordinals[at]]
                stop = begin + stored[ordinals[at]]
                if at > first and (begin < end or begin - end > _GAP_BYTES or stop - start > _GET_BYTES):
                    break
                end, at = stop, at + 1
            view = memoryview(self._fetch(start, end - start))
            for ordinal in ordinals[first:at]:
                begin = offsets[ordinal] - start
                yield ordinal, self._chunk(ordinal, view[begin : begin + stored[ordinal]])

    def verify(self) -> None:
        """Read every byte: the digest and each chunk. Raises Corrupt naming the first place that is wrong."""
        hasher = blake3(self._head)
        ends = (self.directory.offsets + self.directory.stored_lengths).tolist()
        offsets = self.directory.offsets.tolist()
        at, ordinal = HEAD_BYTES, 0
        while ordinal < len(ends):
            first = ordinal
            while ordinal < len(ends) and (ordinal == first or ends[ordinal] - at <= _GET_BYTES):
                ordinal += 1
            view = memoryview(self._fetch(at, ends[ordinal - 1] - at))
            hasher.update(view)
            for each in range(first, ordinal):
                self._chunk(each, view[offsets[each] - at : ends[each] - at])
            at = ends[ordinal - 1]
        hasher.update(self._fetch(at, self._size_bytes - FOOTER_BYTES - at))
        if hasher.digest() != self._footer.digest:
            raise Corrupt(f"{self._what}: the digest over all bytes is wrong")

    def _fetch(self, offset: int, length: int) -> bytes:
        data = self._get(offset, length)
        if len(data) != length:
            raise Corrupt(f"{self._what}: {len(data)} of {length} bytes at {offset}")
        return data

    def _open(self) -> tuple[Footer, Aead, bytes, bytes]:
        """Footer, sealer, head and the plain directory."""
        if self._size_bytes < HEAD_BYTES + TAG_BYTES + FOOTER_BYTES:
            raise Corrupt(f"{self._what}: cut off at {self._size_bytes} bytes")
        tail_at = max(0, self._size_bytes - _TAIL_BYTES)
        tail = self._fetch(tail_at, self._size_bytes - tail_at)
        footer = decode_footer(tail[-FOOTER_BYTES:], self._size_bytes, self._what, VERSION)
        if footer.chunks > CHUNKS_MAX or footer.sealed_bytes != footer.chunks * _ROW_BYTES + TAG_BYTES:
            raise Corrupt(f"{self._what}: the footer's counts contradict each other")
        head = tail[:HEAD_BYTES] if tail_at == 0 else self._fetch(0, HEAD_BYTES)
        cipher = open_domain_head(head, Kind.CONTAINER, self._id, self._keys, what=self._what, newest=VERSION)
        start = footer.sealed_offset
        sealed = (
            tail[start - tail_at : -FOOTER_BYTES]
            if start >= tail_at
            else self._fetch(start, footer.sealed_bytes)
        )
        try:
            return footer, cipher, head, cipher.decrypt(SEALED_PART_NONCE, sealed, head + footer.bound())
        except Corrupt as error:
            raise Corrupt(f"{self._what}, directory at byte {start}: {error.message}") from None

    def _parse(self, plain: bytes) -> Directory:
        count = self._footer.chunks
        stops = np.cumsum([0, FINGERPRINT_BYTES * count, 8 * count, 4 * count, 4 * count, count])
        columns = [memoryview(plain)[a:b] for a, b in itertools.pairwise(stops.tolist())]
        directory = Directory(
            fingerprints=np.frombuffer(columns[0], np.uint8).reshape(-1, FINGERPRINT_BYTES),
            offsets=np.frombuffer(columns[1], "<u8"),
            stored_lengths=np.frombuffer(columns[2], "<u4"),
            raw_lengths=np.frombuffer(columns[3], "<u4"),
            flags=np.frombuffer(columns[4], np.uint8),
        )
        # authenticated, but a faulty writer must not make a reader take memory or wander off either
        limit = np.uint64(self._footer.sealed_offset)
        ends = directory.offsets + directory.stored_lengths
        starts = np.concatenate((np.array([HEAD_BYTES], np.uint64), ends[:-1]))
        if count and (
            bool((directory.offsets > limit).any())
            or bool((directory.offsets < starts).any())
            or bool((ends > limit).any())
            or int(directory.raw_lengths.max()) > CHUNK_BYTES_MAX
            or bool((directory.stored_lengths < TAG_BYTES).any())
            or int(directory.flags.max()) > FLAG_ZSTD
        ):
            raise Corrupt(f"{self._what}: the directory contradicts itself")
        return directory

    def _chunk(self, ordinal: int, sealed: memoryview) -> bytes:
        """Open, unpack and check one chunk."""
        directory = self.directory
        fingerprint = directory.fingerprints[ordinal].tobytes()
        raw_length = int(directory.raw_lengths[ordinal])
        try:
            data = self._aead.decrypt(ordinal.to_bytes(NONCE_BYTES, "big"), sealed, fingerprint + self._id)
            if directory.flags[ordinal] & FLAG_ZSTD:
                data = unpack(data, raw_length, self._unzstd)
        except Corrupt as error:
            place = int(directory.offsets[ordinal])
            raise Corrupt(f"{self._what}, chunk {ordinal} at byte {place}: {error.message}") from None
        if len(data) != raw_length or self._keys.fingerprint(data) != fingerprint:
            raise Corrupt(f"{self._what}, chunk {ordinal}: it is not the data that its fingerprint names")
        return data


def read_directory(keys: DomainKeys, get: Get, size_bytes: int, container_id: bytes) -> Directory:
    """The directory alone, for rebuilding the fingerprint library. Raises as ContainerReader does."""
    return ContainerReader(keys, get, size_bytes, container_id).directory


def pack(raw: Buffer, compressor: zstandard.ZstdCompressor) -> Buffer:
    """One zstd frame of `raw`, or `raw` itself where that is not shorter."""
    packed: bytes = compressor.compress(raw)
    return packed if len(packed) < len(raw) else raw


def unpack(data: bytes, raw_length: int, decompressor: zstandard.ZstdDecompressor) -> bytes:
    """One zstd frame of exactly `raw_length` bytes; what it claims is checked before memory is taken.

    Raises: Corrupt.
    """
    try:
        claimed = zstandard.get_frame_parameters(data).content_size
        if claimed != raw_length:
            raise Corrupt(f"unpacks to {claimed} bytes instead of {raw_length}")
        return decompressor.decompress(data, max_output_size=raw_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"cannot be unpacked: {error}") from None
