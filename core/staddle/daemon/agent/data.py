"""The agent's data process: serves clients, moves data to media. A child of the control process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from staddle.api.transport import Credentials
from staddle.config import Settings, home_paths, load
from staddle.daemon import loops
from staddle.daemon.agent import media as agent_media
from staddle.daemon.agent.context import AgentContext
from staddle.daemon.agent.greeter import Greeter
from staddle.daemon.agent.locator import Locator
from staddle.daemon.agent.objects import ObjectDesk
from staddle.daemon.agent.publisher import Publisher
from staddle.daemon.agent.reads import ReadDesk
from staddle.daemon.agent.store import MediaSet
from staddle.daemon.agent.streams import StreamDesk
from staddle.daemon.setup import Identities, local_url
from staddle.data.pipeline import Pipeline
from staddle.engine.receiver import ReceiverLimits
from staddle.errors import ConfigError, StaddleError
from staddle.ids import Ids
from staddle.obs import logs
from staddle.platform import memory, process
from staddle.platform.durable import make_directories
from staddle.plugins import PluginRegistry
from staddle.wire.endpoint import Server, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.redial import Redial

log = logging.getLogger(__name__)

GREET_WAIT_S = 10.0
"""How long the ready line waits for a manager; without one the agent serves and goes on trying."""
OPEN_WAIT_S = 5.0
MENDING_STOP_S = 1.0
"""For a library that is being mended: a medium's answer or a merge may take longer than `stop` has time."""
FREED_KEPT_BYTES = 64 << 20
TRIM_ABOVE_BYTES = 224 << 20
"""About what one stream takes."""


class Ready(msgspec.Struct, frozen=True):
    """The one line on standard output."""

    urls: list[str]
    pid: int


def manager_urls(settings: Settings) -> list[str]:
    """Where this host finds the manager, the local socket first."""
    local = local_url(settings.home, "manager")
    return [*([local] if local.startswith("unix:") else []), settings.manager.listen]


def check_configured(settings: Settings, name: str) -> None:
    """Raises ConfigError for an agent that is not."""
    if name not in settings.agent:
        raise ConfigError(
            f"there is no [agent.{name}] in the configuration of {settings.home}",
            hint=f"agents: {', '.join(settings.agent) or 'none'}",
        )


class DataProcess:
    """All parts, from `start` to `stop`. Belongs to the loop.

    Attributes:
        urls: where clients find it, the local one first.
        context: what the parts share.
        streams, locator: for those who look inside.
    """

    def __init__(
        self,
        name: str,
        directory: str,
        media: MediaSet,
        *,
        manager: Sequence[str],
        listen: Sequence[str],
        credentials: Credentials,
        grid: bytes,
        ids: Ids | None = None,
        limits: ReceiverLimits | None = None,
    ) -> None:
        """Args: directory: of the agent's state. manager, listen: URLs. limits: patience of its streams."""
        make_directories(directory)
        self.context = AgentContext(name, directory, media, ids or Ids(), Pipeline())
        self.locator = Locator(self.context)
        self.greeter = Greeter(self.context)
        self.reads = ReadDesk(self.context, self.locator)
        self.objects = ObjectDesk(self.context)
        self.publisher = Publisher(self.context, self.locator, lambda: self.streams.busy)
        self.streams = StreamDesk(
            self.context,
            self.locator,
            self._on_committed,
            self.publisher.catch_up,
            limits,
        )
        self.urls: list[str] = []
        self._listen = list(listen)
        self._credentials = credentials
        self._hello = Hello(name=name, role="agent", grid=grid)
        self._servers: list[Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        for_manager = Handlers()
        self.objects.install_for_manager(for_manager)
        self.context.manager = Redial(
            manager,
            credentials,
            self._hello,
            expect_role="manager",
            handlers=for_manager,
            on_connected=self.greeter.on_connected,
        )

    def _on_committed(self) -> None:
        self.publisher.wake()

    async def start(self) -> None:
        """Serve, and say hello. Returns once that is done, or after a while without a manager."""
        handlers = Handlers()
        for install in (self.streams.install, self.reads.install, self.objects.install_for_clients):
            install(handlers)
        for url in self._listen:
            self._servers.append(await serve(url, self._credentials, self._hello, handlers))
        self.urls = [server.url for server in self._servers]
        self.greeter.serves_at(self.urls)
        self._spawn(self.greeter.run())
        self._spawn(self.publisher.run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GREET_WAIT_S):
                await self.greeter.greeted.wait()
                await asyncio.gather(*(self._try_medium(name) for name in self.context.media.names))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _try_medium(self, name: str) -> None:
        """Open a medium now, so that the first stream need not; a bad one is only said."""
        try:
            async with asyncio.timeout(OPEN_WAIT_S):
                await asyncio.to_thread(self.context.media.volume, name)
        except (StaddleError, TimeoutError) as error:
            log.warning("medium %s can't be opened now: %s", name, error)

    async def stop(self) -> None:
        """End everything in good order."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.publisher.stop()
        await self.streams.close()
        await self.publisher.ended(MENDING_STOP_S)
        await asyncio.gather(*(server.close() for server in self._servers), return_exceptions=True)
        await self.context.manager.close()
        await asyncio.to_thread(self._close_threads)

    def _close_threads(self) -> None:
        self.reads.close()
        self.objects.close()
        self.greeter.close()
        self.context.pipeline.close()
        self.context.media.close()
        self.context.close()  # last: a library that merges is waited for


async def _run(home: str, name: str) -> None:
    settings = load(home)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    process.exit_with_parent(lambda: loop.call_soon_threadsafe(stop.set))
    identities = Identities(settings)
    built = agent_media.build(settings, name, PluginRegistry())
    ids = Ids()
    data = DataProcess(
        name,
        home_paths(home).agent(name),
        MediaSet(built.media, built.deadlines_s, ids),
        manager=manager_urls(settings),
        listen=[local_url(home, f"agent-{name}"), settings.agent[name].listen],
        credentials=identities.credentials(f"agent-{name}"),
        grid=identities.grid,
        ids=ids,
    )
    try:
        await data.start()
        sys.stdout.write(msgspec.json.encode(Ready(data.urls, os.getpid())).decode() + "\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await data.stop()


def main(home: str, name: str) -> None:
    """Run until the parent's pipe closes. Raises StaddleError."""
    check_configured(load(home), name)  # first of all: a slip of the pen leaves no file behind
    memory.keep_freed(FREED_KEPT_BYTES)
    memory.trim_above(TRIM_ABOVE_BYTES)
    logs.configure(f"agent {name} data", path=os.path.join(home_paths(home).log, f"agent-{name}-data.jsonl"))
    try:
        loops.run(_run(home, name))
    finally:
        logs.shutdown()
