"""Speed of a link: 1 MiB messages one way over a channel, and a 160 kB look-up, per transport and API.

    python tests/bench/bench_link.py [--gib 1.0] [--only tcp] [--json]

CPU seconds per GiB are the figures to compare; MB/s depend on what else the machine does. With `unix` and
`tcp` the server is a process of its own; with `mem` both ends share one, so its CPU stands with the client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from staddle.api.transport import Credentials
from staddle.wire.endpoint import NO_CREDENTIALS, connect, serve
from staddle.wire.handlers import Handlers
from staddle.wire.messages import Hello
from staddle.wire.pki import make_ca, write_credentials
from staddle.wire.sync import LoopThread, SyncLink

MIB = 1 << 20
WINDOW_BYTES = 16 * MIB
SERVER, CLIENT = Hello(name="m", role="manager"), Hello(name="c", role="client")


def handlers():
    made = Handlers()
    tasks = set()

    async def sink(call):
        channel = call.channel
        channel.grant(WINDOW_BYTES)

        async def pull():
            while (data := await channel.receive(60)) is not None:
                channel.grant(data.cost_bytes)
            channel.close()

        task = asyncio.create_task(pull())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def lookup(call):
        return {}, bytes(1250)

    async def cpu(call):
        return {"s": time.process_time()}

    made.add("sink", sink, roles=["client"], opens_channel=True)
    made.add("lookup", lookup, roles=["client"])
    made.add("cpu", cpu, roles=["client"])
    return made


def credentials_in(directory):
    return (
        Credentials(
            **{
                f"{kind}_file": f"{directory}/{name}"
                for kind, name in (("ca", "ca.crt"), ("cert", "own.crt"), ("key", "own.key"))
            }
        )
        if directory
        else NO_CREDENTIALS
    )


async def run_server(url, directory):
    server = await serve(url, credentials_in(directory), SERVER, handlers())
    print(server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until our starter ends
    await server.close()


async def with_asyncio(url, credentials, count):
    payload = os.urandom(MIB)
    link = await connect(url, credentials, CLIENT, expect_role="manager")
    channel, _ = await link.open_channel("sink")
    before = (await link.request("cpu")).args["s"]
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for seq in range(count):
        await channel.send(seq, None, payload)
    channel.close()
    while await channel_ended(channel):
        pass
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    server_s = (await link.request("cpu")).args["s"] - before
    times = []
    query = os.urandom(160_000)
    for _ in range(300):
        start_s = time.perf_counter()
        await link.request("lookup", {}, query)
        times.append(time.perf_counter() - start_s)
    await link.close()
    return wall_s, cpu_s, server_s, times


async def channel_ended(channel):
    await asyncio.sleep(0.001)
    return not channel._peer_closed


def with_threads(url, credentials, count):
    payload = os.urandom(MIB)
    with SyncLink.connect(url, credentials, CLIENT, expect_role="manager") as link:
        channel, _ = link.open_channel("sink")
        before = link.request("cpu").args["s"]
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for seq in range(count):
            channel.send(seq, None, payload)
        channel.close()
        while not channel._channel._peer_closed:
            time.sleep(0.001)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        server_s = link.request("cpu").args["s"] - before
        times = []
        query = os.urandom(160_000)
        for _ in range(300):
            start_s = time.perf_counter()
            link.request("lookup", {}, query)
            times.append(time.perf_counter() - start_s)
    return wall_s, cpu_s, server_s, times


def report(name, api, count, result):
    wall_s, cpu_s, server_s, times = result
    gib = count / 1024
    return {
        "transport": name,
        "api": api,
        "mb_per_s": count * MIB / 1e6 / wall_s,
        "client_s_per_gib": cpu_s / gib,
        # Both ends of `mem` share a process: its time stands with the client.
        "server_s_per_gib": 0.0 if name == "mem" else server_s / gib,
        "lookup_us": statistics.median(times) * 1e6,
    }


def show(entry):
    print(
        f"{entry['transport']:8} {entry['api']:9} {entry['mb_per_s']:7.0f} MB/s   CPU s/GiB "
        f"client {entry['client_s_per_gib']:5.2f}  server {entry['server_s_per_gib']:5.2f}   "
        f"160 kB look-up p50 {entry['lookup_us']:6.0f} us"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--only", choices=["mem", "unix", "tcp"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("URL", "DIRECTORY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(run_server(*args.serve))
        return
    count = max(16, int(args.gib * 1024))
    found = []
    with tempfile.TemporaryDirectory(prefix="stbench") as directory:
        ca = make_ca(f"{directory}/ca", bytes(16))
        for role, name in (("manager", "m"), ("client", "c")):
            write_credentials(f"{directory}/{role}", ca.cert_pem, ca.issue(name, role))
        for name, url, secure in (
            ("mem", "mem://bench", ""),
            ("unix", f"unix://{directory}/s", ""),
            ("tcp", "tcp://127.0.0.1:0", directory),
        ):
            if args.only in {None, name} and not (name == "unix" and sys.platform == "win32"):
                found += measure(name, url, secure, count)
    if args.json:
        print(json.dumps(found))
        return
    for entry in found:
        show(entry)


def measure(name, url, secure, count):
    credentials = credentials_in(secure and f"{secure}/client")
    if name == "mem":
        with LoopThread("server") as thread:
            server = thread.call(serve(url, credentials, SERVER, handlers()), 5)
            found = [report("mem", "threads", count, with_threads(server.url, credentials, count))]
            thread.call(server.close(), 5)
        return [*found, asyncio.run(mem_in_one_loop(url, credentials, count))]
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", url, secure and f"{secure}/manager"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        real = process.stdout.readline().strip()
        found = [
            report(name, "asyncio", count, asyncio.run(with_asyncio(real, credentials, count))),
            report(name, "threads", count, with_threads(real, credentials, count)),
        ]
        process.stdin.close()
    return found


async def mem_in_one_loop(url, credentials, count):
    server = await serve(url, credentials, SERVER, handlers())
    found = report("mem", "asyncio", count, await with_asyncio(server.url, credentials, count))
    await server.close()
    return found


if __name__ == "__main__":
    main()
