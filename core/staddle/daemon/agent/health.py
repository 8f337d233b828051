"""Watches an agent's media, each by a thread of its own, so that one that hangs hides no other."""

from __future__ import annotations

import logging
import threading
import time

from staddle.api.media import Deadline, Medium, Volume
from staddle.api.types import MediumState
from staddle.data import label as label_format
from staddle.errors import NotFound, StaddleError
from staddle.wire.ops.agents import MediumReport

log = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
CHECK_LIMIT_S = 5.0
"""A check that takes longer has failed: a medium that is that slow can't take a segment either."""
SUSPECT_AFTER_S = 2.5


class MediumWatch:
    """The health of one medium, looked at once a second. Reads only."""

    def __init__(self, name: str, medium: Medium, deadline_s: float) -> None:
        """Args: deadline_s: of one call on this medium."""
        self._name = name
        self._medium = medium
        self._limit_s = min(deadline_s, CHECK_LIMIT_S)
        self._volume: Volume | None = None
        self._text = b""  # the label of the volume that was opened last
        self._lock = threading.Lock()
        self._last = MediumReport(name=name, state=MediumState.SUSPECT.value, message="not looked at yet")
        self._begun_s: float | None = None
        self._checks = 0
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A check that hangs is left behind."""
        self._stopped = True
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Wait for the thread, for a while."""
        self._thread.join(timeout_s)

    def look_now(self) -> int:
        """Look at once; the number of the first check that begins after this call, for `looked`."""
        with self._lock:
            number = self._checks + (1 if self._begun_s is None else 2)
        self._wake.set()
        return number

    def looked(self, number: int) -> bool:
        """Has that check ended."""
        return self._checks >= number

    def report(self) -> MediumReport:
        """What is known now. Never waits."""
        with self._lock:
            last, begun_s = self._last, self._begun_s
        if begun_s is None or (waited_s := time.monotonic() - begun_s) < SUSPECT_AFTER_S:
            return last
        state = MediumState.SUSPECT if waited_s < self._limit_s else MediumState.OFFLINE
        return MediumReport(
            name=self._name,
            state=state.value,
            message=f"it has not answered for {waited_s:.0f} s",
            total_bytes=last.total_bytes,
            free_bytes=last.free_bytes,
            low=last.low,
            volume=last.volume,
        )

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            with self._lock:
                self._begun_s = time.monotonic()
            report = self._checked()
            with self._lock:
                if report.state != self._last.state:
                    log.info("medium %s is %s %s", self._name, report.state, report.message)
                self._last, self._begun_s = report, None
                self._checks += 1
            if not self._stopped:
                self._wake.wait(CHECK_EVERY_S)
        self._drop()

    def _checked(self) -> MediumReport:
        try:
            health = self._medium.health(Deadline(self._limit_s))
            if health.state is MediumState.OFFLINE and self._changed():
                health = self._medium.health(Deadline(self._limit_s))
            volume = self._opened() if health.state is not MediumState.OFFLINE else None
            room = volume.capacity() if volume is not None else None
        except Exception as error:  # noqa: BLE001 - whatever a driver raises: this medium is bad
            self._drop()
            message = str(error) if isinstance(error, StaddleError) else repr(error)
            return MediumReport(name=self._name, state=MediumState.OFFLINE.value, message=message)
        return MediumReport(
            name=self._name,
            state=health.state.value,
            message=health.message,
            total_bytes=room.total_bytes if room else 0,
            free_bytes=room.free_bytes if room else 0,
            low=room.low if room else False,
            volume=volume.label.volume if volume is not None else b"",
        )

    def _changed(self) -> bool:
        """Is another volume there than the one that was opened? Then that one is opened.

        Whether it is the right one is for the manager to say; a wrong one, once seen, must not stay for good.
        """
        if self._text == b"":
            return False
        try:
            changed = self._medium.read_label(Deadline(self._limit_s)) != self._text
        except StaddleError:
            return False
        if changed:
            self._drop()
            self._opened()
        return changed

    def _opened(self) -> Volume | None:
        """The volume, for its capacity only; None while it has no label."""
        if self._volume is None:
            try:
                text = self._medium.read_label(Deadline(self._limit_s))
            except NotFound:
                return None
            # A damaged one is not kept: else it would not count as changed any more.
            label = label_format.decode(text)
            self._text = text
            self._volume = self._medium.open(label, "read", 0, Deadline(self._limit_s))
        return self._volume

    def _drop(self) -> None:
        volume, self._volume = self._volume, None
        if volume is not None:
            try:
                volume.close()
            except Exception as error:  # noqa: BLE001 - it is given up anyway
                log.debug("medium %s: %r", self._name, error)
