"""The label: plain text at the beginning of each volume, for people first and for Staddle second (M10).

At most 4096 bytes. Whoever finds the medium in thirty years reads here what it is and how to get the data
out. `key: value` lines follow, then a checksum line over all before it. A device may fill up behind it with
NUL, newlines or blanks.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from staddle.api.types import Buffer, Label
from staddle.data import container, keyring, manifest, seal
from staddle.data.plain import check_version
from staddle.errors import Corrupt

VERSION = 1
LABEL_BYTES_MAX = 4096
MEDIUM_NAME_BYTES_MAX = 256

_TEXT = """\
STADDLE VOLUME {version}

This volume belongs to a backup grid made with Staddle. It was labelled on {date}.
Please do not change, rename or delete anything on it.

To get the data out you need the grid's recovery key (SRK1-..., 56 letters and digits, printed when the
grid was made), and the other volumes of the grid if backups are spread over several. Install Staddle and
read "Recovery" in its documentation; or, without it, run the Python program staddle_rescue.py on the
volumes and the key; or write another program: format.md describes every byte. Both files come with each
release of Staddle (contrib/rescue, docs/format.md).

Objects are named KIND/XX/IDPPPPPPPPPPPPPPPP, all in hex. KIND is c0 for a container (packed data), f0 for a
manifest (files and their chunks), 5e for a seal (end of a backup), 4e for a keyring (all keys, sealed by the
recovery key), e0 for a journal entry (such as what was pruned); ID has 32 digits, XX are the last two of
them, and P are 16 digits of this placement. Each object begins with 1024 bytes of text that say what it is.
The way to a file: recovery key, keyring, seal, last manifest of each stream, the manifests before it,
containers.

--- for machines ---
grid: {grid}
medium: {medium}
volume: {volume}
created-ns: {created_ns}
manager-epoch: {manager_epoch}
formats: container {container} manifest {manifest} seal {seal} keyring {keyring}
"""
_CHECK = re.compile(rb"check: ([0-9a-f]{64})\n[\0\n ]*\Z")
_FIRST_LINE = re.compile(r"STADDLE VOLUME ([1-9][0-9]{0,8})\n")


def encode(label: Label) -> bytes:
    """The label's text, checksum line included. Raises ValueError for a medium name that fits no line."""
    name = label.medium.encode()
    if not name or len(name) > MEDIUM_NAME_BYTES_MAX or not label.medium.isprintable():
        raise ValueError(f"medium name {label.medium!r}: 1-{MEDIUM_NAME_BYTES_MAX} printable bytes")
    text = _TEXT.format(
        version=label.version,
        date=datetime.fromtimestamp(label.created_ns // 10**9, UTC).isoformat(),
        grid=label.grid.hex(),
        medium=label.medium,
        volume=label.volume.hex(),
        created_ns=label.created_ns,
        manager_epoch=label.manager_epoch,
        container=container.VERSION,
        manifest=manifest.VERSION,
        seal=seal.VERSION,
        keyring=keyring.VERSION,
    ).encode()
    data = text + b"check: " + hashlib.sha256(text).hexdigest().encode() + b"\n"
    assert len(data) <= LABEL_BYTES_MAX
    return data


def decode(data: Buffer) -> Label:
    """Read a label, padding allowed. Raises Corrupt, NewerFormat."""
    raw = bytes(memoryview(data)[:LABEL_BYTES_MAX])
    at = raw.rfind(b"\ncheck: ") + 1
    check = _CHECK.match(raw, at) if at else None
    if check is None or hashlib.sha256(raw[:at]).hexdigest().encode() != check[1]:
        raise Corrupt("volume label: damaged, or no label of Staddle's", hint="see what lies on the volume")
    text = raw[:at].decode(errors="replace")
    first = _FIRST_LINE.match(text)
    if first is None:
        raise Corrupt("volume label: it does not begin with STADDLE VOLUME")
    check_version("volume label", int(first[1]), VERSION)
    _, _, lines = text.partition("\n--- for machines ---\n")
    fields = dict(line.split(": ", 1) for line in lines.splitlines() if ": " in line)
    try:
        label = Label(
            grid=bytes.fromhex(fields["grid"]),
            medium=fields["medium"],
            volume=bytes.fromhex(fields["volume"]),
            created_ns=int(fields["created-ns"]),
            manager_epoch=int(fields["manager-epoch"]),
            version=int(first[1]),
        )
    except (KeyError, ValueError):
        raise Corrupt("volume label: a field is missing") from None
    if len(label.grid) != 16 or len(label.volume) != 16:
        raise Corrupt("volume label: an id has not 16 bytes")
    return label
