"""The 64-byte head that each file of the library begins with.

    32 bytes   plain text: what the file is, ending in a line feed, padded with zeros
    u32        version
    u64, u64   two numbers, whose meaning is the file's own
    8 bytes    zeros
    u32        CRC-32 of the 60 bytes before

All little-endian, in every version: so a newer file is told from a damaged one.
"""

from __future__ import annotations

import struct
import zlib

from staddle.errors import NewerFormat

HEAD_BYTES = 64
_HEAD = struct.Struct("<32sIQQ8x")
_CRC = struct.Struct("<I")


def pack_head(text: bytes, version: int, first: int = 0, second: int = 0) -> bytes:
    """Make a head."""
    body = _HEAD.pack(text, version, first, second)
    return body + _CRC.pack(zlib.crc32(body))


def read_head(data: bytes, text: bytes, version_max: int, path: str) -> tuple[int, int] | None:
    """Read the head at the start of `data`: its two numbers, or None if it is damaged or another file's.

    Raises:
        NewerFormat: the head is whole and its version above `version_max`.
    """
    body, crc = data[: _HEAD.size], data[_HEAD.size : HEAD_BYTES]
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(body):
        return None
    found, version, first, second = _HEAD.unpack(body)
    if found.rstrip(b"\0") != text:
        return None
    if version > version_max:
        raise NewerFormat(
            f"{path}: written as version {version}, this release reads up to {version_max}",
            hint="run the release that wrote it, or a newer one",
        )
    return first, second
