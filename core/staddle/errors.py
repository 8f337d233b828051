"""The one error base. The failover engine reads only its fields, never its class.

Every error says what happened (`message`), what to do (`hint`), whether and where a retry may help
(`retry`), what is hit (`scope`), and what became of the request (`outcome`). A plugin may subclass
`StaddleError` freely: a new class cannot break the engine.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Retry = Literal["now", "after", "elsewhere", "operator", "never"]
Scope = Literal["op", "object", "volume", "path", "agent", "medium", "cluster"]
Outcome = Literal["not_done", "done", "in_doubt"]

RETRIES: tuple[Retry, ...] = ("now", "after", "elsewhere", "operator", "never")
SCOPES: tuple[Scope, ...] = ("op", "object", "volume", "path", "agent", "medium", "cluster")
OUTCOMES: tuple[Outcome, ...] = ("not_done", "done", "in_doubt")


class StaddleError(Exception):
    """Base of every error that crosses a contract.

    Attributes:
        code: stable, upper-case, for programs (`MEDIUM_FULL`); documented in docs/errors.md.
        retry: `now` (again at once), `after` (later, same place), `elsewhere` (another data path),
            `operator` (a person must act), `never` (the request itself is wrong).
        scope: the smallest thing that is hit.
        outcome: what became of the request. `in_doubt` is resolved by `stat`, then the same put again.
        hint: one sentence that says what to do; may be empty.
        exit_code: what the command line ends with (docs/errors.md).
    """

    default_code: ClassVar[str] = "FAILED"
    default_retry: ClassVar[Retry] = "never"
    default_scope: ClassVar[Scope] = "op"
    default_outcome: ClassVar[Outcome] = "not_done"
    default_exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        retry: Retry | None = None,
        scope: Scope | None = None,
        outcome: Outcome | None = None,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code
        self.retry: Retry = retry or self.default_retry
        self.scope: Scope = scope or self.default_scope
        self.outcome: Outcome = outcome or self.default_outcome
        self.exit_code = self.default_exit_code if exit_code is None else exit_code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(StaddleError):
    """The command line is wrong."""

    default_code = "USAGE"
    default_exit_code = 2


class NotFound(StaddleError):
    """The named thing does not exist: a backup, a job, an object."""

    default_code = "NOT_FOUND"
    default_scope = "object"
    default_exit_code = 4


class Unavailable(StaddleError):
    """The other side cannot be reached or does not answer now."""

    default_code = "UNAVAILABLE"
    default_retry = "after"
    default_scope = "path"
    default_exit_code = 5


class DeadlineExceeded(StaddleError):
    """A call did not end by its deadline; whether it took effect is unknown."""

    default_code = "DEADLINE"
    default_retry = "elsewhere"
    default_scope = "path"
    default_outcome = "in_doubt"
    default_exit_code = 5


class PathLost(StaddleError):
    """Every path to the peer or device is gone (T1)."""

    default_code = "PATH_LOST"
    default_retry = "elsewhere"
    default_scope = "path"
    default_exit_code = 5


class InDoubt(StaddleError):
    """The request was cut in flight: done or not, nobody knows (T2, M8)."""

    default_code = "IN_DOUBT"
    default_retry = "now"
    default_outcome = "in_doubt"
    default_exit_code = 5


class ConfigError(StaddleError):
    """The configuration is wrong; the message names file and line."""

    default_code = "CONFIG"
    default_retry = "operator"
    default_exit_code = 10


class Locked(StaddleError):
    """Somebody else holds it."""

    default_code = "LOCKED"
    default_retry = "after"
    default_exit_code = 11


class Denied(StaddleError):
    """Credentials are missing, wrong or not sufficient."""

    default_code = "DENIED"
    default_retry = "operator"
    default_exit_code = 12


class Corrupt(StaddleError):
    """Bytes are not what was written (M7). They are never returned."""

    default_code = "CORRUPT"
    default_retry = "elsewhere"
    default_scope = "object"
    default_exit_code = 13


class NewerFormat(StaddleError):
    """Written by a newer release than this one: read nothing, change nothing."""

    default_code = "NEWER_FORMAT"
    default_retry = "operator"
    default_scope = "volume"
    default_exit_code = 13


class Conflict(StaddleError):
    """An object of that name holds other bytes; they were kept (M4)."""

    default_code = "CONFLICT"
    default_scope = "object"


class Fenced(StaddleError):
    """A later holder has taken over: stop, change nothing more (M5, S1)."""

    default_code = "FENCED"
    default_scope = "agent"


class MediumFull(StaddleError):
    """No room for the object (M9)."""

    default_code = "MEDIUM_FULL"
    default_retry = "elsewhere"
    default_scope = "medium"


class MediumFailed(StaddleError):
    """The medium answers with errors, is gone, or is not the one the label names."""

    default_code = "MEDIUM_FAILED"
    default_retry = "elsewhere"
    default_scope = "medium"


class ProtocolError(StaddleError):
    """The peer broke the wire protocol; the link is closed."""

    default_code = "PROTOCOL"
    default_retry = "elsewhere"
    default_scope = "path"


class PluginError(StaddleError):
    """A plugin is missing, broken, or built for another API version."""

    default_code = "PLUGIN"
    default_retry = "operator"
    default_exit_code = 10


class Cancelled(StaddleError):
    """The job or request was cancelled by its user."""

    default_code = "CANCELLED"
