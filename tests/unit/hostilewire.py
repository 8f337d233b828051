"""What the tests of hostile wire peers share."""

import asyncio
import contextlib
import tempfile

import msgspec

from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve
from staddle.wire.frames import HEADER, FrameType, encode_head
from staddle.wire.handlers import Handlers
from staddle.wire.limits import LinkLimits
from staddle.wire.messages import Hello, RequestMeta, pack, unpack_error

MANAGER = Hello(name="m", role="manager")
CLIENT = Hello(name="c", role="client")
QUICK = LinkLimits(ping_s=0.05, silence_s=0.3, greeting_s=0.3, frame_s=0.3, calls_max=8)
MIB = 1 << 20
HELLO = encode_head(FrameType.HELLO, meta=pack(CLIENT))


def run(work, timeout_s=20):
    async def bounded():
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


def handlers():
    made = Handlers()

    async def echo(call):
        return call.args, call.payload

    async def stream(call):
        call.channel.grant(4096)

    made.add("echo", echo, roles=["client"])
    made.add("stream", stream, roles=["client"], opens_channel=True)
    return made


def request(op="echo", seq=1, args=None, size=0, *, flags=0, channel=0, payload=b""):
    meta = pack(RequestMeta(op, size, msgspec.Raw(pack(args or {}))))
    return (
        encode_head(
            FrameType.REQUEST, flags=flags, channel=channel, seq=seq, meta=meta, payload_bytes=len(payload)
        )
        + payload
    )


def data(channel, payload=b"", seq=0):
    return encode_head(FrameType.DATA, channel=channel, seq=seq, payload_bytes=len(payload)) + payload


@contextlib.asynccontextmanager
async def served(limits=QUICK):
    with tempfile.TemporaryDirectory() as directory:
        server = await serve(f"unix://{directory}/s", NO_CREDENTIALS, MANAGER, handlers(), limits=limits)
        try:
            yield server
        finally:
            await server.close(0.1)


async def attack(server, *parts, greet=True, wait_s=3.0):
    """Send the parts; return the errors that the server told, once it has closed the connection."""
    reader, writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
    told, raw = [], b""
    try:
        with contextlib.suppress(ConnectionError):
            for part in (HELLO, *parts) if greet else parts:
                writer.write(part)
                await writer.drain()
        async with asyncio.timeout(wait_s):
            with contextlib.suppress(ConnectionError):
                while chunk := await reader.read(65536):
                    raw += chunk
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    position = 0
    while position + HEADER.size <= len(raw):
        length, kind, _, _, seq = HEADER.unpack_from(raw, position)
        body = raw[position + HEADER.size : position + HEADER.size + length]
        if kind == FrameType.ERROR and seq == 0:
            told.append(unpack_error(body[4:]))
        position += HEADER.size + length
    return told


async def still_serves(server):
    link = await connect(server.url, NO_CREDENTIALS, CLIENT, expect_role="manager")
    assert (await link.request("echo", {"n": 1}, b"x")).payload == b"x"
    await link.close()
    assert not server.links or all(other.error is None for other in server.links)
