"""Kinds of values on the command line that click has not."""

from __future__ import annotations

from typing import Any

import click

NUMBER_MAX = 2**63 - 1
"""What the catalog's columns and the wire hold."""


class Given(click.types.StringParamType):
    """Text that is really there. An unset variable in a script must not stand for a default or for here."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is. Fails for an empty one, and for what no path can hold."""
        text = str(value)
        if not text:
            self.fail("it is empty", param, ctx)
        if "\0" in text:
            self.fail("it holds NUL", param, ctx)
        return text


class Number(click.IntRange):
    """The number of a backup or a job."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(1, NUMBER_MAX)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """As it is. Fails with a word that says what is expected."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= NUMBER_MAX):
            self.fail(f"{text[:40]!r} is no number from 1 up", param, ctx)
        return int(text)


GIVEN = Given()
NUMBER = Number()
