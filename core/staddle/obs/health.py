"""Findings about a grid's health: OK, WARN or ERR, with stable codes, the same wherever they are shown."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    ERR = "ERR"


class Finding(msgspec.Struct, frozen=True):
    """One finding. `code` never changes its meaning; `hint` says what to do."""

    level: Level
    code: str
    message: str
    hint: str = ""


def worst(findings: list[Finding]) -> Level:
    """The level of the whole."""
    levels = [finding.level for finding in findings]
    return Level.ERR if Level.ERR in levels else Level.WARN if Level.WARN in levels else Level.OK
