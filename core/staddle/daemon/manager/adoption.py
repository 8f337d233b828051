"""From configuration to log: pools, and media once an agent has seen what is on them.

A medium enters the log with the volume that its label names, so a manager that lost its log takes up the
very volumes that it had. Such a manager must be rebuilt before it serves (`staddle catalog rebuild`): it
would give numbers of old backups to new ones. A durable marker says so across restarts.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time

from staddle.api.types import Label
from staddle.config import home_paths
from staddle.daemon.manager.core import Manager
from staddle.data import label as label_format
from staddle.dedup.ownermap import OwnerMap
from staddle.engine import ops
from staddle.engine.configure import decide_medium, decide_medium_state, decide_owner_map, decide_pool
from staddle.engine.importing import decide_unread
from staddle.engine.state import GridState
from staddle.engine.tables import MediumStatus
from staddle.errors import ConfigError, StaddleError, Unavailable
from staddle.platform.durable import fsync_dir, write_file_durable

log = logging.getLogger(__name__)


def label_of(state: GridState, medium: str) -> bytes:
    """The text of a medium's label: the same whenever it is asked for."""
    volume = state.media[medium].volume
    # The volume's id was made when the medium was first seen: its time is the label's (RFC 9562).
    created_ns = int.from_bytes(volume[:6], "big") * 1_000_000
    return label_format.encode(Label(grid=state.grid, medium=medium, volume=volume, created_ns=created_ns))


def unread_media(manager: Manager) -> list[str]:
    """Configured media with objects that no rebuild has read: until one has, containers are not deleted.

    They may hold backups that need what the log thinks superfluous. One that never comes back is given up by
    taking it out of the configuration.
    """
    return [name for name in manager.state.unread if name in manager.settings.medium]


