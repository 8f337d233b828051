"""The highest manager epoch that an agent has followed, on its disk (K3): `EPOCH CHECK`, one line.

The check is the CRC-32 of the decimal epoch: a damaged number must not pass for a lower one, or a manager
that was replaced would be followed again. Files of the first releases have no check.
"""

from __future__ import annotations

import os
import re
import zlib

from staddle.errors import Corrupt
from staddle.platform.durable import fsync_dir, write_file_durable

_LINE = re.compile(rb"([0-9]{1,20})(?: ([0-9a-f]{8}))?\n")
_READ_BYTES = 64


def load_epoch(path: str) -> int:
    """The stored epoch; 0 if there is no file. Raises Corrupt, OSError."""
    try:
        with open(path, "rb") as handle:
            line = handle.read(_READ_BYTES)
    except FileNotFoundError:
        return 0
    match = _LINE.fullmatch(line)
    if match is None or (match[2] is not None and match[2] != _check(match[1])):
        raise Corrupt(
            f"{path} is damaged: which manager this agent has followed can't be told",
            hint="see that no earlier manager of this grid runs, remove the file, start the agent again",
            scope="agent",
            retry="operator",
        )
    fsync_dir(os.path.dirname(path))  # whoever stored it may have died before its sync, and it is obeyed now
    return int(match[1])


def store_epoch(path: str, epoch: int) -> None:
    """Replace it, durably. Raises OSError."""
    text = b"%d" % epoch
    write_file_durable(path, text + b" " + _check(text) + b"\n")


def _check(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
