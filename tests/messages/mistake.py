"""One mistake, and what must be said about it."""

from collections.abc import Callable
from dataclasses import dataclass

from .lab import Lab, Said

ALL = []
"""Every mistake, in the order of the page."""


@dataclass(frozen=True)
class Mistake:
    """`provoke` makes it; the command must end with `exit_code` and the one line `what; todo`.

    Attributes:
        group: the heading on the page.
        situation: for the reader of the page.
        code: the error code with `--json`.
        stdout: it is no error: the line is on stdout.
        prepare: what has to be there before, and may change the grid.
        root: it can only be made by root, on Linux.
    """

    id: str
    group: str
    situation: str
    provoke: Callable[[Lab], Said]
    exit_code: int
    what: str
    todo: str
    code: str
    stdout: bool = False
    root: bool = False
    prepare: Callable[[Lab], object] | None = None

    @property
    def line(self):
        """As it is printed."""
        if self.stdout:
            return self.what
        return f"staddle: {self.what}; {self.todo}" if self.todo else f"staddle: {self.what}"


def group(heading):
    """A decorator for the mistakes of one heading: the docstring says when it happens."""

    def mistake(exit_code, what, todo, *, code="", stdout=False, root=False, prepare=None):
        def add(provoke):
            name = provoke.__name__.replace("_", "-")
            ALL.append(
                Mistake(
                    name,
                    heading,
                    provoke.__doc__.strip().rstrip("."),
                    provoke,
                    exit_code,
                    what,
                    todo,
                    code,
                    stdout,
                    root,
                    prepare,
                )
            )
            return provoke

        return add

    return mistake
