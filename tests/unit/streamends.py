"""A record and an assignment, for tests of the two ends of a stream."""

import msgspec

from staddle.engine.messages import Ticket


class Rec:
    def __init__(self, size=1):
        self.size = size


def ticket(**changes):
    made = Ticket(
        grid=b"g" * 16,
        job=1,
        stream=0,
        epoch=10,
        manager_epoch=1,
        agent="a",
        agent_urls=["mem://a"],
        media=["m", "n"],
        next_seq=0,
        backup=1,
        client="c",
        name="x",
        pool="p",
        domain="d",
        min_copies=1,
        segment_bytes=3,
    )
    return msgspec.structs.replace(made, **changes)