class Adoption:
    """Brings configured media and pools into the log."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._turn = asyncio.Lock()
        self._marker = os.path.join(home_paths(manager.settings.home).manager, "rebuild-needed")
        self._problems: dict[tuple[str, str], str] = {}

    @property
    def rebuild_needed(self) -> bool:
        """Was a labelled medium found that the log knows nothing of. Raises OSError."""
        try:
            os.stat(self._marker)
        except FileNotFoundError:
            return False  # and for no other reason: a disk that fails does not say that all is known
        return True

    def need_rebuild(self) -> None:
        """Nothing is served before `rebuilt`, in this term or a later one. Durable on return."""
        write_file_durable(self._marker, b"staddle catalog rebuild\n")

    def rebuilt(self) -> None:
        """The log knows again what is on the media. Called when it is durable."""
        if os.path.exists(self._marker):
            os.unlink(self._marker)
            fsync_dir(os.path.dirname(self._marker))

    def check_serving(self) -> None:
        """Raise Unavailable while a rebuild is due."""
        if self.rebuild_needed:
            raise Unavailable(
                "the manager's log was lost: the media hold backups that it does not know",
                hint="run `staddle catalog rebuild`",
                retry="operator",
            )

    async def begin(self) -> None:
        """What needs no agent: the owner map, and pools whose media are known."""
        if not self._manager.state.owner_map:
            await self._manager.change(decide_owner_map, 1, OwnerMap.everyone().to_bytes())
        await self._sync_known()
        await self._sync_pools()

    def problem(self, medium: str, agent: str = "") -> str:
        """Why an agent (or any agent) may not use a medium; empty if nothing is known against it."""
        found = (why for (who, name), why in self._problems.items() if name == medium)
        return self._problems.get((agent, medium), "") if agent else next(found, "")

    def problems(self) -> list[str]:
        """All that is known, each once."""
        return list(dict.fromkeys(self._problems.values()))

    async def adopt(self, agent: str, labels: dict[str, bytes]) -> None:
        """Take up media as an agent found them: text of the label, or empty for a place without one."""
        async with self._turn:
            # Those with a label first: they tell whether a rebuild is due.
            for name, text in sorted(labels.items(), key=lambda item: not item[1]):
                if name not in self._manager.settings.medium:
                    continue
                try:
                    await self._adopt_one(name, text)
                    self._problems.pop((agent, name), None)
                except StaddleError as error:
                    if self._problems.get((agent, name)) != str(error):
                        log.error("agent %s may not use medium %s: %s", agent, name, error)
                    self._problems[agent, name] = str(error)
            await self._sync_pools()

    async def _adopt_one(self, name: str, text: bytes) -> None:
        state = self._manager.state
        label = label_format.decode(text) if text else None
        if label is not None and label.grid != state.grid:
            raise ConfigError(
                f"medium {name!r} holds a volume of another grid, {label.grid.hex()}",
                hint="configure another place for it, or remove that volume",
            )
        if label is not None and label.medium != name:
            raise ConfigError(
                f"medium {name!r} holds the volume of medium {label.medium!r}",
                hint=self._why_named(label.medium),
            )
        if name in state.media:
            if label is None and self._used(name):
                raise ConfigError(
                    f"medium {name!r} has no label here, but the log knows what was stored on it",
                    hint="mount it, or see its options in staddle.toml; an empty place is not taken for it",
                )
            if label is not None and label.volume != state.media[name].volume:
                raise ConfigError(
                    f"medium {name!r} holds another volume than the one that the log knows",
                    hint="mount the right one, or give this one a medium of its own",
                )
            return
        if label is None and name in state.unread:
            raise ConfigError(
                f"medium {name!r} is empty here, but it was there before the manager's log was lost",
                hint="mount it; if it is lost for good, take its table out, and give this place another name",
            )
        if label is not None and not self.rebuild_needed:
            if state.backups:
                log.warning("medium %s holds what the log does not know: a rebuild reads it in", name)
                await self._manager.change(decide_unread, [*state.unread, name])
            else:
                self.need_rebuild()
        if label is None and self.rebuild_needed:
            raise Unavailable(
                f"medium {name!r} has no label: whether it is new can't be told before the rebuild",
                hint="if it was in use, mount it; then run `staddle catalog rebuild`",
            )
        volume = label.volume if label is not None else self._manager.ids.new_id()
        await self._manager.change(decide_medium, self._medium_op(name, volume))

    def _why_named(self, there: str) -> str:
        """How a medium may hold the volume of another."""
        if there in self._manager.settings.medium:
            return "two media were exchanged: see their options in staddle.toml"
        return (
            f"was the table [medium.{there}] renamed? a volume keeps its medium's name: give it that one back"
        )

    def _used(self, medium: str) -> bool:
        return medium in self._manager.state.unread or any(
            copy.medium == medium
            for item in self._manager.state.objects.values()
            for copy in item.placements()
        )

    async def _sync_known(self) -> None:
        for name, medium in list(self._manager.state.media.items()):
            if name in self._manager.settings.medium:
                if medium.state is MediumStatus.RETIRED:  # up again once an agent has seen it
                    await self._set_state(name, MediumStatus.OFFLINE, "no agent has seen it yet")
                await self._manager.change(decide_medium, self._medium_op(name, medium.volume))
            else:
                await self._set_state(name, MediumStatus.RETIRED, "taken out of the configuration")

    async def _set_state(self, name: str, state: MediumStatus, message: str) -> None:
        await self._manager.change(decide_medium_state, name, state, message, time.time_ns())

    def _medium_op(self, name: str, volume: bytes) -> ops.MediumSet:
        settings = self._manager.settings
        medium = settings.medium[name]
        return ops.MediumSet(
            name=name,
            plugin=medium.plugin,
            volume=volume,
            failure_domain=medium.failure_domain,
            agents=[agent for agent in settings.agent if name in settings.media_of(agent)],
        )

    async def _sync_pools(self) -> None:
        known = self._manager.state.media
        for name, pool in self._manager.settings.pool.items():
            media = [medium for medium in pool.media if medium in known]
            if len(media) < len(pool.media) and len(media) < pool.copies:
                continue  # too few of its media were seen yet
            op = ops.PoolSet(
                name=name,
                media=media,
                domain=pool.domain,
                copies=pool.copies,
                min_copies=pool.min_copies,
                policy=pool.policy,
                agents=[],
                wait_busy_s=math.ceil(pool.wait_busy_s),
                wait_offline_s=math.ceil(pool.wait_offline_s),
                segment_bytes=pool.segment_bytes,
            )
            await self._manager.change(decide_pool, op)
