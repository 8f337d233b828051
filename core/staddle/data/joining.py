"""One whole object out of several copies that are damaged in different places.

Head and footer carry checksums, each chunk of a container is authenticated alone: of these the first copy
that is right is taken. The body of other kinds is sealed in one piece, so there what differs is tried out.
The outcome has the digest that was logged when the object was stored, or there is none.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from staddle.api.types import Buffer, Kind
from staddle.data.container import VERSION, ContainerReader
from staddle.data.crypto import DomainKeys
from staddle.data.envelope import FOOTER_BYTES, HEAD_BYTES, decode_footer, decode_head
from staddle.data.sealed import logged_digest, open_object
from staddle.errors import Corrupt

_BLOCK_BYTES = 512
"""Damage is looked at in sectors."""
_GAP_BLOCKS = 8
"""Damaged sectors that are so near to each other are taken for one place."""
_TRIED_BYTES_MAX = 1 << 30
_TRIES_MAX = 1024

_Range = tuple[int, int]
T = TypeVar("T")


def join_copies(
    keys: DomainKeys, kind: Kind, object_id: bytes, copies: Sequence[Buffer], logged: bytes
) -> bytearray:
    """The object as it was stored.

    Args:
        keys: of its domain.
        kind: CONTAINER, MANIFEST, SEAL or JOURNAL.
        object_id: its id.
        copies: as they were read, all of the size that was stored: zeros stand for what can't be read.
        logged: its digest as the log has it.

    Raises:
        Corrupt: some place is damaged in all of them, or (but for containers) too many places are.
        Denied, NewerFormat: see `open_object`.
    """
    size = len(copies[0])
    what = f"{kind.name.lower()} {object_id.hex()}"
    if size < HEAD_BYTES + FOOTER_BYTES:
        raise Corrupt(f"{what}: {size} bytes are too few to be joined")
    whole = bytearray(copies[0])
    head, footer = (0, HEAD_BYTES), (size - FOOTER_BYTES, size)
    _take(whole, copies, head, lambda: decode_head(bytes(whole[:HEAD_BYTES]), kind, what, VERSION))
    _take(whole, copies, footer, lambda: decode_footer(bytes(whole[-FOOTER_BYTES:]), size, what, VERSION))
    if kind is Kind.CONTAINER:
        _join_container(keys, object_id, whole, copies)
    else:
        _try_body(kind, whole, copies, logged, what)
        open_object(keys, kind, object_id, whole)
    if logged_digest(kind, whole) != logged:
        raise Corrupt(f"{what}: joined from {len(copies)} copies it is not what was stored")
    return whole


def _take(whole: bytearray, copies: Sequence[Buffer], place: _Range, check: Callable[[], T]) -> T:
    """The first copy's bytes of a place that pass the check; its answer. Raises what the last one said."""
    start, end = place
    last = Corrupt("no copy of it was given")
    for copy in copies:
        whole[start:end] = memoryview(copy)[start:end]
        try:
            return check()
        except Corrupt as error:
            last = error
    raise last


def _join_container(keys: DomainKeys, object_id: bytes, whole: bytearray, copies: Sequence[Buffer]) -> None:
    size = len(whole)
    footer = decode_footer(bytes(whole[-FOOTER_BYTES:]), size, "container", VERSION)

    def get(offset: int, length: int) -> bytes:
        return bytes(memoryview(whole)[offset : offset + length])

    def opened() -> ContainerReader:
        return ContainerReader(keys, get, size, object_id)

    reader = _take(whole, copies, (footer.sealed_offset, size - FOOTER_BYTES), opened)
    offsets = reader.directory.offsets.tolist()
    lengths = reader.directory.stored_lengths.tolist()
    for ordinal, start in enumerate(offsets):
        place = start, start + lengths[ordinal]
        _take(whole, copies, place, functools.partial(_read, reader, ordinal))
    reader.verify()


def _read(reader: ContainerReader, ordinal: int) -> None:
    for _ in reader.read([ordinal]):
        pass


def _try_body(kind: Kind, whole: bytearray, copies: Sequence[Buffer], logged: bytes, what: str) -> None:
    """Every choice of copies for the places where they differ, until the digest is right."""
    places = list(_differing(copies, HEAD_BYTES, len(whole) - FOOTER_BYTES))
    choices = [list(dict.fromkeys(bytes(memoryview(copy)[a:b]) for copy in copies)) for a, b in places]
    tries = 1
    for each in choices:
        tries *= len(each)
        if tries > _TRIES_MAX or tries * len(whole) > _TRIED_BYTES_MAX:
            raise Corrupt(f"{what}: its copies are damaged in {len(places)} places, too many to be tried out")
    for chosen in itertools.product(*choices):
        for (start, end), piece in zip(places, chosen, strict=True):
            whole[start:end] = piece
        if logged_digest(kind, whole) == logged:
            return
    raise Corrupt(f"{what}: some part of it is damaged in every copy")


def _differing(copies: Sequence[Buffer], begin: int, end: int) -> Iterator[_Range]:
    """Where copies differ, as ranges in order; near ones are one."""
    start = stop = -1
    first, others = memoryview(copies[0]), [memoryview(copy) for copy in copies[1:]]
    for at in range(begin, end, _BLOCK_BYTES):
        upto = min(at + _BLOCK_BYTES, end)
        if all(first[at:upto] == other[at:upto] for other in others):
            continue
        if start >= 0 and at - stop > _GAP_BLOCKS * _BLOCK_BYTES:
            yield start, stop
            start = -1
        start, stop = (at if start < 0 else start), upto
    if start >= 0:
        yield start, stop
