"""The faults of the nemesis: each breaks one part of a running grid, and mends it again."""

from .base import Fault
from .hosts import ClockJumps, HostCutOff
from .media import DirFsyncFails, MediumCorrupted, MediumHangs, MediumReplaced, MediumSlow, MediumTruncated
from .plan import Plan, Playing
from .processes import AgentControlKilled, AgentDataKilled, ClientFewFiles

__all__ = [
    "AgentControlKilled",
    "AgentDataKilled",
    "ClientFewFiles",
    "ClockJumps",
    "DirFsyncFails",
    "Fault",
    "HostCutOff",
    "MediumCorrupted",
    "MediumHangs",
    "MediumReplaced",
    "MediumSlow",
    "MediumTruncated",
    "Plan",
    "Playing",
]
