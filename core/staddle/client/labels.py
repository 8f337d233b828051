"""Has damaged and lost labels of media written again, before anything on them is checked."""

from __future__ import annotations

from staddle.client.connection import GridConnection
from staddle.client.verify import DAMAGED, Finding
from staddle.errors import StaddleError
from staddle.wire.ops.repair import REPAIR_LABELS, LabelRepaired, RepairLabels

_TIMEOUT_S = 300.0
_PATIENCE_S = 30.0


async def repair_labels(grid: GridConnection) -> list[Finding]:
    """What was wrong with labels, and what became of each; `repair` of one that is right now: `repaired`."""
    try:
        done = await grid.manager.call_patiently(
            REPAIR_LABELS, RepairLabels(), patience_s=_PATIENCE_S, timeout_s=_TIMEOUT_S
        )
    except StaddleError:  # also a manager of an earlier release: the check says what is wrong
        return []
    return [_finding(each) for each in done.labels]


def _finding(each: LabelRepaired) -> Finding:
    state = f"is {each.found}" if each.problem else f"was {each.found}"
    repair = f"not repaired: {each.problem}" if each.problem else "repaired"
    text = f"medium {each.medium}: its label {state}; {repair}"
    return Finding([], "label", "", each.medium, text, "", DAMAGED, repair)
