"""What an agent may say to a client, cut to it: the client passes it on to the manager under its own name."""

from __future__ import annotations

import msgspec

from staddle.engine.messages import Cause, Exclude, PathFailed, Refused, Ticket

TEXT_CHARS_MAX = 1000
EXCLUDES_MAX = 64
CONTAINERS_MAX = 4096
"""Of one refusal: the rest is refused in the next one."""
_ID_BYTES = 16
_NO_FAILURE = frozenset({Cause.START, Cause.REFUSED, Cause.RESUME})


def failure_of(said: PathFailed, ticket: Ticket | None) -> PathFailed:
    """An agent blames itself and the media of its ticket, in few words, and nobody else."""
    agents, media = ({"", ticket.agent}, {"", *ticket.media}) if ticket else (set(), set())
    exclude = [
        each
        for each in said.exclude[:EXCLUDES_MAX]
        if each.agent in agents and each.medium in media and each != Exclude()
    ]
    cause = Cause.AGENT_LOST if said.cause in _NO_FAILURE else said.cause
    return msgspec.structs.replace(said, cause=cause, exclude=exclude, message=said.message[:TEXT_CHARS_MAX])


def refused_by(said: Refused) -> list[bytes]:
    """The containers that can't be referred to."""
    return [each for each in said.containers[:CONTAINERS_MAX] if len(each) == _ID_BYTES]
