"""Pages of what lies on a medium, as an agent tells them, checked: a listing has an order, and so an end."""

from __future__ import annotations

from collections.abc import Iterable

from staddle.api.types import NAME_MAX, Kind
from staddle.daemon.manager.presence import Presence
from staddle.errors import ProtocolError
from staddle.wire.ops.data import SCAN_MEDIUM, ScanMedium, Scanned, ScannedObject

NAMES_PER_ROUND = 1_000_000
"""Beyond what the log knows on a medium; one that lists more names is taken for one that makes them up."""
DOOMED_MAX = 100_000
"""Orphans of one medium that are removed in one round: each stands in the log."""
_COUNT_MAX = 2**63 - 1


async def listed(presence: Presence, request: ScanMedium, timeout_s: float) -> list[ScannedObject]:
    """The next page. Raises StaddleError; ProtocolError if no agent's answer makes sense."""

    def accept(answer: Scanned) -> None:
        check_page(answer.objects, request)

    answer = await presence.call(
        SCAN_MEDIUM, request, medium=request.medium, timeout_s=timeout_s, accept=accept
    )
    return answer.objects


def check_page(objects: Iterable[ScannedObject], request: ScanMedium) -> None:
    """Names in order behind `after`, of the kind and no more than were asked for; counts that can be.

    Raises ProtocolError.
    """
    after, prefix, left = request.after, f"{Kind(request.kind).value}/", request.limit
    for each in objects:
        counts = (each.size_bytes, each.raw_bytes, each.chunks)
        sound = left > 0 and len(each.name) <= NAME_MAX and each.name > after and each.name.startswith(prefix)
        if not (sound and len(each.digest) in {0, 32} and all(0 <= count <= _COUNT_MAX for count in counts)):
            raise ProtocolError(
                f"medium {request.medium}: an agent's listing makes no sense behind {after!r}",
                hint="see its log; is the medium sound",
            )
        after, left = each.name, left - 1
