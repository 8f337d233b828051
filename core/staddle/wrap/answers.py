"""What a driver says, checked: whatever comes out of it has the type, the size and the sense of the contract.

A plugin runs inside the process and is trusted with it; what it passes on from its backend is not. So every
answer and every error of a driver goes through here, and what makes no sense is the failure of that medium,
by name, never a wrong byte or the end of the agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from staddle.api.types import (
    NAME_MAX,
    Capability,
    Capacity,
    Durability,
    Health,
    Label,
    MediumState,
    ObjectInfo,
    Receipt,
    Surety,
)
from staddle.errors import OUTCOMES, RETRIES, SCOPES, Corrupt, MediumFailed, Outcome, StaddleError

SIZE_BYTES_MAX = (1 << 63) - 1
"""What the log and the catalog hold."""
LABEL_BYTES_MAX = 64 * 1024
TEXT_CHARS_MAX = 4096
CAPABILITIES_MAX = 256

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
# A driver speaks for the way to its own medium: not for its agent, and not for the grid.
_TOO_WIDE = frozenset({"agent", "cluster"})


def lies(medium: str, what: str, outcome: Outcome = "not_done") -> MediumFailed:
    """The error for an answer that makes no sense."""
    return MediumFailed(
        f"medium {medium}: {what}",
        code="DRIVER_ERROR",
        outcome=outcome,
        hint="report it to the plugin's author, or look at the backend",
    )


# --- errors -------------------------------------------------------------------------------------


def sound_error(medium: str, op: str, error: BaseException) -> StaddleError:
    """What a driver raised, as an error whose fields can be relied on.

    Anything that is not a StaddleError, SystemExit and its like too, is MediumFailed in doubt. One that says
    more than it may is cut: long texts, an unknown word, a scope beyond its own medium.
    """
    try:
        if isinstance(error, StaddleError) and _is_sound(error):
            error.message, error.hint = _cut(error.message), _cut(error.hint)
            if not error.message.strip():
                error.message = f"{op} on medium {medium} failed, and the driver does not say why"
            if error.scope in _TOO_WIDE:
                error.scope = "path"
            return error
    except BaseException:  # noqa: BLE001, S110 - properties of a foreign class may raise anything
        pass
    sound = MediumFailed(
        f"{op} on medium {medium}: the driver raised {_described(error)}",
        code="DRIVER_ERROR",
        outcome="in_doubt",
        hint="report it to the plugin's author",
    )
    sound.__cause__ = error
    return sound


def _is_sound(error: StaddleError) -> bool:
    texts = (error.message, error.hint, error.code, error.retry, error.scope, error.outcome)
    return (
        all(type(text) is str for text in texts)
        and type(error).__str__ is StaddleError.__str__
        and _CODE.fullmatch(error.code) is not None
        and error.retry in RETRIES
        and error.scope in SCOPES
        and error.outcome in OUTCOMES
        and type(error.exit_code) is int
        and 0 < error.exit_code < 256
    )


def _described(error: BaseException) -> str:
    try:
        return _cut(f"{type(error).__name__}: {error}")
    except BaseException:  # noqa: BLE001 - its own __str__ may raise anything
        return _cut(type(error).__name__)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…"


# --- answers ------------------------------------------------------------------------------------


def checked_bytes(medium: str, name: str, data: Any, length: int) -> bytes:
    """What `get` gave: bytes, as many as were asked for. Raises Corrupt for another number (M7)."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise lies(medium, f"get of {name} gave {_kind(data)}, no bytes")
    size = memoryview(data).nbytes
    if size != length:
        del data  # an error lives longer than its call, and its traceback has this frame
        raise Corrupt(f"{name} on medium {medium}: it gave {size} bytes instead of {length}")
    return data if type(data) is bytes else bytes(data)


def checked_info(medium: str, info: Any) -> ObjectInfo:
    """A name and a size that can be. Raises MediumFailed."""
    if type(info) is not ObjectInfo or type(info.name) is not str or len(info.name) > NAME_MAX:
        said = info.name[:NAME_MAX] if type(info) is ObjectInfo and type(info.name) is str else info
        raise lies(medium, f"it tells of {_kind(info) if said is info else repr(said)}, which is no object")
    if type(info.size_bytes) is not int or not 0 <= info.size_bytes <= SIZE_BYTES_MAX:
        raise lies(medium, f"it tells of {_number(info.size_bytes)} bytes of {info.name!r}")
    return info


