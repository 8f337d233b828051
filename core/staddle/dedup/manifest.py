r"""The library's manifest, file `CURRENT`: the one commit point. What it does not name does not exist.

Layout: head as in `heads` ("staddle fingerprint library\n", length of the body), BLAKE3 of the body
(16 bytes), body (msgpack). Written beside, synced and renamed, so it is the old one or the new one.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
from blake3 import blake3

from staddle import typed
from staddle.dedup.heads import HEAD_BYTES, pack_head, read_head
from staddle.dedup.rows import CONTAINER_ID_BYTES, PARTITIONS
from staddle.dedup.runs import RunRef
from staddle.engine.bounds import Number
from staddle.errors import Corrupt
from staddle.platform.durable import Files, write_file_durable
from staddle.platform.readfault import is_read_fault

MANIFEST_NAME = "CURRENT"
MANIFEST_VERSION = 1
_TEXT = b"staddle fingerprint library\n"
_BODY_AT = HEAD_BYTES + 16


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """State as of the last merge; the logs from `log_floor` on come on top.

    Attributes:
        applied_lsn: everything published up to it is in the run.
        log_floor: generation of the first log that counts.
        containers: 16-byte ids by container index, concatenated; zeros mark a free index.
        run: the sorted rows, if any.
        incomplete: partitions that lost rows: a miss there is `unknown`.
    """

    applied_lsn: Number
    log_floor: Number
    containers: bytes
    run: RunRef | None
    incomplete: tuple[Annotated[int, msgspec.Meta(ge=0, lt=PARTITIONS)], ...]


def save_manifest(directory: str, manifest: Manifest, files: Files) -> None:
    """Make `manifest` the current one; durable on return. Raises OSError: either may be current."""
    body = msgspec.msgpack.encode(manifest)
    head = pack_head(_TEXT, MANIFEST_VERSION, len(body))
    digest = blake3(body).digest(length=16)
    write_file_durable(os.path.join(directory, MANIFEST_NAME), [head + digest, body], files)


def load_manifest(directory: str) -> Manifest | None:
    """Read the current manifest; None if there is none.

    Raises:
        Corrupt: it is damaged, or on a block that can't be read.
        NewerFormat: a newer release wrote it.
        OSError: it can't be opened now.
    """
    path = os.path.join(directory, MANIFEST_NAME)
    hint = "the partitions answer unknown until they are rebuilt from the containers"
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        if is_read_fault(error):
            raise Corrupt(f"{path}: {error.strerror or error}", hint=hint) from error
        raise
    head = read_head(data, _TEXT, MANIFEST_VERSION, path)
    if head is None:
        raise Corrupt(f"{path}: not the manifest of a fingerprint library, or damaged", hint=hint)
    body = data[_BODY_AT:]
    if len(body) != head[0] or blake3(body).digest(length=16) != data[HEAD_BYTES:_BODY_AT]:
        raise Corrupt(f"{path}: damaged", hint=hint)
    try:
        found = typed.unpack(body, Manifest)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{path}: {error}", hint=hint) from error
    if len(found.containers) % CONTAINER_ID_BYTES:
        raise Corrupt(f"{path}: half a container id", hint=hint)
    return found
