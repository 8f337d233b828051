"""The agent's control process: claims its place in the home, keeps the data process, reports health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from typing import IO

import msgspec

from staddle import typed
from staddle.config import Settings, home_paths, load
from staddle.daemon import loops, runfiles
from staddle.daemon.agent import media as agent_media
from staddle.daemon.agent.data import Ready, check_configured, manager_urls
from staddle.daemon.agent.health import MediumWatch
from staddle.daemon.runfiles import RunFile
from staddle.daemon.setup import Identities
from staddle.errors import StaddleError, Unavailable
from staddle.obs import logs
from staddle.platform import process
from staddle.plugins import PluginRegistry
from staddle.wire.link import Link
from staddle.wire.messages import Hello
from staddle.wire.ops.agents import AGENT_HELLO, AGENT_REPORT, AgentHello, AgentReport, MediumReport
from staddle.wire.redial import Redial

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
REPORT_TIMEOUT_S = 5.0
CHILD_READY_S = 25.0
CHILD_STOP_S = 12.0
PUBLISH_WITHOUT_MANAGER_S = 15.0
RETRY_MAX_S = 5.0
LOOK_LIMIT_S = 2.0


class Control:
    """From the start of the data process to its end. Belongs to the loop."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Raises ConfigError for an agent that is not configured."""
        check_configured(settings, name)
        self._settings = settings
        self._name = name
        self._stop = asyncio.Event()
        self._reported = asyncio.Event()
        self._report_now = asyncio.Event()
        built = agent_media.build(settings, name, PluginRegistry())
        self._media = built.media
        self._problems = built.problems
        self._watches = [MediumWatch(each, m, built.deadlines_s[each]) for each, m in built.media.items()]
        identities = Identities(settings)
        self._manager = Redial(
            manager_urls(settings),
            identities.credentials(f"agent-{name}"),
            Hello(name=name, role="agent", grid=identities.grid),
            expect_role="manager",
            on_connected=self._say_hello,
        )
        self._child: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stop.set()

    async def run(self) -> int:
        """The exit code: 0 after an orderly stop, the data process's own when that has died, or 1."""
        argv = [sys.executable, "-m", "staddle", "daemon", "agent-data", self._name]
        self._child = process.spawn_child([*argv, "--home", self._settings.home])
        for watch in self._watches:
            watch.start()
        died = asyncio.create_task(asyncio.to_thread(self._child.wait))
        reporting = asyncio.create_task(self._report_all())
        serving = asyncio.create_task(self._publish())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            waiting: set[asyncio.Task[object]] = {died, serving, stopping}
            while not (died.done() or stopping.done()):
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if serving in done:
                    if serving.exception() is not None and await _ends_too(died):
                        break  # its own words and exit code say more
                    serving.result()
                    waiting.discard(serving)
            if died.done():
                code = died.result()
                log.error("the data process of agent %s has ended with code %d", self._name, code)
                return code if 0 < code < 128 else 1
            return 0
        finally:
            for task in (serving, stopping, reporting):
                task.cancel()
            await asyncio.gather(serving, stopping, reporting, return_exceptions=True)
            runfiles.withdraw(self._settings.home, f"agent-{self._name}")
            await self._end_child(died)
            await self._manager.close()
            await asyncio.to_thread(self._close_media)

    async def _end_child(self, died: asyncio.Task[int]) -> None:
        """Close its input and wait; one that does not listen is killed."""
        child = self._child
        assert child is not None, "it was started"
        assert child.stdin is not None, "it is a pipe"
        assert child.stdout is not None, "it is a pipe"
        with contextlib.suppress(OSError):
            child.stdin.close()
        _, late = await asyncio.wait({died}, timeout=CHILD_STOP_S)
        if late:
            log.error("the data process of agent %s does not end: it is killed", self._name)
            process.kill(child.pid)
        await died
        child.stdout.close()

    def _close_media(self) -> None:
        for watch in self._watches:
            watch.stop()
        limit_s = time.monotonic() + 2.0
        for watch in self._watches:
            watch.close(max(0.0, limit_s - time.monotonic()))
        for medium in self._media.values():
            with contextlib.suppress(StaddleError):
                medium.close()

    async def _publish(self) -> None:
        """Say that the agent is ready: the data process is, and the manager knows, if there is one."""
        assert self._child is not None, "it was started"
        assert self._child.stdout is not None, "it is a pipe"
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(CHILD_READY_S):
                ready = await asyncio.to_thread(_read_ready, self._child.stdout)
        except TimeoutError:
            raise Unavailable(f"the data process of agent {self._name} does not get ready") from None
        await self._look_again()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.1, PUBLISH_WITHOUT_MANAGER_S - (time.monotonic() - started_s))):
                await self._reported.wait()
        part = f"agent-{self._name}"
        pids = [os.getpid(), self._child.pid]
        runfiles.publish(self._settings.home, RunFile(part=part, pid=os.getpid(), pids=pids, urls=ready.urls))
        log.info("agent %s is up at %s", self._name, ", ".join(ready.urls))

    async def _look_again(self) -> None:
        """The data process may have labelled media just now: the report that counts is a later one."""
        asked = [(watch, watch.look_now()) for watch in self._watches]
        limit_s = time.monotonic() + LOOK_LIMIT_S
        while time.monotonic() < limit_s and not all(watch.looked(number) for watch, number in asked):  # noqa: ASYNC110 - threads set no asyncio event
            await asyncio.sleep(0.02)
        self._reported.clear()
        self._report_now.set()

    # --- the manager ------------------------------------------------------------------------------------

    async def _say_hello(self, link: Link) -> None:
        await link.request(AGENT_HELLO.name, AgentHello(part="control", pid=os.getpid()), timeout_s=10.0)

    async def _report_all(self) -> None:
        """A report each second for as long as this runs; a manager that is away is tried again."""
        wait_s = REPORT_EVERY_S
        while True:
            try:
                await self._manager.call(AGENT_REPORT, self._report(), timeout_s=REPORT_TIMEOUT_S)
                self._reported.set()
                wait_s = REPORT_EVERY_S
            except StaddleError as error:
                log.info("the manager can't be told: %s", error)
                wait_s = min(wait_s * 1.5, RETRY_MAX_S)
            except Exception:
                log.exception("the manager can't be told, it is tried again")
                wait_s = min(wait_s * 1.5, RETRY_MAX_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._report_now.wait()
            self._report_now.clear()

    def _report(self) -> AgentReport:
        assert self._child is not None, "it was started"
        media = [watch.report() for watch in self._watches]
        media += [MediumReport(name=n, state="offline", message=why) for n, why in self._problems.items()]
        return AgentReport(media=media, pids=[os.getpid(), self._child.pid])


async def _ends_too(died: asyncio.Task[int]) -> bool:
    """Is the data process dying at this moment."""
    await asyncio.wait({died}, timeout=1.0)
    return died.done()


def _read_ready(stdout: IO[bytes]) -> Ready:
    line = stdout.readline()
    try:
        return typed.from_json(line, Ready)
    except msgspec.MsgspecError:
        raise Unavailable("the data process ended before it was ready", hint="see its log") from None


async def _main(home: str, name: str) -> int:
    control = Control(load(home), name)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(control.stop))
        else:
            loop.add_signal_handler(number, control.stop)
    return await control.run()


def main(home: str, name: str) -> None:
    """Run an agent until it is stopped. Raises StaddleError; ends with 1 if its data process dies."""
    check_configured(load(home), name)  # first of all: a slip of the pen leaves no file behind
    part = f"agent-{name}"
    lock = runfiles.claim(home, part)
    logs.configure(f"agent {name}", path=os.path.join(home_paths(home).log, f"{part}.jsonl"))
    try:
        code = loops.run(_main(home, name))
    finally:
        runfiles.withdraw(home, part)
        lock.release()
        logs.shutdown()
    if code:
        sys.exit(code)