def checked_receipt(
    medium: str, receipt: Any, *, name: str, size_bytes: int, digest: bytes, volume: bytes
) -> Receipt:
    """A receipt for these very bytes under this very name, on this volume. Raises MediumFailed, in doubt."""
    if type(receipt) is not Receipt:
        raise lies(medium, f"put of {name} gave {_kind(receipt)}, no receipt", "in_doubt")
    said = (receipt.name, receipt.size_bytes, receipt.digest, receipt.volume)
    if said != (name, size_bytes, digest, volume) or type(receipt.durability) is not Durability:
        raise lies(medium, f"put of {name} gave a receipt for something else", "in_doubt")
    return receipt


def checked_text(medium: str, text: Any) -> bytes:
    """What `read_label` gave. Raises MediumFailed."""
    if not isinstance(text, bytes | bytearray | memoryview):
        raise lies(medium, f"read_label gave {_kind(text)}, no bytes")
    size = memoryview(text).nbytes
    if size > LABEL_BYTES_MAX:
        raise MediumFailed(
            f"medium {medium} gives {size} bytes as its label",
            code="WRONG_LABEL",
            hint="mount or insert the right volume; nothing was written to this one",
        )
    return bytes(text)


def checked_volume(medium: str, volume: Any, label: Label) -> Label:
    """The label of what `open` gave: the one that was asked for. Raises MediumFailed."""
    found = getattr(volume, "label", None)
    if type(found) is not Label or (found.grid, found.volume) != (label.grid, label.volume):
        raise MediumFailed(
            f"medium {medium} has opened another volume than {label.volume.hex()}",
            code="WRONG_LABEL",
            hint="mount or insert the right volume; nothing was written to this one",
        )
    return label


def checked_capacity(medium: str, capacity: Any) -> Capacity:
    """Room that can be. Raises MediumFailed."""
    if type(capacity) is not Capacity:
        raise lies(medium, f"capacity gave {_kind(capacity)}")
    counts = (capacity.total_bytes, capacity.free_bytes)
    if any(type(count) is not int or not 0 <= count <= SIZE_BYTES_MAX for count in counts):
        raise lies(medium, f"it tells of {_number(counts[1])} free bytes of {_number(counts[0])}")
    return Capacity(capacity.total_bytes, capacity.free_bytes, bool(capacity.low))


def checked_health(medium: str, health: Any) -> Health:
    """A state and what is said of it. Raises MediumFailed."""
    if type(health) is not Health or type(health.state) is not MediumState or type(health.message) is not str:
        raise lies(medium, f"health gave {_kind(health)}")
    return Health(health.state, _cut(health.message))


def checked_capabilities(medium: str, found: Any) -> Sequence[Capability]:
    """What `probe` found. Raises MediumFailed."""
    if not isinstance(found, Iterable):
        raise lies(medium, f"probe gave {_kind(found)}")
    known = list(islice(found, CAPABILITIES_MAX + 1))
    if len(known) > CAPABILITIES_MAX or not all(
        type(each) is Capability
        and type(each.name) is type(each.source) is str
        and type(each.surety) is Surety
        and type(each.holds) is bool
        for each in known
    ):
        raise lies(medium, "probe gave what are no capabilities")
    return known


def checked_page(
    medium: str, page: Iterable[Any], after: str, prefix: str, limit: int
) -> Iterator[ObjectInfo]:
    """At most `limit` objects of a listing, in order: without one it need not come to an end (M6).

    Raises MediumFailed at the first that is none, or that does not belong there.
    """
    for each in islice(page, limit):
        info = checked_info(medium, each)
        if info.name <= after or not info.name.startswith(prefix):
            raise lies(medium, f"it lists {info.name!r} behind {after!r} under {prefix!r}")
        after = info.name
        yield info


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"[:NAME_MAX]


def _number(value: Any) -> str:
    """For a message: the decimal digits of a huge number would take for ever."""
    if type(value) is not int:
        return _kind(value)
    return str(value) if abs(value) < 1 << 128 else f"about 2^{value.bit_length()}"
