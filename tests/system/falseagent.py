"""An agent with a valid certificate that says to everybody what it likes, played by the test itself."""

import asyncio
import contextlib
import itertools
import os

import msgspec

from staddle import typed
from staddle.api.types import Kind, object_name
from staddle.config import load
from staddle.engine.messages import (
    Cause,
    Commit,
    CopyOf,
    Durable,
    Exclude,
    Nack,
    Opened,
    PathFailed,
    Progress,
    Refused,
    StoredObject,
    Ticket,
)
from staddle.errors import StaddleError
from staddle.wire.endpoint import connect, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.ops import agents as agent_ops
from staddle.wire.ops.data import (
    CHECK_OBJECT,
    DELETE_OBJECT,
    FLUSH_SEQ,
    GET_OBJECT,
    OPEN_STREAM,
    PUT_OBJECT,
    READ_CHUNKS,
    READ_MANIFEST,
    SCAN_MEDIUM,
)
from staddle.wire.ops.jobs import COMMIT
from staddle.wire.ops.repair import COPY_OBJECT, FETCH_OBJECT
from staddle.wire.pki import CertificateAuthority, write_credentials
from staddle.wire.tickets import open_ticket

MEDIA = ("m1", "m2")


class FalseAgent:
    """Takes the place of an agent, from this very process. `lie` names what it does with streams."""

    def __init__(self, home, name, directory, rng):
        settings = load(home)
        authority = CertificateAuthority.load(os.path.join(home, "pki", "ca"))
        self.credentials = write_credentials(directory, authority.cert_pem, authority.issue(name, "agent"))
        self.hello = Hello(name=name, role="agent", grid=bytes.fromhex(settings.grid.id))
        self.manager, self.listen = settings.manager.listen, ""
        self.rng = rng
        self.lie = "silence"
        self.streams = self.reads = self.asked = 0
        self.tickets = []
        self.tasks = set()

    async def __aenter__(self):
        serving = Handlers()
        roles = {"client", "admin"}
        serving.add(OPEN_STREAM.name, self.stream, roles=roles, args=OPEN_STREAM.request, opens_channel=True)
        for operation in (READ_MANIFEST, READ_CHUNKS):
            serving.add(operation.name, self.read, roles=roles, args=operation.request)
        serving.add(CHECK_OBJECT.name, self.nonsense, roles={"admin"})
        asked = Handlers()
        for operation in (
            *(PUT_OBJECT, DELETE_OBJECT, SCAN_MEDIUM, GET_OBJECT, CHECK_OBJECT, COPY_OBJECT, FETCH_OBJECT),
        ):
            asked.add(operation.name, self.nonsense, roles={"manager"})
        self.server = await serve("tcp://127.0.0.1:0", self.credentials, self.hello, serving)
        self.listen = self.server.url
        self.control = await self.dial()
        self.data = await self.dial(asked)
        await self.greet(self.control, "control")
        welcome = await self.greet(self.data, "data")
        self.key = welcome.ticket_key
        self.spawn(self.report())
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for link in (self.control, self.data):
            await link.close()
        await self.server.close()

    def spawn(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def dial(self, handlers=None):
        return await connect(
            self.manager, self.credentials, self.hello, handlers, expect_role="manager", timeout_s=60.0
        )

    async def greet(self, link, part, **more):
        hello = agent_ops.AgentHello(part=part, pid=1, urls=(self.listen,) if part == "data" else (), **more)
        reply = await link.request(agent_ops.AGENT_HELLO.name, hello, timeout_s=60.0)
        return agent_ops.AGENT_HELLO.decode(reply)

    async def report(self):
        """Everything is fine, says who lies."""
        media = [
            agent_ops.MediumReport(name=name, state="up", total_bytes=1 << 40, free_bytes=1 << 40)
            for name in MEDIA
        ]
        while True:
            with contextlib.suppress(StaddleError):
                await self.control.request(
                    agent_ops.AGENT_REPORT.name, agent_ops.AgentReport(media=media, pids=[1], sessions=0)
                )
            await asyncio.sleep(0.5)

    # --- what clients and the manager ask -----------------------------------------------------------

    async def read(self, call):
        self.reads += 1
        return {}, self.rng.randbytes(self.rng.choice([0, 100, 5000, 1 << 20]))

    async def nonsense(self, call):
        self.asked += 1
        return self.rng.choice(
            [
                {},
                {"size_bytes": "much", "digest": 5, "copies": [["m1"]]},
                {
                    "size_bytes": -(1 << 62),
                    "digest": bytes(32),
                    "copies": [["m1", "../../etc/passwd"], ["m2", "x" * 10_000], ["m9", "c0/00/00"]],
                },
                {"objects": [["c0/00/00", 1 << 62, b"", 0, 0, ""]] * 2},
                {"objects": [[f"c0/{n:06x}", -5, b"x" * 32, -1, -1, "", ""] for n in range(1000)]},
                {"problems": [], "code": "", "problem": ""},
            ]
        ), self.rng.choice([b"", b"\x81\xa7objects\xdd\xff\xff\xff\xff", self.rng.randbytes(1 << 20)])

    async def stream(self, call):
        self.streams += 1
        ticket = typed.unpack(open_ticket(call.args.signed, self.key), Ticket)
        self.tickets.append(ticket)
        said = asyncio.Queue()
        call.channel.listen(said.put_nowait)
        call.channel.grant(256 << 20)
        self.spawn(self.lying(call.channel, ticket, said, self.lie))
        return {}

    async def lying(self, channel, ticket, said, lie):
        def say(message):
            data = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
            return channel.send(0, data, timeout_s=60.0)

        epoch = ticket.epoch
        with contextlib.suppress(StaddleError):
            if lie != "silence":
                await say(Opened(epoch=epoch, next_seq=1 << 60))
            for number in itertools.count():
                data = await said.get()
                if isinstance(data, StaddleError) or data is None:
                    return
                if lie == "durable at once" and data.seq != FLUSH_SEQ:
                    await say(Durable(epoch=epoch, upto=data.seq + 1))
                elif lie in SAID and number == 0:
                    for message in SAID[lie](epoch):
                        await say(message)

    # --- what it says to the manager ------------------------------------------------------------------

    async def storm(self, stop):
        """All at once, until `stop`; the codes that came back."""
        told = await asyncio.gather(*(self.annoy(stop) for _ in range(4)))
        return {code for codes in told for code in codes}

    async def annoy(self, stop):
        codes = set()
        while not stop.is_set():
            link = None
            try:
                link = await self.dial()
                for _ in range(5):
                    codes |= await self.round(link)
            except StaddleError as error:
                codes.add(error.code)
            finally:
                if link is not None:
                    await link.close()
            await asyncio.sleep(0.02)
        return codes

    async def round(self, link):
        rng = self.rng
        requests = [
            *((COMMIT, self.commit(agent=agent)) for agent in ("a1", "a2") for _ in range(10)),
            (COMMIT, self.commit(manifest=self.stored(Kind.MANIFEST, size_bytes=-(1 << 62)))),
            (COMMIT, self.commit(manifest=self.stored(Kind.MANIFEST, name="../../../etc/passwd"))),
            (COMMIT, self.commit(first=0, next=2**63 - 1)),
            (COMMIT, self.commit(epoch=1)),
            (agent_ops.LOCATE, agent_ops.Locate(kind="c0", ids=[rng.randbytes(16) for _ in range(8000)])),
            (agent_ops.COMMITTED, agent_ops.Committed(after_lsn=0, domain="default")),
            *(
                (agent_ops.BAD_COPY, self.bad_copy(rng.choice(["CORRUPT", "NOT_FOUND", "x"])))
                for _ in range(30)
            ),
            (agent_ops.AGENT_HELLO, agent_ops.AgentHello(part="control", pid=1, manager_epoch=1 << 40)),
            (agent_ops.AGENT_REPORT, self.flapping()),
            ("no.such.thing", {}),
        ]
        for number in range(200):
            await link.event(rng.choice(["x", COMMIT.name, agent_ops.AGENT_REPORT.name]), {"n": number})
        results = await asyncio.gather(
            *(
                link.request(op if isinstance(op, str) else op.name, request, timeout_s=60.0)
                for op, request in requests
            ),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, StaddleError):
                raise result
        return {result.code for result in results if isinstance(result, StaddleError)}

    def flapping(self):
        state = self.rng.choice(["up", "offline", "fenced", "busy"])
        return agent_ops.AgentReport(
            media=[
                agent_ops.MediumReport(
                    name=name, state=state, message="x" * 5000, free_bytes=-(1 << 62), volume=bytes(16)
                )
                for name in (*MEDIA, "m9")
            ],
            pids=[1],
        )

    def stored(self, kind, name="", **changes):
        item = self.rng.randbytes(16)
        copies = [CopyOf(medium, name or object_name(kind, item, bytes(8))) for medium in MEDIA]
        return StoredObject(
            **({"id": item, "size_bytes": 10, "digest": bytes(32), "copies": copies} | changes)
        )

    def commit(self, **changes):
        """For a stream of somebody else, of objects that were never stored."""
        fields = {
            "job": self.rng.randrange(1, 8),
            "stream": 0,
            "epoch": self.rng.choice([1, 1 << 32, (1 << 32) + 1, 1 << 62]),
            "agent": self.hello.name,
            "first": 0,
            "next": 1 << 40,
            "manifest": self.stored(Kind.MANIFEST),
            "containers": [self.stored(Kind.CONTAINER)],
            "refs": [],
        }
        return Commit(**(fields | changes))

    def bad_copy(self, code):
        item = self.rng.randbytes(16)
        name = object_name(Kind.CONTAINER, item, bytes(8))
        return agent_ops.BadCopy(id=item, medium=self.rng.choice(MEDIA), name=name, code=code)


SAID = {
    "durable of what never came": lambda epoch: [Durable(epoch=epoch, upto=1 << 62)],
    "durable below nothing": lambda epoch: [Durable(epoch=epoch, upto=-(1 << 62)), b"junk"],
    "nack of what is to come": lambda epoch: [Nack(epoch=epoch, expected=1 << 62)],
    "nack below nothing": lambda epoch: [Nack(epoch=epoch, expected=-5)],
    "refused": lambda epoch: [Refused(epoch=epoch, containers=[os.urandom(16) for _ in range(1000)])],
    "refused, senseless": lambda epoch: [Refused(epoch=epoch, containers=[b"x", b"y" * 1000])],
    "others are to blame": lambda epoch: [
        PathFailed(
            epoch=epoch,
            cause=Cause.MEDIUM_LOST,
            exclude=[Exclude(agent="a1"), Exclude(agent="a2"), Exclude(medium="m1"), Exclude(medium="m2")],
            message="\x1b[2J" + "x" * 10_000,
        )
    ],
    "junk": lambda epoch: [b"\x91" * 99],
    "flood": lambda epoch: [*[Progress(epoch=epoch, message="x" * 1000)] * 3000, b"junk"],
    "silence": lambda epoch: [],
}
