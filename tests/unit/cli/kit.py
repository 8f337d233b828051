"""A manager that answers what a test says, for commands that run their own loop."""

import asyncio
import threading

from click.testing import CliRunner

from staddle.cli import cli
from staddle.wire.endpoint import NO_CREDENTIALS, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.ops import admin, data, jobs, reading, repair
from staddle.wire.ops.base import register

ENTRY = [
    "backup",
    "path",
    "type",
    "mode",
    "uid",
    "gid",
    "size_bytes",
    "mtime_ns",
    "flags",
    "link",
    "manifest",
    "row",
]


class FakeManager:
    """Answers in a loop of its own, as the commands run theirs."""

    def __init__(self):
        self.requests = []
        self.answers = {}
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self.thread.start()
        assert self.started.wait(10)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)

    async def _run(self):
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        handlers = Handlers()
        operations = [
            *(reading.QUERY, reading.LIST_DIRECTORY, reading.FIND, reading.OPEN_BACKUP, reading.LIST_BACKUPS),
            *(jobs.LIST_JOBS, jobs.CANCEL_JOB, admin.PRUNE, admin.VERIFY_PLAN, admin.REBUILD_CATALOG),
            *(admin.VERIFY_CATALOG, admin.SNAPSHOT_CATALOG, data.CHECK_OBJECT),
            *(repair.REPAIR_OBJECT, repair.FILES_LOST, repair.CHECK_MEDIUM, repair.REPAIR_LABELS),
        ]
        for operation in operations:
            register(handlers, operation, self._answer)
        server = await serve("mem://daily", NO_CREDENTIALS, Hello(name="m", role="manager"), handlers)
        agent = await serve("mem://daily-agent", NO_CREDENTIALS, Hello(name="a", role="agent"), handlers)
        self.started.set()
        await self.stop.wait()
        await agent.close(0.1)
        await server.close(0.1)

    async def _answer(self, call):
        self.requests.append(call.args)
        answer = self.answers[call.op]
        answer = answer(call.args) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


def invoke(*args):
    """Exit code, stdout, stderr; an error that the entry point would print is raised."""
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value or 0, done.stdout, done.stderr


def entry(path, kind=1, manifest=b"m", **values):
    known = {
        "backup": 1,
        "path": path,
        "type": kind,
        "mode": 0o644,
        "uid": 1,
        "gid": 2,
        "size_bytes": 3,
        "mtime_ns": 4_000_000_000,
        "flags": 0,
        "link": None,
        "manifest": manifest,
        "row": 0,
    }
    return [(known | values)[name] for name in ENTRY]
