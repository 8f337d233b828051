"""Faults on order: a control file says which calls fail, and how. For tests and drills.

The file is JSON, a list of rules; it is looked at before each call and read again when it changed. No file,
no faults:

    [{"op": "put", "error": "io", "after_calls": 3},
     {"op": "get", "delay_s": 0.5, "probability": 0.1, "seed": 7}]
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import msgspec

from staddle import typed
from staddle.errors import ConfigError, Corrupt, Fenced, InDoubt, MediumFailed, MediumFull, StaddleError
from staddle.wrap.layers import Call

T = TypeVar("T")

POLL_S = 0.05
HANG_MAX_S = 600.0
READ_TRIES = 5

Op = Literal["put", "get", "stat", "list", "delete", "open", "capacity", "health", "*"]
Kind = Literal["io", "full", "fenced", "corrupt", "hang", "in_doubt", "fsync"]


class FaultRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule; the first that matches and fires decides.

    Attributes:
        op: which calls; `*` for all.
        error: `io` and `full`, `fenced`, `corrupt` fail before anything is done; `in_doubt` does it and then
            says that nobody knows; `fsync` does it and then fails as a sync that comes too late does; `hang`
            waits until the rule is gone (ten minutes at most). None: only the delay.
        delay_s: waits first.
        after_calls: this many matching calls pass untouched first.
        count: fires at most so often; None for ever.
        probability: of firing, drawn from `seed`.
    """

    op: Op = "*"
    error: Kind | None = None
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=HANG_MAX_S)] = 0.0
    after_calls: Annotated[int, msgspec.Meta(ge=0)] = 0
    count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: int = 0


class _Active:
    """A rule with what has happened to it since the file was read."""

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        self.seen = 0
        self.fired = 0
        self.chance = random.Random(rule.seed)  # noqa: S311 - a replayable test, no secret

    def fires(self, op: str) -> bool:
        rule = self.rule
        if rule.op not in ("*", op):
            return False
        self.seen += 1
        if self.seen <= rule.after_calls or (rule.count is not None and self.fired >= rule.count):
            return False
        if self.chance.random() >= rule.probability:
            return False
        self.fired += 1
        return True


class FaultLayer:
    """Applies the rules of a control file."""

    def __init__(self, path: str, sleep: Callable[[float], None] = time.sleep) -> None:
        """Args: path: the control file; it need not exist. sleep: waits for seconds."""
        self._path = path
        self._sleep = sleep
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._rules: list[_Active] = []
        self._closed = False

    def around(self, call: Call, make: Callable[[], T]) -> T:
        """Make the call, or fail it as the rules say. Closing always works."""
        if call.op == "close":
            return make()
        with self._lock:
            self._refresh()
            active = next((active for active in self._rules if active.fires(call.op)), None)
        if active is None:
            return make()
        rule = active.rule
        if rule.delay_s:
            self._sleep(rule.delay_s)
        if rule.error == "hang":
            self._hang(active)
        if rule.error in ("in_doubt", "fsync"):
            make()
        if rule.error is not None:
            raise _failure(rule.error, call)
        return make()

    def _hang(self, active: _Active) -> None:
        for _ in range(int(HANG_MAX_S / POLL_S)):
            self._sleep(POLL_S)
            with self._lock:
                self._refresh()
                if self._closed or active not in self._rules:
                    return

    def _refresh(self) -> None:
        try:
            seen = os.stat(self._path)
        except FileNotFoundError:
            self._stamp, self._rules = None, []
            return
        stamp = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
        if stamp != self._stamp:
            self._rules = [_Active(rule) for rule in self._read()]
            self._stamp = stamp

    def _read(self) -> list[FaultRule]:
        """The rules; a file that is just being written is given a moment."""
        for attempt in range(1, READ_TRIES + 1):
            try:
                with open(self._path, "rb") as file:
                    return typed.from_json(file.read(), list[FaultRule])
            except FileNotFoundError:
                return []
            except msgspec.MsgspecError as error:
                if attempt == READ_TRIES:
                    raise ConfigError(
                        f"fault file {self._path}: {error}", hint="correct it, or remove it: docs/plugins.md"
                    ) from error
                self._sleep(POLL_S)
        return []

    def close(self) -> None:
        """Let go of what hangs."""
        self._closed = True


def _failure(kind: Kind, call: Call) -> StaddleError:
    where = f"injected fault: {call.op} on medium {call.medium}"
    if kind == "full":
        return MediumFull(f"{where}: no space left")
    if kind == "fenced":
        return Fenced(f"{where}: fenced")
    if kind == "corrupt":
        return Corrupt(f"{where}: damaged")
    if kind == "in_doubt":
        return InDoubt(f"{where}: done, but the answer is lost", retry="elsewhere")
    if kind == "fsync":
        return MediumFailed(f"{where}: its directory can't be synced", outcome="in_doubt")
    return MediumFailed(f"{where}: input/output error")
