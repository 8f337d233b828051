"""A medium over a directory that lies as its orders say: a plugin like any other, found by its entry point.

The orders are a JSON file, `{"get": "flipped", "stat": "hang"}`, read again before each call; without one the
medium is honest. Its calls hang until the orders change.
"""

import itertools
import json
import os
import random
import time

import msgspec

from staddle import hookimpl
from staddle.api.media import MediaType
from staddle.api.types import (
    API_VERSION,
    Cap,
    Capability,
    Capacity,
    Durability,
    Health,
    HomePath,
    Kind,
    MediumState,
    ObjectInfo,
    Receipt,
    Surety,
    object_name,
)
from staddle.errors import (
    Conflict,
    Denied,
    Fenced,
    MediumFull,
    NewerFormat,
    NotFound,
    StaddleError,
    UsageError,
)
from staddle.media.directory import DirectoryMedium
from staddle.media.options import DirectoryConfig

HANG_MAX_S = 120.0
MILLION = 10**6
NAME = "c0/00/" + "0" * 48


class HostileConfig(msgspec.Struct, frozen=True, kw_only=True):
    path: HomePath
    orders: HomePath


class Nasty(Exception):
    def __str__(self):
        raise SystemExit(7)


class HalfMade(StaddleError):
    def __init__(self):
        pass


def too_deep(depth=0):
    return too_deep(depth + 1)


def spoilt(**fields):
    error = StaddleError("said by the medium")
    for name, value in fields.items():
        setattr(error, name, value)
    return error


RAISED = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "MemoryError": MemoryError,
    "BaseException": BaseException,
    "OSError": lambda: OSError(5, "Input/output error"),
    "nasty": Nasty,
    "half made": HalfMade,
    "no words": lambda: spoilt(code="x" * MILLION, retry="for ever", scope=7, outcome=None, exit_code=10**9),
    "long": lambda: ValueError("x" * (10 * MILLION)),
    "Fenced": lambda: Fenced("another has taken over"),
    "Denied": lambda: Denied("no"),
    "NewerFormat": lambda: NewerFormat("of tomorrow"),
    "NotFound": lambda: NotFound("never seen"),
    "Conflict": lambda: Conflict("other bytes"),
    "UsageError": lambda: UsageError("wrong name"),
    "MediumFull": lambda: MediumFull("full"),
    "now": lambda: spoilt(retry="now"),
}


class Orders:
    def __init__(self, path):
        self.path = path

    def of(self, op):
        try:
            with open(self.path, encoding="utf-8") as file:
                orders = json.load(file)
        except FileNotFoundError:
            return ""
        return orders.get(op, orders.get("*", ""))

    def obey(self, op):
        """Hang or raise, if that is the order; else the lie to be told."""
        lie = self.of(op)
        if lie == "hang":
            end = time.monotonic() + HANG_MAX_S
            while self.of(op) == "hang" and time.monotonic() < end:
                time.sleep(0.05)
        elif lie == "RecursionError":
            too_deep()
        elif lie in RAISED:
            error = RAISED[lie]()
            raise error
        return lie


