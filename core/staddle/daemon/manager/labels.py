"""Labels that are damaged or lost: found out by the objects that lie there, and written again.

The log knows the text of every label, and the names of what lies on every medium. A name is used once and on
one medium only, so an object that is there under its name, whole, proves whose place it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import islice

from staddle.daemon.manager.adoption import Adoption, label_of
from staddle.daemon.manager.core import Manager
from staddle.daemon.manager.presence import AgentSession, Presence
from staddle.daemon.manager.salvage import source_of
from staddle.engine.tables import MediumStatus, Object
from staddle.errors import StaddleError
from staddle.wire.handlers import Call, Handlers
from staddle.wire.ops.admin import VerifyObject
from staddle.wire.ops.base import register
from staddle.wire.ops.repair import (
    PROVE_VOLUME,
    REPAIR_LABELS,
    LabelRepaired,
    LabelsRepaired,
    ProveVolume,
    VolumeProved,
)

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
SAMPLE_EACH_END = 32
"""Of the oldest and of the newest objects on a medium, so many are looked for."""
TIMEOUT_S = 60.0
UP_WAIT_S = 20.0
"""How long a medium has, whose label was written again, to be seen by its agents."""


class LabelDesk:
    """Looks at media that are of no use, and repairs their labels when it is asked to."""

    def __init__(self, manager: Manager, adoption: Adoption, presence: Presence) -> None:
        self._manager = manager
        self._adoption = adoption
        self._presence = presence
        self._said: dict[str, str] = {}
        self._samples: dict[str, list[VerifyObject]] = {}

    def install(self, handlers: Handlers) -> None:
        """Add what administrators may ask."""
        register(handlers, REPAIR_LABELS, self._asked)

    async def run(self) -> None:
        """Find out what is wrong with media that are of no use. Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except Exception:
                log.exception("the media's labels can't be looked at")

    async def look(self) -> None:
        """One look at all of them: what `said` tells afterwards."""
        troubled = [] if self._adoption.rebuild_needed else self._troubled()
        self._samples = {name: sample for name, sample in self._samples.items() if name in troubled}
        said = {}
        for name in troubled:
            for session in self._presence.serving(name):
                answer = await self._ask(session, name, write=False)
                if answer is not None and (text := self._in_words(name, answer)):
                    said[name] = text
                    break
        self._said = said

    def said(self, medium: str) -> str:
        """What is wrong with a medium's label, if that is what is wrong with it; else empty."""
        return self._said.get(medium, "")

    async def _asked(self, call: Call) -> LabelsRepaired:
        self._adoption.check_serving()
        done = []
        for name in self._known():
            for session in self._presence.serving(name):
                answer = await self._ask(session, name, write=True)
                if answer is None or answer.found in {"right", "another"}:
                    continue
                if answer.found == "missing" and not answer.there:
                    continue  # it is not there: `status` says so, and a label can't help
                said = "" if answer.written else answer.problem or "the agent does not say why"
                done.append(LabelRepaired(name, answer.found, said))
                break
        await self._await_up([each.medium for each in done if not each.problem])
        self._said = {}
        return LabelsRepaired(done)

    async def _await_up(self, media: list[str]) -> None:
        """What was written again is of use once the agents have seen it."""
        end_s = time.monotonic() + UP_WAIT_S
        while set(media) & set(self._troubled()) and time.monotonic() < end_s:  # noqa: ASYNC110 - seldom
            await asyncio.sleep(0.1)

    def _known(self) -> list[str]:
        """Media with a volume that the log knows, and that are in the configuration."""
        return [name for name in self._manager.settings.medium if name in self._manager.state.media]

    def _troubled(self) -> list[str]:
        media = self._manager.state.media
        return [
            name
            for name in self._known()
            if media[name].state is not MediumStatus.UP
            or self._adoption.problem(name)
            or any(s.media[name].state == "offline" for s in self._presence.serving(name) if name in s.media)
        ]

    async def _ask(self, session: AgentSession, name: str, *, write: bool) -> VolumeProved | None:
        link = session.data_link()
        if link is None:
            return None
        if (sample := self._samples.get(name)) is None:
            sample = self._samples[name] = self._sample(name)
        if not sample:
            return None
        text = label_of(self._manager.state, name)
        request = ProveVolume(medium=name, label=text, objects=sample, write=write)
        try:
            reply = await link.request(PROVE_VOLUME.name, request, timeout_s=TIMEOUT_S)
            return PROVE_VOLUME.decode(reply)
        except StaddleError as error:  # also an agent of an earlier release
            log.info("agent %s can't tell of medium %s's label: %s", session.name, name, error)
            return None

    def _sample(self, medium: str) -> list[VerifyObject]:
        """The oldest and the newest objects of a medium."""
        objects = self._manager.state.objects

        def on(item: Object) -> VerifyObject | None:
            return next((source_of(item, copy) for copy in item.copies if copy.medium == medium), None)

        oldest = filter(None, map(on, objects.values()))
        newest = filter(None, map(on, reversed(objects.values())))
        found = [*islice(oldest, SAMPLE_EACH_END), *islice(newest, SAMPLE_EACH_END)]
        return list({item.name: item for item in found}.values())

    def _in_words(self, medium: str, answer: VolumeProved) -> str:
        if answer.found not in {"damaged", "missing"} or not (answer.there or answer.found == "damaged"):
            return ""
        begin = f"its label is {answer.found}"
        if answer.problem:
            return f"{begin}: {answer.problem}"
        if not answer.there:
            return f"{begin}, and none of its objects is there: mount the right volume"
        looked = f"{answer.there} of {len(self._samples.get(medium, []))} that were looked for"
        return f"{begin}, but its objects are there ({looked}): `staddle verify --repair` writes it again"
