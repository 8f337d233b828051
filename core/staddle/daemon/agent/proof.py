"""What an object's bytes prove: that they are those that were stored, and that a volume is ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from staddle.api.media import Deadline, Medium, Relabels, Volume
from staddle.api.types import Buffer, Kind, Label
from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.store import GET_BYTES, OBJECT_BYTES_MAX
from staddle.data import label as label_format
from staddle.data.container import ContainerReader
from staddle.data.crypto import digest
from staddle.data.sealed import open_object
from staddle.errors import Corrupt, NotFound, StaddleError
from staddle.wire.ops.admin import VerifyObject
from staddle.wire.ops.repair import ProveVolume, VolumeProved

log = logging.getLogger(__name__)

PROOFS_MAX = 3
"""Objects that are read to prove a volume, the smallest: one that is whole is proof, and some may be bad."""


def check_bytes(context: AgentContext, kind: Kind, item: VerifyObject, blob: Buffer) -> None:
    """Raise Corrupt if one byte of an object is not as it was stored."""
    if kind is Kind.CONTAINER:
        reader = ContainerReader(context.keys(item.domain), _getter(blob), len(blob), item.id)
        reader.verify()
        found = reader.content_digest
    else:
        found = digest([blob])
        if kind is not Kind.KEYRING:
            open_object(context.keys(item.domain), kind, item.id, blob)
    if found != item.digest:
        raise Corrupt("its bytes are not those that were stored")


def prove_volume(context: AgentContext, args: ProveVolume) -> VolumeProved:
    """See `ProveVolume`. Raises StaddleError where the medium does not tell what label it has."""
    medium, deadline = context.media.medium(args.medium), context.media.deadline
    label = label_format.decode(args.label)
    text, found = _label_there(medium, label, deadline(args.medium))
    if found not in {"damaged", "missing"}:
        return VolumeProved(found=found)
    assert isinstance(medium, Relabels)  # every wrapped one is
    try:
        volume = medium.open_unlabelled(label, deadline(args.medium))
    except StaddleError as error:
        return VolumeProved(found=found, problem=str(error))
    try:
        there = [item for item in args.objects if _is_there(volume, item, deadline(args.medium))]
        answer = VolumeProved(found=found, there=len(there))
        if not args.write or (found == "missing" and not there):
            return answer  # a place that may be empty: no label is what is wrong with it
        problem = _not_proved(context, volume, there, lambda: deadline(args.medium))
    finally:
        volume.close()
    if problem:
        return VolumeProved(found=found, there=len(there), problem=problem)
    medium.relabel(label, args.label, text, deadline(args.medium))
    context.media.forget(args.medium)
    log.warning("medium %s: its label was %s and is written again", args.medium, found)
    return VolumeProved(found=found, there=len(there), written=True)


def _label_there(medium: Medium, label: Label, deadline: Deadline) -> tuple[bytes, str]:
    """The label's text and what is to be said of it. A place that is gone raises."""
    try:
        text = medium.read_label(deadline)
    except NotFound as error:
        if error.scope == "medium":
            raise
        return b"", "missing"
    try:
        return text, "right" if label_format.decode(text) == label else "another"
    except Corrupt:  # one of a newer format raises: it is sound
        return text, "damaged"


def _is_there(volume: Volume, item: VerifyObject, deadline: Deadline) -> bool:
    try:
        return volume.stat(item.name, deadline).size_bytes == item.size_bytes
    except NotFound:
        return False


def _not_proved(
    context: AgentContext, volume: Volume, there: Sequence[VerifyObject], deadline: Callable[[], Deadline]
) -> str:
    """Why these objects prove nothing; empty if one of them is whole: no other place has its name."""
    said = "none of the objects that the log knows on it is there"
    readable = [item for item in there if item.size_bytes <= OBJECT_BYTES_MAX]
    for item in sorted(readable, key=lambda item: item.size_bytes)[:PROOFS_MAX]:
        try:
            data = bytearray()
            while len(data) < item.size_bytes:
                length = min(GET_BYTES, item.size_bytes - len(data))
                data += volume.get(item.name, len(data), length, deadline())
            check_bytes(context, Kind(item.kind), item, data)
        except StaddleError as error:
            said = f"none of its objects that were read is whole: {error.message}"
        else:
            return ""
    return said


def _getter(blob: Buffer) -> Callable[[int, int], bytes]:
    view = memoryview(blob)
    return lambda offset, length: bytes(view[offset : offset + length])