class HostileVolume:
    def __init__(self, inner, orders):
        self.inner, self.orders, self.true_label = inner, orders, inner.label
        self.seen = {}

    @property
    def label(self):
        lie = self.orders.of("label")
        if lie == "none":
            return None
        return msgspec.structs.replace(self.true_label, volume=os.urandom(16)) if lie else self.true_label

    def put(self, name, parts, digest, deadline):
        lie = self.orders.obey("put")
        if lie == "forget":
            size = sum(memoryview(part).nbytes for part in parts)
            volume = self.true_label.volume
            return Receipt(
                name=name, size_bytes=size, digest=digest, volume=volume, durability=Durability.POWER_LOSS
            )
        receipt = self.inner.put(name, parts, digest, deadline)
        return {
            "none": None,
            "text": "stored",
            "another name": msgspec.structs.replace(receipt, name=NAME),
            "a way out": msgspec.structs.replace(receipt, name="../../../etc/passwd"),
            "another size": msgspec.structs.replace(receipt, size_bytes=1 << 80),
            "another volume": msgspec.structs.replace(receipt, volume=b"token"),
        }.get(lie, receipt)

    def get(self, name, offset, length, deadline):
        lie = self.orders.obey("get")
        true = self.inner.get(name, offset, length, deadline)
        rng = random.Random(f"{name} {offset}")
        if len(self.seen) < 16:
            self.seen[name[:37]] = true
        other = next((data for key, data in self.seen.items() if key != name[:37]), b"")
        flipped = bytearray(true)
        if flipped:
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return {
            "other bytes": lambda: rng.randbytes(length),
            "flipped": lambda: bytes(flipped),
            "more": lambda: true + b"x",
            "endless": lambda: true + bytes(64 << 20),
            "fewer": lambda: true[: length // 2],
            "empty": lambda: b"",
            "blank": lambda: bytes(length),
            "none": lambda: None,
            "text": lambda: "x" * length,
            "numbers": lambda: [0] * min(length, MILLION),
            "iterator": lambda: itertools.repeat(b"x"),
            "another object's": lambda: other.ljust(length, b"\0")[:length],
        }.get(lie, lambda: true)()

    def stat(self, name, deadline):
        lie = self.orders.obey("stat")
        info = self.inner.stat(name, deadline)
        return {
            "huge": ObjectInfo(name, 1 << 62),
            "beyond": ObjectInfo(name, 1 << 80),
            "negative": ObjectInfo(name, -1),
            "text": ObjectInfo(name, "10"),
            "another name": ObjectInfo(NAME, info.size_bytes),
            "a million": ObjectInfo(name, info.size_bytes + MILLION),
            "none": None,
        }.get(lie, info)

    def list(self, after, deadline, prefix=""):
        lie = self.orders.obey("list")
        true = self.inner.list(after, deadline, prefix)
        return {
            "dots": lambda: iter([ObjectInfo(f"{prefix}../../../../etc/passwd", 5)]),
            "root": lambda: iter([ObjectInfo("/etc/passwd", 5)]),
            "nul": lambda: iter([ObjectInfo(f"{prefix}\0\0", 5)]),
            "control": lambda: iter([ObjectInfo(f"{prefix}\x1b[2J", 5)]),
            "surrogates": lambda: iter([ObjectInfo(f"{prefix}\udcff", 5)]),
            "long": lambda: iter([ObjectInfo(prefix + "a" * MILLION, 5)]),
            "a million": lambda: self.fakes(after, prefix, MILLION),
            "endless": lambda: self.fakes(after, prefix, None),
            "always the same": lambda: itertools.repeat(ObjectInfo(f"{prefix}00", 5)),
            "huge": lambda: (ObjectInfo(info.name, 1 << 62) for info in true),
            "negative": lambda: (ObjectInfo(info.name, -5) for info in true),
            "backwards": lambda: reversed(list(true)),
            "empty": lambda: iter(()),
            "none": lambda: None,
            "numbers": itertools.count,
            "broken off": lambda: self.broken_off(true),
        }.get(lie, lambda: true)()

    @staticmethod
    def fakes(after, prefix, count):
        """Names as objects have them, made an hour and more ago."""
        kind = Kind(prefix[:2] or "c0")
        begin = int(after[6:18], 16) + 1 if after.startswith(f"{kind.value}/00/") else 0x18_0000_0000
        for number in itertools.islice(itertools.count(begin), count):
            yield ObjectInfo(object_name(kind, number.to_bytes(6, "big") + bytes(10), bytes(8)), 4096)

    @staticmethod
    def broken_off(true):
        yield from itertools.islice(true, 1)
        raise SystemExit(3)

    def delete(self, name, deadline):
        if self.orders.obey("delete") != "forget":
            self.inner.delete(name, deadline)

    def capacity(self):
        return {
            "negative": Capacity(-1, -1, False),
            "beyond": Capacity(1 << 90, 1 << 90, False),
            "more free than there is": Capacity(10, 1 << 60, False),
            "nothing": Capacity(0, 0, True),
            "text": Capacity("much", "more", "low"),
            "none": None,
        }.get(self.orders.obey("capacity"), self.inner.capacity())

    def close(self):
        self.orders.obey("close")
        self.inner.close()


class HostileMedium:
    def __init__(self, name, config):
        self.name = name
        self.orders = Orders(config.orders)
        self.inner = DirectoryMedium(name, DirectoryConfig(path=config.path))
        self.calls = 0

    def probe(self, deadline):
        if self.orders.obey("probe") == "endless":
            return itertools.repeat(Capability("X", Surety.PROBED))
        return self.inner.probe(deadline)

    def initialize(self, label, text, deadline):
        self.orders.obey("initialize")
        self.inner.initialize(label, text, deadline)

    def read_label(self, deadline):
        lie = self.orders.obey("read_label")
        text = self.inner.read_label(deadline)
        self.calls += 1
        other = text.replace(text[-40:-30], b"0123456789")
        return {
            "changes": text if self.calls % 2 else other,
            "empty": b"",
            "junk": os.urandom(2000),
            "endless": text + b"\n" * (16 << 20),
            "text": text.decode(),
            "none": None,
        }.get(lie, text)

    def open(self, label, mode, epoch, deadline):
        lie = self.orders.obey("open")
        volume = HostileVolume(self.inner.open(label, mode, epoch, deadline), self.orders)
        return {"none": None, "text": "open"}.get(lie, volume)

    def health(self, deadline):
        lie = self.orders.obey("health")
        self.calls += 1
        return {
            "flaps": Health(MediumState.UP if self.calls % 2 else MediumState.OFFLINE, f"call {self.calls}"),
            "loud": Health(MediumState.UP, "x" * (10 * MILLION)),
            "loud and gone": Health(MediumState.OFFLINE, "\x1b[2J" + "x" * (10 * MILLION)),
            "text": Health("up"),
            "none": None,
        }.get(lie, self.inner.health(deadline))

    def close(self):
        self.orders.obey("close")
        self.inner.close()


@hookimpl
def staddle_media():
    return [
        MediaType(
            name="hostile",
            version="1",
            api_version=API_VERSION,
            config_type=HostileConfig,
            capabilities=Cap.RANDOM_READ | Cap.CONDITIONAL_PUT | Cap.CAPACITY | Cap.MULTI_WRITER,
            durability=Durability.POWER_LOSS,
            load=lambda: HostileMedium,
            summary="lies on order",
        )
    ]
