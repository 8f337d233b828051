"""Checks that every driver makes on its arguments."""

from __future__ import annotations

from staddle.api.media import Deadline
from staddle.api.types import check_object_name
from staddle.errors import Corrupt, DeadlineExceeded, Outcome, UsageError


def checked_name(name: str) -> str:
    """`name`, if it may stand on a medium. Raises UsageError: no other path can do better."""
    try:
        return check_object_name(name)
    except ValueError as error:
        raise UsageError(str(error), code="BAD_NAME") from None


def check_range(name: str, offset: int, length: int, size_bytes: int) -> None:
    """A range beyond the object's end is Corrupt: containers say how long they are (M7)."""
    if offset < 0 or length < 0:
        raise UsageError(f"range {offset}+{length} of object {name}", code="BAD_RANGE")
    if offset + length > size_bytes:
        raise Corrupt(
            f"object {name} has {size_bytes} bytes, {offset + length} were expected",
            hint="read another copy; `staddle verify --read-data` finds what else is damaged",
        )


def check_deadline(deadline: Deadline, what: str, outcome: Outcome = "not_done") -> None:
    """Stop once the deadline has passed (M8); `outcome` says what became of the request by then."""
    if deadline.left_s() <= 0:
        raise DeadlineExceeded(f"{what} did not end by its deadline", outcome=outcome)
